"""What a Centrifuge client receives besides publications. An encoding writes it as JSON or as Protobuf.

The fields have the names of the protocol, which JSON and Protobuf share. A field for a payload has a `Message`, and
`publications` is a list of `Publication`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from wsgateway.frames import (
    Control,
    Member,
    PresenceFrame,
    Publication,
    RequestFrame,
    SubscribedFrame,
    UnsubscribedFrame,
)
from wsgateway.messages import Kind, Message, WireFormat, encode
from wsgateway.protocols.centrifuge.codes import ErrorCode, error_result, unsubscribe_reason

Fields = dict[str, Any]


class Reply(Control):
    """The reply to the command `ident`: its `result`, under the name of the method, or of `error`."""

    __slots__ = ("method", "result")

    ident: int

    def __init__(self, ident: int, method: str, result: Fields, *, payload: bytes = b"") -> None:
        """`payload` is what counts in the outbox of the client."""
        Message.__init__(self, payload, Kind.TEXT)  # without the one between, for speed
        self.ident = ident
        self.method = method
        self.result = result

    @classmethod
    def error(cls, ident: int, code: ErrorCode) -> "Reply":
        return cls(ident, "error", error_result(code))


class PingFrame(Control):
    """The ping of the server, an empty reply. One object for all clients of all gateways."""

    __slots__ = ()

    def encoded(self, wire_format: WireFormat) -> bytes:
        """Return this message in `wire_format`. Nothing is kept, because formats belong to gateways that may end."""
        return wire_format.wire(self)


PING = PingFrame()


def reply_of(message: Message) -> tuple[int, str, Fields] | None:
    """Return the id, the method, and the result of a reply. None if the message is not a reply."""
    if isinstance(message, Reply):
        return message.ident, message.method, message.result
    if isinstance(message, UnsubscribedFrame) and message.ident is not None:
        return message.ident, "unsubscribe", {}
    return None


def push_of(message: Message, broadcast: str = "") -> tuple[str, str, Fields] | None:
    """Return the channel, the kind, and the fields of the push for a notification. None if it is not a push.

    `broadcast` is the channel that contains what is sent without one.
    """
    match message:
        case RequestFrame():
            tags = {"request": str(message.ident)} | ({"name": message.name} if message.name else {})
            return broadcast, "pub", {"data": message.message, "tags": tags}
        case SubscribedFrame():
            return message.channel, "subscribe", subscribed_fields(message)
        case UnsubscribedFrame():
            reason = unsubscribe_reason(message.code, message.reason)
            return message.channel, "unsubscribe", {"code": message.code, "reason": reason}
        case PresenceFrame():
            return message.channel, "leave" if message.has_left else "join", {"info": client_info(message.member)}
        case _:
            return None


def subscribed_fields(frame: SubscribedFrame) -> Fields:
    """Return the fields that say where a subscription begins, and its `data`."""
    fields: Fields = {}
    if frame.at is not None:
        fields = {"recoverable": True, "positioned": True, "epoch": frame.at.epoch, "offset": frame.at.offset}
    if frame.reply is not None:
        fields["data"] = frame.reply
    return fields


def client_info(member: Member) -> Fields:
    """Return the ClientInfo of a member."""
    fields: Fields = {"user": member.user, "client": member.id}
    for name, info in (("conn_info", member.conn_info), ("chan_info", member.info)):
        if info is not None:
            fields[name] = encode_json(info)
    return fields


def encode_json(value: object) -> Message:
    """Return a JSON value as a message that is JSON, even if it is text."""
    message = encode([value])
    assert message is not None
    return Message(message.payload[1:-1], Kind.JSON)


def publication_fields(publication: Publication) -> Fields:
    """Return the fields of a publication."""
    fields: Fields = {"data": Message(publication.payload, publication.kind)}
    if publication.sender is not None:
        fields["info"] = client_info(publication.sender)
    if publication.position is not None:
        fields["offset"] = publication.position.offset
    tags = tags_of(publication)
    if tags:
        fields["tags"] = dict(tags)
    return fields


def tags_of(message: Message) -> Mapping[str, str] | None:
    """Return the tags of a message. The name of an event is one of them."""
    tags = getattr(message, "tags", None)
    if not message.name:
        return tags
    return {**(tags or {}), "name": message.name}


def size_of(publications: Iterable[Publication]) -> bytes:
    """Return as many zero bytes as the payloads of `publications` have, which count in the outbox of a client."""
    return bytes(sum(len(each.payload) for each in publications))

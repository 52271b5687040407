"""The Centrifuge client protocol in Protobuf: messages, each with its length before it. Knows no connections.

`make protobuf` generates `client_pb2` from the schema, `client.proto`. The fields of replies have the names of the
schema, as in JSON, so a generic function fills them in. A publication, which is sent most often, is written by hand.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Generated
from msgspec import Raw

from wsgateway.encoding import ENCODER
from wsgateway.frames import CloseFrame, Publication
from wsgateway.messages import Kind, Message
from wsgateway.protocols.centrifuge import client_pb2 as schema
from wsgateway.protocols.centrifuge.commands import (
    NO_DATA,
    PONG,
    Command,
    Connect,
    FrameError,
    History,
    Ping,
    Presence,
    PresenceStats,
    Publish,
    Recovery,
    Refresh,
    Rpc,
    Send,
    Since,
    SubRefresh,
    Subscribe,
    Unsubscribe,
)
from wsgateway.protocols.centrifuge.replies import (
    PingFrame,
    client_info,
    publication_fields,
    push_of,
    reply_of,
    tags_of,
)

_TEXT = Kind.TEXT  # faster to read than an attribute of an enum on Python 3.11

_PING = b"\x00"
"""An empty reply, with its length."""

MAX_LENGTH = 5
"""Bytes of the length before a command. Longer ones are refused, because no frame is that large."""

_SHORT = tuple(bytes((number,)) for number in range(0x80))


# What the client receives


def varint(number: int) -> bytes:
    """Return `number` as a varint: 7 bits in each byte, the lowest first."""
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def data_of(message: Message) -> bytes:
    """Return the payload of `message` as a field of type bytes: bytes as they are, anything else as JSON text."""
    if message.kind is _TEXT:
        return ENCODER.encode(message.payload.decode()).encode()
    return message.payload


class ProtobufEncoding:
    """Writes replies and pushes as Protobuf. Implements `transports.framing.Encoding`."""

    def __init__(self, channel: str) -> None:
        """`channel` contains what is sent without a channel; if it is empty, clients do not receive that."""
        self._channel = channel
        self._broadcast = channel.encode()

    def carries(self, message: Message) -> bool:
        """Return whether a client can receive `message` of the application."""
        return isinstance(message, Publication) or bool(self._broadcast)

    def content(self, message: Message) -> bytes | None:
        if message.is_control:
            return _control(message, self._channel)
        if isinstance(message, Publication):
            return _push(message.channel.encode(), data_of(message), _rest(message))
        if not self._broadcast:
            return None
        return _push(self._broadcast, data_of(message), _tags(message) if message.name else b"")


# A tag is the number of a field, shifted by three, and its type: 0 for varints, 2 for bytes, text, and messages.


def _push(channel: bytes, data: bytes, rest: bytes) -> bytes:
    """Return the reply that pushes a publication, with its length before it. `rest` are its fields after `data`."""
    head = b"\x22" + varint(len(data)) if data else b""
    size = len(data) + len(rest)
    head = b"\x12%b%b\x22%b%b" % (varint(len(channel)), channel, varint(len(head) + size), head)
    head = b"\x22%b%b" % (varint(len(head) + size), head)
    return b"%b%b%b%b" % (varint(len(head) + size), head, data, rest)


def _rest(publication: Publication) -> bytes:
    """Return the fields `info`, `offset`, and `tags` of a publication."""
    rest = b""
    if publication.sender is not None:
        info = _filled(schema.ClientInfo(), client_info(publication.sender))
        rest = b"\x2a%b%b" % (varint(len(info)), info)
    if publication.position is not None and publication.position.offset:
        rest += b"\x30" + varint(publication.position.offset)
    if publication.name or publication.tags:
        rest += _tags(publication)
    return rest


def _tags(message: Message) -> bytes:
    entries = []
    for key, value in (tags_of(message) or {}).items():
        name, text = key.encode(), value.encode()
        entries.append(b"\x0a%b%b\x12%b%b" % (varint(len(name)), name, varint(len(text)), text))
    return b"".join([b"\x3a%b%b" % (varint(len(entry)), entry) for entry in entries])


def _control(message: Message, channel: str) -> bytes | None:
    if isinstance(message, PingFrame):
        return _PING
    fields: dict[str, Any]
    reply_fields = reply_of(message)
    if reply_fields is not None:
        ident, method, result = reply_fields
        fields = {"id": ident, method: result}
    elif isinstance(message, CloseFrame):
        fields = {"push": {"disconnect": {"code": message.code, "reason": message.reason}}}
    else:
        push = push_of(message, channel)
        if push is None:
            return None
        name, kind, inner = push
        fields = {"push": {"channel": name, kind: inner}}
    reply = _filled(schema.Reply(), fields)
    return varint(len(reply)) + reply


def _filled(target: Any, fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of `target`, a generated message, with `fields`."""
    _fill(target, fields)
    data: bytes = target.SerializeToString()
    return data


def _fill(target: Any, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, Message):
            setattr(target, name, data_of(value))
        elif isinstance(value, (dict, list)):
            _fill_inner(getattr(target, name), value)
        else:
            setattr(target, name, value)


def _fill_inner(target: Any, value: Any) -> None:
    """Fill a message, which is present even if it is empty, a list of publications, or a map."""
    if isinstance(target, Generated):
        target.SetInParent()
        _fill(target, value)
    elif isinstance(value, list):
        for publication in value:
            _fill(target.add(), publication_fields(publication))
    else:
        for key, item in value.items():
            if isinstance(item, dict):
                _fill(target[key], item)
            else:
                target[key] = item


# What the client sends


def read_frame(data: str | bytes) -> list[Command]:
    """Return the commands of a frame: messages, each with its length before it. Raise `FrameError`."""
    if isinstance(data, str):
        raise FrameError("a frame of Protobuf is binary")
    commands, position = [], 0
    while position < len(data):
        size, start = _read_length(data, position)
        position = start + size
        if position > len(data):
            raise FrameError("a command is longer than its frame")
        commands.append(_read(data[start:position]))
    return commands


def _read_length(data: bytes, position: int) -> tuple[int, int]:
    """Return the number in the varint at `position`, and the position after it."""
    number = data[position]
    if number < 0x80:
        return number, position + 1
    number = 0
    for index, digit in enumerate(data[position : position + MAX_LENGTH]):
        number |= (digit & 0x7F) << 7 * index
        if digit < 0x80:
            return number, position + index + 1
    raise FrameError("the length of a command cannot be read")


def _read(data: bytes) -> Command:
    if not data:
        return PONG
    command = schema.Command()
    _parse(command, data)
    ident: int = command.id
    requests = [(field.name, value) for field, value in command.ListFields() if field.name in _REQUESTS]
    if not ident and [name for name, _ in requests] != ["send"]:
        raise FrameError("a command needs an id")
    if len(requests) != 1:
        return Command(ident, "", None, len(data), is_malformed=bool(requests))
    method, fields = requests[0]
    return Command(ident, method, _REQUESTS[method](fields), len(data))


def _parse(message: Any, data: bytes) -> None:
    """Fill a generated message with what `data` contains. Raise `FrameError`."""
    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as exc:
        raise FrameError("a message cannot be read") from exc


def read_emulation(body: bytes) -> tuple[str, str, bytes]:
    """Return node, session, and frame of an `EmulationRequest`. Raise `FrameError`."""
    request = schema.EmulationRequest()
    _parse(request, body)
    return request.node, request.session, request.data


def _connect(fields: Any) -> Connect:
    subs = {name: Recovery(sub.recover, sub.epoch, sub.offset) for name, sub in fields.subs.items()}
    return Connect(fields.token, fields.data, fields.name, fields.version, dict(fields.headers), subs)


def _subscribe(fields: Any) -> Subscribe:
    return Subscribe(
        fields.channel,
        fields.token,
        fields.data,
        fields.recover,
        fields.epoch,
        fields.offset,
        fields.flag,
        fields.type,
        Raw(b"{}") if fields.HasField("tf") else NO_DATA,
    )


def _history(fields: Any) -> History:
    since = Since(fields.since.offset, fields.since.epoch) if fields.HasField("since") else None
    return History(fields.channel, fields.limit, since, fields.reverse)


_REQUESTS: dict[str, Any] = {
    "connect": _connect,
    "subscribe": _subscribe,
    "unsubscribe": lambda fields: Unsubscribe(fields.channel),
    "publish": lambda fields: Publish(fields.channel, fields.data, fields.type),
    "send": lambda fields: Send(fields.data),
    "rpc": lambda fields: Rpc(fields.method, fields.data),
    "presence": lambda fields: Presence(fields.channel),
    "presence_stats": lambda fields: PresenceStats(fields.channel),
    "history": _history,
    "refresh": lambda fields: Refresh(fields.token),
    "sub_refresh": lambda fields: SubRefresh(fields.channel, fields.token, fields.type),
    "ping": lambda fields: Ping(),
}
"""For each method, a function that returns the request in a generated message."""

"""Server-Sent Events (WHATWG HTML 9.2): how messages look on such a stream, and the ids by which it recovers.

Knows neither sockets nor ASGI.
"""

import base64
import re
from collections.abc import Mapping

from wsgateway.closing import close_of
from wsgateway.encoding import ENCODER, to_json
from wsgateway.frames import (
    CloseFrame,
    OpenFrame,
    Position,
    PresenceFrame,
    Publication,
    SubscribedFrame,
    UnsubscribedFrame,
)
from wsgateway.messages import Kind, Message
from wsgateway.protocols.session import Session
from wsgateway.transports.framing import ChunkedFormat, StreamKind
from wsgateway.transports.peer import ClientTransport

RETRY_MS = 2000
"""Milliseconds after which a browser reconnects, unless a drain spreads the clients."""

MAX_IDS = 8
"""Channels whose positions the id of an event can hold."""

_BYTES = Kind.BYTES

_BREAK = re.compile(rb"\r\n|\r|\n")
"""What ends a line of a stream. Other line breaks, such as U+2028, are text."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _data(payload: bytes) -> bytes:
    """Return `payload` as the data of an event: one field for each of its lines."""
    if b"\n" in payload or b"\r" in payload:
        payload = b"\ndata: ".join(_BREAK.split(payload))
    return b"data: %b\n\n" % payload


def _event(name: str, payload: bytes, position: Position | None) -> bytes:
    fields = b"event: %b\n" % _CONTROL.sub("", name).encode() if name else b""
    if position is not None:
        fields += b"id: %b\n" % str(position).encode()
    return fields + _data(payload)


def _json(value: object) -> bytes:
    return ENCODER.encode(value).encode()


class SseEncoding:
    """Writes messages as events. Implements `transports.framing.Encoding`."""

    def __init__(self, *, has_ids: bool) -> None:
        """Without `has_ids`, each client receives ids of its own, from an `EventIds`."""
        self._has_ids = has_ids

    def content(self, message: Message) -> bytes | None:
        if message.is_control:
            return self._control(message)
        position = message.position if self._has_ids and isinstance(message, Publication) else None
        if message.kind is _BYTES:
            return _event("base64", base64.b64encode(message.payload), position)
        return _event(message.name, message.payload, position)

    def _control(self, message: Message) -> bytes | None:
        match message:
            case OpenFrame():
                fields = {"id": message.conn_id, "session": message.secret}
                return b"retry: %d\n\n" % RETRY_MS + _event("open", _json(fields), None)
            case SubscribedFrame():
                return _event("subscribed", _subscribed(message), message.at if self._has_ids else None)
            case UnsubscribedFrame():
                ended = {"channel": message.channel, "code": message.code, "reason": message.reason}
                return _event("unsubscribed", _json(ended), None)
            case PresenceFrame():
                member = {"channel": message.channel, **message.member._asdict()}
                return _event("left" if message.has_left else "joined", to_json(member).encode(), None)
            case CloseFrame():
                close = close_of(message.code, message.reason)
                end = {"code": message.code, "reason": close.reason, "reconnect": close.reconnect}
                retry = b"" if close.retry_after_ms is None else b"retry: %d\n\n" % close.retry_after_ms
                return retry + _event("close", _json(end), None)
            case _:
                return None  # answers to commands, which such a client does not send


def _subscribed(message: SubscribedFrame) -> bytes:
    fields = [b'"channel":' + _json(message.channel)]
    if message.at is not None:
        fields.append(b'"at":' + _json(str(message.at)))
    fields.append(b'"recovered":' + _json(message.recovered))
    if message.reply is not None:
        fields.append(b'"reply":' + _json_of(message.reply))
    if message.members is not None:
        fields.append(b'"members":' + message.members)
    return b"{%b}" % b",".join(fields)


def _json_of(message: Message) -> bytes:
    """Return the JSON value of `message`. Bytes are base64."""
    match message.kind:
        case Kind.JSON:
            return message.payload
        case Kind.TEXT:
            return _json(message.payload.decode())
        case Kind.BYTES:
            return _json(base64.b64encode(message.payload).decode())


class EventIds:
    """The ids of a stream with several channels that have positions: all positions, in the order of the channels.

    The position of a channel that has none yet is empty.
    """

    __slots__ = ("_positions",)

    def __init__(self, positions: Mapping[str, Position | None]) -> None:
        """`positions` has each channel, and the position that the client has sent for it."""
        self._positions = {name: "" if position is None else str(position) for name, position in positions.items()}

    def prefix(self, message: Message) -> bytes:
        """Return the field with the id that belongs before the event of `message`. Empty bytes if it has none."""
        match message:
            case Publication():
                position = message.position
            case SubscribedFrame():
                position = message.at
            case _:
                return b""
        if position is None or message.channel not in self._positions:
            return b""
        self._positions[message.channel] = str(position)
        return b"id: %b\n" % ",".join(self._positions.values()).encode()


def parse_ids(text: str) -> list[Position | None]:
    """Return the positions in a `Last-Event-ID`, at most `MAX_IDS`. One that cannot be parsed is None."""
    if len(text) > MAX_IDS * 65:
        return []
    return [Position.parse(part.strip()) for part in text.split(",")[:MAX_IDS]]


SSE = StreamKind(
    name="sse",
    content_type=b"text/event-stream; charset=utf-8",
    beat=b":\n\n",
    wire_format=ChunkedFormat(SseEncoding(has_ids=True)),
)

WITHOUT_IDS = ChunkedFormat(SseEncoding(has_ids=False))
"""The format of a stream whose ids are its own."""


async def connect(session: Session, transport: ClientTransport, secret: str) -> None:
    """Call `on_handshake`, begin the stream, make the client a recipient, and call `on_client_open`. Raise `Refused`.

    The client posts messages to the session `secret`. May return while the connection is still open.
    """
    session.outbox.put(OpenFrame(session.conn.id, secret))
    await session.handshake()
    if await transport.accept(None):
        session.open()
        await transport.run()

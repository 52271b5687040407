"""Server-Sent Events (WHATWG HTML 9.2): how messages look on such a stream, and the ids by which it recovers.

Knows neither sockets nor ASGI.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from wsgateway.exceptions import ChannelError, Refusal, Refused
from wsgateway.frames import (
    CloseFrame,
    OpenFrame,
    Position,
    PresenceFrame,
    Publication,
    SubscribedFrame,
    UnsubscribedFrame,
)
from wsgateway.messages import Kind, Message, OnLoss, unquoted
from wsgateway.protocols.posted import PostedSession
from wsgateway.protocols.query import read_query
from wsgateway.protocols.v1 import subscribed_of, text_of
from wsgateway.transports.framing import ChunkedFormat, StreamKind
from wsgateway.transports.stream import AsgiStream, NativeStream

RETRY_MS = 2000
"""Milliseconds after which a browser reconnects, unless a drain spreads the clients."""

MAX_IDS = 8
"""Maximum number of channels whose positions the id of an event contains."""

MAX_ID = 1024
"""Characters of an id that are read. A position has at most 52."""

StreamTransport = AsgiStream | NativeStream

_JSON, _BYTES = Kind.JSON, Kind.BYTES

_BREAK = re.compile(rb"\r\n|\r|\n")
"""The characters that end a line of a stream. Other line breaks, such as U+2028, are text."""

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
    return text_of(value).encode()


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
        payload = unquoted(message.payload) if message.kind is _JSON else message.payload
        return _event(message.name, payload, position)

    def _control(self, message: Message) -> bytes | None:
        match message:
            case OpenFrame():
                fields = {"id": message.conn_id, "session": message.secret}
                return b"retry: %d\n\n" % RETRY_MS + _event("open", _json(fields), None)
            case SubscribedFrame():
                data = f'{{"channel":{text_of(message.channel)},{subscribed_of(message)}}}'
                return _event("subscribed", data.encode(), message.at if self._has_ids else None)
            case UnsubscribedFrame():
                ended = {"channel": message.channel, "code": message.code, "reason": message.reason}
                return _event("unsubscribed", _json(ended), None)
            case PresenceFrame():
                member = {"channel": message.channel, **message.member.fields()}
                return _event("left" if message.has_left else "joined", _json(member), None)
            case CloseFrame():
                end = message.fields()
                retry = end.pop("retry_after_ms", None)
                event = _event("close", _json(end), None)
                return b"retry: %d\n\n" % retry + event if type(retry) is int and retry >= 0 else event
            case _:
                return None  # answers to commands, which such a client does not send


class EventIds:
    """The ids of a stream with several channels that have positions: all positions, in the order of the channels.

    The position of a channel that has none yet is empty.
    """

    __slots__ = ("_positions",)

    def __init__(self, positions: Mapping[str, Position | None]) -> None:
        """`positions` contains the position that the client has sent for each channel."""
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


def read_ids(text: str, channels: Iterable[str]) -> dict[str, Position | None]:
    """Return the positions in the id of an event, by channel. A malformed position is None."""
    parts = text[:MAX_ID].split(",", MAX_IDS)
    return {name: Position.parse(part.strip()) for name, part in zip(channels, parts, strict=False) if part.strip()}


SSE = StreamKind(
    name="sse",
    content_type=b"text/event-stream; charset=utf-8",
    beat=b":\n\n",
    wire_format=ChunkedFormat(SseEncoding(has_ids=True), on_loss=OnLoss.CLOSES),
)

WITHOUT_IDS = ChunkedFormat(SseEncoding(has_ids=False), on_loss=OnLoss.CLOSES)
"""The format of a stream whose ids are its own."""


class SseSession(PostedSession):
    """One client of an event stream. It sends nothing on its connection."""

    __slots__ = ("secret",)

    secret: str
    """The name under which the client posts messages."""

    def number(self, transport: StreamTransport, channels: Iterable[str], ids: str) -> None:
        """Decide what the ids of the events are, once `on_handshake` has named channels. Raise `Refused` for too many.

        `channels` are those of the URL, `ids` is the last id of the client. With several channels that have a history,
        the ids are those of this client.
        """
        granted = self._granted
        if granted is None:
            return
        names = self.with_history([*channels, *(wanted.channel for wanted, _, _ in granted)])
        if len(names) > MAX_IDS:
            detail = f"a stream has at most {MAX_IDS} channels with a history, open another stream or use /stream"
            raise Refused.of(Refusal(400, "query", detail))
        since = read_ids(ids, names)
        for place, (wanted, grant, by_code) in enumerate(granted):
            if by_code and wanted.channel in since:
                position = since[wanted.channel]
                granted[place] = wanted._replace(since=position, is_garbled=position is None), grant, by_code
        if len(names) > 1:
            positions = {wanted.channel: wanted.since for wanted, _, _ in granted}
            self.outbox.wire_format = WITHOUT_IDS
            transport.number(EventIds({name: positions[name] for name in names}).prefix)

    def with_history(self, channels: Iterable[str]) -> list[str]:
        """Return the `channels` that have a history, each once. A channel that does not exist is skipped."""
        namespaces, names = self._parts.channels.namespaces, []
        for name in dict.fromkeys(channels):
            try:
                settings = namespaces.find(name)
            except ChannelError:
                continue  # `authorize` refuses it
            if settings.history:
                names.append(name)
        return names


async def connect(session: SseSession, transport: StreamTransport, scope: Mapping[str, Any]) -> None:
    """Call `on_handshake`, begin the stream, make the client a recipient, and call `on_client_open`. Raise `Refused`.

    May return while the connection is still open.
    """
    conn = session.conn
    session.outbox.put(OpenFrame(conn.id, session.secret))
    parameters = conn.query.multi_items()
    channels = [value for name, value in parameters if name == "channel"]
    ids = conn.headers.get("last-event-id", "")
    if ids:  # it is newer than the positions in the URL
        parameters = [(name, value) for name, value in parameters if name != "since"]
    since = read_ids(ids, session.with_history(channels))
    asked = read_query(parameters, has_positions=True, default_since=since)
    await session.handshake(scope, asked=asked)
    session.number(transport, channels, ids)
    if await transport.accept(None):
        session.open()
        await transport.run()

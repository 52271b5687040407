"""Streams of the Centrifuge protocol: what they look like, and how they begin. Knows neither sockets nor ASGI."""

import enum
from collections.abc import Mapping
from typing import Any

from wsgateway.messages import Message, OnLoss
from wsgateway.protocols.centrifuge import codes
from wsgateway.protocols.centrifuge.formats import CentrifugeEncoding
from wsgateway.protocols.centrifuge.session import CentrifugeSession
from wsgateway.transports.framing import ChunkedFormat, StreamKind
from wsgateway.transports.stream import AsgiStream, NativeStream


class Carrier(enum.Enum):
    """What the stream of a client consists of."""

    EVENTS = enum.auto()
    LINES = enum.auto()
    BINARY = enum.auto()
    """Messages of Protobuf, each with its length before it."""


class _Wrapped:
    """An encoding whose content is changed for a stream."""

    def __init__(self, encoding: CentrifugeEncoding) -> None:
        self._encoding = encoding
        self.carries = encoding.carries


class EventsEncoding(_Wrapped):
    """Writes each content as one event (WHATWG HTML 9.2), in which each line is a reply or a push."""

    def content(self, message: Message) -> str | None:
        content = self._encoding.content(message)
        assert not isinstance(content, bytes)
        if content is None:
            return None
        if "\n" in content:
            content = content.replace("\n", "\ndata: ")
        return f"data: {content}\n\n"


class LinesEncoding(_Wrapped):
    """Writes each content as a line."""

    def content(self, message: Message) -> str | None:
        content = self._encoding.content(message)
        assert not isinstance(content, bytes)
        return None if content is None else f"{content}\n"


class CentrifugeChunks(ChunkedFormat):
    """The content of an encoding as one chunk."""

    def __init__(self, encoding: CentrifugeEncoding) -> None:
        super().__init__(encoding, on_loss=OnLoss.CLOSES_FOR_SERVER)
        self._carries = encoding.carries

    def carries(self, message: Message) -> bool:
        return self._carries(message)

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        return codes.closing(code, reason)


def event_stream(encoding: CentrifugeEncoding) -> StreamKind:
    """Return a stream of events. Like the others, it has no heartbeat, because the session sends pings."""
    return StreamKind(
        name="sse",
        content_type=b"text/event-stream; charset=utf-8",
        beat=b"",
        wire_format=CentrifugeChunks(EventsEncoding(encoding)),
        first=b"\r\n",
    )


def line_stream(encoding: CentrifugeEncoding) -> StreamKind:
    """Return a stream of lines."""
    wire_format = CentrifugeChunks(LinesEncoding(encoding))
    return StreamKind(name="http_stream", content_type=b"application/json", beat=b"", wire_format=wire_format)


def binary_stream(encoding: CentrifugeEncoding) -> StreamKind:
    """Return a stream of what `encoding` writes, in which each reply has its length before it."""
    wire_format = CentrifugeChunks(encoding)
    return StreamKind(name="http_stream", content_type=b"application/octet-stream", beat=b"", wire_format=wire_format)


async def connect(session: CentrifugeSession, transport: AsgiStream | NativeStream, scope: Mapping[str, Any]) -> None:
    """Begin the stream, and wait for the client's `connect`, which may have come with the request.

    May return while the connection is still open.
    """
    if await transport.accept(None):
        session.expect_connect(scope)
        await transport.run()

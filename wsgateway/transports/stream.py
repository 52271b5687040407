"""The transports of a stream, a response that never ends: on the gateway's own server, and on plain ASGI.

What the client sends arrives by other requests, so these transports only write. Knows no server.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import anyio
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from wsgateway.config.settings import Settings
from wsgateway.hub.outbox import Outbox
from wsgateway.logs import GatewayLog
from wsgateway.messages import Message
from wsgateway.transports.asgi import AsgiWriter
from wsgateway.transports.framing import StreamKind, chunk
from wsgateway.transports.native import WireTransport
from wsgateway.transports.peer import Peer
from wsgateway.transports.takeover import STREAM_EXTENSION, StreamTakeover, Timed, Timers

MAX_JOINED = 64 * 1024
"""Bytes from which on no further message is added to one `send`."""

CLOSES = (b"connection", b"close")
"""The header of a stream whose socket is taken over, because no request can follow on it."""

Headers = Iterable[tuple[bytes, bytes]]

Resumed = Callable[[], None]
"""Passes on what the client has posted. A stream whose client posts no frames has none."""

Prefix = Callable[[Message], bytes]
"""Returns the bytes that one client receives before a message that several clients share."""

_HEADERS = (
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    # else Starlette's GZipMiddleware holds back every response that is not text/event-stream
    (b"content-encoding", b"identity"),
)
"""Headers that keep caches, proxies, and middleware from holding a stream back."""


def stream_headers(kind: StreamKind, more: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers of a stream of `kind`, with `more`."""
    return [(b"content-type", kind.content_type), *_HEADERS, *more]


@dataclass(frozen=True, slots=True)
class StreamContext:
    """The parts that all streams of one gateway share."""

    settings: Settings
    timers: Timers
    log: GatewayLog
    server_stops: Callable[[], None]
    """Called when the server is about to stop."""

    watching: Callable[[], AbstractContextManager[None]]
    """Notices, while a stream on plain ASGI is open, that the server is about to stop."""


class StreamEvents:
    """The events of one stream. Implements `transports.asgi.AsgiEvents`."""

    def __init__(self, kind: StreamKind) -> None:
        self._kind = kind
        self.prefix: Prefix | None = None
        self.is_beat_due = False

    def take(self, outbox: Outbox) -> list[AsgiMessage] | None:
        parts: list[bytes] = []
        size = 0
        while size < MAX_JOINED:
            message = outbox.take()
            if message is None:
                break
            for part in message.parts():
                if self.prefix is not None:
                    parts.append(self.prefix(part))
                content = outbox.wire_format.message(part) or b""
                parts.append(content.encode() if isinstance(content, str) else content)
                size += len(parts[-1])
        if self.is_beat_due:
            self.is_beat_due = False
            parts.append(self._kind.beat)
        if not parts:
            return None
        body = b"".join(parts)
        return [_body(body)] if body else []

    def close(self, code: int, reason: str) -> AsgiMessage:
        return _body(self._kind.last_content(code, reason), more=False)


def _body(body: bytes, *, more: bool = True) -> AsgiMessage:
    return {"type": "http.response.body", "body": body, "more_body": more}


class AsgiStream:
    """One stream on plain ASGI. A receiver waits for the end of the connection, a writer writes the outbox."""

    _peer: Peer
    _outbox: Outbox
    _writer: AsgiWriter

    def __init__(
        self, receive: Receive, send: Send, *, kind: StreamKind, headers: Headers, context: StreamContext
    ) -> None:
        """`headers` are those of the response besides the usual ones."""
        self.name = kind.name
        self.slot: set[Timed] | None = None
        self._receive = receive
        self._send = send
        self._kind = kind
        self._headers = headers
        self._context = context
        self._events = StreamEvents(kind)
        self._scope: anyio.CancelScope | None = None
        self.resumed: Resumed | None = None

    def attach(self, peer: Peer, outbox: Outbox) -> None:
        self._peer, self._outbox = peer, outbox
        context = self._context
        self._writer = AsgiWriter(
            outbox, self._events, self._send, settings=context.settings, log=context.log, abort=self.abort
        )

    def number(self, prefix: Prefix) -> None:
        self._events.prefix = prefix

    async def accept(self, subprotocol: str | None) -> bool:
        del subprotocol
        try:
            await self._send(_head(self._kind, self._headers))
            await self.begin()
        except OSError:
            return False  # the client has disconnected
        return True

    async def begin(self) -> None:
        """Send what is before the first message. Nothing else is sent until `run`."""
        if self._kind.first:
            await self._send(_body(self._kind.first))

    async def run(self) -> None:
        """Write until either side closes the connection."""
        if self._kind.beat:
            self._wait()
        try:
            with self._context.watching():
                async with anyio.create_task_group() as tasks:
                    self._scope = tasks.cancel_scope
                    tasks.start_soon(self._writer.run)
                    if self.resumed is not None:
                        await asyncio.sleep(0)  # until the writer waits to be woken
                        self.resumed()
                    while (await self._receive())["type"] != "http.disconnect":
                        pass  # the body of the request, which has no meaning
                    tasks.cancel_scope.cancel()
        finally:
            self._context.timers.discard(self)
            self._writer.cancel()
            self._peer.finished(1006, "")

    async def accept_and_close(self, subprotocol: str | None, code: int, reason: str) -> None:
        if await self.accept(subprotocol):
            await self._send(self._events.close(code, reason))

    def release(self) -> None:
        """Do nothing, because the request still belongs to the server."""

    def abort(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def resume(self) -> None:
        """Pass on what the client has posted. Bytes that it sends on this connection are discarded."""
        if self.resumed is not None:
            self.resumed()

    def wake(self) -> None:
        self._writer.wake()

    def due(self) -> None:
        """Write a heartbeat. Called by the timers."""
        self._events.is_beat_due = True
        self._wait()
        self._writer.wake()

    def _wait(self) -> None:
        now = asyncio.get_running_loop().time()
        self._context.timers.add(self, now + self._context.settings.ping_interval)


class NativeStream(WireTransport):
    """One stream on the gateway's own server, whose socket is taken over.

    If that is not possible, because a middleware holds the head of the response back for example, the stream continues
    over ASGI.
    """

    __slots__ = ("_context", "_kind", "_over_asgi", "_prefix", "_request", "name", "resumed")

    def __init__(
        self,
        takeover: StreamTakeover,
        receive: Receive,
        send: Send,
        *,
        kind: StreamKind,
        headers: Headers,
        context: StreamContext,
    ) -> None:
        """`headers` are those of the response besides the usual ones."""
        super().__init__(context.settings, context.server_stops)
        self.name = kind.name
        self._request: tuple[StreamTakeover, Receive, Send, Headers] | None = (takeover, receive, send, headers)
        self._kind = kind
        self._context = context
        self._prefix: Prefix | None = None
        self._over_asgi: AsgiStream | None = None
        self.resumed: Resumed | None = None

    def number(self, prefix: Prefix) -> None:
        self._prefix = prefix
        if self._over_asgi is not None:
            self._over_asgi.number(prefix)
        else:
            self._outbox.buffer()

    async def accept(self, subprotocol: str | None) -> bool:
        del subprotocol
        assert self._request is not None
        (takeover, receive, send, headers), self._request = self._request, None
        try:
            await send(_head(self._kind, [*headers, CLOSES]))
        except OSError:
            return False  # the client has disconnected
        wire = takeover.take_over(self, self._settings, self._context.timers, self._kind)
        if wire is not None:
            self._wire = wire
            if self._kind.first:
                wire.write(chunk(self._kind.first))
            return True
        takeover.watch(self._server_stops)
        plain = self._over_asgi = AsgiStream(receive, send, kind=self._kind, headers=headers, context=self._context)
        plain.attach(self.peer, self._outbox)
        plain.resumed = self.resumed
        if self._prefix is not None:
            plain.number(self._prefix)
        try:
            await plain.begin()
        except OSError:
            return False  # the client has disconnected
        return True

    async def run(self) -> None:
        """Write waiting messages, and pass on what the client has posted.

        Return immediately, while the connection stays open, if the socket was taken over.
        """
        if self._over_asgi is None:
            self.wake()
            self.resume()
            return
        try:
            await self._over_asgi.run()
        finally:
            self._over_asgi = self.resumed = None
            del self.peer, self._outbox

    async def accept_and_close(self, subprotocol: str | None, code: int, reason: str) -> None:
        del subprotocol
        assert self._request is not None
        (_, receive, send, headers), self._request = self._request, None
        plain = AsgiStream(receive, send, kind=self._kind, headers=headers, context=self._context)
        await plain.accept_and_close(None, code, reason)

    def release(self) -> None:
        self._request = None

    def resume(self) -> None:
        if self.resumed is not None:
            self.resumed()

    def finished(self, code: int, reason: str) -> None:
        self.resumed = None  # it refers to the session, which refers to this object
        super().finished(code, reason)

    def abort(self) -> None:
        if self._over_asgi is not None:
            self._over_asgi.abort()
        super().abort()

    def wake(self) -> None:
        if self._over_asgi is not None:
            self._over_asgi.wake()
        else:
            super().wake()

    def _encoded(self, message: Message) -> bytes:
        if self._prefix is None:
            return message.encoded(self._outbox.wire_format)
        return b"".join(chunk(self._prefix(part)) + part.encoded(self._outbox.wire_format) for part in message.parts())

    def _may_not_be_fast(self) -> bool:
        return self._prefix is not None


def stream_transport(
    scope: Scope, receive: Receive, send: Send, *, kind: StreamKind, headers: Headers, context: StreamContext
) -> "AsgiStream | NativeStream":
    """Return the transport of a stream of `kind`. `headers` are those of the response besides the usual ones."""
    # only `wsgateway.server` offers it
    takeover = cast("StreamTakeover | None", (scope.get("extensions") or {}).get(STREAM_EXTENSION))
    if takeover is None:
        return AsgiStream(receive, send, kind=kind, headers=headers, context=context)
    return NativeStream(takeover, receive, send, kind=kind, headers=headers, context=context)


def _head(kind: StreamKind, headers: Headers) -> AsgiMessage:
    return {"type": "http.response.start", "status": 200, "headers": stream_headers(kind, headers)}

"""How bytes reach a client. The plain ASGI path, which runs on every server, and the private protocol by which the
server's own path can end what ASGI cannot. Is given hub, events and settings."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import anyio
from starlette.types import Message, Receive, Scope, Send

from wsgateway.auth import Rules
from wsgateway.config import Settings
from wsgateway.connection import Connection
from wsgateway.events import Events, Lane
from wsgateway.exceptions import Refused
from wsgateway.hub import Hub
from wsgateway.limits import LINGER
from wsgateway.logs import GatewayLog
from wsgateway.messages import Frame
from wsgateway.metrics import Metrics

EXTENSION = "wsgateway.wire"
"""The entry in `scope["extensions"]` under which `wsgateway.server` offers a `Wire`."""


class Wire(Protocol):
    """What the server's own WebSocket protocol offers beyond ASGI. None of it waits."""

    write: Callable[[bytes], None]
    """Write whole frames, after all that was written before."""

    def attach(self, user: "WireUser") -> None:
        """Tell `user` from now on how the socket fares."""

    def buffered(self) -> int:
        """Bytes that the socket has not taken yet."""

    def close(self, code: int, reason: str) -> None:
        """Write a close frame past everything that waits for the client, and abort if it does not answer."""

    def abort(self) -> None:
        """End the socket now, whatever its buffer holds."""


class WireUser(Protocol):
    """What a `Wire` tells. Called on the loop, also from within `Wire.write`."""

    def received(self, message: str | bytes, size: int) -> bool:
        """Take a message of `size` bytes past the ASGI queue. False: not now, hand it to `receive`."""

    def congested(self) -> None:
        """The socket takes no more; what is written now waits in memory."""

    def writable(self) -> None:
        """It takes some again."""

    def finished(self) -> None:
        """A close frame was written, or the socket is gone: nothing may be written any more."""


class WebSockets:
    """The WebSocket connections of one running gateway."""

    def __init__(
        self, *, hub: Hub, events: Events, rules: Rules, settings: Settings, metrics: Metrics, log: GatewayLog
    ) -> None:
        self.hub = hub
        self.events = events
        self.settings = settings
        self.metrics = metrics
        self._rules = rules
        self.log = log
        self._serving: set[WebSocketTransport] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def serve(self, scope: Scope, receive: Receive, send: Send, *, path: str) -> None:
        """Take one client from its handshake to its end."""
        transport = WebSocketTransport(self, scope, receive, send, path=path)
        await receive()
        self._serving.add(transport)
        self._empty.clear()
        try:
            subprotocol = await self._admitted(transport, scope)
        except Refused as exc:
            await self._turn_away(scope, send, exc, transport.conn)
        else:
            await transport.run(subprotocol)
        finally:
            self._serving.discard(transport)
            if not self._serving:
                self._empty.set()

    async def _admitted(self, transport: "WebSocketTransport", scope: Scope) -> str | None:
        refusal = self._rules.check_host(scope) or self._rules.check_origin(scope)
        if refusal is not None:
            self.metrics.refusals[refusal.kind] += 1
            self.log.warning("refused a handshake from %s: %s", transport.conn.address, refusal)
            raise Refused(refusal.status, str(refusal))
        try:
            subprotocol = await self.events.handshake(transport.conn, transport.lane)
            if transport.conn.closing is not None:
                raise Refused(503, "the gateway is shutting down")
        except Refused as exc:
            self.metrics.refusals["handshake"] += 1
            self.log.info("on_handshake refused %s: %s", transport.conn.address, exc, extra={"conn": transport.conn.id})
            raise
        return subprotocol

    async def _turn_away(self, scope: Scope, send: Send, refused: Refused, conn: Connection) -> None:
        try:
            if refused.close is not None:
                # a browser that offered subprotocols reports 1006 unless one of them is chosen
                chosen = conn.subprotocols[0] if conn.subprotocols else None
                await send({"type": "websocket.accept", "subprotocol": chosen})
                await send({"type": "websocket.close", "code": refused.close, "reason": refused.reason})
                return
            await deny(scope, send, refused.status, refused.reason)
        except OSError:  # it has gone
            pass

    def close_all(self, code: int, reason: str) -> None:
        """Begin to close every connection."""
        for transport in tuple(self._serving):
            transport.conn.close_nowait(code, reason)

    async def ended(self) -> None:
        """Wait until no connection is left."""
        await self._empty.wait()

    def abort_all(self) -> None:
        """End every connection now."""
        for transport in tuple(self._serving):
            transport.abort()


async def deny(scope: Scope, send: Send, status: int, detail: str) -> None:
    """Answer a handshake with `status` (ASGI's `websocket.http.response`), or with an empty 403 where it can't."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    body = detail.encode(errors="replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class WebSocketTransport:
    """One WebSocket: its reader, which never awaits a hook, and its writer."""

    name = "websocket"

    def __init__(self, owner: WebSockets, scope: Scope, receive: Receive, send: Send, *, path: str) -> None:
        self._owner = owner
        self._receive = receive
        self._send = send
        self.conn = Connection(scope, path=path, settings=owner.settings, metrics=owner.metrics, transport=self)
        self.lane = Lane(owner.events)
        wire = cast("Wire | None", scope.get("extensions", {}).get(EXTENSION))  # offered by wsgateway.server only
        self._writer: Writer
        if wire is None:
            self._writer = AsgiWriter(owner, self.conn, send)
        else:
            self._writer = WireWriter(owner, self.conn, wire, self._take_if_room)

    async def run(self, subprotocol: str | None) -> None:
        """Accept, read and write until either side ends it."""
        try:
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
        except OSError:
            return  # it vanished before it was accepted
        conn, events = self.conn, self._owner.events
        self._owner.hub.join(conn)
        events.opened(conn, self.lane)
        heard = (1006, "")
        try:
            heard = await self._writer.beside(self._read_all)
        finally:
            self._writer.cancel_timers()
            self._owner.hub.leave(conn)
            events.closed(conn, self.lane, *conn.ended(*heard))

    def wake(self) -> None:
        self._writer.wake()

    def abort(self) -> None:
        """End the connection now."""
        self._writer.abort()

    async def _read_all(self) -> tuple[int, str]:
        """Hand messages to the lane until the peer has closed; its code and reason."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return _close_of(event)
            self._take(*_message_of(event))
            if self.lane.is_full:  # only now: a message held back here would be overtaken by one past the queue
                await self.lane.room()

    def _take_if_room(self, message: str | bytes, size: int) -> bool:
        if self.lane.is_full:
            return False
        self._take(message, size)
        return True

    def _take(self, message: str | bytes, size: int) -> None:
        """Hand one message to the lane. Once the close has begun, messages are dropped."""
        if self.conn.closing is not None:
            return
        if size > self._owner.settings.max_message_size:
            self.conn.close_nowait(1009, "message too big")
        else:
            self._owner.events.received(self.conn, self.lane, message, size)


class Writer(Protocol):
    """Writes what one connection's outbox holds, then its close."""

    async def beside(self, read: Callable[[], Awaitable[tuple[int, str]]]) -> tuple[int, str]:
        """Write while `read` reads; what it returns, or 1006 where the connection was aborted."""

    def wake(self) -> None:
        """The outbox has something to write, or the close has begun."""

    def abort(self) -> None:
        """End the connection now."""

    def cancel_timers(self) -> None: ...


class Stall:
    """Notices a write that makes no progress. The timer is armed once for many writes, and looks when it fires."""

    def __init__(self, seconds: float, left: Callable[[], float | None], stalled: Callable[[], None]) -> None:
        """`left` tells how many seconds the present write has left, None: there is none; then `stalled` is called."""
        self._seconds = seconds
        self._left = left
        self._stalled = stalled
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """A write has begun."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        left = self._left()
        if left is not None and left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)
        elif left is not None:
            self._stalled()


class AsgiWriter:
    """On plain ASGI: a task, which alone sends. A socket that is stuck is left to the server, which may keep it."""

    def __init__(self, owner: WebSockets, conn: Connection, send: Send) -> None:
        self._owner = owner
        self._conn = conn
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._since: float | None = None
        self._scope: anyio.CancelScope | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._stall = Stall(owner.settings.send_timeout, self._time_left, conn.close_slow)

    async def beside(self, read: Callable[[], Awaitable[tuple[int, str]]]) -> tuple[int, str]:
        heard = (1006, "")
        async with anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            tasks.start_soon(self._write_all)
            heard = await read()
            tasks.cancel_scope.cancel()
        return heard

    def wake(self) -> None:
        if self._woken is not None:
            if not self._woken.done():
                self._woken.set_result(None)
        elif self._conn.closing is not None and not self._conn.queued_messages and self._since is not None:
            self._linger()  # what waited was dropped, and the writer is stuck

    def abort(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def cancel_timers(self) -> None:
        self._stall.cancel()
        if self._linger_timer is not None:
            self._linger_timer.cancel()

    async def _write_all(self) -> None:
        conn = self._conn
        try:
            while True:
                frame = conn.next_frame()
                if frame is not None:
                    await self._write(frame)
                elif conn.closing is not None:
                    break
                else:
                    self._woken = self._loop.create_future()
                    await self._woken
                    self._woken = None
            self._linger()
            await self._send({"type": "websocket.close", "code": conn.closing[0], "reason": conn.closing[1]})
        except Exception as exc:  # the peer has gone, or the server has closed; each server has its own error for it
            self._since = None
            self._owner.log.debug("cannot write: %r", exc, extra={"conn": conn.id})
            self._linger()

    async def _write(self, frame: Frame) -> None:
        self._since = self._loop.time()
        self._stall.watch()
        if frame.text is not None:
            await self._send({"type": "websocket.send", "text": frame.text})
        else:
            await self._send({"type": "websocket.send", "bytes": frame.payload})
        self._since = None
        self._owner.metrics.messages_out += 1
        self._owner.metrics.bytes_out += len(frame.payload)

    def _time_left(self) -> float | None:
        return None if self._since is None else self._since + self._owner.settings.send_timeout - self._loop.time()

    def _linger(self) -> None:
        """From now on the peer has `LINGER` seconds to take the close frame."""
        if self._linger_timer is None:
            self._linger_timer = self._loop.call_later(LINGER, self.abort)


class WireWriter:
    """On the gateway's own server: frames go straight to the socket, through the outbox only while it is congested."""

    def __init__(
        self, owner: WebSockets, conn: Connection, wire: Wire, received: Callable[[str | bytes, int], bool]
    ) -> None:
        self.received = received
        self._owner = owner
        self._conn = conn
        self._wire = wire
        self._is_attached = False
        self._is_congested = False
        self._is_finished = False
        self._unwritten = 0
        self._stall = Stall(owner.settings.send_timeout, self._time_left, conn.close_slow)

    async def beside(self, read: Callable[[], Awaitable[tuple[int, str]]]) -> tuple[int, str]:
        self._is_attached = True
        self._wire.attach(self)
        self.wake()
        return await read()

    def wake(self) -> None:
        if not self._is_attached:
            return  # what on_handshake sends waits until the connection is accepted
        if not self._is_congested:
            self.writable()
        elif self._conn.closing is not None and not self._conn.queued_messages:
            self._close()  # what waited was dropped: the close goes past what the socket does not take

    def abort(self) -> None:
        self._wire.abort()

    def cancel_timers(self) -> None:
        self._stall.cancel()

    def congested(self) -> None:
        self._is_congested = True
        self._owner.hub.slow(self._conn)
        self._unwritten = self._wire.buffered()
        self._stall.watch()

    def writable(self) -> None:
        """Write what the outbox holds, then the close, or join the fast set."""
        self._is_congested = False
        metrics = self._owner.metrics
        while not self._is_congested and not self._is_finished:
            frame = self._conn.next_frame()
            if frame is None:
                break
            metrics.messages_out += 1
            metrics.bytes_out += len(frame.payload)
            self._wire.write(frame.wire)  # which may call `congested`
        if self._is_congested or self._is_finished:
            return
        if self._conn.closing is not None:
            self._close()
        else:
            self._owner.hub.fast(self._conn, self._wire.write)

    def finished(self) -> None:
        self._is_finished = True
        self._owner.hub.leave(self._conn)

    def _close(self) -> None:
        if not self._is_finished and self._conn.closing is not None:
            self._wire.close(*self._conn.closing)

    def _time_left(self) -> float | None:
        if not self._is_congested or self._is_finished:
            return None
        before, self._unwritten = self._unwritten, self._wire.buffered()
        return self._owner.settings.send_timeout if self._unwritten < before else 0


def _message_of(event: Message) -> tuple[str | bytes, int]:
    """The message in a `websocket.receive` and its size in bytes."""
    text = event.get("text")
    if text is None:
        return event["bytes"], len(event["bytes"])
    return text, len(text) if text.isascii() else len(text.encode())


def _close_of(event: Message) -> tuple[int, str]:
    """Code and reason of a `websocket.disconnect`.

    uvicorn says 1005 for a socket that ended without a close frame too, but gives a reason only with a frame.
    """
    code, reason = event.get("code", 1005), event.get("reason")
    if code == 1005 and reason is None:
        code = 1006
    return code, reason or ""

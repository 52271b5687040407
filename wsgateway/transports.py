"""How bytes reach a client. The plain ASGI path, which runs on every server, and the private protocol by which the
server's own path can end what ASGI cannot. Is given hub, events and settings."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol, cast

import anyio
from starlette.types import Message, Receive, Scope, Send

from wsgateway.auth import Refusal, Rules
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

    def close(self, code: int, reason: str) -> None:
        """Write a close frame past everything that waits for the client; abort after `LINGER` seconds."""

    def abort(self) -> None:
        """End the socket now, whatever its buffer holds."""


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

    def refusal(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Why the rules of DESIGN 3.4 keep a handshake out, or None."""
        return self._rules.check_host(scope) or self._rules.check_origin(scope)

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
        refusal = self.refusal(scope)
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
    """One WebSocket on ASGI: a reader, which never awaits a hook, and a writer, which alone writes."""

    name = "websocket"

    def __init__(self, owner: WebSockets, scope: Scope, receive: Receive, send: Send, *, path: str) -> None:
        self._owner = owner
        self._receive = receive
        self._send = send
        self._wire = cast("Wire | None", scope.get("extensions", {}).get(EXTENSION))  # offered by wsgateway.server only
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._writing_since: float | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._scope: anyio.CancelScope | None = None
        self.conn = Connection(scope, path=path, settings=owner.settings, metrics=owner.metrics, transport=self)
        self.lane = Lane(owner.events)

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
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._write_all)
                heard = await self._read_all()
                tasks.cancel_scope.cancel()
        finally:
            for timer in (self._stall_timer, self._linger_timer):
                if timer is not None:
                    timer.cancel()
            self._owner.hub.leave(conn)
            events.closed(conn, self.lane, *conn.ended(*heard))

    # Reading

    async def _read_all(self) -> tuple[int, str]:
        """Hand messages to the lane until the peer has closed; its code and reason."""
        conn, lane, events = self.conn, self.lane, self._owner.events
        most = self._owner.settings.max_message_size
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return _close_of(event)
            message, size = _message_of(event)
            if conn.closing is not None:
                continue
            if size > most:
                conn.close_nowait(1009, "message too big")
                continue
            events.received(conn, lane, message, size)
            if lane.is_full:
                await lane.room()

    # Writing

    def wake(self) -> None:
        if self._woken is not None:
            if not self._woken.done():
                self._woken.set_result(None)
        elif self.conn.closing is not None and not self.conn.queued_messages and self._writing_since is not None:
            # what waited was dropped, and the writer is stuck: the close goes past it
            if self._wire is not None and self._linger_timer is None:
                self._wire.close(*self.conn.closing)
            self._linger()

    async def _write_all(self) -> None:
        """Write what the outbox holds, then the close."""
        conn = self.conn
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
            self._owner.log.debug("cannot write: %r", exc, extra={"conn": conn.id})
            self._linger()

    async def _write(self, frame: Frame) -> None:
        self._writing_since = self._loop.time()
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(self._owner.settings.send_timeout, self._check_progress)
        if frame.text is not None:
            await self._send({"type": "websocket.send", "text": frame.text})
        else:
            await self._send({"type": "websocket.send", "bytes": frame.payload})
        self._writing_since = None
        self._owner.metrics.messages_out += 1
        self._owner.metrics.bytes_out += len(frame.payload)

    def _check_progress(self) -> None:
        """The frame that is being written has had `send_timeout` seconds, or a later one has some left."""
        self._stall_timer = None
        if self._writing_since is None:
            return
        left = self._writing_since + self._owner.settings.send_timeout - self._loop.time()
        if left > 0:
            self._stall_timer = self._loop.call_later(left, self._check_progress)
        else:
            self.conn.close_slow()

    def _linger(self) -> None:
        """From now on the peer has `LINGER` seconds to take the close frame."""
        if self._linger_timer is None:
            self._linger_timer = self._loop.call_later(LINGER, self.abort)

    def abort(self) -> None:
        """End the connection. On plain ASGI the socket is left to the server, which may keep it."""
        if self._wire is not None:
            self._wire.abort()
        if self._scope is not None:
            self._scope.cancel()


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

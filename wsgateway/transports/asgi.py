"""The transport on plain ASGI, for every server: a reader, which never awaits a hook, and a writer.

A client that does not read is left to the server, which may keep its socket. Knows no server.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import anyio
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Send

from wsgateway.config.grace import LINGER
from wsgateway.config.settings import Settings
from wsgateway.hub.outbox import Outbox
from wsgateway.logs import GatewayLog
from wsgateway.transports.peer import MAX_FRAMES, Peer
from wsgateway.transports.stall import Stall


class AsgiEvents(Protocol):
    """How an outbox and the close of a connection become ASGI events."""

    def take(self, outbox: Outbox) -> list[AsgiMessage] | None:
        """Take waiting messages out of `outbox`, and return their events, or None if no message waits."""

    def close(self, code: int, reason: str) -> AsgiMessage:
        """Return the last event."""


class AsgiWriter:
    """Writes an outbox, then the close. Nothing else calls `send` after the accept."""

    def __init__(
        self,
        outbox: Outbox,
        events: AsgiEvents,
        send: Send,
        *,
        settings: Settings,
        log: GatewayLog,
        abort: Callable[[], None],
    ) -> None:
        """`abort` is called if the client does not receive the close within `LINGER` seconds."""
        self._outbox = outbox
        self._events = events
        self._send = send
        self._send_timeout = settings.send_timeout
        self._log = log
        self._abort = abort
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._since: float | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._stall = Stall(settings.send_timeout, self._time_left, outbox.close_too_slow)

    def wake(self) -> None:
        """Check again what there is to write."""
        if self._woken is not None:
            if not self._woken.done():
                self._woken.set_result(None)
        elif self._outbox.closing is not None and not self._outbox.messages and self._since is not None:
            self._linger()  # the outbox was dropped, and the present write is stuck

    async def run(self) -> None:
        """Write until the close has been written, or until writing fails."""
        outbox, events = self._outbox, self._events
        try:
            while True:
                waiting = events.take(outbox)
                if waiting is not None:
                    for event in waiting:
                        await self._write(event)
                elif outbox.closing is not None:
                    break
                else:
                    self._woken = self._loop.create_future()
                    await self._woken
                    self._woken = None
            self._linger()
            await self._send(events.close(*outbox.closing))
        except Exception as exc:  # the client or the server has closed; each server has its own error for it
            self._since = None
            self._log.debug("cannot write: %r", exc, extra={"conn": outbox.id})
            self._linger()

    def cancel(self) -> None:
        """Cancel the timers."""
        self._stall.cancel()
        if self._linger_timer is not None:
            self._linger_timer.cancel()

    async def _write(self, event: AsgiMessage) -> None:
        self._since = self._loop.time()
        self._stall.watch()
        await self._send(event)
        self._since = None

    def _time_left(self) -> float | None:
        return None if self._since is None else self._since + self._send_timeout - self._loop.time()

    def _linger(self) -> None:
        """Give the client `LINGER` seconds from now to receive the close."""
        if self._linger_timer is None:
            self._linger_timer = self._loop.call_later(LINGER, self._abort)


class WebSocketEvents:
    """The events of a WebSocket."""

    def take(self, outbox: Outbox) -> list[AsgiMessage] | None:
        message = outbox.take()
        if message is None:
            return None
        events: list[AsgiMessage] = []
        for part in message.parts():
            content = outbox.wire_format.message(part)
            if content is not None:
                events.append({"type": "websocket.send", "text" if type(content) is str else "bytes": content})
        return events

    def close(self, code: int, reason: str) -> AsgiMessage:
        return {"type": "websocket.close", "code": code, "reason": reason}


_EVENTS = WebSocketEvents()


class AsgiTransport:
    """One WebSocket on plain ASGI."""

    name = "websocket"

    _peer: Peer
    _writer: AsgiWriter

    def __init__(self, receive: Receive, send: Send, *, settings: Settings, log: GatewayLog) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._log = log
        self._scope: anyio.CancelScope | None = None
        self._may_resume: asyncio.Event | None = None

    def attach(self, peer: Peer, outbox: Outbox) -> None:
        self._peer = peer
        self._writer = AsgiWriter(outbox, _EVENTS, self._send, settings=self._settings, log=self._log, abort=self.abort)

    # From the handshake to the end

    async def accept(self, subprotocol: str | None) -> bool:
        try:
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
        except OSError:
            return False  # the client has disconnected
        return True

    async def run(self) -> None:
        """Read and write until either side closes the connection."""
        closed_with = (1006, "")
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._writer.run)
                closed_with = await self._read_all()
                tasks.cancel_scope.cancel()
        finally:
            self._writer.cancel()
            self._peer.finished(*closed_with)

    async def accept_and_close(self, subprotocol: str | None, code: int, reason: str) -> None:
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def release(self) -> None:
        """Do nothing, because the handshake still belongs to the server."""

    def abort(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def resume(self) -> None:
        if self._may_resume is not None:
            self._may_resume.set()

    def wake(self) -> None:
        self._writer.wake()

    async def _read_all(self) -> tuple[int, str]:
        """Pass messages to the peer until the client has closed. Return its code and reason.

        `receive` may return without waiting, so other clients are served after every `MAX_FRAMES` messages.
        """
        count = 0
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return _close_of(event)
            message, size = _message_of(event)
            while not self._peer.received(message, size):
                self._may_resume = asyncio.Event()
                await self._may_resume.wait()
            count += 1
            if count % MAX_FRAMES == 0:
                await asyncio.sleep(0)  # serves other clients


def _message_of(event: AsgiMessage) -> tuple[str | bytes, int]:
    """Return the message in a `websocket.receive` and its size in bytes."""
    text = event.get("text")
    if text is None:
        return event["bytes"], len(event["bytes"])
    return text, len(text) if text.isascii() else len(text.encode())


def _close_of(event: AsgiMessage) -> tuple[int, str]:
    """Return code and reason of a `websocket.disconnect`.

    uvicorn reports 1005 also for a socket that ended without a close frame, but a reason only with a frame.
    """
    code, reason = event.get("code", 1005), event.get("reason")
    if code == 1005 and reason is None:
        code = 1006
    return code, reason or ""

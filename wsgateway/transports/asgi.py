"""The plain ASGI path of a WebSocket, which runs on every server. Is given hub, events, and settings."""

import asyncio
import time

import anyio
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from wsgateway.closing import TOO_MANY
from wsgateway.config.grace import LINGER
from wsgateway.limits import MAX_FRAMES
from wsgateway.listeners.inbox import Inbox
from wsgateway.messages import Message
from wsgateway.transports.native import Parts
from wsgateway.transports.stall import Stall


class AsgiTransport:
    """One WebSocket on plain ASGI: a reader, which never awaits a hook, and a task which alone sends.

    A socket that is stuck is left to the server, which may keep it.
    """

    name = "websocket"

    def __init__(self, parts: Parts, scope: Scope, *, path: str) -> None:
        self._parts = parts
        self.conn = parts.connection(scope, path=path, transport=self)
        self.lane = Inbox(parts.events)
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._rate = parts.rate()
        self._since: float | None = None
        self._scope: anyio.CancelScope | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._stall = Stall(parts.settings.send_timeout, self._time_left, self.conn.close_slow)

    async def run(self, subprotocol: str | None, receive: Receive, send: Send) -> None:
        """Accept, read and write until either side ends it."""
        try:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        except OSError:
            return  # it vanished before it was accepted
        self._parts.hub.join(self.conn)
        self._parts.events.opened(self.conn, self.lane)
        heard = (1006, "")
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._write_all, send)
                heard = await self._read_all(receive)
                tasks.cancel_scope.cancel()
        finally:
            self._stall.cancel()
            if self._linger_timer is not None:
                self._linger_timer.cancel()
            self._parts.hub.leave(self.conn)
            self._parts.events.closed(self.conn, self.lane, *self.conn.ended(*heard))

    def abort(self) -> None:
        """End the connection now."""
        if self._scope is not None:
            self._scope.cancel()

    # What the connection calls

    def wake(self) -> None:
        if self._woken is not None:
            if not self._woken.done():
                self._woken.set_result(None)
        elif self.conn.closing is not None and not self.conn.queued_messages and self._since is not None:
            self._linger()  # what waited was dropped, and the writer is stuck

    # Reading

    async def _read_all(self, receive: Receive) -> tuple[int, str]:
        """Hand messages to the lane until the peer has closed; its code and reason.

        `receive` need not wait, so after `MAX_FRAMES` others are served first.
        """
        count = 0
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return _close_of(event)
            self._take(*_message_of(event))
            count += 1
            if count % MAX_FRAMES == 0:
                await asyncio.sleep(0)
            if self.lane.is_full:
                room = asyncio.Event()
                self.lane.when_room(room.set)
                await room.wait()

    def _take(self, message: str | bytes, size: int) -> None:
        """Hand one message to the lane. Once the close has begun, messages are dropped."""
        if self.conn.closing is not None:
            return
        if size > self._parts.settings.max_message_size:
            self.conn.close_nowait(1009, "message too big")
        elif self._rate is not None and not self._rate.allows(time.monotonic()):
            self.conn.close_nowait(TOO_MANY, "too many messages")
        else:
            self._parts.events.received(self.conn, self.lane, message, size)

    # Writing

    async def _write_all(self, send: Send) -> None:
        conn = self.conn
        try:
            while True:
                frame = conn.next_frame()
                if frame is not None:
                    await self._write(frame, send)
                elif conn.closing is not None:
                    break
                else:
                    self._woken = self._loop.create_future()
                    await self._woken
                    self._woken = None
            self._linger()
            await send({"type": "websocket.close", "code": conn.closing[0], "reason": conn.closing[1]})
        except Exception as exc:  # the peer has gone, or the server has closed; each server has its own error for it
            self._since = None
            self._parts.log.debug("cannot write: %r", exc, extra={"conn": conn.id})
            self._linger()

    async def _write(self, frame: Message, send: Send) -> None:
        self._since = self._loop.time()
        self._stall.watch()
        if frame.text is not None:
            await send({"type": "websocket.send", "text": frame.text})
        else:
            await send({"type": "websocket.send", "bytes": frame.payload})
        self._since = None
        self._parts.metrics.messages_out += 1
        self._parts.metrics.bytes_out += len(frame.payload)

    def _time_left(self) -> float | None:
        return None if self._since is None else self._since + self._parts.settings.send_timeout - self._loop.time()

    def _linger(self) -> None:
        """From now on the peer has `LINGER` seconds to take the close frame."""
        if self._linger_timer is None:
            self._linger_timer = self._loop.call_later(LINGER, self.abort)


def _message_of(event: AsgiMessage) -> tuple[str | bytes, int]:
    """The message in a `websocket.receive` and its size in bytes."""
    text = event.get("text")
    if text is None:
        return event["bytes"], len(event["bytes"])
    return text, len(text) if text.isascii() else len(text.encode())


def _close_of(event: AsgiMessage) -> tuple[int, str]:
    """Code and reason of a `websocket.disconnect`.

    uvicorn says 1005 for a socket that ended without a close frame too, but gives a reason only with a frame.
    """
    code, reason = event.get("code", 1005), event.get("reason")
    if code == 1005 and reason is None:
        code = 1006
    return code, reason or ""

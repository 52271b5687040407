"""Closes connections so that the client can still read what was written to it. Knows no HTTP and no WebSocket frame."""

import asyncio
from collections.abc import Callable
from typing import Any

from wsgateway.config.grace import LINGER
from wsgateway.server.tcp import unread

QUIET = 0.25
"""Seconds without a byte after which a client that broke the protocol has read its close frame."""


class LingeringTransport:
    """The transport that uvicorn's response cycle is given. Its `close` is a lingering close (RFC 9112 9.6).

    A socket that is closed while the client still sends is reset, and the response may be lost.
    """

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: Any, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class ProgressTimer:
    """Calls `stalled` once the client has read nothing for a number of seconds."""

    __slots__ = ("_loop", "_stalled", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any, stalled: Callable[[], None]) -> None:
        self._loop = loop
        self._transport = transport
        self._stalled = stalled
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Start the timer, unless it runs."""
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._check, seconds, unread(self._transport))

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, seconds: float, unread_before: int) -> None:
        self._timer = None
        if unread(self._transport) < unread_before:
            self.start(seconds)
        else:
            self._stalled()


class QuietClose(asyncio.Protocol):
    """The protocol of a WebSocket whose client broke RFC 6455, from the close frame to the end of its TCP connection.

    Reads and discards until the client is quiet. A socket that is closed with unread bytes is reset, so the close frame
    could be lost.
    """

    __slots__ = ("_abort_timer", "_connections", "_loop", "_quiet_timer", "_transport")

    def __init__(self, transport: Any, connections: set[Any]) -> None:
        """`connections` is the set of connections that the server waits for."""
        self._transport = transport
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._abort_timer = self._loop.call_later(LINGER, transport.abort)
        self._quiet_timer = self._loop.call_later(QUIET, transport.close)
        connections.add(self)

    def data_received(self, data: bytes) -> None:
        del data
        self._quiet_timer.cancel()
        self._quiet_timer = self._loop.call_later(QUIET, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        self._abort_timer.cancel()
        self._quiet_timer.cancel()

    def shutdown(self) -> None:
        """Do nothing. Called by uvicorn, which waits until the client is quiet or aborted."""

"""Closes connections so that the client can still read what was written to it. Knows no HTTP and no WebSocket frame."""

import asyncio
from collections.abc import Callable
from typing import Any

from wsgateway.config.grace import LINGER
from wsgateway.server.tcp import unread

QUIET = 0.25
"""Seconds without a byte after which a client that broke the protocol has read its close frame."""

FINAL_HEADS = tuple(b"HTTP/1.1 %d" % first_digit for first_digit in range(2, 6))
"""What the head of a response begins with, unless it is an interim response such as 100 (RFC 9110 15.2)."""

MAX_JOINED = 65_536
"""Bytes of a body that are copied behind its head. Copying a larger one would cost more than a second write."""


class ResponseTransport:
    """The transport that the responses of one connection are written to, one after the other.

    The head of a response waits for the first part of its body, so both are written together, but no longer than until
    the end of the event loop iteration. `close` is a lingering close (RFC 9112 9.6), because a socket that is closed
    while the client still sends is reset, and the response may be lost.
    """

    __slots__ = ("_head", "_linger", "_loop", "_transport", "is_closing")

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, linger: Callable[[], None]) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._loop = loop
        self._linger = linger
        self._head = b""

    def write(self, data: bytes) -> None:
        if self.is_closing():
            return  # uvloop raises for a socket that is closed
        if not self._head and data[:10] in FINAL_HEADS:
            self._head = data
            self._loop.call_soon(self.flush)
        elif self._head and len(data) <= MAX_JOINED:
            # not `writelines`, which never pauses before Python 3.13.2 (CVE-2024-12254)
            self._transport.write(b"".join((self._head, data)))
            self._head = b""
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Write the head that waits, if there is one."""
        if self._head and not self.is_closing():
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._linger()


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

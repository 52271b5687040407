"""The TCP connection of one client, taken over from uvicorn: what WebSockets and streams have in common.

Knows neither frames nor chunks.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from wsgateway.config.grace import LINGER
from wsgateway.config.settings import Settings
from wsgateway.server.tcp import unread
from wsgateway.transports.takeover import Timed, Timers, WireUser

CLOSE_TIMEOUT = 10.0
"""Seconds that a client has to read the end of what was written, and to answer a close frame, if it reads."""


class TakenSocket(asyncio.Protocol):
    """A client that the server waits for until its connection is closed. A base of `transports.takeover.Wire`."""

    __slots__ = (
        "_abort_timer",
        "_connections",
        "_loop",
        "_settings",
        "_timers",
        "_transport",
        "_user",
        "is_congested",
        "slot",
        "write",
    )

    def __init__(
        self, transport: Any, user: WireUser, settings: Settings, timers: Timers, *, connections: set[Any]
    ) -> None:
        """`connections` is the set of connections that the server waits for."""
        self.write: Callable[[bytes], None] = transport.write
        self.is_congested = False
        self.slot: set[Timed] | None = None
        self._transport = transport
        self._user: WireUser | None = user
        self._settings = settings
        self._timers = timers
        self._connections = connections
        self._abort_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        connections.add(self)

    # Called by the gateway

    def unwritten(self) -> int:
        if self._transport.get_extra_info("ssl_object") is not None:  # encrypted bytes are not in its buffer
            return unread(self._transport)
        size: int = self._transport.get_write_buffer_size()
        return size

    def abort(self) -> None:
        self._transport.abort()

    def shutdown(self) -> None:
        """Notify the gateway. Called by uvicorn, which then waits until all connections are closed."""
        if self._user is not None:
            self._user.shutdown()
        else:
            self._abort_within(LINGER)

    # Called by asyncio

    def pause_writing(self) -> None:
        self.is_congested = True
        if self._user is not None:
            self._user.congested()

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._user is not None:
            self._user.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._finish(1006, "")

    # For subclasses

    @abstractmethod
    def _finish(self, code: int, reason: str) -> None:
        """Pass `code` and `reason` to the user, and write nothing more for it. May be called twice."""

    def _wait(self, seconds: float) -> None:
        """Have `due` called in `seconds`."""
        self._timers.add(self, self._loop.time() + seconds)

    @abstractmethod
    def due(self) -> None:
        """Handle that the time has come. Called by the timers."""

    def _abort_within(self, seconds: float) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._abort_timer = self._loop.call_later(seconds, self._transport.abort)

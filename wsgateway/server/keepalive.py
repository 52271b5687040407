"""Pings a client, and disconnects it if no pong arrives. Knows no frames but its own ping."""

import os
from typing import Any

from wsgateway.config.settings import Settings
from wsgateway.server.taken import TakenSocket
from wsgateway.transports.takeover import Timers, WireUser

GRACE = 0.05
"""Seconds to read what waits in a socket whose pong is overdue, because the event loop may have been blocked."""


class Ping:
    """A ping that is not answered yet."""

    __slots__ = ("has_grace", "payload", "was_paused")

    def __init__(self, payload: bytes, *, was_paused: bool) -> None:
        self.payload = payload
        self.was_paused = was_paused  # reading, since the ping
        self.has_grace = True


class Pinged(TakenSocket):
    """A client that is pinged every `ping_interval` seconds, and aborted if no pong arrives in `pong_timeout`.

    Never early: a ping is at most one tick of `timers` late, an abort at most two, and it waits `GRACE`. While reading
    is paused, no pong is overdue, because it may be among the unread bytes.
    `Socket` inherits this class, because an object of its own for each client would take more memory.
    """

    __slots__ = ("_ping", "is_paused")

    def __init__(
        self, transport: Any, user: WireUser, settings: Settings, timers: Timers, *, connections: set[Any]
    ) -> None:
        super().__init__(transport, user, settings, timers, connections=connections)
        self.is_paused = False
        self._ping: Ping | None = None
        self._wait(settings.ping_interval)

    def due(self) -> None:
        """Ping, or check the pong. Called by the timers."""
        if self._ping is not None:
            self._check_pong(self._ping)
        elif self.is_congested:  # `send_timeout` applies instead
            self._wait(self._settings.ping_interval)
        else:
            payload = os.urandom(4)
            self._ping = Ping(payload, was_paused=self.is_paused)
            self._wait(self._settings.pong_timeout)
            self.write(b"\x89\x04" + payload)

    def stop_pings(self) -> None:
        """Send no more pings, and wait for no pong. May be called twice."""
        self._ping = None
        self._timers.discard(self)

    def take_pong(self, payload: bytes) -> bool:
        """Return whether a pong with `payload` answers the ping. If so, the next ping is due in `ping_interval`."""
        if self._ping is None or payload != self._ping.payload:
            return False
        self._ping = None
        self._timers.discard(self)
        self._wait(self._settings.ping_interval)
        return True

    def expect_delay(self) -> None:
        """Handle that reading is paused, so the pong may be among the unread bytes."""
        if self._ping is not None:
            self._ping.was_paused = True

    def _check_pong(self, ping: Ping) -> None:
        """Abort in `GRACE` seconds, because the pong is overdue. If reading was paused, wait `pong_timeout` again."""
        if ping.was_paused:
            ping.was_paused, ping.has_grace = self.is_paused, True
            self._wait(self._settings.pong_timeout)
        elif ping.has_grace:
            ping.has_grace = False
            self._wait(GRACE)
        else:
            self.abort()

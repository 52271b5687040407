"""Pings a client, and disconnects it if no pong arrives. Knows no frames but its own ping."""

import asyncio
import os

from wsgateway.config.settings import Settings
from wsgateway.transports.takeover import Wire

GRACE = 0.05
"""Seconds to read what waits in a socket whose pong is overdue, because the event loop may have been blocked."""


class Keepalive:
    """Pings one client every `ping_interval` seconds, and aborts its connection if no pong arrives in `pong_timeout`.

    While reading is paused, no pong is overdue, because it may be among the unread bytes.
    """

    __slots__ = ("_payload", "_ping_timer", "_pong_timer", "_settings", "_was_paused", "_wire")

    def __init__(self, wire: Wire, settings: Settings) -> None:
        self._wire: Wire | None = wire
        self._settings = settings
        self._payload: bytes | None = None  # of the ping that is not answered yet
        self._was_paused = False  # since that ping
        self._ping_timer: asyncio.TimerHandle | None = None
        self._pong_timer: asyncio.TimerHandle | None = None
        self._ping_later()

    def paused(self) -> None:
        """Handle that reading is paused, so the pong may be among the unread bytes."""
        self._was_paused = True

    def take_pong(self, payload: bytes) -> bool:
        """Return whether a pong with `payload` answers the ping. If so, the next ping is due in `ping_interval`."""
        if payload != self._payload or self._pong_timer is None:
            return False
        self._payload = None
        self._pong_timer.cancel()
        self._pong_timer = None
        self._ping_later()
        return True

    def stop(self) -> None:
        """Send no more pings, and wait for no pong. May be called twice."""
        for timer in (self._ping_timer, self._pong_timer):
            if timer is not None:
                timer.cancel()
        self._ping_timer = self._pong_timer = self._wire = None

    def _ping_later(self) -> None:
        self._ping_timer = asyncio.get_running_loop().call_later(self._settings.ping_interval, self._send_ping)

    def _check_pong_in(self, seconds: float, *, grace: float) -> None:
        self._pong_timer = asyncio.get_running_loop().call_later(seconds, self._check_pong, grace)

    def _send_ping(self) -> None:
        assert self._wire is not None
        if self._wire.is_congested:  # `send_timeout` applies instead
            self._ping_later()
            return
        self._ping_timer = None
        self._payload, self._was_paused = os.urandom(4), self._wire.is_paused
        self._check_pong_in(self._settings.pong_timeout, grace=GRACE)
        self._wire.write(b"\x89\x04" + self._payload)

    def _check_pong(self, grace: float) -> None:
        """Abort in `grace` seconds, because the pong is overdue. If reading was paused, wait `pong_timeout` again."""
        assert self._wire is not None
        if self._was_paused:
            self._was_paused = self._wire.is_paused
            self._check_pong_in(self._settings.pong_timeout, grace=GRACE)
        elif grace:
            self._check_pong_in(grace, grace=0)
        else:
            self._wire.abort()

"""Pings a Centrifuge client with empty replies, and closes it if no pong arrives. Knows no commands."""

import asyncio
import secrets
from typing import Any

from wsgateway.protocols.centrifuge.codes import NO_PONG
from wsgateway.protocols.centrifuge.replies import PING
from wsgateway.protocols.session import Session
from wsgateway.transports.takeover import Timed

GRACE = 0.05
"""Seconds to read what has arrived already when a pong is overdue, because the event loop may have been blocked."""


class PingedSession(Session):
    """A client that is pinged every `ping_interval` seconds, and closed if no pong arrives in `pong_timeout`.

    While reading is paused, no pong is overdue, because it may be among the unread bytes. The session is an entry of
    the timers itself, because an object of its own for each client would take more memory.
    """

    __slots__ = ("_awaits_pong", "_has_grace", "slot")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.slot: set[Timed] | None = None
        self._awaits_pong = False
        self._has_grace = False

    @property
    def is_paused(self) -> bool:
        """Whether messages of the client wait to be read."""
        return self._inbox.is_full

    def begin_pings(self) -> None:
        """Send the first ping after a random half to whole interval, so that clients are not pinged together."""
        interval = self._parts.settings.ping_interval
        self._wait(interval * (500 + secrets.randbelow(501)) / 1000)

    def stop_pings(self) -> None:
        """Send no more pings. May be called twice."""
        self._parts.timers.discard(self)

    def due(self) -> None:
        """Ping, or check the pong. Called by the timers."""
        settings = self._parts.settings
        if self.outbox.closing is not None:
            return
        if not self._awaits_pong:
            if self.outbox.messages:  # it does not read, so `send_timeout` applies instead
                self._wait(settings.ping_interval)
            else:
                self._awaits_pong = self._has_grace = True
                self._wait(settings.pong_timeout)
                self.outbox.put(PING)
        elif self.is_paused:
            self._has_grace = True
            self._wait(settings.pong_timeout)
        elif self._has_grace:
            self._has_grace = False
            self._wait(GRACE)
        else:
            self.outbox.close(NO_PONG, "")

    def take_pong(self) -> None:
        """Handle a pong. One that no ping has asked for is ignored."""
        if self._awaits_pong and self.slot is not None:
            self._awaits_pong = False
            self._parts.timers.discard(self)
            self._wait(self._parts.settings.ping_interval)

    def finished(self, code: int, reason: str) -> None:
        self.stop_pings()
        super().finished(code, reason)

    def _wait(self, seconds: float) -> None:
        self._parts.timers.add(self, asyncio.get_running_loop().time() + seconds)

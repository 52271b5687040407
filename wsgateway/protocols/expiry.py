"""Calls `on_expire` when a connection expires, and closes the connection later. Knows no tokens."""

import asyncio
import time
from collections.abc import Callable

from wsgateway.protocols.deadlines import Deadline
from wsgateway.transports.takeover import Timers

GRACE = 25.0
"""Seconds between the expiry of a connection and its close, in which its client may still send a new token."""

HORIZON = 300.0
"""Seconds after which the clock of the system is read again, because it may have been set, or the host suspended."""


class Expiry:
    """Calls `expired` when a connection expires, and `ended` after `GRACE` seconds more, unless it is renewed."""

    __slots__ = ("_at", "_deadline", "_due", "_ended", "_expired", "_is_expired")

    def __init__(self, timers: Timers, *, expired: Callable[[], None], ended: Callable[[], None]) -> None:
        self._deadline = Deadline(timers, self._wake)
        self._expired = expired
        self._ended = ended
        self._at = 0.0  # in seconds since the epoch
        self._due = 0.0  # the same, in the time of the event loop
        self._is_expired = False

    def set(self, at: float) -> None:
        """Expire at `at`, in seconds since the epoch, instead of an earlier `set`."""
        self._is_expired = False
        self._at = at
        self._due = asyncio.get_running_loop().time() + at - time.time()
        self._wait()

    def cancel(self) -> None:
        """Never expire. May be called twice."""
        self._deadline.cancel()

    def _remaining(self) -> float:
        """Return the seconds until it is due by one of the two clocks."""
        return min(self._due - asyncio.get_running_loop().time(), self._at - time.time())

    def _wait(self) -> None:
        self._deadline.set(asyncio.get_running_loop().time() + min(max(self._remaining(), 0.0), HORIZON))

    def _wake(self) -> None:
        if self._remaining() > 0:
            self._wait()
        elif self._is_expired:
            self._ended()
        else:
            self._is_expired = True
            self._at += GRACE
            self._due += GRACE
            self._wait()
            self._expired()


def seconds_left(expires_at: float | None) -> int | None:
    """Return the whole seconds until `expires_at`, in seconds since the epoch, at least 1. None stands for never."""
    return None if expires_at is None else max(1, int(expires_at - time.time()))

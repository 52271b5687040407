"""Notices a write that makes no progress. Knows no sockets."""

import asyncio
from collections.abc import Callable

from wsgateway.limits import BLOCKED_LOOP


class Stall:
    """Notices a write that makes no progress. One timer serves many writes, and checks the present one when it fires.

    A timer that fires late proves nothing, because the event loop was blocked and wrote nothing.
    """

    __slots__ = ("_due", "_left", "_seconds", "_stalled", "_timer")

    def __init__(self, seconds: float, left: Callable[[], float | None], stalled: Callable[[], None]) -> None:
        """`left` returns how many seconds the present write has left, None without one. At 0, `stalled` is called."""
        self._seconds = seconds
        self._left = left
        self._stalled = stalled
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def watch(self) -> None:
        """Check the write that has begun, `seconds` from now at the earliest."""
        if self._timer is None:
            self._check_after(self._seconds)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check_after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + seconds
        self._timer = loop.call_later(seconds, self._check)

    def _check(self) -> None:
        self._timer = None
        left = self._left()
        if left is not None and asyncio.get_running_loop().time() - self._due > BLOCKED_LOOP:
            left = self._seconds
        if left is not None and left > 0:
            self._check_after(left)
        elif left is not None:
            self._stalled()

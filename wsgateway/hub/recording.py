"""What happened to one connection while somebody looks: sizes and times, never contents. Knows nothing of who looks."""

import time
from collections import deque
from typing import NamedTuple

KEPT = 100
"""Events that are kept for one connection."""


class Happened(NamedTuple):
    """One event: `at` seconds since the epoch, `what` it was, `size` in bytes or None, and a word about it."""

    at: float
    what: str
    size: int | None
    note: str


class Recording:
    """The last `KEPT` events of a connection. `total` counts all, so that a reader sees what is new."""

    __slots__ = ("_events", "total", "viewers")

    def __init__(self, opened_at: float) -> None:
        self._events = deque([Happened(opened_at, "opened", None, "")], maxlen=KEPT)
        self.total = 1
        self.viewers = 0

    def add(self, what: str, size: int | None = None, note: str = "") -> None:
        self._events.append(Happened(time.time(), what, size, note))
        self.total += 1

    def since(self, total: int) -> list[Happened]:
        """The events after the first `total`, as far as they are kept."""
        new = min(self.total - total, len(self._events))
        return list(self._events)[-new:] if new > 0 else []

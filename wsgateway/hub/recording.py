"""Records the events of one connection while it is watched: sizes and times, never contents. Knows no viewer."""

import time
from collections import deque
from typing import NamedTuple

KEPT = 100
"""Number of events that are kept for one connection."""


class Happened(NamedTuple):
    """One event: when it happened in seconds since the epoch, its kind, a size in bytes or None, and a note."""

    at: float
    what: str
    size: int | None
    note: str


class Recording:
    """The last `KEPT` events of a connection. `total` counts all events, so a reader knows which are new."""

    __slots__ = ("_events", "total", "viewers")

    def __init__(self, opened_at: float) -> None:
        self._events = deque([Happened(opened_at, "opened", None, "")], maxlen=KEPT)
        self.total = 1
        self.viewers = 0

    def add(self, what: str, size: int | None = None, note: str = "") -> None:
        self._events.append(Happened(time.time(), what, size, note))
        self.total += 1

    def since(self, total: int) -> list[Happened]:
        """Return the events after the first `total`, of those that are still kept."""
        new = min(self.total - total, len(self._events))
        return list(self._events)[-new:] if new > 0 else []

"""What is due at which time, on the event loop of one gateway. Reads no clock and starts no timer."""

from collections.abc import Callable
from math import ceil, floor

from wsgateway.transports.takeover import Timed

TICKS = 32
"""Ticks in the shortest time that a wheel is used for. An entry is called at most one tick late."""

MIN_TICK = 0.01
"""Seconds. A shorter tick would cost CPU time, and an event loop is no more precise."""

MAX_TICK = 1.0
"""Seconds. With a longer tick, too many entries would be due at the same time."""


def tick_for(seconds: float) -> float:
    """Return the tick of a wheel whose entries wait `seconds` or longer, in whole milliseconds, as uvloop's timers."""
    return min(MAX_TICK, max(MIN_TICK, round(seconds / TICKS, 3)))


class Wheel:
    """Calls its entries when they are due, at most one tick later and never earlier.

    Entries that are due in the same tick share a set, so adding and removing one costs the same however many there are.
    """

    def __init__(self, tick: float, filled: Callable[[], None]) -> None:
        """`filled` is called when an entry is added to an empty wheel. From then on, `advance` must be called."""
        self._tick = tick
        self._filled = filled
        self._slots: dict[int, set[Timed]] = {}  # by the number of the tick at which they are due
        self._now = 0  # the tick that `advance` was last called for

    @property
    def is_empty(self) -> bool:
        """Whether there is no entry. If the last one was removed, this is known after the next `advance`."""
        return not self._slots

    def add(self, entry: Timed, due: float) -> None:
        """Call `entry` at `due`. It must not be in the wheel."""
        tick = max(ceil(due / self._tick), self._now + 1)
        slot = self._slots.get(tick)
        if slot is None:
            was_empty = not self._slots
            slot = self._slots[tick] = set()
            if was_empty:
                self._filled()
        slot.add(entry)
        entry.slot = slot

    def discard(self, entry: Timed) -> None:
        """Do not call `entry`. Do nothing if it is not in the wheel."""
        slot, entry.slot = entry.slot, None
        if slot is not None:
            slot.discard(entry)

    def advance(self, now: float, limit: int) -> bool:
        """Call the entries that are due, at most `limit` of them, the oldest first. Return whether more are due.

        An entry may add and discard any entry. If one raises, the others remain due.
        """
        self._now = max(self._now, floor(now / self._tick))
        while self._slots:
            tick = min(self._slots)
            if tick > self._now:
                break
            slot = self._slots[tick]
            while slot:
                if not limit:
                    return True
                limit -= 1
                entry = slot.pop()
                entry.slot = None
                entry.due()
            self._slots.pop(tick, None)
        if not any(self._slots.values()):
            self._slots.clear()
        return False

    def next_tick(self, now: float) -> float:
        """Return the time at which to call `advance` next."""
        return (floor(now / self._tick) + 1) * self._tick

    def clear(self) -> None:
        """Remove every entry."""
        for slot in self._slots.values():
            for entry in slot:
                entry.slot = None
            slot.clear()  # `advance` may be calling one of them
        self._slots.clear()

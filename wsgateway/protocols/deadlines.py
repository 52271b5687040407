"""Times at which a protocol has something to do for one client. Reads no clock and starts no timer."""

from collections.abc import Callable

from wsgateway.transports.takeover import Timed, Timers


class Deadline:
    """Calls `call` at a time, unless it is cancelled before. Implements `transports.takeover.Timed`."""

    __slots__ = ("_call", "_timers", "slot")

    def __init__(self, timers: Timers, call: Callable[[], None]) -> None:
        self.slot: set[Timed] | None = None
        self._timers = timers
        self._call = call

    def set(self, due: float) -> None:
        """Call `call` at `due`, in the time of the event loop, or a little later, instead of an earlier `set`."""
        self._timers.discard(self)
        self._timers.add(self, due)

    def cancel(self) -> None:
        """Call nothing. May be called twice."""
        self._timers.discard(self)

    def due(self) -> None:
        self._call()

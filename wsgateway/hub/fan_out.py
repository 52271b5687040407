"""Writes to many connections, a slice in each event loop iteration. Knows no connections but their outboxes."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import length_hint

from wsgateway.hub.outbox import Outbox, Write

SLICE = 2000
"""Connections that are written to without letting the event loop serve others in between."""

MAX_WAITING = 1024 * 1024
"""Bytes that may wait during a large fan-out. Beyond it, `FanOut.write` writes to `SLICE` connections each time."""

MAX_JOINED = 64 * 1024
"""Bytes that are joined for one write. Copying more for each connection would cost more than another write."""


class Round:
    """One write of the same bytes to many connections, which may be made in parts."""

    __slots__ = ("_cursor", "_outboxes", "data")

    def __init__(self, data: bytes, members: dict[Outbox, Write]) -> None:
        self.data = data
        self._outboxes = tuple(members)
        self._cursor = iter(list(members.values()))

    @property
    def unwritten(self) -> int:
        """The number of connections that it was not written to."""
        return length_hint(self._cursor)  # exact for the iterator of a list

    def write(self, limit: int) -> int:
        """Write to the next `limit` connections. Return how many were unwritten.

        A write may call anything, including `take_rest`.
        """
        unwritten, data = self.unwritten, self.data
        for write in self._cursor if unwritten <= limit else islice(self._cursor, limit):
            write(data)
        return unwritten

    def take_rest(self) -> tuple[Outbox, ...]:
        """Return the outboxes that were not written to, and end the round."""
        count = len(list(self._cursor))  # exhausts the iterator, so a `write` up the stack ends too
        return self._outboxes[len(self._outboxes) - count :]


class FanOut:
    """What large fan-outs have not written yet.

    A write may call back, make any connection slow, fast, or closed, and send. Therefore the recipients are fixed
    before the first write: in `rounds` where many get the same, otherwise in `waiting`, by outbox, where an entry is
    removed before it is written. Rounds are written before `waiting`, and are moved there as soon as one connection
    has to be looked up. More than `SLICE` recipients are written to over several iterations, first come, first served.
    """

    def __init__(self, finished: Callable[[], None]) -> None:
        """`finished` is called when a fan-out that took several iterations is complete."""
        self._finished = finished
        self._is_writing = False  # up the stack
        self.clear()

    def clear(self) -> None:
        """Forget everything, as if nothing had been sent."""
        self.rounds: list[Round] = []
        self.waiting: dict[Outbox, bytes | list[bytes]] = {}
        self._continues_later = False
        self._pass: Iterator[Outbox] = iter(())
        self._bytes = [0, 0]  # added in the pass before this one, and in this one

    @property
    def is_empty(self) -> bool:
        return not self.rounds and not self.waiting

    @property
    def unwritten(self) -> int:
        """The number of writes that are left."""
        return sum(entry.unwritten for entry in self.rounds) + len(self.waiting)

    def add_round(self, data: bytes, members: dict[Outbox, Write]) -> None:
        """Write `data` to all `members`, after what waits for them."""
        if self.waiting:
            self.enqueue(members, data)
        elif data and members:
            self.rounds.append(Round(data, members))

    def enqueue(self, outboxes: Iterable[Outbox], data: bytes) -> None:
        """Add `data` behind what waits for each of `outboxes`, which are in no round."""
        waiting = self.waiting
        if not data:
            return
        if not waiting:
            waiting.update(dict.fromkeys(outboxes, data))  # several times as fast as the loop below
            return
        for outbox in outboxes:
            parts = waiting.get(outbox)
            if parts is None:
                waiting[outbox] = data
            elif isinstance(parts, list):
                parts.append(data)
            else:
                waiting[outbox] = [parts, data]

    def end_rounds(self) -> None:
        """Move the unwritten connections of all rounds to `waiting`, where they can be looked up."""
        rounds, self.rounds = self.rounds, []
        for entry in rounds:
            self.enqueue(entry.take_rest(), entry.data)

    def withdraw(self, outbox: Outbox) -> list[bytes]:
        """Remove and return what waits for `outbox`."""
        self.end_rounds()
        parts = self.waiting.pop(outbox, b"")
        return parts if isinstance(parts, list) else [parts]

    def write_behind(self, outbox: Outbox, data: bytes) -> bool:
        """Write what waits for `outbox`, then `data`. Return False, and write nothing, if nothing waits for it."""
        self.end_rounds()
        if outbox not in self.waiting:
            return False
        self.enqueue((outbox,), data)
        self._write_waiting(outbox)
        return True

    def write(self, added: int, *, small: Iterable[Outbox]) -> None:
        """Write to `small` first, then to the next `SLICE` connections, unless a later iteration will.

        `added` bytes were added. From within a write, do nothing, because the one up the stack goes on.
        """
        self._bytes[1] += added
        if self._is_writing:
            return
        if self._continues_later or self.unwritten > SLICE:
            self._write(list(islice(small, SLICE)))
        if not self._continues_later or sum(self._bytes) > MAX_WAITING:
            self._write(None)

    def _write(self, outboxes: list[Outbox] | None) -> None:
        """Write to `outboxes`, or to the next `SLICE` connections if it is None. Write to the rest later."""
        self._is_writing = True
        try:
            if outboxes is None:
                self._write_slice()
            else:
                for outbox in outboxes:
                    self._write_waiting(outbox)
        finally:  # also if a write has raised
            self._is_writing = False
            if self.is_empty:
                self._bytes, self._pass = [0, 0], iter(())
            else:
                self._continue_later()

    def _continue_later(self) -> None:
        if not self._continues_later:
            self._continues_later = True
            asyncio.get_running_loop().call_soon(self._continue)

    def _continue(self) -> None:
        self._continues_later = False
        if self.is_empty:
            self._finished()
            return
        try:
            self._write(None)
        finally:
            self._continue_later()  # also after the last slice, so what is in the log is joined with what follows

    def _write_slice(self) -> None:
        left = SLICE
        while left > 0 and self.rounds:
            first = self.rounds[0]
            left -= first.write(left)
            if left >= 0 and self.rounds and self.rounds[0] is first:  # a write may have ended the rounds
                del self.rounds[0]
        while left > 0 and self.waiting:
            left -= 1
            outbox = next(self._pass, None)
            if outbox is None:
                self._pass = iter(tuple(self.waiting))
                self._bytes = [self._bytes[1], 0]
                outbox = next(self._pass)
            self._write_waiting(outbox)

    def _write_waiting(self, outbox: Outbox) -> None:
        """Write what waits for `outbox`, joined where the copy costs less than another write."""
        waiting = self.waiting
        while (parts := waiting.pop(outbox, None)) is not None:
            write = outbox.write
            assert write is not None  # an outbox is withdrawn before it turns slow or leaves
            if isinstance(parts, bytes):
                write(parts)
                continue
            count = _joinable(parts)
            if count < len(parts):
                waiting[outbox] = parts[count:]
            write(b"".join(parts[:count]))


def _joinable(parts: list[bytes]) -> int:
    """Return how many of `parts` are joined for one write: at least one, then as many as make `MAX_JOINED` bytes."""
    size = 0
    for count, part in enumerate(parts):
        size += len(part)
        if count and size > MAX_JOINED:
            return count
    return len(parts)

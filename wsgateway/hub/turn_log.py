"""The turn log: what was sent to fast members in this event loop iteration, in order, and how it is written.

When the iteration ends, each connection gets one write with all that was sent to it. Knows no connections but their
outboxes, and neither hooks nor sockets. Nothing waits.
"""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import length_hint

from wsgateway.hub.audience import Audience
from wsgateway.hub.outbox import Outbox, Write
from wsgateway.messages import Message, WireFormat

SLICE = 2000
"""Connections that are written to without letting the event loop serve others in between."""

MAX_LOGGED = 64 * 1024
"""Bytes at which the log is flushed early. The message that crosses the limit is included."""

MESSAGE_COST = 64
"""Bytes that each message counts more than its payload, because the log keeps an object for it."""

MAX_WAITING = 1024 * 1024
"""Bytes that may wait during a large fan-out. Beyond it, each flush writes to `SLICE` connections before it returns."""


class Run:
    """Consecutive messages for one audience, in the log. `but` is left out.

    If `is_named`, the audience was made for this run, of recipients that were named one by one. They are those in
    `named`, or it is None.
    """

    __slots__ = ("audience", "but", "is_named", "messages", "named")

    def __init__(self, audience: Audience, but: Outbox | None, *, named: list[object] | None, is_named: bool) -> None:
        self.audience = audience
        self.but = but
        self.named = named
        self.is_named = is_named
        self.messages: list[Message] = []

    def has(self, outbox: Outbox) -> bool:
        """Return whether `outbox` receives these messages."""
        return outbox is not self.but and self.audience.is_fast(outbox)

    def encoded(self, wire_format: WireFormat) -> bytes:
        return _joined(self.messages, wire_format)


class Round:
    """One write of the same bytes to many connections, which may be made in parts."""

    __slots__ = ("_cursor", "_outboxes", "data")

    def __init__(self, data: bytes, members: dict[Outbox, Write]) -> None:
        self.data = data
        self._outboxes = tuple(members)
        self._cursor = iter(list(members.values()))

    def __len__(self) -> int:
        """Return how many connections it was not written to."""
        return length_hint(self._cursor)  # exact for the iterator of a list

    def write(self, limit: int) -> int:
        """Write to the next `limit` connections. Return how many were waiting.

        A write may call anything, including `take_rest`.
        """
        waiting, data = len(self), self.data
        for write in self._cursor if waiting <= limit else islice(self._cursor, limit):
            write(data)
        return waiting

    def take_rest(self) -> tuple[Outbox, ...]:
        """Return the outboxes that were not written to, and end the round."""
        waiting = len(list(self._cursor))  # exhausts the iterator, so a `write` up the stack ends too
        return self._outboxes[len(self._outboxes) - waiting :]


class TurnLog:
    """The runs of this iteration, and what large fan-outs have not written yet.

    A write may call back, make any connection slow, fast, or closed, and send. Therefore the recipients of a flush are
    fixed before its first write: as `rounds` if they all get the same, otherwise in `waiting`, by outbox. An entry is
    removed before it is written, and rounds end as soon as anything else is written. More than `SLICE` recipients are
    written to over several iterations, first come, first served.
    """

    def __init__(self, plain: WireFormat) -> None:
        self._plain = plain
        self.clear()

    def clear(self) -> None:
        """Forget everything, as if nothing had been sent."""
        self.runs: list[Run] = []
        self.rounds: list[Round] = []
        self.waiting: dict[Outbox, bytes | list[bytes]] = {}
        self._bytes = 0
        self._named_runs = 0
        self._flushes_later = False
        self._is_writing = False  # up the stack
        self._continues_later = False
        self._pass: Iterator[Outbox] = iter(())
        self._waiting_bytes = [0, 0]  # added in the pass before this one, and in this one

    # Adding

    @property
    def is_full(self) -> bool:
        return self._bytes > MAX_LOGGED

    def add(self, message: Message, audience: Audience, but: Outbox | None) -> None:
        """Add `message` for the fast members of `audience`, except `but`, which is one of them, or None."""
        run = self.runs[-1] if self.runs else None
        if run is None or run.audience is not audience or run.but is not but:
            run = self._begin(Run(audience, but, named=None, is_named=False))
            audience.is_pending = True
        self._append(run, message)

    def add_named(self, message: Message, outboxes: Iterable[Outbox], named: list[object] | None = None) -> None:
        """Add `message` for those of `outboxes` that are written directly. `named` are the same, as they were named."""
        self._named_runs += 1
        audience = Audience.of(self._plain, outboxes)
        self._append(self._begin(Run(audience, None, named=named, is_named=True)), message)

    def add_to_last(self, message: Message, named: list[object]) -> int:
        """Add `message` to the last run if it has the same recipients. Return their number, or 0."""
        run = self.runs[-1] if self.runs else None
        if run is None or run.named is None or len(run.named) != len(named):
            return 0
        if not all(one is other for one, other in zip(run.named, named, strict=True)):
            return 0
        self._append(run, message)
        return run.audience.fast_count

    def _begin(self, run: Run) -> Run:
        self.runs.append(run)
        self._bytes += MESSAGE_COST
        if not self._flushes_later:
            self._flushes_later = True
            asyncio.get_running_loop().call_soon(self._flush_at_end)
        return run

    def _append(self, run: Run, message: Message) -> None:
        run.messages.append(message)
        self._bytes += len(message.payload) + MESSAGE_COST

    # One connection

    def put_behind(self, outbox: Outbox, message: Message) -> bool:
        """Write `message` after what was sent to `outbox` before it. Return False if all of that is written already.

        It is added to the log if earlier messages are there. Otherwise it is written now, with what waits.
        """
        if self._is_logged(outbox):
            self.add_named(message, (outbox,))
            if self.is_full:
                self.flush()
            return True
        self._end_rounds()
        if outbox not in self.waiting:
            return False
        self._wait((outbox,), message.encoded(outbox.wire_format))
        outbox.count += 1
        self._write_waiting(outbox)
        return True

    def take(self, outbox: Outbox) -> bytes:
        """Remove and return what was sent to `outbox` and is not written. Then remove it from its audiences."""
        self._end_rounds()
        waiting = self.waiting.pop(outbox, b"")
        parts = waiting if isinstance(waiting, list) else [waiting]
        for run in self.runs:
            if run.has(outbox):
                parts.append(run.encoded(outbox.wire_format))
                if run.is_named:
                    outbox.count += len(run.messages)
                    run.audience.remove(outbox)
                    run.named = None
        return b"".join(parts)

    def named_count(self, outbox: Outbox) -> int:
        """Return the number of messages in the log for recipients that were named, if `outbox` is one of them."""
        if not self._named_runs:
            return 0
        return sum(len(run.messages) for run in self.runs if run.is_named and run.has(outbox))

    def _is_logged(self, outbox: Outbox) -> bool:
        if not self.runs:
            return False
        return any(audience.is_pending for audience in outbox.audiences) or self.named_count(outbox) > 0

    # Writing

    def _flush_at_end(self) -> None:
        self._flushes_later = False
        self.flush()

    def flush(self) -> None:
        """Write what is in the log. To many connections, or from within a write, only begin to."""
        runs, size = self.runs, self._bytes
        if not runs:
            return
        self.runs, self._bytes, self._named_runs = [], 0, 0
        for run in runs:
            run.audience.is_pending = False
            if run.is_named:
                for _, members in run.audience.by_format():
                    for outbox in members:
                        outbox.count += len(run.messages)
        self._end_rounds()
        self._gather(runs)
        self._write_small(runs)
        if not self._is_writing and not self._continues_later:
            self._write_slice()
        if self.rounds or self.waiting:
            self._waiting_bytes[1] += size
            if sum(self._waiting_bytes) > MAX_WAITING and not self._is_writing:
                self._write_slice()

    def _gather(self, runs: list[Run]) -> None:
        """Add what each connection gets to `rounds` or `waiting`.

        Most members of the largest audience get the same bytes. Those that do not, because they are left out or in
        another audience too, are gathered one by one.
        """
        largest = runs[0].audience if len(runs) == 1 else max((run.audience for run in runs), key=_fast_count)
        single: dict[Outbox, list[bytes]] = {}
        for run in runs:
            if run.audience is not largest:
                for _, members in run.audience.by_format():
                    single.update((outbox, []) for outbox in members if outbox not in single)
            elif run.but is not None:
                single.setdefault(run.but, [])
        for run in runs if single else ():
            for form, members in run.audience.by_format():
                data, but = run.encoded(form), run.but
                for outbox in single if len(single) < len(members) else members:
                    if outbox in single and outbox in members and outbox is not but:
                        single[outbox].append(data)
        messages = [message for run in runs if run.audience is largest for message in run.messages]
        for form, members in largest.by_format():
            data, rest = _joined(messages, form), members
            if single:
                rest = members.copy()
                for outbox in single:
                    rest.pop(outbox, None)
            if self.waiting:
                self._wait(rest, data)
            elif data and rest:
                self.rounds.append(Round(data, rest))
        for outbox, parts in single.items():
            self._wait((outbox,), b"".join(parts))

    def _wait(self, outboxes: Iterable[Outbox], data: bytes) -> None:
        """Add `data` behind what waits for each of `outboxes`."""
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

    def _write_small(self, runs: list[Run]) -> None:
        """Write to the members of small audiences first, at most `SLICE`, if a large fan-out is being written."""
        if sum(map(len, self.rounds)) + len(self.waiting) <= SLICE and not self._continues_later:
            return
        small = (run.audience for run in runs if run.audience.fast_count <= SLICE)
        members = [outbox for audience in small for _, found in audience.by_format() for outbox in found]
        for outbox in members[:SLICE]:
            self._write_waiting(outbox)

    def _write_slice(self) -> None:
        """Write to the next `SLICE` connections, and to the rest in later iterations."""
        left = SLICE
        self._is_writing = True
        try:
            while left > 0 and self.rounds:
                first = self.rounds[0]
                waiting = first.write(left)
                left -= waiting
                if left >= 0 and self.rounds and self.rounds[0] is first:  # a write may have ended the rounds
                    del self.rounds[0]
            while left > 0 and self.waiting:
                left -= 1
                self._write_next()
        finally:  # also if a write has raised
            self._is_writing = False
            if not self.rounds and not self.waiting:
                self._waiting_bytes = [0, 0]
            elif not self._continues_later:
                self._continues_later = True
                asyncio.get_running_loop().call_soon(self._continue)

    def _continue(self) -> None:
        self._continues_later = False
        self._write_slice()

    def _write_next(self) -> None:
        """Write to the next connection of this pass over all that wait."""
        outbox = next(self._pass, None)
        if outbox is None:
            self._pass = iter(tuple(self.waiting))
            self._waiting_bytes = [self._waiting_bytes[1], 0]
            outbox = next(self._pass)
        self._write_waiting(outbox)

    def _write_waiting(self, outbox: Outbox) -> None:
        """Write what waits for `outbox`, joined where the copy costs less than another write."""
        waiting = self.waiting
        while (parts := waiting.pop(outbox, None)) is not None:
            write = outbox.write
            assert write is not None  # an outbox is removed from `waiting` before it turns slow or leaves
            if isinstance(parts, bytes):
                write(parts)
                continue
            count = _joinable(parts)
            if count < len(parts):
                waiting[outbox] = parts[count:]
            write(b"".join(parts[:count]))

    def _end_rounds(self) -> None:
        """Move the connections that the rounds have not been written to to `waiting`, so that they can be looked up."""
        rounds, self.rounds = self.rounds, []
        for entry in rounds:
            self._wait(entry.take_rest(), entry.data)


def _joined(messages: list[Message], wire_format: WireFormat) -> bytes:
    if len(messages) == 1:
        return messages[0].encoded(wire_format)
    return b"".join([message.encoded(wire_format) for message in messages])


def _fast_count(audience: Audience) -> int:
    return audience.fast_count


def _joinable(parts: list[bytes]) -> int:
    """Return how many of `parts` are joined for one write: at least one, then as many as make `MAX_LOGGED` bytes."""
    size = 0
    for count, part in enumerate(parts):
        size += len(part)
        if count and size > MAX_LOGGED:
            return count
    return len(parts)

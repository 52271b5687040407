"""The turn log: holds the messages for fast members of one event loop iteration, and has them written when it ends.

Each connection then gets one write with all that was sent to it, in the order of sending. Knows no connections but
their outboxes, and neither hooks nor sockets. Nothing waits.
"""

import asyncio
from collections.abc import Iterable

from wsgateway.hub.audience import Audience
from wsgateway.hub.fan_out import SLICE, FanOut
from wsgateway.hub.outbox import Outbox
from wsgateway.messages import Message, WireFormat

MAX_LOGGED = 64 * 1024
"""Bytes at which the log is flushed early. The message that crosses the limit is included."""

MESSAGE_COST = 64
"""Bytes that each message counts more than its payload, because the log keeps an object for it."""

RECIPIENT_COST = 40
"""Bytes that each named recipient counts, because the log keeps an entry for it."""


class Run:
    """Consecutive messages for one audience, in the log. `but` is left out.

    If `is_named`, the audience was made for this run, of recipients that were named one by one. `named` is the list of
    the caller, or None if no message can be added to the run.
    """

    __slots__ = ("audience", "but", "is_named", "messages", "named")

    def __init__(self, audience: Audience, but: Outbox | None, *, is_named: bool, named: list[object] | None) -> None:
        self.audience = audience
        self.but = but
        self.is_named = is_named
        self.named = named
        self.messages: list[Message] = []

    def has(self, outbox: Outbox) -> bool:
        """Return whether `outbox` receives these messages."""
        return outbox is not self.but and self.audience.is_fast(outbox)

    def encoded(self, wire_format: WireFormat) -> bytes:
        return _joined(self.messages, wire_format)


class TurnLog:
    """The runs of this iteration, in the order of sending, and the fan-out that writes them."""

    def __init__(self, plain: WireFormat) -> None:
        self.runs: list[Run] = []
        self._plain = plain
        self._fan_out = FanOut(self.flush)
        self._bytes = 0
        self._named: set[Outbox] = set()  # that are in a run with named recipients
        self._flushes_later = False
        self._written: Audience | None = None  # the one that the rounds of the fan-out are for

    @property
    def is_empty(self) -> bool:
        """Whether everything that was sent is written."""
        return not self.runs and self._fan_out.is_empty

    @property
    def is_full(self) -> bool:
        return self._bytes > MAX_LOGGED

    # Adding

    def add(self, message: Message, audience: Audience, but: Outbox | None) -> None:
        """Add `message` for the fast members of `audience`, except `but`, which is one of them, or None."""
        run = self.runs[-1] if self.runs else None
        if run is None or run.audience is not audience or run.but is not but:
            run = self._begin(Run(audience, but, is_named=False, named=None))
            audience.is_pending = True
        self._append(run, message)

    def add_named(self, message: Message, outboxes: Iterable[Outbox], named: list[object] | None = None) -> None:
        """Add `message` for those of `outboxes` that are written directly. `named` is the list of the caller."""
        audience = Audience.of(self._plain, outboxes)
        run = self._begin(Run(audience, None, is_named=True, named=named))
        for _, members in audience.by_format():
            self._named.update(members)
            self._bytes += RECIPIENT_COST * len(members)
        self._append(run, message)

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
            asyncio.get_running_loop().call_soon(self._end_iteration)
        return run

    def _append(self, run: Run, message: Message) -> None:
        run.messages.append(message)
        self._bytes += len(message.payload) + MESSAGE_COST
        if run.is_named:
            for _, members in run.audience.by_format():
                for outbox in members:
                    outbox.count += 1

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
        if not self._fan_out.write_behind(outbox, message.encoded(outbox.wire_format)):
            return False
        outbox.count += 1
        return True

    def withdraw(self, outbox: Outbox) -> bytes:
        """Remove and return what was sent to `outbox` and is not written. Then remove it from its audiences."""
        parts = self._fan_out.withdraw(outbox)
        if self._is_logged(outbox):
            for run in self.runs:
                if run.has(outbox):
                    parts.append(run.encoded(outbox.wire_format))
                    if run.is_named:
                        run.audience.remove(outbox)
                        run.named = None
            self._named.discard(outbox)
        return b"".join(parts)

    def _is_logged(self, outbox: Outbox) -> bool:
        if not self.runs:
            return False
        return outbox in self._named or any(audience.is_pending for audience in outbox.audiences)

    # Writing

    def _end_iteration(self) -> None:
        self._flushes_later = False
        if not self._continues_rounds():  # else the fan-out calls `flush` when it is complete
            self.flush()

    def _continues_rounds(self) -> bool:
        """Return whether everything in the log is for the audience of rounds that are not complete.

        It is then written after them, joined with what follows, and nobody is looked up.
        """
        if not self._fan_out.rounds or self._fan_out.waiting:
            return False
        return all(run.audience is self._written and run.but is None for run in self.runs)

    def flush(self) -> None:
        """Write what is in the log. To many connections, or from within a write, only begin to."""
        runs, size = self.runs, self._bytes
        if not runs:
            return
        if not self._continues_rounds():
            self._fan_out.end_rounds()
        self.runs, self._bytes = [], 0
        self._named.clear()
        for run in runs:
            run.audience.is_pending = False
        self._gather(runs)
        small = (run.audience for run in runs if run.audience.fast_count <= SLICE)
        self._fan_out.write(
            size, small=(outbox for each in small for _, members in each.by_format() for outbox in members)
        )

    def _gather(self, runs: list[Run]) -> None:
        """Pass what each connection gets to the fan-out.

        Most members of the largest audience get the same bytes. Those that do not, because they are left out or in
        another audience too, are gathered one by one.
        """
        largest = self._written = max((run.audience for run in runs), key=_fast_count)
        gathered: dict[Outbox, list[bytes]] = {}
        for run in runs:
            if run.audience is not largest:
                for _, members in run.audience.by_format():
                    gathered.update((outbox, []) for outbox in members if outbox not in gathered)
            elif run.but is not None:
                gathered.setdefault(run.but, [])
        for run in runs if gathered else ():
            for form, members in run.audience.by_format():
                data, but = run.encoded(form), run.but
                for outbox in gathered if len(gathered) < len(members) else members:
                    if outbox in gathered and outbox in members and outbox is not but:
                        gathered[outbox].append(data)
        messages = [message for run in runs if run.audience is largest for message in run.messages]
        for form, members in largest.by_format():
            rest = members
            if gathered:
                rest = members.copy()
                for outbox in gathered:
                    rest.pop(outbox, None)
            self._fan_out.add_round(_joined(messages, form), rest)
        for outbox, parts in gathered.items():
            for part in parts:
                self._fan_out.enqueue((outbox,), part)

    def clear(self) -> None:
        """Forget everything, as if nothing had been sent."""
        for run in self.runs:
            run.audience.is_pending = False
        self.runs, self._bytes, self._written = [], 0, None
        self._named.clear()
        self._flushes_later = False
        self._fan_out.clear()


def _joined(messages: list[Message], wire_format: WireFormat) -> bytes:
    if len(messages) == 1:
        return messages[0].encoded(wire_format)
    return b"".join([message.encoded(wire_format) for message in messages])


def _fast_count(audience: Audience) -> int:
    return audience.fast_count

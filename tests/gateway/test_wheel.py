"""What the wheel calls and when, against a model that looks at every entry."""

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wsgateway.gateway.wheel import MAX_TICK, MIN_TICK, Wheel, tick_for
from wsgateway.transports.takeover import Timed

TICKS = st.sampled_from([0.01, 0.013, 0.25, 1.0])
SECONDS = st.floats(0, 40) | st.sampled_from([0.0, 0.25, 1.0, 25.0])
NAMES = st.integers(0, 7)
ERROR = 1e-9
"""Seconds by which a division of floats may be wrong."""


class Entry:
    def __init__(self, call: Callable[["Entry"], None] = lambda entry: None) -> None:
        self.slot: set[Timed] | None = None
        self._call = call

    def due(self) -> None:
        self._call(self)


class WheelAndModel(RuleBasedStateMachine):
    """`due` maps each entry that waits to its time. An entry does what `reactions` says when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.entries = [Entry(self.called) for _ in range(8)]
        self.due: dict[Entry, float] = {}
        self.reactions: list[tuple[str, int, float]] = []
        self.calls = 0
        self.is_running = False

    @initialize(tick=TICKS, now=st.floats(0, 1e6))
    def create(self, tick: float, now: float) -> None:
        self.tick, self.now = tick, now
        self.wheel = Wheel(tick, self.filled)

    def filled(self) -> None:
        assert not self.is_running
        self.is_running = True

    def called(self, entry: Entry) -> None:
        self.calls += 1
        due = self.due.pop(entry)
        assert due <= self.now + ERROR, "called early"
        assert entry.slot is None
        if self.reactions:
            self.act(*self.reactions.pop())

    def act(self, action: str, name: int, seconds: float) -> None:
        entry = self.entries[name]
        if action == "add" and entry not in self.due:
            self.due[entry] = self.now + seconds
            self.wheel.add(entry, self.now + seconds)
        elif action == "discard":
            self.due.pop(entry, None)
            self.wheel.discard(entry)

    @rule(action=st.sampled_from(["add", "add", "discard"]), name=NAMES, seconds=SECONDS)
    def change(self, action: str, name: int, seconds: float) -> None:
        self.act(action, name, seconds)

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        limit=st.integers(1, 10),
        reactions=st.lists(st.tuples(st.sampled_from(["add", "discard"]), NAMES, SECONDS), max_size=8),
    )
    def advance(self, limit: int, reactions: list[tuple[str, int, float]]) -> None:
        self.reactions = reactions
        self.calls = 0
        is_more_due = self.wheel.advance(self.now, limit)
        assert self.calls == limit if is_more_due else self.calls <= limit
        self.reactions = []
        if is_more_due:
            return
        assert all(due > self.now - self.tick - ERROR for due in self.due.values()), "called too late"
        self.is_running = not self.wheel.is_empty
        assert self.wheel.is_empty == (not self.due)

    @rule()
    def clear(self) -> None:
        self.wheel.clear()
        self.due.clear()
        self.is_running = False

    @invariant()
    def every_entry_that_waits_is_in_a_slot(self) -> None:
        for entry in self.entries:
            assert (entry in self.due) == (entry.slot is not None and entry in entry.slot)
        assert self.is_running or not self.due


TestWheelAndModel = WheelAndModel.TestCase


def test_the_oldest_entries_are_called_first() -> None:
    called: list[Entry] = []
    wheel = Wheel(1, lambda: None)
    entries = [Entry(called.append) for _ in range(5)]
    for entry, due in zip(entries, [4, 2, 5, 1, 3], strict=True):
        wheel.add(entry, due)
    assert wheel.advance(10, 3)
    assert called == [entries[3], entries[1], entries[4]]
    assert not wheel.advance(10, 3)
    assert called[3:] == [entries[0], entries[2]]


def test_the_others_are_called_after_one_that_raises() -> None:
    def fail(entry: Entry) -> None:
        raise RuntimeError("an entry")

    called: list[Entry] = []
    wheel = Wheel(1, lambda: None)
    wheel.add(Entry(fail), 1)
    wheel.add(Entry(called.append), 2)
    with pytest.raises(RuntimeError, match="an entry"):
        wheel.advance(2, 10)
    assert not wheel.advance(2, 10)
    assert len(called) == 1


def test_an_entry_may_clear_the_wheel_that_calls_it() -> None:
    called: list[Entry] = []

    def clear(entry: Entry) -> None:
        called.append(entry)
        wheel.clear()

    wheel = Wheel(1, lambda: None)
    for _ in range(3):
        wheel.add(Entry(clear), 1)
    assert not wheel.advance(1, 10)
    assert len(called) == 1
    assert wheel.is_empty


def test_the_next_tick_is_always_later_than_now() -> None:
    wheel = Wheel(0.25, lambda: None)
    assert [wheel.next_tick(now) for now in (0, 0.1, 0.25, 0.3)] == [0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(("seconds", "tick"), [(0.05, MIN_TICK), (0.5, 0.016), (8, 0.25), (25, 0.781), (1e9, MAX_TICK)])
def test_a_tick_is_a_small_part_of_the_shortest_time_in_milliseconds(seconds: float, tick: float) -> None:
    assert tick_for(seconds) == tick

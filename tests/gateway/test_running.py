"""How the wheel of a gateway is run, by a clock that jumps."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from itertools import pairwise

import pytest

from tests import clocks
from tests.clocks import block, jumping, jumping_loop, pass_time
from wsgateway.gateway.running import SLICE, Ticker
from wsgateway.transports.takeover import Timed

TICK = 0.25


class Entry:
    """Keeps when it was called."""

    def __init__(self, call: Callable[[], object] = lambda: None) -> None:
        self.slot: set[Timed] | None = None
        self.called_at: list[float] = []
        self._call = call

    def due(self) -> None:
        self.called_at.append(jumping_loop().time())
        self._call()


def assert_no_timer_runs_after(prepare: Callable[[], Ticker]) -> None:
    async def scenario() -> None:
        kept.append(prepare())
        await pass_time(10)
        await asyncio.Event().wait()

    kept: list[Ticker] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="no timer runs"):
        patch.setattr(clocks, "THREAD_TIMEOUT", 0)  # there is no thread
        jumping(scenario)()


@jumping
async def test_an_entry_is_called_within_a_tick() -> None:
    ticker = Ticker(TICK)
    await pass_time(0.1)
    entries = [Entry() for _ in range(3)]
    for entry, due in zip(entries, [5, 7.01, 3.2], strict=True):
        ticker.wheel.add(entry, due)
    await pass_time(20)
    assert [entry.called_at for entry in entries] == [[5], [7.25], [3.25]]
    ticker.stop()


@jumping
async def test_the_wheel_runs_again_after_it_was_empty() -> None:
    ticker = Ticker(TICK)
    entry = Entry()
    for due in (5, 105):
        ticker.wheel.add(entry, due)
        await pass_time(100)
    assert entry.called_at == [5, 105]


def test_no_timer_runs_without_an_entry() -> None:
    def discarded() -> Ticker:
        ticker, entry = Ticker(TICK), Entry()
        ticker.wheel.add(entry, 5)
        ticker.wheel.discard(entry)
        return ticker

    def called() -> Ticker:
        ticker = Ticker(TICK)
        ticker.wheel.add(Entry(), 5)
        return ticker

    def stopped() -> Ticker:
        ticker, entry = Ticker(TICK), Entry()
        ticker.wheel.add(entry, 1000)
        ticker.stop()
        assert entry.slot is None
        ticker.wheel.add(entry, 1000)  # by a client that the gateway could not close
        return ticker

    for prepare in (lambda: Ticker(TICK), discarded, called, stopped):
        assert_no_timer_runs_after(prepare)


@jumping
async def test_others_are_served_between_very_many_entries_that_are_due_at_once() -> None:
    ticker = Ticker(TICK)
    entries = [Entry() for _ in range(10 * SLICE)]
    for entry in entries:
        ticker.wheel.add(entry, 1)
    block(1)
    counts = [0]
    for _ in range(15):
        await asyncio.sleep(0)  # one iteration of the event loop
        counts.append(sum(bool(entry.called_at) for entry in entries))
    assert max(after - before for before, after in pairwise(counts)) == SLICE
    assert [entry.called_at for entry in entries] == [[1]] * len(entries)
    ticker.stop()


@jumping
async def test_after_the_loop_was_blocked_what_is_overdue_is_called_once() -> None:
    ticker = Ticker(TICK)
    entries = [Entry() for _ in range(20)]
    for due, entry in enumerate(entries, 1):
        ticker.wheel.add(entry, due)
    block(10)
    await pass_time(0.1)
    assert [entry.called_at for entry in entries[:10]] == [[10]] * 10
    await pass_time(100)
    assert [entry.called_at for entry in entries[10:]] == [[due] for due in range(11, 21)]


@jumping
async def test_an_entry_that_raises_does_not_stop_the_others() -> None:
    def fail() -> None:
        raise ValueError("an entry")

    reported: list[object] = []
    jumping_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    ticker = Ticker(TICK)
    entries = [Entry(fail), Entry(fail), Entry(), Entry()]
    for entry, due in zip(entries, [5, 5, 5, 6], strict=True):
        ticker.wheel.add(entry, due)
    await pass_time(10)
    assert [len(entry.called_at) for entry in entries] == [1] * 4
    assert [str(error) for error in reported] == ["an entry"] * 2


@jumping
async def test_entries_are_called_in_the_context_of_the_gateway_not_of_the_first_client() -> None:
    place: ContextVar[str] = ContextVar("place")
    seen: list[str] = []
    place.set("gateway")
    ticker = Ticker(TICK)
    place.set("client")
    for _ in range(SLICE + 1):
        ticker.wheel.add(Entry(lambda: seen.append(place.get())), 1)
    await pass_time(2)
    assert set(seen) == {"gateway"}
    assert len(seen) == SLICE + 1

"""When a write counts as one without progress, by a clock that jumps."""

import asyncio

import pytest

from tests.clocks import block, jumping, pass_time
from wsgateway.limits import BLOCKED_LOOP
from wsgateway.transports.stall import Stall


class Watched:
    """A `Stall` of 5 seconds. `left` are its answers, one for each check; then there is no write."""

    def __init__(self, *left: float | None) -> None:
        self.left = list(left)
        self.stalled_at: list[float] = []
        self.stall = Stall(5, lambda: self.left.pop(0) if self.left else None, self._stalled)

    def _stalled(self) -> None:
        self.stalled_at.append(asyncio.get_running_loop().time())


@pytest.mark.parametrize(
    ("left", "stalled_at"),
    [((0,), [5]), ((3, 0), [8]), ((5, 5, 0), [15]), ((None, 0), []), ((2, None), [])],
    ids=["no progress", "a later write", "progress twice", "no write", "written meanwhile"],
)
@jumping
async def test_a_write_without_progress_is_reported_once(
    left: tuple[float | None, ...], stalled_at: list[float]
) -> None:
    watched = Watched(*left)
    watched.stall.watch()
    await pass_time(60)
    assert watched.stalled_at == stalled_at


@jumping
async def test_one_timer_serves_many_writes_and_the_next_one_starts_it_again() -> None:
    watched = Watched(None, 0)
    for _ in range(3):
        watched.stall.watch()
    await pass_time(10)
    assert watched.left == [0]
    watched.stall.watch()
    await pass_time(10)
    assert watched.stalled_at == [15]


@jumping
async def test_a_blocked_event_loop_proves_nothing() -> None:
    watched = Watched(0, 0)
    watched.stall.watch()
    block(5 + BLOCKED_LOOP + 0.1)
    await pass_time(0)
    await pass_time(0)
    assert watched.left == [0]
    assert watched.stalled_at == []
    await pass_time(10)
    assert len(watched.stalled_at) == 1


@jumping
async def test_nothing_is_checked_after_cancel() -> None:
    watched = Watched(0)
    watched.stall.cancel()  # before the first write, too
    watched.stall.watch()
    watched.stall.cancel()
    await pass_time(60)
    assert watched.left == [0]

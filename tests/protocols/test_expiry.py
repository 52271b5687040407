"""When a connection expires, on a clock that jumps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.clocks import jumping, jumping_loop, pass_time
from wsgateway.gateway.running import Ticker
from wsgateway.protocols.expiry import GRACE, HORIZON, Expiry, seconds_left


class Expiring:
    """What happens to one connection, and when, in seconds since the start."""

    def __init__(self) -> None:
        self.ticker = Ticker(0.5)
        self.calls: list[tuple[str, int]] = []
        self.expiry = Expiry(self.ticker.wheel, expired=lambda: self.note("expired"), ended=lambda: self.note("ended"))

    def note(self, name: str) -> None:
        self.calls.append((name, round(jumping_loop().time())))


@contextmanager
def expiring() -> Iterator[Expiring]:
    made = Expiring()
    try:
        yield made
    finally:
        made.expiry.cancel()
        made.expiry.cancel()
        made.ticker.stop()


@jumping
async def test_the_hook_comes_first_and_then_the_end() -> None:
    with expiring() as one:
        one.expiry.set(time.time() + 60)
        await pass_time(59)
        assert one.calls == []
        await pass_time(1000)
        assert one.calls == [("expired", 60), ("ended", 60 + GRACE)]


@jumping
async def test_a_connection_that_is_renewed_goes_on() -> None:
    with expiring() as one:
        one.expiry.set(time.time() + 60)
        await pass_time(50)
        one.expiry.set(time.time() + 60)
        await pass_time(65)
        assert one.calls == [("expired", 110)]
        one.expiry.set(time.time() + 60)
        await pass_time(GRACE + 30)
        assert one.calls == [("expired", 110)]
        one.expiry.cancel()
        await pass_time(10_000)
        assert one.calls == [("expired", 110)]


@jumping
async def test_what_has_passed_already_is_due_at_once() -> None:
    with expiring() as one:
        one.expiry.set(time.time() - 3)
        await pass_time(1)
        assert [name for name, _ in one.calls] == ["expired"]
        await pass_time(GRACE)
        assert [name for name, _ in one.calls] == ["expired", "ended"]


@jumping
async def test_an_hour_takes_an_hour() -> None:
    with expiring() as one:
        one.expiry.set(time.time() + 3600)
        await pass_time(3599)
        assert one.calls == []
        await pass_time(2)
        assert one.calls == [("expired", 3600)]


@pytest.mark.parametrize("far", [1e12, 1e300])
@jumping
async def test_a_time_in_the_far_future(far: float) -> None:
    with expiring() as one:
        one.expiry.set(far)
        await pass_time(3 * HORIZON)
        assert one.calls == []
        assert seconds_left(far) is not None


@jumping
async def test_a_clock_that_was_set_forward_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with expiring() as one:
        one.expiry.set(time.time() + 86400)
        await pass_time(10)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86400)  # as after a night in a suspended laptop
        await pass_time(HORIZON + 1)
        assert ("expired", HORIZON) in one.calls


def test_the_seconds_for_a_client() -> None:
    assert seconds_left(None) is None
    assert seconds_left(time.time() + 60.9) == 60
    assert seconds_left(time.time() - 60) == 1

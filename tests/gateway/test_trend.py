"""The last hour of a gateway: samples from counters, without a clock; and a gateway that samples while it runs."""

import math

import anyio
import pytest

from wsgateway import Gateway
from wsgateway.gateway import trend as trend_module
from wsgateway.gateway.trend import SAMPLES, STEP, Trend
from wsgateway.testing import Client, serve


def counts(
    connections: int = 0, received: int = 0, sent: int = 0, dropped: int = 0, hooks: int = 0, hook_seconds: float = 0
) -> dict[str, float]:
    return {
        "connections": connections,
        "in": received,
        "out": sent,
        "dropped": dropped,
        "hooks": hooks,
        "hook_seconds": hook_seconds,
    }


def test_a_sample_has_what_has_grown_since_the_one_before_per_second() -> None:
    trend = Trend()
    trend.begin(1000, counts(received=5, hooks=5, hook_seconds=1))
    trend.add(1010, counts(connections=3, received=25, sent=100, dropped=1, hooks=25, hook_seconds=1.2))
    assert list(trend.at) == [1010]
    assert trend.columns["connections"][0] == 3
    assert trend.columns["in"][0] == 2
    assert trend.columns["out"][0] == 10
    assert trend.columns["dropped"][0] == pytest.approx(0.1)
    assert trend.columns["hook"][0] == pytest.approx(10)


def test_without_a_hook_there_is_no_time_of_one() -> None:
    trend = Trend()
    trend.begin(1000, counts())
    trend.add(1010, counts())
    assert math.isnan(trend.columns["hook"][0])


def test_only_the_last_hour_is_kept() -> None:
    trend = Trend()
    for number in range(SAMPLES + 10):
        trend.add(STEP * number, counts(connections=number))
    assert len(trend.at) == SAMPLES
    assert {len(column) for column in trend.columns.values()} == {SAMPLES}
    assert trend.columns["connections"][-1] == SAMPLES + 9
    assert trend.columns["connections"][0] == 10


def test_counters_that_begin_again_and_a_clock_that_was_set_back_do_no_harm() -> None:
    trend = Trend()
    for now, sent in ((1000, 50), (1010, 60), (1020, 0), (900, 5), (910, 15)):
        trend.add(now, counts(sent=sent))
    assert list(trend.at) == [910]
    assert list(trend.columns["out"]) == [1]
    trend.add(920, counts(sent=5))
    assert list(trend.columns["out"]) == [1, 0]


def test_a_gateway_that_replaces_another_continues_its_samples() -> None:
    old, new = Trend(), Trend()
    old.begin(1000, counts())
    old.add(1010, counts(connections=1))
    new.continue_from(old)
    new.begin(1015, counts())
    new.add(1020, counts(connections=2))
    assert list(new.columns["connections"]) == [1, 2]
    assert list(old.columns["connections"]) == [1]


async def test_a_gateway_samples_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trend_module, "STEP", 0.05)
    gateway = Gateway()
    async with serve(gateway) as url, Client(url):
        with anyio.fail_after(10):
            while not any(gateway.trend.columns["connections"]):
                await gateway.cluster.wait_until(lambda: True)
                await anyio.sleep(0.01)  # a sample has no event
    taken = len(gateway.trend.at)
    await anyio.sleep(0.15)  # three times the time of a sample, in which none may be taken
    assert len(gateway.trend.at) == taken

"""The last hour as pages need it: sums over gateways, and small curves."""

import json

from wsgateway.admin.trends import CURVE, curve_of, points_of, trend_of
from wsgateway.gateway.trend import STEP, Trend

NOW = 1_000_000 * STEP


def trend(*sent: float, before: float = 0, hook: float = 0) -> Trend:
    """A trend with these messages per second, out and in, the last one `before` seconds ago."""
    found = Trend()
    totals = {"connections": 2.0, "in": 0.0, "out": 0.0, "dropped": 0.0, "hooks": 0.0, "hook_seconds": 0.0}
    start = NOW - before - STEP * len(sent)
    found.begin(start, totals)
    for number, rate in enumerate(sent, 1):
        totals["in"] += STEP * rate
        totals["out"] += STEP * rate
        totals["hooks"] += 1
        totals["hook_seconds"] += hook
        found.add(start + STEP * number, totals)
    return found


def test_the_sum_over_gateways_adds_samples_of_the_same_time() -> None:
    shown = json.loads(trend_of([trend(1, 2, hook=0.001), trend(10, before=STEP, hook=0.002)], NOW))
    assert shown["at"] == [NOW - STEP, NOW]
    assert shown["out"] == [11, 2]
    assert shown["connections"] == [4, 2]
    assert shown["hook"] == [2, 1]


def test_what_is_older_than_an_hour_is_left_out() -> None:
    assert json.loads(trend_of([trend(1, before=3700)], NOW))["at"] == []


def test_a_gateway_without_a_past_has_empty_columns() -> None:
    shown = json.loads(trend_of([Trend()], NOW))
    assert shown.pop("now") >= NOW
    assert shown == {"at": [], "connections": [], "in": [], "out": [], "dropped": [], "hook": []}


def test_a_curve_has_a_value_for_each_ten_seconds_of_ten_minutes() -> None:
    curve = curve_of(trend(1, 3, before=STEP), NOW)
    assert len(curve) == CURVE
    assert [rate for rate in curve if rate] == [2, 6]
    assert not any(curve_of(trend(5, before=700), NOW))


def test_a_curve_fits_into_its_picture() -> None:
    points = [tuple(map(float, point.split(","))) for point in points_of([0.0, 10.0] * 30).split()]
    assert {y for _, y in points} == {1, 23}
    assert (points[0][0], points[-1][0]) == (0, 120)

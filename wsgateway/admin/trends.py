"""The last hour of gateways, as the charts and the small curves of a page need it. Does not know pages."""

import json
import math
from collections.abc import Iterable, Sequence

from wsgateway.gateway.trend import RATES, SAMPLES, STEP, Trend

CURVE = 60
"""Values of a small curve, which are those of the last ten minutes."""

WIDTH, HEIGHT = 120, 24
"""The size of a small curve, in units of its picture."""


def trend_of(trends: Iterable[Trend], now: float) -> str:
    """Return the last hour of one gateway, or the sum over several, as JSON for `static/charts.js`.

    `hook` is the largest mean among them. `now` is the time of this host, whose clock may differ from the reader's.
    """
    steps: dict[int, dict[str, float]] = {}
    oldest = now - SAMPLES * STEP
    for trend in trends:
        for place, at in enumerate(trend.at):
            if at < oldest:
                continue
            values = steps.setdefault(round(at / STEP), {})
            for name in ("connections", *RATES):
                values[name] = values.get(name, 0.0) + trend.columns[name][place]
            hook = trend.columns["hook"][place]
            if not math.isnan(hook):
                values["hook"] = max(values.get("hook", 0.0), hook)
    columns: dict[str, list[float | None]] = {"at": [step * STEP for step in sorted(steps)]}
    for name in ("connections", *RATES, "hook"):
        columns[name] = [_rounded(steps[step].get(name)) for step in sorted(steps)]
    return json.dumps({"now": round(now, 1), **columns}, separators=(",", ":"))


def curve_of(trend: Trend, now: float) -> list[float]:
    """Return the messages per second, in and out, in each ten seconds of the last ten minutes."""
    step = int(now // STEP)
    rates = [0.0] * CURVE
    for place, at in enumerate(trend.at[-CURVE:], max(0, len(trend.at) - CURVE)):
        age = step - round(at / STEP)
        if 0 <= age < CURVE:
            rates[CURVE - 1 - age] = trend.columns["in"][place] + trend.columns["out"][place]
    return [round(rate, 1) for rate in rates]


def points_of(curve: Sequence[float]) -> str:
    """Return the points of a polyline that draws `curve`."""
    highest = max(1.0, *curve)
    step = WIDTH / (CURVE - 1)
    return " ".join(
        f"{place * step:.1f},{HEIGHT - 1 - (HEIGHT - 2) * rate / highest:.1f}" for place, rate in enumerate(curve)
    )


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    return int(value) if value == int(value) else round(value, 2)

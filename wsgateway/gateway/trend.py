"""The last hour of one gateway, for the charts of the panel: connections and rates, one sample every ten seconds."""

import asyncio
import math
import time
from array import array
from collections.abc import Callable, Mapping
from contextvars import Context

STEP = 10.0
"""Seconds between two samples."""

SAMPLES = 360
"""Samples that are kept, which is one hour. They take about 10 KB."""

RATES = ("in", "out", "dropped")
"""The counters of which a sample has the growth per second."""


class Trend:
    """The samples of one gateway, oldest first. Nothing is sampled while the gateway does not run.

    `at` is the Unix time of each sample. The others have one value for each: `connections`; messages `in`, `out`, and
    `dropped` per second; and `hook`, the mean time of a hook in milliseconds, which is NaN if no hook has run.
    """

    def __init__(self) -> None:
        self.at = array("d")
        self.columns = {name: array("f") for name in ("connections", *RATES, "hook")}
        self._before: tuple[float, Mapping[str, float]] | None = None

    def begin(self, now: float, counts: Mapping[str, float]) -> None:
        """Count from `counts` on, because the gateway has just started."""
        self._before = now, dict(counts)

    def add(self, now: float, counts: Mapping[str, float]) -> None:
        """Add a sample of what has changed since the previous call. `counts` are what `Inspector` reports."""
        since, before = self._before or (now, counts)
        self.begin(now, counts)
        seconds = now - since
        if seconds <= 0:  # the clock was set back
            return
        while self.at and self.at[-1] >= now:
            self._remove(-1)
        hooks = counts["hooks"] - before["hooks"]
        values = {
            "connections": counts["connections"],
            **{name: max(0.0, counts[name] - before[name]) / seconds for name in RATES},
            "hook": (counts["hook_seconds"] - before["hook_seconds"]) / hooks * 1000 if hooks > 0 else math.nan,
        }
        self.at.append(now)
        for name, column in self.columns.items():
            column.append(values[name])
        if len(self.at) > SAMPLES:
            self._remove(0)

    def continue_from(self, other: "Trend") -> None:
        """Begin with the samples of `other`, because this gateway replaces the one that it belongs to."""
        self.at = array("d", other.at)
        self.columns = {name: array("f", column) for name, column in other.columns.items()}

    def _remove(self, place: int) -> None:
        for column in (self.at, *self.columns.values()):
            del column[place]


class Sampler:
    """Adds a sample to `trend` every ten seconds, from when it is created until `stop`."""

    def __init__(self, trend: Trend, read: Callable[[], Mapping[str, float]]) -> None:
        """`read` returns the present counts. It must not wait."""
        self._trend, self._read = trend, read
        self._loop = asyncio.get_running_loop()
        trend.begin(time.time(), read())
        self._sample_later()

    def stop(self) -> None:
        self._next.cancel()

    def _sample_later(self) -> None:
        seconds = STEP - time.time() % STEP  # at the same time in every gateway, so that their samples can be added
        self._next = self._loop.call_later(seconds, self._sample, context=Context())

    def _sample(self) -> None:
        self._sample_later()
        self._trend.add(time.time(), self._read())

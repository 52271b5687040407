"""Counters of one gateway and their Prometheus text. Knows nothing of what is counted; never takes a lock."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

HOOK_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds, in seconds, of the buckets of `wsgateway_hook_seconds`."""


class Histogram:
    """How often a value fell under each bound, their sum and their count."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: tuple[float, ...] = HOOK_SECONDS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """What happened in one gateway since it was made. Plain attributes, changed on the gateway's loop only."""

    def __init__(self) -> None:
        self.opens = 0
        self.closes: Counter[str] = Counter()
        self.messages_in = 0
        self.bytes_in = 0
        self.messages_out = 0
        self.bytes_out = 0
        self.queued = 0
        self.dropped: Counter[str] = Counter()
        self.slow = 0
        self.skipped_recipients = 0
        self.hook_errors: Counter[str] = Counter()
        self.hook_seconds: dict[str, Histogram] = {}
        self.refusals: Counter[str] = Counter()
        self.blocked_loops = 0
        self.blocked_seconds = 0.0

    def observe_hook(self, hook: str, seconds: float) -> None:
        histogram = self.hook_seconds.get(hook)
        if histogram is None:
            histogram = self.hook_seconds[hook] = Histogram()
        histogram.observe(seconds)


def prometheus_text(metrics: Metrics, *, gateway: str, connections: int, waiting: int, log_failures: int) -> str:
    """`metrics` in Prometheus' text format 0.0.4, each sample labelled with the gateway's id.

    `connections` are open now, `waiting` messages are in their outboxes; `log_failures` lines were lost.
    """
    label = f'gateway="{_escaped(gateway)}"'
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Mapping[str, float]) -> None:
        lines.extend((f"# HELP wsgateway_{name} {text}", f"# TYPE wsgateway_{name} {kind}"))
        lines.extend(f"wsgateway_{name}{suffix} {value:.17g}" for suffix, value in samples.items())

    def labelled(name: str, values: Mapping[str, int]) -> dict[str, float]:
        return {f'{{{label},{name}="{_escaped(key)}"}}': value for key, value in sorted(values.items())}

    own = f"{{{label}}}"
    family("connections", "gauge", "Connections that are open.", {own: connections})
    family("outbox_messages", "gauge", "Messages that wait in outboxes.", {own: waiting})
    family("opens_total", "counter", "Connections that were opened.", {own: metrics.opens})
    family("closes_total", "counter", "Connections that have ended, by close code.", labelled("code", metrics.closes))
    family("messages_in_total", "counter", "Messages from clients.", {own: metrics.messages_in})
    family("bytes_in_total", "counter", "Bytes of messages from clients.", {own: metrics.bytes_in})
    family("messages_out_total", "counter", "Messages written to clients.", {own: metrics.messages_out})
    family("bytes_out_total", "counter", "Bytes of messages written to clients.", {own: metrics.bytes_out})
    family("queued_total", "counter", "Messages taken into an outbox.", {own: metrics.queued})
    family("dropped_total", "counter", "Messages dropped, by policy.", labelled("policy", metrics.dropped))
    family("slow_total", "counter", "Connections closed because the client was too slow.", {own: metrics.slow})
    family("skipped_recipients_total", "counter", "Named recipients not connected.", {own: metrics.skipped_recipients})
    family("hook_errors_total", "counter", "Hooks that failed, by hook.", labelled("hook", metrics.hook_errors))
    family("hook_seconds", "histogram", "Time of hooks.", dict(_histograms(metrics.hook_seconds, label)))
    family("refusals_total", "counter", "Refused clients and callers, by reason.", labelled("reason", metrics.refusals))
    family(
        "blocked_loop_total", "counter", "Times that something blocked the event loop.", {own: metrics.blocked_loops}
    )
    family("blocked_loop_seconds_total", "counter", "How long, at least.", {own: metrics.blocked_seconds})
    family("log_errors_total", "counter", "Log lines that could not be written.", {own: log_failures})
    return "\n".join(lines) + "\n"


def _histograms(histograms: Mapping[str, Histogram], label: str) -> Iterator[tuple[str, float]]:
    for hook, histogram in sorted(histograms.items()):
        labels = f'{label},hook="{_escaped(hook)}"'
        count = 0
        for bound, bucket in zip((*map(str, histogram.bounds), "+Inf"), histogram.buckets, strict=True):
            count += bucket
            yield f'_bucket{{{labels},le="{bound}"}}', count
        yield f"_sum{{{labels}}}", histogram.total
        yield f"_count{{{labels}}}", count


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

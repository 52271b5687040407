"""Counters of one gateway and their Prometheus text. Knows nothing of what is counted; never takes a lock."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from wsgateway.closing import SLOW, TOO_MANY

HOOK_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds, in seconds, of the buckets of `wsgateway_hook_seconds`."""


_CLOSE_LABELS = {code: str(code) for code in (*range(1000, 1016), SLOW, TOO_MANY)}


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
        self.broker_up = False
        self.nodes = 1
        self.broker_sent = 0
        self.broker_received = 0
        self.broker_lost = 0
        self.broker_dropped: Counter[str] = Counter()
        self.blocked_loops = 0
        self.blocked_seconds = 0.0

    def count_close(self, code: int) -> None:
        """Count a connection that has ended with `code`.

        Codes outside RFC 6455 7.4.1 that the gateway does not send itself count as `other`, because clients could
        create 2,000 time series with them.
        """
        self.closes[_CLOSE_LABELS.get(code, "other")] += 1

    def observe_hook(self, hook: str, seconds: float) -> None:
        histogram = self.hook_seconds.get(hook)
        if histogram is None:
            histogram = self.hook_seconds[hook] = Histogram()
        histogram.observe(seconds)


Samples = dict[str, dict[str, float]]
"""The value of each sample of each family, by what follows the family's name: suffix and labels."""

FAMILIES = {
    "connections": ("gauge", "Connections that are open."),
    "outbox_messages": ("gauge", "Messages that wait in outboxes."),
    "opens_total": ("counter", "Connections that were opened."),
    "closes_total": ("counter", "Connections that have ended, by close code."),
    "messages_in_total": ("counter", "Messages from clients."),
    "bytes_in_total": ("counter", "Bytes of messages from clients."),
    "messages_out_total": ("counter", "Messages written to clients."),
    "bytes_out_total": ("counter", "Bytes of messages written to clients."),
    "queued_total": ("counter", "Messages taken into an outbox."),
    "dropped_total": ("counter", "Messages dropped, by policy."),
    "slow_total": ("counter", "Connections closed because the client was too slow."),
    "skipped_recipients_total": ("counter", "Named recipients not connected."),
    "hook_errors_total": ("counter", "Hooks that failed, by hook."),
    "hook_seconds": ("histogram", "Time of hooks."),
    "refusals_total": ("counter", "Refused clients and callers, by reason."),
    "blocked_loop_total": ("counter", "Times that something blocked the event loop."),
    "blocked_loop_seconds_total": ("counter", "How long, at least."),
    "log_errors_total": ("counter", "Log lines that could not be written."),
    "broker_up": ("gauge", "Whether the broker is connected."),
    "nodes": ("gauge", "Processes of the gateway that this one knows to live, itself too."),
    "broker_sent_total": ("counter", "Messages given to the broker."),
    "broker_received_total": ("counter", "Messages that came from the broker, own ones too."),
    "broker_lost_total": ("counter", "Messages of other processes that never came."),
    "broker_dropped_total": ("counter", "Messages to or from the broker that were dropped, by reason."),
}
"""Kind and help of each family, without the prefix `wsgateway_`."""


def samples(
    metrics: Metrics, *, gateway: str, node: str = "", connections: int, waiting: int, log_failures: int
) -> Samples:
    """`metrics`, labelled with the gateway's id and, where it runs in several processes, the node's.

    `connections` are open now, `waiting` messages are in their outboxes; `log_failures` lines were lost.
    """
    label = f'gateway="{_escaped(gateway)}"' + (f',node="{_escaped(node)}"' if node else "")
    own = f"{{{label}}}"

    def labelled(name: str, values: Mapping[str, int]) -> dict[str, float]:
        return {f'{{{label},{name}="{_escaped(key)}"}}': value for key, value in sorted(values.items())}

    found: Samples = {
        "connections": {own: connections},
        "outbox_messages": {own: waiting},
        "opens_total": {own: metrics.opens},
        "closes_total": labelled("code", metrics.closes),
        "messages_in_total": {own: metrics.messages_in},
        "bytes_in_total": {own: metrics.bytes_in},
        "messages_out_total": {own: metrics.messages_out},
        "bytes_out_total": {own: metrics.bytes_out},
        "queued_total": {own: metrics.queued},
        "dropped_total": labelled("policy", metrics.dropped),
        "slow_total": {own: metrics.slow},
        "skipped_recipients_total": {own: metrics.skipped_recipients},
        "hook_errors_total": labelled("hook", metrics.hook_errors),
        "hook_seconds": dict(_histograms(metrics.hook_seconds, label)),
        "refusals_total": labelled("reason", metrics.refusals),
        "blocked_loop_total": {own: metrics.blocked_loops},
        "blocked_loop_seconds_total": {own: metrics.blocked_seconds},
        "log_errors_total": {own: log_failures},
    }
    if node:
        found |= {
            "broker_up": {own: metrics.broker_up},
            "nodes": {own: metrics.nodes},
            "broker_sent_total": {own: metrics.broker_sent},
            "broker_received_total": {own: metrics.broker_received},
            "broker_lost_total": {own: metrics.broker_lost},
            "broker_dropped_total": labelled("reason", metrics.broker_dropped),
        }
    return found


def prometheus_text(processes: Sequence[Samples]) -> str:
    """The samples of each process in Prometheus' text format 0.0.4."""
    lines: list[str] = []
    for name, (kind, text) in FAMILIES.items():
        found = [item for process in processes for item in process.get(name, {}).items()]
        if found or any(name in process for process in processes):
            lines.extend((f"# HELP wsgateway_{name} {text}", f"# TYPE wsgateway_{name} {kind}"))
            lines.extend(f"wsgateway_{name}{suffix} {value:.17g}" for suffix, value in found)
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

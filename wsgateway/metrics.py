"""The counters of one gateway and their Prometheus text. Knows nothing of what is counted; never takes a lock."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from wsgateway.closing import OWN_CODES

if TYPE_CHECKING:
    from prometheus_client import Metric

HOOK_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds, in seconds, of the buckets of `wsgateway_hook_seconds`."""

_CLOSE_LABELS = {code: str(code) for code in (*range(1000, 1016), *OWN_CODES)}


class Histogram:
    """Counts values by upper bound, and adds them up."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: tuple[float, ...] = HOOK_SECONDS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        bounds = self.bounds
        self.buckets[0 if value <= bounds[0] else bisect_left(bounds, value)] += 1  # most hooks never wait
        self.total += value


class Metrics:
    """The counters of one gateway since it was created. Plain attributes, changed only on its event loop."""

    def __init__(self) -> None:
        self.opens = 0
        self.closes: Counter[str] = Counter()
        self.messages_in = 0
        self.bytes_in = 0
        self.messages_out = 0
        self.bytes_out = 0
        self.queued = 0
        self.dropped: Counter[str] = Counter()
        self.too_slow = 0
        self.skipped_recipients = 0
        self.undeliverable = 0
        self.hook_errors: Counter[str] = Counter()
        self.hook_seconds: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.refusals: Counter[str] = Counter()
        self.channels = 0
        self.subscriptions = 0
        self.publications: Counter[str] = Counter()
        self.recoveries: Counter[bool] = Counter()
        self.broker_sent = 0
        self.broker_received = 0
        self.broker_lost = 0
        self.broker_dropped: Counter[str] = Counter()
        self.gaps: Counter[str] = Counter({"healed": 0, "lost": 0})
        self.history_errors = 0
        self.history_seconds = Histogram()
        self.blocked_loops = 0
        self.blocked_seconds = 0.0

    def count_close(self, code: int) -> None:
        """Count a connection that has ended with `code`.

        Codes outside RFC 6455 7.4.1 that the gateway does not send itself count as `other`, because clients could
        create 2,000 time series with them.
        """
        self.closes[_CLOSE_LABELS.get(code, "other")] += 1


NO_CLIENTS = ("plain", "websocket")
"""The protocol and transport whose number of connections is shown even if it is 0."""

Sample = tuple[str, dict[str, str], float]
"""The suffix of a sample's name, its labels, and its value."""

Samples = dict[str, list[Sample]]
"""The samples of each family in one node."""

FAMILIES = {
    "connections": ("gauge", "Connections that are open, by client protocol and transport."),
    "outbox_messages": ("gauge", "Messages that wait in outboxes."),
    "opens_total": ("counter", "Connections that were opened."),
    "closes_total": ("counter", "Connections that have ended, by close code."),
    "messages_in_total": ("counter", "Messages from clients."),
    "bytes_in_total": ("counter", "Bytes of messages from clients."),
    "messages_out_total": ("counter", "Messages written to clients."),
    "bytes_out_total": ("counter", "Bytes of messages written to clients."),
    "queued_total": ("counter", "Messages accepted for a connection, written or queued."),
    "dropped_total": ("counter", "Messages dropped, by policy."),
    "slow_total": ("counter", "Connections closed because the client was too slow."),
    "skipped_recipients_total": ("counter", "Named recipients that were not connected."),
    "undeliverable_total": ("counter", "Messages that the protocol of their recipient cannot carry."),
    "hook_errors_total": ("counter", "Hooks that failed, by hook."),
    "hook_seconds": ("histogram", "Seconds that hooks took."),
    "refusals_total": ("counter", "Refused clients and callers, by reason."),
    "channels": ("gauge", "Channels that have subscribers."),
    "subscriptions": ("gauge", "Subscriptions of connections to channels."),
    "publications_total": ("counter", "Messages published to channels, by namespace."),
    "recoveries_total": ("counter", "Clients that have asked for what they missed, by whether they got it."),
    "history_bytes": ("gauge", "Bytes of the histories of channels in memory; with ipc://, those of all nodes."),
    "history_evictions_total": ("counter", "Channels that have lost publications because of history_bytes."),
    "gaps_total": ("counter", "Publications that did not arrive, by whether they were healed or lost."),
    "history_errors_total": ("counter", "Publications that were not stored."),
    "history_seconds": ("histogram", "Seconds until a publication was stored outside this process."),
    "blocked_loop_total": ("counter", "Times that the event loop was blocked."),
    "blocked_loop_seconds_total": ("counter", "Minimum number of seconds that the event loop was blocked."),
    "log_errors_total": ("counter", "Log lines that could not be written."),
    "broker_up": ("gauge", "Whether the broker is connected."),
    "nodes": ("gauge", "Nodes of the gateway that are alive, including this one."),
    "broker_topics": ("gauge", "Channels whose messages the broker sends to this node."),
    "broker_sent_total": ("counter", "Messages passed to the broker."),
    "broker_received_total": ("counter", "Messages received from the broker, including those of this node."),
    "broker_lost_total": ("counter", "Messages of other nodes that never arrived."),
    "broker_dropped_total": ("counter", "Messages to or from the broker that were dropped, by reason."),
}
"""Kind and help of each family, without the prefix `wsgateway_`."""


def samples(
    metrics: Metrics,
    *,
    gateway: str,
    node: str = "",
    connections: Mapping[tuple[str, str], int],
    waiting: int,
    log_failures: int,
    history_bytes: int = 0,
    history_evictions: int = 0,
    is_broker_up: bool = False,
    nodes: int = 1,
    topics: int = 0,
) -> Samples:
    """Return `metrics`, labelled with the gateway's id and, if it has a broker, the node's.

    `connections` are open now, counted by protocol and transport, and `waiting` messages are in their outboxes.
    `log_failures` lines were lost. `nodes` are alive, this one included. `topics` of channels are followed.
    """
    labels = {"gateway": gateway} | ({"node": node} if node else {})

    def one(value: float) -> list[Sample]:
        return [("", labels, value)]

    def labelled(name: str, values: Mapping[str, int]) -> list[Sample]:
        return [("", {**labels, name: key}, value) for key, value in sorted(values.items())]

    families: Samples = {
        "connections": [*_connections(connections, labels)],
        "outbox_messages": one(waiting),
        "opens_total": one(metrics.opens),
        "closes_total": labelled("code", metrics.closes),
        "messages_in_total": one(metrics.messages_in),
        "bytes_in_total": one(metrics.bytes_in),
        "messages_out_total": one(metrics.messages_out),
        "bytes_out_total": one(metrics.bytes_out),
        "queued_total": one(metrics.queued),
        "dropped_total": labelled("policy", metrics.dropped),
        "slow_total": one(metrics.too_slow),
        "skipped_recipients_total": one(metrics.skipped_recipients),
        "undeliverable_total": one(metrics.undeliverable),
        "hook_errors_total": labelled("hook", metrics.hook_errors),
        "hook_seconds": [*_histograms(metrics.hook_seconds, labels)],
        "refusals_total": labelled("reason", metrics.refusals),
        "channels": one(metrics.channels),
        "subscriptions": one(metrics.subscriptions),
        "publications_total": labelled("namespace", metrics.publications),
        "recoveries_total": labelled("recovered", {str(key).lower(): n for key, n in metrics.recoveries.items()}),
        "history_bytes": one(history_bytes),
        "history_evictions_total": one(history_evictions),
        "blocked_loop_total": one(metrics.blocked_loops),
        "blocked_loop_seconds_total": one(metrics.blocked_seconds),
        "log_errors_total": one(log_failures),
    }
    if node:
        families |= _broker_families(metrics, labels, one, labelled)
        families |= {"broker_up": one(is_broker_up), "nodes": one(nodes), "broker_topics": one(topics)}
    return families


def _broker_families(
    metrics: Metrics,
    labels: dict[str, str],
    one: Callable[[float], list[Sample]],
    labelled: Callable[[str, Mapping[str, int]], list[Sample]],
) -> Samples:
    return {
        "gaps_total": labelled("result", metrics.gaps),
        "history_errors_total": one(metrics.history_errors),
        "history_seconds": [*_histogram(metrics.history_seconds, labels)],
        "broker_sent_total": one(metrics.broker_sent),
        "broker_received_total": one(metrics.broker_received),
        "broker_lost_total": one(metrics.broker_lost),
        "broker_dropped_total": labelled("reason", metrics.broker_dropped),
    }


def _connections(counts: Mapping[tuple[str, str], int], labels: dict[str, str]) -> Iterator[Sample]:
    for (protocol, transport), count in sorted(({NO_CLIENTS: 0} | dict(counts)).items()):
        yield "", {**labels, "protocol": protocol, "transport": transport}, count


def _histograms(histograms: Mapping[str, Histogram], labels: dict[str, str]) -> Iterator[Sample]:
    for hook, histogram in sorted(histograms.items()):
        yield from _histogram(histogram, {**labels, "hook": hook})


def _histogram(histogram: Histogram, labels: dict[str, str]) -> Iterator[Sample]:
    count = 0
    for bound, bucket in zip((*map(str, histogram.bounds), "+Inf"), histogram.buckets, strict=True):
        count += bucket
        yield "_bucket", {**labels, "le": bound}, count
    yield "_sum", labels, histogram.total
    yield "_count", labels, count


def prometheus_text(processes: Sequence[Samples]) -> bytes:
    """Return the samples of each node in Prometheus' text format 0.0.4."""
    from prometheus_client import CollectorRegistry, generate_latest  # an import of 1 MB that most processes never need

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(processes))
    return generate_latest(registry)


class _Collector:
    """Passes the samples to prometheus_client, family by family."""

    def __init__(self, processes: Sequence[Samples]) -> None:
        self._processes = processes

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client import Metric

        for family, (kind, text) in FAMILIES.items():
            if any(family in process for process in self._processes):
                name = f"wsgateway_{family}"
                metric = Metric(name.removesuffix("_total") if kind == "counter" else name, text, kind)
                for process in self._processes:
                    for suffix, labels, value in process.get(family, ()):
                        metric.add_sample(name + suffix, labels, value)
                yield metric

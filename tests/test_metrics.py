from prometheus_client.parser import text_string_to_metric_families

from wsgateway import closing
from wsgateway.metrics import Histogram, Metrics, prometheus_text, samples


def test_every_family_is_named_and_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.refusals['a"b\\c\nd'] += 2
    metrics.hook_seconds["on_message"].observe(0.003)
    metrics.hook_seconds["on_message"].observe(100)
    here = samples(metrics, gateway="g", connections={("v1", "websocket"): 3}, waiting=4, log_failures=5)
    families = list(text_string_to_metric_families(prometheus_text([here]).decode()))
    assert all(family.name.startswith("wsgateway_") and family.documentation for family in families)
    values = {
        (s.name, s.labels.get("le"), s.labels.get("reason") or s.labels.get("protocol")): s.value
        for f in families
        for s in f.samples
    }
    assert values["wsgateway_refusals_total", None, 'a"b\\c\nd'] == 2
    assert values["wsgateway_hook_seconds_bucket", "0.001", None] == 0
    assert values["wsgateway_hook_seconds_bucket", "0.005", None] == 1
    assert values["wsgateway_hook_seconds_bucket", "+Inf", None] == 2
    assert values["wsgateway_connections", None, "v1"] == 3
    assert values["wsgateway_connections", None, "plain"] == 0
    assert values["wsgateway_outbox_messages", None, None] == 4


def test_a_family_is_named_once_for_all_processes() -> None:
    here, there = (
        samples(
            Metrics(), gateway="g", node=node, connections={("plain", "websocket"): count}, waiting=0, log_failures=0
        )
        for node, count in (("a", 1), ("b", 2))
    )
    text = prometheus_text([here, there]).decode()
    assert text.count("# TYPE wsgateway_connections gauge") == 1
    connections = next(f for f in text_string_to_metric_families(text) if f.name == "wsgateway_connections")
    assert {sample.labels["node"]: sample.value for sample in connections.samples} == {"a": 1, "b": 2}


def test_a_value_on_a_bound_counts_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0)
    assert histogram.buckets == [1, 0, 0]


def test_clients_cannot_create_a_series_for_each_close_code() -> None:
    metrics = Metrics()
    for code in (*range(3000), *range(3000, 5000), 65535, -1):
        metrics.count_close(code)
    known = [*range(1000, 1016), *closing.OWN_CODES]
    assert metrics.closes == {**{str(code): 1 for code in known}, "other": 5002 - len(known)}


def test_every_code_of_the_gateway_has_a_series_of_its_own() -> None:
    codes = {value for value in vars(closing).values() if isinstance(value, int) and value >= 3000}
    metrics = Metrics()
    for code in codes:
        metrics.count_close(code)
    assert metrics.closes == {str(code): 1 for code in codes}

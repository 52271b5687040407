from prometheus_client.parser import text_string_to_metric_families

from wsgateway.metrics import Histogram, Metrics, prometheus_text


def test_every_family_is_named_and_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.refusals['a"b\\c\nd'] += 2
    metrics.observe_hook("on_message", 0.003)
    metrics.observe_hook("on_message", 100)
    families = list(
        text_string_to_metric_families(prometheus_text(metrics, gateway="g", connections=3, waiting=4, log_failures=5))
    )
    assert all(family.name.startswith("wsgateway_") and family.documentation for family in families)
    samples = {(s.name, s.labels.get("le"), s.labels.get("reason")): s.value for f in families for s in f.samples}
    assert samples["wsgateway_refusals_total", None, 'a"b\\c\nd'] == 2
    assert samples["wsgateway_hook_seconds_bucket", "0.001", None] == 0
    assert samples["wsgateway_hook_seconds_bucket", "0.005", None] == 1
    assert samples["wsgateway_hook_seconds_bucket", "+Inf", None] == 2
    assert samples["wsgateway_connections", None, None] == 3
    assert samples["wsgateway_outbox_messages", None, None] == 4


def test_a_value_on_a_bound_counts_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0)
    assert histogram.buckets == [1, 0, 0]

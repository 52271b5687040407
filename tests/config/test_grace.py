"""How long a stop may take."""

from wsgateway.config.grace import POOL_GRACE, seconds_to_stop
from wsgateway.config.settings import Settings


def test_a_stop_may_take_drain_and_the_hooks_longer() -> None:
    base = seconds_to_stop(Settings(drain=0, hook_timeout=1))
    assert seconds_to_stop(Settings(drain=30, hook_timeout=1)) == base + 30
    assert seconds_to_stop(Settings(drain=0, hook_timeout=11)) == base + 10


def test_only_a_gateway_with_several_nodes_waits_for_the_pools_of_proxies() -> None:
    alone = seconds_to_stop(Settings())
    assert seconds_to_stop(Settings(workers=2)) == seconds_to_stop(Settings(broker="redis://h")) == alone + POOL_GRACE

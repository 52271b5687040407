"""The gateways of a process, by id."""

import asyncio
import gc

import pytest

from wsgateway import Gateway, GatewayNotFound, StartError
from wsgateway.gateway.registry import Registry


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_a_gateway_is_found_in_any_case(registry: Registry) -> None:
    gateway = Gateway(id="Chat")
    registry.add(gateway)
    assert registry.find(" chAT ") is gateway


def test_an_unknown_id_is_an_error_with_the_running_gateways(registry: Registry) -> None:
    gateway, stopped = Gateway(id="chat"), Gateway(id="old")
    gateway.prepare()
    registry.add(gateway)
    registry.add(stopped)
    with pytest.raises(GatewayNotFound) as caught:
        registry.find("chatt")
    assert caught.value.available == ("chat",)


async def test_only_one_gateway_runs_with_an_id(registry: Registry) -> None:
    gateway, other = Gateway(id="chat"), Gateway(id="CHAT")
    async with gateway.lifespan():
        registry.add(gateway)
        registry.check_free(gateway)
        with pytest.raises(StartError, match=r"another gateway with id \[CHAT\] is running"):
            registry.check_free(other)
    registry.check_free(other)


def test_a_gateway_is_removed_unless_another_has_taken_its_id(registry: Registry) -> None:
    first, second = Gateway(id="chat"), Gateway(id="chat")
    registry.add(first)
    registry.add(second)
    registry.remove(first)
    assert registry.find("chat") is second
    registry.remove(second)
    with pytest.raises(GatewayNotFound):
        registry.find("chat")


def test_a_gateway_is_not_kept_alive(registry: Registry) -> None:
    registry.add(Gateway(id="chat"))
    gc.collect()
    with pytest.raises(GatewayNotFound):
        registry.find("chat")


async def test_the_gateways_of_an_event_loop_share_its_watchdog(registry: Registry) -> None:
    loop, other = asyncio.get_running_loop(), asyncio.new_event_loop()
    try:
        watchdog = registry.watchdog_of(loop)
        assert registry.watchdog_of(loop) is watchdog
        assert registry.watchdog_of(other) is not watchdog
    finally:
        other.close()

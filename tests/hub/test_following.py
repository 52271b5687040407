"""The channels that a process follows: from when, until when, and what happens while the broker is away."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.clocks import jumping, pass_time
from tests.network import Network, NetworkLink, NetworkStore
from tests.pipes import Pipe, joined, tell
from wsgateway import Gateway
from wsgateway.cluster.envelopes import MAX_ENVELOPE
from wsgateway.exceptions import MessageError
from wsgateway.gateway.registry import registry
from wsgateway.hub import following
from wsgateway.protocols.v1 import SUBPROTOCOL

CHANNELS: Any = {
    "live:*": {"public": True},
    "room:*": {"public": True, "history": 20},
    "vip:*": {"history": 20},
}


@asynccontextmanager
async def nodes(count: int, latency: float = 0.05) -> AsyncIterator[tuple[Network, list[Gateway]]]:
    network = Network(0)
    network.latency = lambda: latency  # type: ignore[method-assign]  # a fixed one
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        gateways = []
        for _ in range(count):
            gateway = Gateway(channels=CHANNELS, broker="redis://memory", ping_interval=100_000, pong_timeout=100_000)
            network.use(gateway, patch)
            gateways.append(gateway)
            await stack.enter_async_context(gateway.lifespan())
            registry.remove(gateway)  # which refuses a second gateway with one id, because a process is one node
        yield network, gateways


async def client_of(gateway: Gateway) -> Pipe:
    return await joined(gateway, subprotocol=SUBPROTOCOL)


def subscribe(pipe: Pipe, channel: str, **options: Any) -> None:
    tell(pipe.conn, json.dumps({"subscribe": channel, **options}))


async def rows(pipe: Pipe) -> list[Any]:
    await pass_time(0.001)  # what was sent in this iteration is written
    return [json.loads(message) for message in pipe.messages()]


def slow_reads(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    read = NetworkStore.read

    async def slow(store: NetworkStore, requests: Any) -> Any:
        await asyncio.sleep(seconds)  # of the clock that jumps
        return await read(store, requests)

    monkeypatch.setattr(NetworkStore, "read", slow)


def topics_of(network: Network, name: str) -> int:
    """How many processes receive what is published to a channel whose name ends in this way."""
    return sum(any(topic.endswith(name) for topic in link.topics) for link in network.links)


@jumping
async def test_a_client_is_answered_when_nothing_can_be_missed_any_more() -> None:
    async with nodes(2) as (network, [one, two]):
        pipe = await client_of(two)
        subscribe(pipe, "live:1")
        await pass_time(0.04)
        await one.publish("too early", channel="live:1")
        assert (await rows(pipe), topics_of(network, "%3A1")) == ([], 0)
        await pass_time(0.02)
        assert topics_of(network, "%3A1") == 1
        await one.publish("in time", channel="live:1")
        assert [row.get("message") for row in await rows(pipe)] == [None, "in time"]


@jumping
async def test_a_channel_lingers_for_5_s() -> None:
    async with nodes(1) as (network, [gateway]):
        pipe = await client_of(gateway)
        subscribe(pipe, "room:1")
        await pass_time(1)
        pipe.close()
        await pass_time(4)
        assert topics_of(network, "%3A1") == 1
        pipe = await client_of(gateway)
        subscribe(pipe, "room:1")
        await pass_time(10)
        assert topics_of(network, "%3A1") == 1
        tell(pipe.conn, json.dumps({"unsubscribe": "room:1"}))
        await pass_time(6)
        assert topics_of(network, "%3A1") == 0
        assert len(await rows(pipe)) == 2


@jumping
async def test_clients_that_reconnect_at_once_cause_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(2) as (_, [one, two]):
        counts = []
        read = NetworkStore.read

        async def counted(store: NetworkStore, requests: Any) -> Any:
            counts.append(len(requests))
            return await read(store, requests)

        monkeypatch.setattr(NetworkStore, "read", counted)
        at = (await one.publish(0, channel="room:1")).at
        for number in range(10):
            await one.publish(number, channel="room:1")
        pipes = [await client_of(two) for _ in range(200)]
        for pipe in pipes:
            subscribe(pipe, "room:1", since=at)
        await pass_time(1)
        for pipe in pipes:
            answer, *missed = await rows(pipe)
            assert answer["recovered"] is True
            assert [row["message"] for row in missed] == [*range(10)]
        assert counts == [1]


@jumping
async def test_channels_that_begin_together_share_their_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(1) as (_, [gateway]):
        counts = []
        read = NetworkStore.read

        async def counted(store: NetworkStore, requests: Any) -> Any:
            counts.append(len(requests))
            return await read(store, requests)

        monkeypatch.setattr(NetworkStore, "read", counted)
        pipe = await joined(
            gateway, subprotocol=SUBPROTOCOL, query=b"&".join(b"channel=room:%d" % n for n in range(100))
        )
        await pass_time(1)
        assert len(await rows(pipe)) == 100
        assert sum(counts) == 100
        assert len(counts) == 1


@jumping
async def test_while_the_broker_is_away_only_channels_without_a_history_can_begin() -> None:
    async with nodes(1) as (network, [gateway]):
        early = await client_of(gateway)
        subscribe(early, "room:1")
        await pass_time(1)
        network.is_down = True
        network.cut_all()
        await pass_time(1)
        pipe = await client_of(gateway)
        for channel in ("room:1", "room:2", "live:1"):
            subscribe(pipe, channel)
        await pass_time(1)
        assert [(row.get("refused"), row.get("status"), row.get("subscribed")) for row in await rows(pipe)] == [
            ("room:1", 503, None),
            ("room:2", 503, None),
            (None, None, "live:1"),
        ]
        assert "live:1" in gateway.local_channels
        assert "room:1" in gateway.local_channels  # the early client stays
        network.is_down = False
        await pass_time(5)
        assert topics_of(network, "live%3A1") == topics_of(network, "room%3A1") == 1
        await gateway.publish("again", channel="room:1")
        assert [row.get("message") for row in await rows(early)] == [None, "again"]


@jumping
async def test_a_client_that_leaves_while_its_channel_begins_leaves_nothing() -> None:
    async with nodes(1) as (network, [gateway]):
        pipe = await client_of(gateway)
        subscribe(pipe, "room:1")
        await pass_time(0.01)
        pipe.close()
        await pass_time(10)
        assert (topics_of(network, "%3A1"), gateway._parts.metrics.subscriptions) == (0, 0)


@jumping
async def test_a_channel_that_was_ready_long_ago_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connects with two channels subscribes when the slower one is ready. Or else it would hear nothing
    of the other one, and not know."""
    async with nodes(2) as (network, [one, two]):
        slow_reads(monkeypatch, 8)
        query = b"channel=live:1&channel=room:1"
        joining = asyncio.create_task(joined(two, subprotocol=SUBPROTOCOL, query=query))
        await pass_time(8.5)
        with pytest.raises(AssertionError):  # it was closed, so there is no connection
            joining.result()
        assert (topics_of(network, "live%3A1"), len(two.connections)) == (0, 0)
        second = await joined(two, subprotocol=SUBPROTOCOL, query=query)
        await one.publish("heard", channel="live:1")
        await pass_time(0.1)
        assert "heard" in [row.get("message") for row in await rows(second)]


@jumping
async def test_the_application_withdraws_a_permission_while_a_channel_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that the application has subscribed may subscribe again, unless the application has ended that."""
    async with nodes(1) as (_, [gateway]):
        pipe = await client_of(gateway)
        await asyncio.gather(gateway.subscribe("vip:1", [pipe.conn]), pass_time(0.2))
        await gateway.unsubscribe("vip:1", [pipe.conn], code=2500)
        await pass_time(6)
        slow_reads(monkeypatch, 3)
        subscribe(pipe, "vip:1")
        await pass_time(1)
        await gateway.unsubscribe("vip:1", [pipe.conn])
        await pass_time(4)
        assert not gateway._parts.channels.is_subscribed(pipe.conn, "vip:1")
        *_, refused = await rows(pipe)
        assert refused["refused"] == "vip:1"
        assert refused["status"] == 503
        subscribe(pipe, "vip:1")
        await pass_time(0.1)
        assert [row.get("status") for row in await rows(pipe)][-1:] == [403]


@jumping
async def test_a_message_that_is_too_large_for_the_broker_reaches_nobody() -> None:
    """Otherwise, only the subscribers of this process would receive it, and nobody would know."""
    async with nodes(2) as (_, [one, two]):
        pipes = [await client_of(one), await client_of(two)]
        for pipe in pipes:
            subscribe(pipe, "live:1")
        await pass_time(1)
        for function in (one.publish, one.send):
            with pytest.raises(MessageError, match="too many for the broker"):
                await function("x" * NetworkLink.max_payload, channel="live:1")
        await pass_time(1)
        assert [len(await rows(pipe)) for pipe in pipes] == [1, 1]


@jumping
async def test_a_message_that_is_too_large_for_an_envelope_is_refused_with_its_size() -> None:
    async with nodes(1) as (_, [gateway]):
        for channel in ("live:1", "room:1"):
            with pytest.raises(MessageError, match=rf"to {channel}: \d+ bytes, at most {MAX_ENVELOPE} are sent$"):
                await gateway.publish("x" * MAX_ENVELOPE, channel=channel)


@jumping
async def test_channels_that_linger_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_LINGERING", 3)
    async with nodes(1, latency=0) as (network, [gateway]):
        pipe = await client_of(gateway)
        for number in range(6):
            subscribe(pipe, f"live:{number}")
            tell(pipe.conn, json.dumps({"unsubscribe": f"live:{number}"}))
            await pass_time(0.01)
        assert sum(topics_of(network, f"%3A{number}") for number in range(6)) == 3
        assert [topics_of(network, f"%3A{number}") for number in (0, 5)] == [0, 1]

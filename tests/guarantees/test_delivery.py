"""Delivery: at most once without a history; with one, exactly once, or the client is notified."""

import math
import random
from collections.abc import Callable

import anyio
import pytest

from tests.guarantees.client import Client, Published, Refused, Subscribed
from tests.guarantees.kinds import KINDS, every_kind, every_kind_with_positions, served
from wsgateway import Gateway, SubscribeEvent


class Publisher:
    """Publishes numbers as text in a channel: by itself up to `limit`, while the task in which it runs goes on."""

    def __init__(self, gateway: Gateway, channel: str) -> None:
        self.count = 0
        self.limit = math.inf
        self._gateway = gateway
        self._channel = channel

    async def publish(self, count: int = 1) -> None:
        for _ in range(count):
            self.count += 1
            await self._gateway.publish(str(self.count), channel=self._channel)

    async def run(self) -> None:
        while True:
            if self.count < self.limit:
                await self.publish(random.randrange(4))
            await anyio.sleep(0)  # the clients read


@every_kind
async def test_without_a_history_a_message_arrives_at_most_once_and_in_order(kind: type[Client]) -> None:
    async with served() as (gateway, url), anyio.create_task_group() as tasks:
        publisher = Publisher(gateway, "live")
        tasks.start_soon(publisher.run)
        client, last = kind(url, "live"), 0
        for _ in range(20):
            await client.connect()
            assert not await client.subscribed()
            numbers = [int(await client.message()) for _ in range(random.randrange(1, 50))]
            assert numbers[0] > last
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # while connected, it misses nothing
            last = numbers[-1]
            await client.cut()
        tasks.cancel_scope.cancel()


@every_kind_with_positions
async def test_after_200_random_cuts_nothing_is_missing_or_doubled_or_the_client_is_told(kind: type[Client]) -> None:
    async with served() as (gateway, url), anyio.create_task_group() as tasks:
        publisher = Publisher(gateway, "short")
        tasks.start_soon(publisher.run)
        client, expected = kind(url, "short"), 0
        recovered = [0, 0]
        for _ in range(200):
            publisher.limit = publisher.count + 30  # so that the client can keep up
            await client.connect()
            for _ in range(random.randrange(1, 30)):
                match await client.next():
                    case Published(message):
                        assert int(message) == expected or not expected, f"{message} instead of {expected}"
                        expected = int(message) + 1
                        publisher.limit = expected + 30
                    case Subscribed(is_complete):
                        recovered[is_complete] += 1
                        expected = expected if is_complete else 0
                    case event:
                        raise AssertionError(event)
            await client.cut()
            await publisher.publish(random.choice([0, 0, 5, 50, 300]))
        tasks.cancel_scope.cancel()
    assert min(recovered) > 10  # both ways of coming back were tried


@every_kind_with_positions
async def test_what_is_published_while_the_recovery_is_made_arrives_once(kind: type[Client]) -> None:
    class Publishing:
        """Publishes at every step of a subscription."""

        async def on_subscribe(self, event: SubscribeEvent) -> None:
            await publisher.publish()
            await anyio.sleep(0)  # others publish
            await publisher.publish()

    async with served(listener=Publishing) as (gateway, url), anyio.create_task_group() as tasks:
        publisher = Publisher(gateway, "guarded")
        async with kind(url, "guarded") as client:
            assert not await client.subscribed()
        first = publisher.count + 1
        tasks.start_soon(publisher.run)
        for _ in range(10):
            await publisher.publish(5)
            await client.connect()
            assert await client.subscribed()
            numbers = [int(await client.message()) for _ in range(50)]
            assert numbers == list(range(first, first + 50))
            first += 50
            await client.close()
        tasks.cancel_scope.cancel()


def at_offset(offset: object) -> Callable[[str], str]:
    return lambda at: f"{at.partition(':')[0]}:{offset}"


WRONG: dict[str, Callable[[str], str]] = {
    "too old": at_offset(0),
    "in the future": at_offset(10**9),
    "negative": at_offset(-1),
    "text": at_offset("x"),
    "2^53": at_offset(2**53),
    "2^63": at_offset(2**63),
    "2^64": at_offset(2**64),
    "2^200": at_offset(2**200),
    "another epoch": lambda at: f"another:{at.partition(':')[2]}",
    "a long epoch": lambda at: f"{'x' * 4000}:1",
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_position_that_cannot_be_recovered_is_told(name: str) -> None:
    async with served() as (gateway, url):
        for number in range(250):  # more than the history keeps
            await gateway.publish(str(number), channel="short")
        at = (await gateway.history("short")).at
        assert at
        for kind in KINDS:
            if not kind.has_positions:
                continue
            async with kind(url, "short", at=WRONG[name](at)) as client:
                match await client.next():
                    case Subscribed(recovered, start):
                        assert (recovered, start) == (False, at), kind.name
                        await gateway.publish("after", channel="short")
                        assert await client.message() == "after"
                        at = client.at
                    case Refused(code):
                        assert code in client.bad_request, kind.name
                    case event:
                        raise AssertionError(event)


async def test_one_client_goes_from_transport_to_transport_with_its_position() -> None:
    kinds = [kind for kind in KINDS if kind.has_positions]
    async with served() as (gateway, url):
        publisher, at, first = Publisher(gateway, "room"), "", 1
        for kind in [*kinds, *random.choices(kinds, k=20)]:
            async with kind(url, at=at) as client:
                assert await client.subscribed() is bool(at), kind.name
                missed = publisher.count - first + 1
                await publisher.publish(3)
                numbers = [int(await client.message()) for _ in range(missed + 3)]
                assert numbers == list(range(first, publisher.count + 1)), kind.name
                at, first = client.at, publisher.count + 1
            await publisher.publish(random.randrange(5))

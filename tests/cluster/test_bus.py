"""The link of a process to its broker, over a broker in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from wsgateway.cluster.brokers import Link
from wsgateway.cluster.bus import OUTBOX_BYTES, OUTBOX_MESSAGES, Bus
from wsgateway.exceptions import BrokerError
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics


class MemoryLink:
    """A link whose broker returns what was published, to the link itself."""

    max_payload = 100

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Sequence[tuple[str, bytes]]](1000)
        self.is_closed = False
        self.calls: list[tuple[str, list[str]]] = []
        self.topics: set[str] = set()
        self.may_subscribe = asyncio.Event()
        self.may_subscribe.set()

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        await self._send.send(batch)

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            raise BrokerError("the link was cut") from None

    async def subscribe(self, topics: Sequence[str]) -> None:
        self.calls.append(("subscribe", list(topics)))
        await self.may_subscribe.wait()
        assert not self.topics & set(topics)
        self.topics |= set(topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self.calls.append(("unsubscribe", list(topics)))
        await self.may_subscribe.wait()
        assert self.topics >= set(topics)
        self.topics -= set(topics)

    def cut(self) -> None:
        self._send.close()

    async def aclose(self) -> None:
        self.is_closed = True
        self._send.close()
        self._receive.close()


class Broker:
    """A broker, and the bus of one process that uses it."""

    def __init__(self) -> None:
        self.links: list[MemoryLink] = []
        self.received: list[tuple[str, bytes]] = []
        self.changes: list[bool] = []
        self.metrics = Metrics()
        self.failures = 0
        self._notified = anyio.Event()
        self.bus = Bus(
            self._open,
            ["all", "own"],
            name="memory",
            received=self._take,
            changed=self._change,
            metrics=self.metrics,
            log=GatewayLog("test"),
        )

    def _take(self, topic: str, data: bytes) -> None:
        self.received.append((topic, data))
        self._notified.set()

    def _change(self, is_up: bool) -> None:
        self.changes.append(is_up)
        self._notified.set()

    async def _open(self, topics: Sequence[str]) -> Link:
        if self.failures:
            self.failures -= 1
            raise BrokerError("it refuses")
        self.links.append(MemoryLink())
        return self.links[-1]

    async def until(self, *, received: int = 0, changes: int = 0) -> None:
        with anyio.fail_after(10):
            while len(self.received) < received or len(self.changes) < changes:
                self._notified = anyio.Event()
                await self._notified.wait()


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with running(Broker()) as broker:
        yield broker


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Broker]:
    try:
        with anyio.fail_after(10):
            await broker.bus.start()
        yield broker
    finally:
        await broker.bus.aclose()


async def test_messages_arrive_in_order_with_their_topics_and_probes_do_not(broker: Broker) -> None:
    for number in range(3):
        assert broker.bus.publish("all" if number else "own", b"%d" % number)
    await broker.until(received=3)
    assert broker.received == [("own", b"0"), ("all", b"1"), ("all", b"2")]
    assert (broker.changes, broker.bus.failure, broker.metrics.broker_received) == ([True], "", 3)


async def test_a_message_that_the_broker_would_refuse_is_not_queued(broker: Broker) -> None:
    assert not broker.bus.publish("all", b"x" * 101)
    assert broker.metrics.broker_dropped["too_large"] == 1


async def test_a_link_that_is_lost_is_replaced(broker: Broker) -> None:
    broker.links[0].cut()
    await broker.until(changes=3)
    broker.bus.publish("all", b"again")
    await broker.until(received=1)
    assert broker.changes == [True, False, True]
    assert [link.is_closed for link in broker.links] == [True, False]


async def test_what_was_published_while_the_broker_was_unavailable_arrives_later() -> None:
    broker = Broker()
    broker.failures = 1
    async with running(broker):
        assert (broker.bus.is_up, broker.bus.failure) == (False, "it refuses")
        broker.bus.publish("all", b"early")
        await broker.until(received=1)
        assert (broker.received, broker.bus.failure) == ([("all", b"early")], "")


@pytest.mark.parametrize(("size", "most"), [(1, OUTBOX_MESSAGES), (OUTBOX_BYTES // 4, 4)], ids=["messages", "bytes"])
async def test_a_full_outbox_drops_the_oldest(size: int, most: int) -> None:
    broker = Broker()
    for _ in range(most + 2):
        assert broker.bus.publish("all", b"x" * size)
    assert broker.metrics.broker_dropped["outbox"] == 2


async def test_closing_writes_what_waits_and_may_be_done_twice(broker: Broker) -> None:
    broker.bus.publish("all", b"last")
    await broker.bus.aclose()
    await broker.bus.aclose()
    assert broker.links[0].is_closed
    assert broker.received == [("all", b"last")]

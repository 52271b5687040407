"""The link of a process to its broker, over a broker in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.clocks import block, jumping, pass_time
from wsgateway.cluster.brokers import Link
from wsgateway.cluster.bus import OUTBOX_BYTES, OUTBOX_MESSAGES, Bus
from wsgateway.cluster.topics import TOPIC_BATCH
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
        self.published: set[str] = set()
        self.may_subscribe = asyncio.Event()
        self.may_subscribe.set()

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        self.published |= {topic for topic, _ in batch}
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
        self.holds = False
        self.link = MemoryLink
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
        self.links.append(self.link())
        if self.holds:
            self.links[-1].may_subscribe.clear()
        return self.links[-1]

    async def until(self, *, received: int = 0, changes: int = 0) -> None:
        with anyio.fail_after(10):
            while len(self.received) < received or len(self.changes) < changes:
                self._notified = anyio.Event()
                await self._notified.wait()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await asyncio.sleep(0)  # one iteration of the event loop, in which the bus goes on


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


class Stubborn(MemoryLink):
    """A link that loses a cancellation while it publishes, as `asyncio.wait_for` may before 3.12."""

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        await super().publish(batch)
        if ("all", b"last") in batch:
            self.cut()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


async def test_a_link_that_is_lost_while_it_publishes_is_replaced() -> None:
    broker = Broker()
    broker.link = Stubborn
    await broker.bus.start()
    broker.bus.publish("all", b"last")
    await broker.until(changes=3)
    assert broker.changes == [True, False, True]
    await broker.bus.aclose()


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


async def test_probes_return_on_a_link_that_always_has_messages() -> None:
    class Flooded(MemoryLink):
        async def receive(self) -> Sequence[tuple[str, bytes]]:
            return self._receive.receive_nowait() if self._receive.statistics().current_buffer_used else [("all", b"x")]

    broker = Broker()
    broker.link = Flooded
    async with running(broker):
        assert broker.bus.is_up
        with anyio.fail_after(10):
            await broker.bus.follow("t")


# Topics


async def test_topics_that_are_followed_in_one_iteration_are_one_batch(broker: Broker) -> None:
    futures = [broker.bus.follow(f"t{number}") for number in range(5)]
    with anyio.fail_after(5):
        await asyncio.gather(*futures)
    assert broker.links[0].calls == [("subscribe", ["t0", "t1", "t2", "t3", "t4"])]
    assert broker.bus.topics == 5


async def test_many_topics_are_several_batches_one_after_the_other(broker: Broker) -> None:
    link = broker.links[0]
    link.may_subscribe.clear()
    futures = [broker.bus.follow(f"t{number}") for number in range(2 * TOPIC_BATCH + 1)]
    await until(lambda: bool(link.calls))
    assert [len(topics) for _, topics in link.calls] == [TOPIC_BATCH]
    link.may_subscribe.set()
    with anyio.fail_after(5):
        await asyncio.gather(*futures)
    assert [len(topics) for _, topics in link.calls] == [TOPIC_BATCH, TOPIC_BATCH, 1]


async def test_a_topic_that_is_followed_twice_is_subscribed_to_once(broker: Broker) -> None:
    with anyio.fail_after(5):
        await asyncio.gather(broker.bus.follow("t"), broker.bus.follow("t"))
        await broker.bus.follow("t")
    assert broker.links[0].calls == [("subscribe", ["t"])]
    assert broker.bus.topics == 1


async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others(broker: Broker) -> None:
    one, two = broker.bus.follow("t"), broker.bus.follow("t")
    one.cancel()
    with anyio.fail_after(5):
        await two
    assert broker.links[0].topics == {"t"}


async def test_follow_unfollow_and_follow_in_one_iteration_end_followed(broker: Broker) -> None:
    first = broker.bus.follow("t")
    broker.bus.unfollow("t")
    second = broker.bus.follow("t")
    with pytest.raises(BrokerError, match="no longer followed"):
        await first
    with anyio.fail_after(5):
        await second
    assert broker.links[0].calls == [("subscribe", ["t"])]


async def test_unfollow_and_follow_in_one_iteration_change_nothing(broker: Broker) -> None:
    with anyio.fail_after(5):
        await broker.bus.follow("t")
        broker.bus.unfollow("t")
        await broker.bus.follow("t")
        await broker.bus.follow("fence")
    assert broker.links[0].calls == [("subscribe", ["t"]), ("subscribe", ["fence"])]


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize("steps", range(5))
async def test_changes_while_a_batch_is_in_flight_end_in_the_right_state(broker: Broker, kind: str, steps: int) -> None:
    link = broker.links[0]
    if kind == "unsubscribe":
        with anyio.fail_after(5):
            await broker.bus.follow("t")
        broker.bus.unfollow("t")
    else:
        broker.bus.follow("t")
    link.may_subscribe.clear()
    await until(lambda: bool(link.calls) and link.calls[-1][0] == kind)
    follows = kind == "subscribe"
    for _ in range(steps):
        follows = not follows
        if follows:
            pending = broker.bus.follow("t")
        else:
            broker.bus.unfollow("t")
    link.may_subscribe.set()
    if follows and steps:
        with anyio.fail_after(5):
            await pending
    with anyio.fail_after(5):
        await broker.bus.follow("fence")
    assert link.topics == ({"t", "fence"} if follows else {"fence"})


async def test_a_topic_that_was_never_followed_may_be_unfollowed(broker: Broker) -> None:
    broker.bus.unfollow("t")
    with anyio.fail_after(5):
        await broker.bus.follow("fence")
    assert broker.links[0].calls == [("subscribe", ["fence"])]


async def test_a_new_link_has_all_topics_before_the_broker_is_available(broker: Broker) -> None:
    topics = {f"t{number}" for number in range(TOPIC_BATCH + 10)}
    with anyio.fail_after(5):
        await asyncio.gather(*(broker.bus.follow(topic) for topic in topics))
    broker.holds = True
    broker.links[0].cut()
    await until(lambda: len(broker.links) == 2 and bool(broker.links[1].calls))
    late = broker.bus.follow("late")
    await broker.until(received=0, changes=2)
    assert (broker.changes, broker.bus.is_up, late.done()) == ([True, False], False, False)
    broker.links[1].may_subscribe.set()
    await broker.until(changes=3)
    assert broker.links[1].topics >= topics
    with anyio.fail_after(5):
        await late


async def test_a_topic_that_is_followed_without_a_link_fails_and_comes_with_the_next() -> None:
    broker = Broker()
    broker.failures = 1
    async with running(broker):
        pending = broker.bus.follow("t")
        with pytest.raises(BrokerError, match="it refuses"):
            await pending
        await broker.until(changes=1)
        assert broker.links[0].topics == {"t"}


async def test_a_topic_that_was_unfollowed_without_a_link_does_not_come_with_the_next() -> None:
    broker = Broker()
    broker.failures = 1
    async with running(broker):
        broker.bus.follow("t")
        broker.bus.unfollow("t")
        await broker.until(changes=1)
        assert broker.links[0].topics == set()


async def test_a_link_that_is_lost_fails_those_that_wait_and_the_next_has_their_topics(broker: Broker) -> None:
    broker.links[0].may_subscribe.clear()
    pending, cancelled, forgotten = (broker.bus.follow("t") for _ in range(3))
    cancelled.cancel()
    del forgotten  # which logs nothing
    await until(lambda: bool(broker.links[0].calls))
    broker.links[0].cut()
    with anyio.fail_after(5), pytest.raises(BrokerError, match="the link was cut"):
        await pending
    await broker.until(changes=3)
    assert broker.links[1].topics == {"t"}


async def test_closing_fails_those_that_wait(broker: Broker) -> None:
    broker.links[0].may_subscribe.clear()
    waiting = broker.bus.follow("t")
    await until(lambda: bool(broker.links[0].calls))
    queued = broker.bus.follow("u")
    await broker.bus.aclose()
    for future in (waiting, queued, broker.bus.follow("v")):
        with pytest.raises(BrokerError):
            await future


@jumping
async def test_a_link_that_does_not_subscribe_in_time_is_replaced() -> None:
    async with running(Broker()) as broker:
        broker.links[0].may_subscribe.clear()
        with pytest.raises(BrokerError, match="within 4 s"):
            await broker.bus.follow("t")
        await broker.until(changes=3)
        assert broker.links[1].topics == {"t"}


@jumping
async def test_a_loop_that_was_blocked_while_a_link_subscribes_loses_no_link() -> None:
    async with running(Broker()) as broker:
        broker.links[0].may_subscribe.clear()
        pending = broker.bus.follow("t")
        await until(lambda: bool(broker.links[0].calls))
        block(60)
        await pass_time(0)
        broker.links[0].may_subscribe.set()
        await pending
        assert len(broker.links) == 1


async def test_topics_are_not_probed(broker: Broker) -> None:
    with anyio.fail_after(5):
        await asyncio.gather(*(broker.bus.follow(f"t{number}") for number in range(300)))
    assert broker.links[0].published <= {"all", "own"}

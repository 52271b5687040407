"""Topics that are subscribed to at run time: their rules, the contract of a link over every broker with a real server,
and both together.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import anyio
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.machines import run_machine
from tests.services import BROKERS, Service, broker, nats, redis
from wsgateway.cluster.brokers import Link, opener, release
from wsgateway.cluster.brokers import nats as nats_link
from wsgateway.cluster.brokers.ipc import FENCE, take_proxy
from wsgateway.cluster.bus import Bus
from wsgateway.cluster.topics import TOPIC_BATCH, Topics
from wsgateway.exceptions import BrokerError
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

# The rules


class Steps(RuleBasedStateMachine):
    """Follows, unfollows and lost links in any order, against what was asked for last."""

    topics = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.state = Topics()
        self.followed: set[str] = set()
        self.link: set[str] | None = None
        self.batch: Sequence[str] = ()
        self.waiting: dict[str, list[asyncio.Future[None]]] = {}
        self.loop = asyncio.new_event_loop()

    @rule(topic=topics)
    def follow(self, topic: str) -> None:
        async def call() -> asyncio.Future[None]:
            return self.state.follow(topic)

        future = self.loop.run_until_complete(call())
        self.followed.add(topic)
        if self.link is None:
            assert isinstance(future.exception(), BrokerError)
        else:
            self.waiting.setdefault(topic, []).append(future)

    @rule(topic=topics)
    def unfollow(self, topic: str) -> None:
        self.state.unfollow(topic)
        self.followed.discard(topic)
        assert all(future.done() for future in self.waiting.pop(topic, ()))

    @rule()
    def take(self) -> None:
        if self.link is not None:
            self._confirm()
            added, removed = self.state.take()
            assert not self.link & set(added)
            assert self.link >= set(removed)
            self.link -= set(removed)
            self.batch = added

    def _confirm(self) -> None:
        assert self.link is not None
        self.link |= set(self.batch)
        self.state.confirm(self.batch)
        self.batch = ()

    @rule()
    def lose(self) -> None:
        self.state.close("lost")
        self.link, self.batch = None, ()
        assert all(future.done() for futures in self.waiting.values() for future in futures)
        self.waiting.clear()

    @rule()
    def open(self) -> None:
        if self.link is None:
            self.state.open()
            self.link = set()

    @invariant()
    def what_is_in_force_is_subscribed_to(self) -> None:
        for topic, futures in self.waiting.items():
            if any(future.done() for future in futures):
                assert self.link is not None
                assert topic in self.link

    def teardown(self) -> None:
        self.open()
        assert self.link is not None
        for _ in range(3):
            self.take()
        self._confirm()
        assert self.link == self.followed
        assert len(self.state) == len(self.followed)
        assert all(future.exception() is None for futures in self.waiting.values() for future in futures)
        assert not any(self.state.take())
        self.loop.close()


def test_topics_end_as_they_were_asked_for_last() -> None:
    run_machine(Steps, variable="TOPIC_EXAMPLES", examples=60, steps=40)


# The contract of a link


@pytest.fixture(scope="module", params=BROKERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with TemporaryDirectory() as folder, broker(request.param, Path(folder) / "ipc") as service:
        yield service


class Reader:
    """A link that is read all the time. `received` has what arrived, by topic."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.received: dict[str, list[bytes]] = {}
        self.failure: BrokerError | None = None
        self._arrived = anyio.Event()

    async def read(self) -> None:
        try:
            while True:
                for topic, data in await self.link.receive():
                    self.received.setdefault(topic, []).append(data)
                self._arrived.set()
                await asyncio.sleep(0)  # `receive` may return without waiting
        except BrokerError as exc:
            self.failure = exc
            self._arrived.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            while not condition():
                self._arrived = anyio.Event()
                await self._arrived.wait()

    async def catch_up(self, publishing: Link, topic: str = "fixed") -> None:
        """Return when all has arrived that was published before on `publishing`."""
        mark = random.randbytes(8)
        while mark not in self.received.get(topic, ()):
            await publishing.publish([(topic, mark)])
            with anyio.move_on_after(0.05):
                await self.until(lambda: mark in self.received.get(topic, ()))


@asynccontextmanager
async def reader(url: str) -> AsyncIterator[Reader]:
    """A link that is connected, and reads."""
    open_link = opener(url)
    link = await open_link(["fixed"])
    reader = Reader(link)
    task = asyncio.create_task(reader.read())
    try:
        await reader.catch_up(link)
        yield reader
    finally:
        task.cancel()  # first, because redis-py would connect again
        await asyncio.wait({task})
        await link.aclose()
        await release(open_link)


async def test_a_topic_that_was_subscribed_to_is_received_and_no_other(service: Service) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        with anyio.fail_after(10):
            await one.link.subscribe(["a", "ab"])
        await two.link.publish([("a", b"1"), ("ab", b"2"), ("abc", b"3"), ("A", b"4")])
        await one.catch_up(two.link)
        one.received.pop("fixed")
        assert one.received == {"a": [b"1"], "ab": [b"2"]}


async def test_nothing_that_is_published_after_subscribe_has_returned_is_missed(service: Service) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        topics = [f"hammered.{number}" for number in range(100)]
        number = 0
        is_over = False

        async def hammer() -> None:
            nonlocal number
            while not is_over:
                number += 1
                beat = b"%d" % number
                await two.link.publish([(topic, beat) for topic in (*topics, "fixed")])
                await one.until(lambda beat=beat: one.received["fixed"][-1] == beat)  # type: ignore[misc]  # its default

        task = asyncio.create_task(hammer())
        first: dict[str, int] = {}
        with anyio.fail_after(30):
            for topic in topics:
                before = number
                await one.link.subscribe([topic])
                first[topic] = number + 1  # the next that is published, at the latest
                while number <= before + 1:
                    await asyncio.sleep(0)  # the publisher's turn
        is_over = True
        await task
        await one.catch_up(two.link)
        await one.until(lambda: all(one.received.get(topic, [b""])[-1] == b"%d" % number for topic in topics))
        for topic in topics:
            numbers = [int(data) for data in one.received[topic]]
            assert numbers == list(range(numbers[0], number + 1))
            assert numbers[0] <= first[topic]


async def test_a_topic_that_was_unsubscribed_from_is_received_no_more(service: Service) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        with anyio.fail_after(10):
            await one.link.subscribe(["ends", "stays"])
            await one.link.unsubscribe(["ends"])
            await one.link.subscribe(["after"])
        await two.link.publish([("ends", b"1"), ("stays", b"2"), ("after", b"3")])
        await one.until(lambda: "stays" in one.received and "after" in one.received)
        await one.catch_up(two.link)
        assert "ends" not in one.received


async def test_a_topic_may_be_subscribed_to_again_and_is_received_once(service: Service) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        with anyio.fail_after(10):
            for _ in range(10):
                await one.link.subscribe(["again"])
                await one.link.unsubscribe(["again"])
            await one.link.subscribe(["again"])
        await two.link.publish([("again", b"1")])
        await one.until(lambda: "again" in one.received)
        await one.catch_up(two.link)
        assert one.received["again"] == [b"1"]


async def test_a_fence_of_ipc_that_arrives_late_is_no_message(tmp_path: Path) -> None:
    async with reader(f"ipc://{tmp_path / 'ipc'}") as one:
        with anyio.fail_after(10):
            await one.link.subscribe([f"{FENCE}late"])
        await one.link.publish([(f"{FENCE}late", b"")])
        await one.catch_up(one.link)
        assert set(one.received) == {"fixed"}


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "each its own"])
async def test_nats_works_without_a_shared_subscription(is_shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_shared:
        monkeypatch.setattr(nats_link.NatsClient, "has_shared_subscriptions", lambda self: False)

    with nats() as server:
        async with reader(server.url) as one, reader(server.url) as two:
            with anyio.fail_after(10):
                await one.link.subscribe(["a", "b"])
                await one.link.unsubscribe(["a", "never"])
                await one.link.subscribe(["c"])
            await two.link.publish([("a", b"1"), ("b", b"2"), ("c", b"3")])
            await one.until(lambda: "b" in one.received and "c" in one.received)
            await one.catch_up(two.link)
            one.received.pop("fixed")
            assert one.received == {"b": [b"2"], "c": [b"3"]}


@pytest.mark.parametrize("topic", ["", "a*", "*", "a.>", "a b", "a\r\nPUB x 0\r\n", "a..b", ".a", "a."])
async def test_nats_refuses_what_is_no_plain_subject(topic: str) -> None:
    with nats() as server:
        async with reader(server.url) as one:
            with anyio.fail_after(10), pytest.raises(BrokerError, match="without wildcards"):
                await one.link.subscribe([topic])
            with anyio.fail_after(10):
                await one.link.subscribe(["after"])


MANY = 20_000


async def test_20_000_topics_are_in_force_and_each_receives(service: Service) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        topics = [f"wsgateway.ch.default.room%3A{number}" for number in range(MANY)]
        with anyio.fail_after(30):
            for start in range(0, MANY, TOPIC_BATCH):
                await one.link.subscribe(topics[start : start + TOPIC_BATCH])
        with anyio.fail_after(60):
            for start in range(0, MANY, 500):
                part = topics[start : start + 500]
                await two.link.publish([(topic, topic.encode()) for topic in part])
                await one.until(lambda part=part: part[-1] in one.received)  # type: ignore[misc]  # its default
        await one.until(lambda: all(topic in one.received for topic in topics))
        assert all(one.received[topic] == [topic.encode()] for topic in topics)


@pytest.mark.parametrize("count", [5_000])
async def test_one_call_may_have_any_number_of_topics(service: Service, count: int) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        topics = [f"one.call.{number}" for number in range(count)]
        with anyio.fail_after(30):
            await one.link.subscribe(topics)
        await two.link.publish([(topics[0], b"first"), (topics[-1], b"last")])
        await one.until(lambda: topics[0] in one.received and topics[-1] in one.received)
        with anyio.fail_after(30):
            await one.link.unsubscribe(topics)


NAMES = [
    "x",
    "room:1",
    "a.b..c.",
    "*",
    ">",
    "a b\r\nPUB",
    "\x00",
    "%2E%",
    "[a-z]?\\",
    "é" * 127,
    "\N{GRINNING FACE}" * 63,
    "." * 255,
    "~-_" * 85,
]


async def test_every_name_of_a_channel_makes_a_topic(service: Service) -> None:
    topics = ["wsgateway.ch.default." + quote(name, safe="").replace(".", "%2E") for name in NAMES]
    async with reader(service.url) as one, reader(service.url) as two:
        with anyio.fail_after(10):
            await one.link.subscribe(topics)
        await two.link.publish([(topic, name.encode()) for topic, name in zip(topics, NAMES, strict=True)])
        await one.until(lambda: len(one.received) >= 1 + len(NAMES))
        await one.catch_up(two.link)
        one.received.pop("fixed")
        assert one.received == {topic: [name.encode()] for topic, name in zip(topics, NAMES, strict=True)}


@pytest.mark.parametrize("size", [0, 1, 1000, 500_000])
async def test_data_of_every_size_arrives_on_new_topics_in_order(service: Service, size: int) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        with anyio.fail_after(10):
            await one.link.subscribe(["sizes"])
        sent = [b"%d" % number + bytes(size) for number in range(10)]
        await two.link.publish([("sizes", data) for data in sent])
        await one.until(lambda: len(one.received.get("sizes", ())) == len(sent))
        assert one.received["sizes"] == sent


async def test_subscribing_while_much_arrives_is_confirmed(service: Service) -> None:
    async with reader(service.url) as one, reader(service.url) as two:
        is_over = False

        async def flood() -> None:
            sent = len(one.received["fixed"])
            while not is_over:
                await two.link.publish([("fixed", bytes(1000))] * 20)
                sent += 20
                # the server of Redis would disconnect a link that reads much later
                await one.until(lambda sent=sent: len(one.received["fixed"]) > sent - 500)  # type: ignore[misc]  # its default

        task = asyncio.create_task(flood())
        try:
            with anyio.fail_after(20):
                for number in range(20):
                    await one.link.subscribe([f"flooded.{number}"])
        finally:
            is_over = True
            await task


# A link that is cut


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_a_server_that_is_killed_while_a_link_subscribes_fails_the_call(kind: str) -> None:
    with redis() if kind == "redis" else nats() as server:
        async with reader(server.url) as one:
            server.stop()
            pending = asyncio.create_task(one.link.subscribe([f"t{number}" for number in range(TOPIC_BATCH)]))
            await asyncio.sleep(0.05)  # it has been written by then; if not, the test still holds
            assert not pending.done()
            server.kill()
            with anyio.fail_after(10), pytest.raises(BrokerError):
                await pending
            for call in (one.link.subscribe, one.link.unsubscribe):
                with anyio.fail_after(10), suppress(BrokerError, KeyError):
                    await call(["t0"])
            await one.until(lambda: one.failure is not None)


async def test_confirmations_of_the_first_topics_confirm_no_later_ones() -> None:
    with redis() as server:
        link = await opener(server.url)([f"fixed.{number}" for number in range(10)])
        one = Reader(link)
        await asyncio.to_thread(server.command, "PING")  # the server has confirmed the first topics
        server.stop()
        pending = asyncio.create_task(link.subscribe(["a", "b"]))
        task = asyncio.create_task(one.read())
        await asyncio.wait({pending}, timeout=0.2)  # nothing happens in this time
        assert not pending.done()
        server.go_on()
        with anyio.fail_after(10):
            await pending
        task.cancel()
        await asyncio.wait({task})
        await link.aclose()


async def test_a_link_of_ipc_whose_proxy_ends_while_it_subscribes_fails_the_call(tmp_path: Path) -> None:
    folder = tmp_path / "ipc"
    proxy = take_proxy(folder)
    assert proxy is not None
    async with reader(f"ipc://{folder}") as one:
        pending = asyncio.create_task(one.link.subscribe(["t"]))
        await asyncio.to_thread(proxy.close)
        with anyio.fail_after(10), suppress(BrokerError):  # it may have been in force already
            await pending
        with anyio.fail_after(10), pytest.raises(BrokerError, match="has ended"):
            await one.link.subscribe(["u"])
        await one.until(lambda: one.failure is not None)


# The bus over a real broker


class Node:
    """A bus, and what it has received, by topic."""

    def __init__(self, url: str) -> None:
        self.received: dict[str, list[bytes]] = {}
        self.ups = 0
        self.links: list[Link] = []
        self._open = opener(url)
        self._notified = anyio.Event()
        self.bus = Bus(
            self,
            ["fixed"],
            name="test",
            received=self._receive,
            changed=self._change,
            metrics=Metrics(),
            log=GatewayLog("test"),
        )

    async def release(self) -> None:
        await release(self._open)

    async def __call__(self, topics: Sequence[str]) -> Link:
        self.links.append(await self._open(topics))
        return self.links[-1]

    def _receive(self, topic: str, data: bytes) -> None:
        self.received.setdefault(topic, []).append(data)
        self._notified.set()

    def _change(self, is_up: bool) -> None:
        self.ups += is_up
        self._notified.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not condition():
                self._notified = anyio.Event()
                await self._notified.wait()


@asynccontextmanager
async def node(url: str) -> AsyncIterator[Node]:
    node = Node(url)
    try:
        with anyio.fail_after(10):
            await node.bus.start()
        yield node
    finally:
        await node.bus.aclose()


async def settled(futures: Sequence[asyncio.Future[None]]) -> None:
    """Return when no future waits any more, whatever became of it."""
    with anyio.fail_after(30):
        await asyncio.gather(*futures, return_exceptions=True)


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_changes_ends_as_it_was_asked_for_last(service: Service, seed: int) -> None:
    chance = random.Random(seed)
    names = [f"storm.{number}" for number in range(200)]
    followed: dict[str, asyncio.Future[None]] = {}
    futures: list[asyncio.Future[None]] = []
    async with node(service.url) as one, node(service.url) as two:
        for _ in range(300):
            for name in chance.choices(names, k=chance.randrange(60)):
                if chance.random() < 0.5:
                    followed[name] = one.bus.follow(name)
                    futures.append(followed[name])
                else:
                    followed.pop(name, None)
                    one.bus.unfollow(name)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice([0, 0.0005]))  # a batch is in flight
        await settled(futures)
        assert all(future.exception() is None for future in followed.values())
        with anyio.fail_after(10):
            await one.bus.follow("end")  # what was unfollowed before is no longer received when this is
        for name in (*names, "end"):
            two.bus.publish(name, name.encode())
        await one.until(lambda: "end" in one.received and set(followed) <= set(one.received))
        one.bus.publish("fixed", b"")
        await one.until(lambda: "fixed" in one.received)
        assert {topic: len(data) for topic, data in one.received.items()} == dict.fromkeys(followed, 1) | {
            "end": 1,
            "fixed": 1,
        }
        assert one.bus.topics == len(followed) + 1
        assert (len(one.links), len(two.links)) == (1, 1)


@pytest.mark.parametrize("kind", BROKERS)
async def test_20_000_topics_come_with_the_next_link_before_the_broker_is_available(kind: str, tmp_path: Path) -> None:
    with broker(kind, tmp_path / "ipc") as server:
        proxy = take_proxy(tmp_path / "ipc") if kind == "ipc" else None
        async with node(server.url) as one, node(server.url) as two:
            topics = [f"many.{number}" for number in range(MANY)]
            with anyio.fail_after(30):
                await asyncio.gather(*map(one.bus.follow, topics))
            if proxy is None:
                server.kill()
                server.start()
            else:
                await asyncio.to_thread(proxy.close)
            await one.until(lambda: one.ups == 2)
            await two.until(lambda: two.ups == 2)
            for topic in chosen(topics):
                two.bus.publish(topic, b"1")
            await one.until(lambda: len(one.received) == len(chosen(topics)))


def chosen(topics: Sequence[str]) -> Sequence[str]:
    return [*topics[:: MANY // 50], topics[-1]]


@pytest.mark.parametrize("kind", ["redis", "nats"])
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_server_that_fails_in_the_middle_of_a_batch_fails_those_that_wait(
    kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis() if kind == "redis" else nats() as server:
        async with node(server.url) as one:
            monkeypatch.setattr("wsgateway.cluster.bus.TOPICS_TIMEOUT", 1.0)  # the test waits for it
            server.stop()
            futures = [one.bus.follow(f"t{number}") for number in range(3 * TOPIC_BATCH)]
            await asyncio.sleep(0.05)  # the first batch is on its way; if not, the test still holds
            if how == "killed":
                server.kill()
            with anyio.fail_after(10):
                assert all(
                    isinstance(answer, BrokerError) for answer in await asyncio.gather(*futures, return_exceptions=True)
                )
            if how == "killed":
                server.start()
            else:
                server.go_on()
            await one.until(lambda: one.ups == 2)
            with anyio.fail_after(10):
                await asyncio.gather(*(one.bus.follow(f"t{number}") for number in range(3 * TOPIC_BATCH)))
            one.bus.publish("t0", b"1")
            await one.until(lambda: one.received == {"t0": [b"1"]})


async def test_a_link_that_redis_cuts_in_the_middle_is_replaced_and_has_all_topics() -> None:
    with redis() as server:
        async with node(server.url) as one:
            futures = [one.bus.follow(f"t{number}") for number in range(4 * TOPIC_BATCH)]
            await futures[0]
            server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await settled(futures)
            await one.until(lambda: one.ups == 2)
            one.bus.publish(f"t{4 * TOPIC_BATCH - 1}", b"1")
            await one.until(lambda: bool(one.received))


async def test_a_user_of_redis_without_permission_for_a_topic_gets_its_reason() -> None:
    with redis() as server:
        server.command("ACL", "SETUSER", "app", "on", ">secret", "resetchannels", "&fixed", "+@all")
        async with node(server.url.replace("//", "//app:secret@")) as one:
            pending = one.bus.follow("other")
            with anyio.fail_after(10), pytest.raises(BrokerError, match=r"(?i)permission"):
                await pending

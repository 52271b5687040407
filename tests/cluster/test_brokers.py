"""The contract of a broker's link, and of what rests on it, over every broker with a real server."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import anyio
import pytest
import trustme

from tests.services import BROKERS, Process, Service, broker, nats, redis
from wsgateway import ConfigError, Gateway, Settings
from wsgateway.cluster.brokers import Link, opener, release
from wsgateway.cluster.brokers.ipc import take_proxy
from wsgateway.cluster.brokers.redis import RedisLink
from wsgateway.cluster.bus import Bus
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.envelopes import (
    MAX_NODES,
    VERSION,
    Ack,
    Answer,
    Ask,
    Delivery,
    Envelope,
    Heartbeat,
    Here,
    Info,
    Leave,
    decode,
    encode,
)
from wsgateway.cluster.heartbeats import NODE_LINES
from wsgateway.cluster.local import Local
from wsgateway.cluster.questions import Question
from wsgateway.exceptions import BrokerError, NodeError
from wsgateway.frames import NamedMessage
from wsgateway.gateway.answers import info_of
from wsgateway.logs import GatewayLog
from wsgateway.messages import Deliveries, Kind, Message
from wsgateway.metrics import Metrics
from wsgateway.text import mask_url


@pytest.fixture(scope="module", params=BROKERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with TemporaryDirectory() as folder, broker(request.param, Path(folder) / "ipc") as found:
        yield found


@asynccontextmanager
async def linked(url: str, *topics: str) -> AsyncIterator[Link]:
    """An open link whose subscriptions count."""
    open_link = opener(url)
    link = await open_link(topics)
    try:
        for topic in topics:
            with anyio.fail_after(5):
                while True:
                    await link.publish([(topic, b"there?")])
                    with anyio.move_on_after(0.05):
                        assert {data for _, data in await link.receive()} == {b"there?"}
                        break
        yield link
    finally:
        await link.aclose()
        await release(open_link)


async def received(link: Link, count: int) -> list[bytes]:
    found: list[bytes] = []
    with anyio.fail_after(10):
        while len(found) < count:
            found += [data for _, data in await link.receive() if data != b"there?"]
    return found


async def test_what_is_published_arrives_in_order_also_at_the_sender(service: Service) -> None:
    async with linked(service.url, "a") as one, linked(service.url, "a") as two:
        batch = [("a", b"%d" % number) for number in range(1000)]
        for start in range(0, 1000, 100):
            await one.publish(batch[start : start + 100])
        assert await received(two, 1000) == [data for _, data in batch]
        assert await received(one, 1000) == [data for _, data in batch]


async def test_only_topics_that_were_subscribed_to_arrive(service: Service) -> None:
    async with linked(service.url, "a.b") as one, linked(service.url, "a.bc", "d") as two:
        await one.publish([("a.b", b"no"), ("d", b"yes"), ("a.bc", b"too")])
        assert sorted(await received(two, 2)) == [b"too", b"yes"]
        assert await received(one, 1) == [b"no"]


@pytest.mark.parametrize("data", [b"", bytes(range(256)), b"\r\n\x00" * 100_000])
async def test_bytes_arrive_as_they_are(service: Service, data: bytes) -> None:
    async with linked(service.url, "bytes") as link:
        await link.publish([("bytes", data)] * 5)
        assert await received(link, 5) == [data] * 5


async def test_a_link_may_be_closed_twice_and_leaves_no_task(service: Service) -> None:
    before = asyncio.all_tasks()
    async with linked(service.url, "x") as link:
        pass
    await link.aclose()
    with anyio.fail_after(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0)  # one iteration of the event loop, in which a task may end


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "nats://127.0.0.1:1"])
async def test_a_server_that_is_away_is_a_broker_error(url: str) -> None:
    with pytest.raises(BrokerError):
        await opener(url)(["x"])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://host", "is not one of ipc://, redis://"),
        ("redis", "is not one of ipc://, redis://"),
        ("redis://:secret@host:x", "cannot be used"),
        ("ipc://relative", "begins with a slash"),
        ("ipc:///" + "x" * 120, "too long"),
        ("nats://", "does not name a host"),
        ("nats://a:1,:2", "does not name a host"),
        ("unix://", "does not name a socket"),
        ("redis://host?foo=bar", "does not know a parameter"),
    ],
)
def test_a_url_that_cannot_be_used_is_reported_when_the_gateway_is_made(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        Gateway(broker=url)
    assert "secret" not in str(error.value)


def test_an_extra_that_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.cluster.brokers.find_spec", lambda name: None)  # as without the driver
    with pytest.raises(ConfigError, match=r"pip install 'wsgateway\[redis\]'"):
        Gateway(broker="redis://localhost")


# The cluster over it


class Double(Question[int], frozen=True):
    name = "double"
    answer = int

    number: int


class Triple(Question[int], frozen=True):
    name = "triple"
    answer = int


class Member:
    """A process of a gateway as far as its cluster goes: it keeps what it is given."""

    def __init__(self, url: str, *, serves: bool = True, **options: Any) -> None:
        self.frames: list[tuple[bytes, Any]] = []
        self.kinds: list[Kind] = []
        self.names: list[str] = []
        self.links: list[Link] = []
        self.metrics = Metrics()
        self.changed = asyncio.Event()
        self.asked = 0
        self.hold: anyio.Event | None = None
        self._open = opener(url)
        described = info_of("1", "running", connections=3)
        local = Local(self.deliver, lambda: described, {Double: self.double}, self.deliver_to_user)
        self.cluster = Cluster(
            self,
            gateway_id="Test.1",
            broker=url,
            local=local if serves else None,
            metrics=self.metrics,
            log=GatewayLog("test"),
            **options,
        )

    async def release(self) -> None:
        await release(self._open)

    async def __call__(self, topics: Sequence[str]) -> Link:
        self.links.append(await self._open(topics))
        return self.links[-1]

    def deliver(self, frame: Message, ids: Any) -> Deliveries:
        self.frames.append((frame.payload, ids))
        self.kinds.append(frame.kind)
        self.names.append(frame.name)
        self.changed.set()
        self.changed = asyncio.Event()
        return Deliveries(5, 4, 1)

    def deliver_to_user(self, frame: Message, user: str) -> Deliveries:
        return self.deliver(frame, f"user {user}")

    async def double(self, question: Double) -> int:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        if question.number < 0:
            raise ValueError("negative")
        return 2 * question.number

    async def has(self, count: int) -> None:
        with anyio.fail_after(20):
            while len(self.frames) < count:
                await self.changed.wait()


@asynccontextmanager
async def members(url: str, count: int, **options: Any) -> AsyncIterator[list[Member]]:
    async with AsyncExitStack() as stack:
        found = [Member(url, **options) for _ in range(count)]
        for member in found:
            await member.cluster.start()
            stack.push_async_callback(member.cluster.aclose)
        await met(found)
        yield found


async def met(found: list[Member]) -> None:
    """All know each other."""
    with anyio.fail_after(20):
        while not all(len(member.cluster.nodes.alive()) == len(found) - 1 for member in found):
            await anyio.sleep(0.01)  # the broker tells nobody when it is done


async def test_every_other_process_has_each_message_once_and_in_order(service: Service) -> None:
    async with members(service.url, 3) as (one, two, three):
        for number in range(2000):
            one.cluster.publish(Message(b"%d" % number, Kind.BYTES), None, acknowledge=False)
        for other in (two, three):
            await other.has(2000)
            assert [payload for payload, _ in other.frames] == [b"%d" % number for number in range(2000)]
            assert other.metrics.broker_lost == 0
            assert not other.metrics.broker_dropped
        assert one.frames == []


async def test_other_processes_know_whether_a_message_is_text_json_or_bytes(service: Service) -> None:
    async with members(service.url, 2) as (one, two):
        for kind in Kind:
            one.cluster.publish(Message(b"5", kind), None, acknowledge=False)
        await two.has(3)
        assert two.kinds == list(Kind)


async def test_other_processes_know_the_name_of_an_event(service: Service) -> None:
    async with members(service.url, 2) as (one, two):
        for name in ("greeting", "close", "two words"):
            one.cluster.publish(NamedMessage(b"5", Kind.JSON, name), None, acknowledge=False)
            one.cluster.publish_to_user(NamedMessage(b"6", Kind.TEXT, name), "ann", acknowledge=False)
        one.cluster.publish(Message(b"7", Kind.TEXT), None, acknowledge=False)
        await two.has(3)
        assert two.frames == [(b"5", None), (b"6", "user ann"), (b"7", None)]
        assert two.names == ["greeting", "greeting", ""]
        assert two.metrics.broker_dropped["malformed"] == 4  # names that no client can receive


async def test_the_connections_of_a_user_are_counted_in_all(service: Service) -> None:
    async with members(service.url, 3) as (one, two, three):
        pending = one.cluster.publish_to_user(Message(b"\x00", Kind.BYTES), "ann", acknowledge=True)
        assert pending is not None
        sent = await one.cluster.collect(Deliveries(1, 1, 0), pending)
        assert sent == Deliveries(11, 9, 2, nodes=3, complete=True)
        assert two.frames == three.frames == [(b"\x00", "user ann")]


async def test_text_that_is_not_utf_8_is_dropped(service: Service) -> None:
    async with members(service.url, 2) as (one, two):
        for payload, kind in ((b"\xff", Kind.TEXT), (b"\xff", Kind.JSON), (b"\xff", Kind.BYTES), (b"", Kind.TEXT)):
            one.cluster.publish(Message(payload, kind), None, acknowledge=False)
        await two.has(2)
        assert [payload for payload, _ in two.frames] == [b"\xff", b""]
        assert two.metrics.broker_dropped["malformed"] == 2


async def test_counts_of_all_are_added_up(service: Service) -> None:
    async with members(service.url, 3) as (one, _, _):
        pending = one.cluster.publish(Message(b"x", Kind.BYTES), None, acknowledge=True)
        assert pending is not None
        assert await one.cluster.collect(Deliveries(1, 1, 0), pending) == Deliveries(11, 9, 2, 3, True)


async def test_named_recipients_are_found_where_they_are(service: Service) -> None:
    async with members(service.url, 3) as (one, two, three):
        mine, theirs = f"{one.cluster.node}.a", f"{two.cluster.node}.b"
        own, others = one.cluster.split([mine, theirs, theirs, "0123abcd.unknown", "short"])
        assert (own, others) == ([mine, "0123abcd.unknown", "short"], [theirs])
        pending = one.cluster.publish(Message(b"x", Kind.BYTES), others, acknowledge=True)
        assert pending is not None
        assert await one.cluster.collect(Deliveries(0, 0, 0), pending) == Deliveries(5, 4, 1, 2, True)
        assert two.frames == [(b"x", [theirs])]
        assert three.frames == []


async def test_one_process_can_be_asked(service: Service) -> None:
    async with members(service.url, 2) as (one, two):
        assert await one.cluster.ask(two.cluster.node, Double(21)) == 42
        assert await one.cluster.ask_all(Double(1)) == {two.cluster.node: 2}
        with pytest.raises(NodeError, match="the log has the reason"):
            await one.cluster.ask(two.cluster.node, Double(-1))
        with pytest.raises(NodeError, match="does not support the question 'triple'"):
            await one.cluster.ask(two.cluster.node, Triple())
        with pytest.raises(NodeError, match="cannot be reached"):
            await one.cluster.ask("0" * 8, Double(1))


async def test_one_that_leaves_is_not_waited_for(service: Service) -> None:
    async with members(service.url, 2) as (one, two):
        await two.cluster.aclose()
        with anyio.fail_after(5):
            while one.cluster.nodes.alive():
                await anyio.sleep(0.01)  # the broker tells nobody when it is done
        assert [str(node.state) for node in one.cluster.nodes.shown()] == ["left"]
        pending = one.cluster.publish(Message(b"x", Kind.BYTES), None, acknowledge=True)
        assert pending is not None
        assert await one.cluster.collect(Deliveries(1, 1, 0), pending) == Deliveries(1, 1, 0, 1, True)


async def test_one_that_does_not_answer_is_waited_for_once(service: Service) -> None:
    async with members(service.url, 2, timeout=0.2) as (one, two):
        two.cluster._handle = lambda envelope: None  # type: ignore[method-assign]  # it hears, and does nothing
        first = one.cluster.publish(Message(b"x", Kind.BYTES), None, acknowledge=True)
        assert first is not None
        assert await one.cluster.collect(Deliveries(1, 1, 0), first) == Deliveries(1, 1, 0, 1, False)
        second = one.cluster.publish(Message(b"x", Kind.BYTES), None, acknowledge=True)
        assert second is not None
        assert second.done.done()
        assert await one.cluster.collect(Deliveries(1, 1, 0), second) == Deliveries(1, 1, 0, 1, False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed"),
        (b"\x00" * 50, "malformed"),
        (b"\x93\x01\x01\xa8deadbeef", "malformed"),
        (b"\x98\x01\x02\xa8deadbeef\x01\xc4\x01x\xc3\xc0\x00", "version"),
        (b"\x98\x01\x01\xa8deadbeef\x01\xc4\x01\xff\xc3\xc0\x00", "malformed"),
        (b"\xdc\xff\xff" * 1000, "malformed"),
        (b"\x91" * 100_000, "malformed"),
    ],
)
async def test_nonsense_is_counted_and_ends_nothing(service: Service, data: bytes, reason: str) -> None:
    async with members(service.url, 2) as (one, two), linked(service.url, "stranger") as stranger:
        await stranger.publish([("wsgateway.all.test%2E1", data)])
        with anyio.fail_after(5):
            while not two.metrics.broker_dropped[reason]:
                await anyio.sleep(0.01)  # it is told to nobody
        one.cluster.publish(Message(b"after", Kind.BYTES), None, acknowledge=False)
        await two.has(1)
        assert two.frames == [(b"after", None)]


async def test_a_double_is_dropped_and_a_gap_is_counted(service: Service) -> None:
    async with members(service.url, 1) as (one,), linked(service.url, "stranger") as stranger:
        for number in (1, 2, 2, 1, 5):
            data = b"\x98\x01\x01\xa8deadbeef" + bytes([number]) + b"\xc4\x01" + bytes([48 + number]) + b"\xc3\xc0\x00"
            await stranger.publish([("wsgateway.all.test%2E1", data)])
        await one.has(3)
        assert [payload for payload, _ in one.frames] == [b"1", b"2", b"5"]
        assert one.metrics.broker_dropped == {"double": 2}
        assert one.metrics.broker_lost == 2


async def test_numbers_of_one_topic_are_no_doubles_on_another(service: Service) -> None:
    async with members(service.url, 1) as (one,), linked(service.url, "stranger") as stranger:
        for topic in (ALL, f"wsgateway.node.test%2E1.{one.cluster.node}"):
            await stranger.publish([(topic, encode(Delivery(VERSION, "deadbeef", 1, topic.encode(), True)))])
        await one.has(2)
        assert one.metrics.broker_dropped == {}


async def test_what_arrives_names_its_topic(service: Service) -> None:
    async with linked(service.url, "a", "b") as link:
        await link.publish([("b", b"1")])
        with anyio.fail_after(10):
            while (arrived := next(iter(await link.receive())))[1] == b"there?":
                pass
        assert arrived == ("b", b"1")


async def test_every_one_of_many_topics_is_probed() -> None:
    class Loop:
        """A link on which everything comes back."""

        max_payload = 1000

        def __init__(self) -> None:
            self._sent = asyncio.Queue[tuple[str, bytes]]()

        async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
            for item in batch:
                self._sent.put_nowait(item)

        async def receive(self) -> Sequence[tuple[str, bytes]]:
            return [await self._sent.get()]

        async def subscribe(self, topics: Sequence[str]) -> None: ...

        async def unsubscribe(self, topics: Sequence[str]) -> None: ...

        async def aclose(self) -> None: ...

    async def open_link(topics: Sequence[str]) -> Link:
        del topics
        return Loop()

    bus = Bus(
        open_link,
        [f"topic {number}" for number in range(300)],
        name="test",
        received=lambda topic, data: None,
        changed=lambda is_up: None,
        metrics=Metrics(),
        log=GatewayLog("test"),
    )
    with anyio.fail_after(10):
        await bus.start()
    assert (bus.is_up, bus.failure) == (True, "")
    await bus.aclose()


ALL = "wsgateway.all.test%2E1"
STRANGE = Info(host="stranger", pid=1, version="1", age=1.0, state="running")


async def test_no_envelope_ends_a_link(service: Service) -> None:
    async with members(service.url, 2) as (one, two), linked(service.url, "stranger") as stranger:
        for origin in ("a b c d ", "a\r\nPING\r", "*.>.  ..", "deadbeef"):
            strange: list[Envelope] = [
                Heartbeat(VERSION, origin, 1, STRANGE, True),
                Here(VERSION, origin, 2, STRANGE, [origin, "*", ""]),
                Leave(VERSION, origin, 3, "a b c d "),
                Ask(VERSION, origin, 4, 1, "\r\n", {"\r\n": None}),
                Ack(VERSION, origin, 5, 2**50, 1, 1, 1),
                Answer(VERSION, origin, 6, 2**50, None, "\r\n"),
                Delivery(VERSION, origin, 7, b"\xff", True, ["\r\n"], 5),
                Delivery(VERSION, origin, 2**50, b"x", True, None, 5),
            ]
            for envelope in strange:
                for topic in (ALL, f"wsgateway.node.test%2E1.{one.cluster.node}"):
                    await stranger.publish([(topic, encode(envelope))])
        await both_ways(one, two, b"after")
        assert len(one.links) == len(two.links) == 1
        assert not one.metrics.broker_dropped["failed"] + two.metrics.broker_dropped["failed"]


async def test_of_many_processes_that_nobody_knows_few_are_kept_and_logged(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with members(service.url, 2) as (one, two), linked(service.url, "stranger") as stranger:
        began = time.monotonic()
        for number in range(0, 3000, 100):
            beats = [Heartbeat(VERSION, f"{at:08x}", 1, STRANGE) for at in range(number, number + 100)]
            await stranger.publish([(ALL, encode(beat)) for beat in beats])
        with anyio.fail_after(20):
            while one.metrics.broker_dropped["nodes"] < 3000 - MAX_NODES:
                await anyio.sleep(0.01)  # it is told to nobody
        assert len(one.cluster.nodes.shown()) == MAX_NODES
        assert one.cluster.nodes.get(two.cluster.node) is not None
        seconds = time.monotonic() - began
        lines = [record for record in caplog.records if record.name == "wsgateway"]
        assert len(lines) <= 2 * (NODE_LINES + 2) * (seconds + 1)
        await both_ways(one, two, b"after")


async def test_a_number_that_is_absurd_hides_no_later_message(service: Service) -> None:
    async with members(service.url, 1) as (one,), linked(service.url, "stranger") as stranger:
        for number in (1, 2**50, 2):
            await stranger.publish([(ALL, encode(Delivery(VERSION, "deadbeef", number, b"%d" % number, True)))])
        await one.has(2)
        assert [payload for payload, _ in one.frames] == [b"1", b"2"]
        assert one.metrics.broker_lost == 0


async def test_an_envelope_in_its_own_name_is_dropped(service: Service) -> None:
    async with members(service.url, 1) as (one,), linked(service.url, "stranger") as stranger:
        own = encode(Heartbeat(VERSION, one.cluster.node, 2**30, STRANGE))
        assert own[2] == VERSION
        await stranger.publish([(ALL, own[:2] + b"\xcc\x01" + own[3:])])  # the same version in two bytes
        await stranger.publish([(ALL, encode(Delivery(VERSION, "deadbeef", 1, b"after", True)))])
        await one.has(1)
        assert one.cluster.nodes.shown() == []


async def test_an_answer_counts_from_the_process_that_was_asked_only(service: Service) -> None:
    async with members(service.url, 2, timeout=20) as (one, two), linked(service.url, "stranger") as stranger:
        two.hold = anyio.Event()
        async with anyio.create_task_group() as tasks:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await one.cluster.ask(two.cluster.node, Double(21)))

            tasks.start_soon(ask)
            with anyio.fail_after(20):
                while not two.asked:
                    await anyio.sleep(0.01)  # it is told to nobody
            forged = [Answer(VERSION, "deadbeef", number, number, "forged") for number in range(1, 50)]
            topic = f"wsgateway.node.test%2E1.{one.cluster.node}"
            await stranger.publish([(topic, encode(answer)) for answer in forged])
            await stranger.publish([(ALL, encode(Delivery(VERSION, "deadbeef", 1, b"after", True)))])
            await one.has(1)
            two.hold.set()
        assert answers == [42]


async def test_wrong_arguments_are_answered_and_no_traceback(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"search": 5, "offset": "x", "limit": [], "id": {}, "ids": 5, "code": "x", "reason": 5, "payload": 1},
        {"ids": None, "code": 99999, "reason": "x"},
        {"ids": None, "code": 1000, "reason": "x" * 200},
        {"search": "", "offset": -1, "limit": 10**9},
        {"payload": b"{", "kind": "json", "ids": None, "data": "{}"},
        {"payload": b"\xff", "kind": "text", "ids": None, "data": "{}"},
        {"payload": b"[" * 100_000, "kind": "json", "ids": None, "data": "{}"},
        {"payload": b"1", "kind": "json", "ids": None, "data": "5"},
        {"payload": b"NaN", "kind": "json", "ids": None, "data": "{}"},
    ]
    own = "wsgateway.node.default.deadbeef"
    async with Gateway(broker=service.url).lifespan(None), linked(service.url, own) as stranger:
        operations = ("search", "rows", "describe", "close", "send", "unknown")
        asks = [(operation, arguments) for operation in operations for arguments in wrong]
        for number, (operation, arguments) in enumerate(asks, 1):
            ask = Ask(VERSION, "deadbeef", number, number, operation, arguments)
            await stranger.publish([("wsgateway.all.default", encode(ask))])
        answers = {}
        for data in await received(stranger, len(asks)):
            answer = decode(data)
            assert isinstance(answer, Answer)
            answers[answer.ask] = answer
    for number, (operation, arguments) in enumerate(asks, 1):
        if (operation, arguments) != ("search", wrong[4]):  # which is right
            assert answers[number].error, (operation, arguments)
            assert "the log has the reason" not in answers[number].error
    assert not [record for record in caplog.records if record.exc_info]
    lines = [record.getMessage() for record in caplog.records if "with wrong arguments" in record.getMessage()]
    assert 0 < len(lines) <= 2 * len(operations)


# A broker that fails


@pytest.fixture
def server() -> Iterator[Process]:
    with redis() as found:
        yield found


async def both_ways(one: Member, two: Member, text: bytes) -> None:
    """What each sends from now on reaches the other within 5 seconds. The first may be lost."""
    with anyio.fail_after(5):
        while not all(any(payload == text for payload, _ in member.frames) for member in (one, two)):
            one.cluster.publish(Message(text, Kind.BYTES), None, acknowledge=False)
            two.cluster.publish(Message(text, Kind.BYTES), None, acknowledge=False)
            with anyio.move_on_after(0.1):
                await one.changed.wait()


async def is_up(found: list[Member], expected: bool) -> None:
    with anyio.fail_after(30):
        while any(member.cluster.is_up is not expected for member in found):
            await anyio.sleep(0.01)  # it is told to nobody


AWAY = float(os.environ.get("AWAY", "1"))
"""Seconds for which a broker is away; `AWAY=20` is the long form of these tests."""


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_a_broker_that_was_killed_is_joined_again_within_5_s(kind: str) -> None:
    before = asyncio.all_tasks()
    with redis() if kind == "redis" else nats() as server:
        async with members(server.url, 2) as found:
            server.kill()
            await is_up(found, False)
            await anyio.sleep(AWAY)  # how long the broker is away
            server.start()
            await both_ways(found[0], found[1], b"again")
    with anyio.fail_after(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0)  # one iteration of the event loop, in which a task may end


async def test_a_broker_that_is_away_at_the_start_is_joined_when_it_comes(server: Process) -> None:
    server.kill()
    one, two = Member(server.url), Member(server.url)
    async with AsyncExitStack() as stack:
        for member in (one, two):
            await member.cluster.start()
            stack.push_async_callback(member.cluster.aclose)
            assert not member.cluster.is_up
            assert member.cluster.failure
        pending = one.cluster.publish(Message(b"x", Kind.BYTES), None, acknowledge=True)
        assert pending is not None
        assert await one.cluster.collect(Deliveries(1, 1, 0), pending) == Deliveries(1, 1, 0, 1, False)
        server.start()
        await is_up([one, two], True)
        await met([one, two])
        await both_ways(one, two, b"again")


async def test_a_cluster_of_nats_is_reached_where_one_of_it_lives() -> None:
    with nats() as service:
        async with members(f"NATS://127.0.0.1:1,127.0.0.1:{service.port}", 2) as found:
            await both_ways(found[0], found[1], b"x")


@pytest.mark.parametrize("turns", range(12))
async def test_a_link_that_is_lost_as_it_is_closed_holds_nothing_up(turns: int, service: Service) -> None:
    class Lost:
        """A link that its test ends."""

        def __init__(self, link: Link) -> None:
            self.max_payload = link.max_payload
            self.publish = link.publish
            self.subscribe = link.subscribe
            self.unsubscribe = link.unsubscribe
            self.aclose = link.aclose
            self.ended = asyncio.Event()
            self._link = link

        async def receive(self) -> Sequence[tuple[str, bytes]]:
            tasks = [asyncio.ensure_future(self._link.receive()), asyncio.ensure_future(self.ended.wait())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if self.ended.is_set():
                raise BrokerError("it was lost")
            return cast(Sequence[tuple[str, bytes]], tasks[0].result())

    opened: list[Lost] = []
    open_real = opener(service.url)

    async def open_link(topics: Sequence[str]) -> Link:
        opened.append(Lost(await open_real(topics)))
        return opened[-1]

    uplink = Bus(
        open_link,
        ["x"],
        name="test",
        received=lambda topic, data: None,
        changed=lambda is_up: None,
        metrics=Metrics(),
        log=GatewayLog("test"),
    )
    await uplink.start()
    opened[-1].ended.set()
    for _ in range(turns):
        await asyncio.sleep(0)  # one iteration of the event loop
    with anyio.fail_after(5):
        await uplink.aclose()
    await release(open_real)
    opened.clear()
    gc.collect()  # a link that was not closed is a warning, and so a failure


@contextmanager
def over_tls(kind: str, folder: Path, name: str) -> Iterator[Process]:
    """A broker with a certificate for `name`, by an authority whose own is in `ca.pem`."""
    authority = trustme.CA()
    issued = authority.issue_cert(name)
    chain, key, ca = folder / "chain.pem", folder / "key.pem", folder / "ca.pem"
    issued.cert_chain_pems[0].write_to_path(chain)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    if kind == "redis":
        files = ("--tls-cert-file", str(chain), "--tls-key-file", str(key), "--tls-ca-cert-file", str(ca))
        server = redis("--port", "0", "--tls-port", "{port}", *files, "--tls-auth-clients", "no")
    else:
        server = nats("--tls", "--tlscert", str(chain), "--tlskey", str(key))
    with server as service:
        service.url = f"{'rediss' if kind == 'redis' else 'tls'}://localhost:{service.port}"
        yield service


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_a_server_whose_certificate_is_known_is_reached_over_tls(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with over_tls(kind, tmp_path, "localhost") as service:
        with pytest.raises(BrokerError, match=r"(?i)certificate"):
            await opener(service.url)(["x"])
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))  # as of an authority that the system knows
        async with members(service.url, 2) as found:
            await both_ways(found[0], found[1], b"secret")


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_a_certificate_for_another_name_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with over_tls(kind, tmp_path, "broker.example") as service:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with pytest.raises(BrokerError, match=r"(?i)certificate"):
            await opener(service.url)(["x"])


@pytest.mark.parametrize("option", ["ssl_check_hostname=false", "ssl_cert_reqs=none"])
async def test_the_url_of_redis_may_ask_for_less(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with over_tls("redis", tmp_path, "broker.example") as service:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with linked(f"{service.url}?{option}", "x"):
            pass


async def test_tls_is_not_left_out_where_the_server_of_nats_has_none() -> None:
    with nats() as service:
        with pytest.raises(BrokerError, match="does not offer TLS"):
            await opener(f"tls://user:secret@127.0.0.1:{service.port}")(["x"])


async def test_a_server_that_stands_still_is_noticed(server: Process) -> None:
    async with members(server.url, 2) as found:
        server.stop()
        with anyio.fail_after(15):
            await is_up(found, False)
        await anyio.sleep(AWAY)  # how long the server stands still
        server.go_on()
        await both_ways(found[0], found[1], b"again")


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_a_connection_that_the_server_cuts_is_made_anew(server: Process, kind: str) -> None:
    async with members(server.url, 2) as found:
        await both_ways(found[0], found[1], b"before")
        server.command("CLIENT", "KILL", "TYPE", kind)
        await both_ways(found[0], found[1], b"after")


async def test_a_subscription_that_is_lost_is_noticed(server: Process) -> None:
    async with members(server.url, 2) as found:
        link = found[1].links[-1]
        assert isinstance(link, RedisLink)
        await link._pubsub.unsubscribe()  # as a server that fails over may forget it, without a word
        with anyio.fail_after(15):
            await is_up(found[1:], False)
        await is_up(found, True)
        await both_ways(found[0], found[1], b"again")


async def test_when_the_process_with_the_proxy_of_ipc_ends_another_takes_it_over(tmp_path: Path) -> None:
    async with members(f"ipc://{tmp_path / 'ipc'}", 3) as (one, two, three):
        await one.cluster.aclose()  # the first to come had the lock
        await both_ways(two, three, b"again")


async def test_a_broker_with_a_long_way_is_joined(server: Process) -> None:
    """Its round trip takes longer than the first probes wait for each other."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(0.08)  # the way
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(carry(reader, there[1]))
            tasks.create_task(carry(there[0], writer))

    way = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with way:
        port = way.sockets[0].getsockname()[1]
        async with members(f"redis://127.0.0.1:{port}", 2) as found:
            await both_ways(found[0], found[1], b"far")


async def test_redis_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis("--unixsocket", str(path)):
        async with members(f"unix://{path}", 2) as found:
            await both_ways(found[0], found[1], b"near")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p/ss/secret@host:6379/0",
        "nats://u:secret@a,nats://u:secret@b",
        "user:secret@host",
        "redis://host?password=secret",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    assert "secret" not in mask_url(url)
    assert "secret" not in str(Settings(broker=url).shown()["broker"])
    told = ""
    try:
        Gateway(broker=url)
    except ConfigError as exc:
        told = str(exc)
    assert "secret" not in told


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ipc"
    folder.mkdir(mode=0o755)
    with pytest.raises(BrokerError, match="chmod 700"):
        take_proxy(folder)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(BrokerError, match="cannot use the folder"):
        take_proxy(tmp_path / "link")


async def test_flushall_harms_nothing(server: Process) -> None:
    async with members(server.url, 2) as found:
        server.command("FLUSHALL")
        await both_ways(found[0], found[1], b"after")


async def test_the_outbox_is_bounded_and_the_oldest_are_dropped() -> None:
    one = Member("redis://127.0.0.1:1")
    await one.cluster.start()
    for number in range(10_100):
        one.cluster.publish(Message(b"%d" % number, Kind.BYTES), None, acknowledge=False)
    assert one.metrics.broker_dropped["outbox"] >= 100
    assert len(one.cluster._bus._outbox) == 10_000
    await one.cluster.aclose()


async def test_a_message_that_is_too_large_for_the_broker_is_logged(tmp_path: Path) -> None:
    with broker("nats", tmp_path) as service:
        async with members(service.url, 2) as (one, two):
            pending = one.cluster.publish(Message(b"x" * 1_048_576, Kind.BYTES), None, acknowledge=True)
            assert pending is not None
            assert (await one.cluster.collect(Deliveries(1, 1, 0), pending)).complete is False
            assert one.metrics.broker_dropped["too_large"] == 1
            await both_ways(one, two, b"after")

"""A process that only publishes: through a node of the gateway, over each broker."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.services import BROKERS, broker
from wsgateway import ChannelError, Gateway, MessageError, Refused, testing
from wsgateway.exceptions import BrokerError, ConfigError, HistoryError, HookError, NodeError, NodeLate
from wsgateway.gateway.registry import registry
from wsgateway.listeners.event import HandshakeEvent, MessageEvent
from wsgateway.messages import Sent
from wsgateway.publisher import Publisher

ROOMS: Any = {"room:*": {"public": True}}


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with broker(request.param, tmp_path / "ipc") as service:
        yield service.url


@pytest.fixture
def ipc(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/ipc"


class Picky:
    """Counts what `on_message` sees, and refuses or fails if a message says so."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.conn.query.get("user")

    async def on_message(self, event: MessageEvent) -> None:
        self.seen.append((event.message, event.data, event.channel, event.to_user, event.name))
        match event.message:
            case "refused":
                raise Refused(451, "not today")
            case "failed":
                raise KeyError("x")
            case "late":
                raise HistoryError("the store has not answered", is_late=True)


@asynccontextmanager
async def nodes(
    broker_url: str, count: int = 1, channels: Any = None
) -> AsyncIterator[list[tuple[Gateway, str, Picky]]]:
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            picky = Picky()
            gateway = Gateway(picky, id="Chat", broker=broker_url, channels=channels or ROOMS)
            found.append((gateway, await stack.enter_async_context(testing.serve(gateway)), picky))
            registry.remove(gateway)  # which refuses a second one, because a process is one node
        with anyio.fail_after(20):
            while any(len(gateway.cluster.nodes.alive()) < count - 1 for gateway, _, _ in found):
                await anyio.sleep(0.01)  # nothing reports a new peer
        yield found


async def test_what_is_published_reaches_all_and_no_hook(url: str) -> None:
    async with nodes(url, 2) as [(_, first, one), (_, second, two)], Publisher(url, gateway="chat") as publisher:
        async with (
            testing.Client(first, "/ws?user=ann", channels=["room:1"]) as ann,
            testing.Client(second, "/ws?user=bob", channels=["room:1"]) as bob,
        ):
            await ann.subscribed("room:1"), await bob.subscribed("room:1")
            published: tuple[object, ...] = await publisher.apublish({"price": 42})
            assert published == (None, None, None, None, None, None, True)
            await publisher.apublish(b"\x00\xff", user="bob", name="image")
            await publisher.apublish([1], channel="room:1", name="said", tags={"a": "b"}, ttl=60)
            assert await ann.receive_json() == await bob.receive_json() == {"message": {"price": 42}}
            assert await bob.receive_json() == {"base64": "AP8=", "name": "image"}
            said = {"channel": "room:1", "message": [1], "name": "said", "tags": {"a": "b"}}
            assert await ann.receive_json() == await bob.receive_json() == said
            await publisher.apublish("x", connections=["0123abcd.unknown"])
            assert one.seen == two.seen == []


async def test_what_is_sent_passes_one_hook_and_is_counted(url: str) -> None:
    async with nodes(url, 2) as [(_, first, one), (_, second, two)], Publisher(url, gateway="chat") as publisher:
        async with testing.Client(first, "/ws?user=ann") as ann, testing.Client(second, "/ws?user=ann") as also:
            sent = await publisher.asend("to all", data={"n": 10**30})
            assert sent[:5] == (2, 2, 0, 2, True)
            assert (await publisher.asend("to ann", user="ann", name="greeting")).recipients == 2
            for client in (ann, also):
                assert [await client.receive(), await client.receive()] == ["to all", "to ann"]
            await publisher.asend("to a room", channel="room:1")
        seen = [("to all", {"n": 10**30}, "", "", ""), ("to ann", {}, "", "ann", "greeting")]
        assert one.seen + two.seen == [*seen, ("to a room", {}, "room:1", "", "")]
        assert [] in (one.seen, two.seen)  # it keeps to one node, so that its messages have an order


async def test_errors_come_back_as_themselves(ipc: str) -> None:
    async with nodes(ipc), Publisher(ipc, gateway="chat") as publisher:
        for send in (publisher.apublish, publisher.asend):
            with pytest.raises(ChannelError, match="there is no channel"):
                await send("x", channel="rom:1")
            with pytest.raises(ValueError, match="idempotency_key needs a history"):
                await send("x", channel="room:1", idempotency_key="a")
            with pytest.raises(ValueError, match="choose one of them"):
                await send("x", channel="room:1", user="ann")
            with pytest.raises(TypeError, match="no argument"):
                await send("x", chanel="room:1")  # type: ignore[call-arg]  # which is the point
            for wrong in (None, ""):
                with pytest.raises(ValueError, match="text that is not empty"):
                    await send("x", user=wrong)  # type: ignore[arg-type]  # which is the point
            for message in (None, {"a": object()}, "\ud800"):
                with pytest.raises(MessageError):
                    await send(message)
            for connections in ("abc", ["a.b", 5]):
                with pytest.raises(TypeError, match="not a list of connection ids"):
                    await send("x", connections=connections)  # type: ignore[arg-type]  # which is the point
        with pytest.raises(Refused) as refused:
            await publisher.asend("refused")
        assert (refused.value.status, refused.value.reason) == (451, "not today")
        with pytest.raises(HookError, match="on_message"):
            await publisher.asend("failed")
        with pytest.raises(HistoryError) as late:
            await publisher.asend("late")
        assert late.value.is_late


async def test_without_async(url: str) -> None:
    def publish() -> None:
        with Publisher(url, gateway="chat") as publisher:
            publisher.publish("one")
            assert publisher.send("two", data={"a": 1}).recipients == 1

    async with nodes(url) as [(_, served, picky)], testing.Client(served) as ann:
        await asyncio.to_thread(publish)
        assert [await ann.receive(), await ann.receive()] == ["one", "two"]
        assert picky.seen == [("two", {"a": 1}, "", "", "")]


async def test_without_a_node_a_message_is_an_error(url: str) -> None:
    async with Publisher(url, gateway="chat", timeout=0.1) as publisher:
        for send in (publisher.apublish, publisher.asend):
            with pytest.raises(NodeError, match=r"no process that serves gateway \[chat\] can be reached"):
                await send("x")


async def test_a_message_waits_for_a_node_that_starts(ipc: str) -> None:
    async with Publisher(ipc, gateway="chat", timeout=20) as publisher:
        waiting = asyncio.create_task(publisher.asend("x"))
        await anyio.wait_all_tasks_blocked()
        async with nodes(ipc) as [(_, _, picky)]:
            assert (await waiting).nodes == 1
            assert picky.seen == [("x", {}, "", "", "")]


async def test_without_a_broker_a_message_is_an_error() -> None:
    async with Publisher("redis://127.0.0.1:1") as publisher:
        with pytest.raises(BrokerError, match="is unavailable"):
            await publisher.apublish("x")
    with pytest.raises(RuntimeError, match="open the publisher first"):
        await publisher.apublish("x")
    with pytest.raises(ConfigError, match="not a URL"):
        Publisher(None)  # type: ignore[arg-type]  # which is the point


async def test_a_message_that_is_too_large_for_the_broker_is_an_error(tmp_path: Path) -> None:
    with broker("nats", tmp_path) as service:
        async with nodes(service.url) as [(_, served, _)], Publisher(service.url, gateway="chat") as publisher:
            async with testing.Client(served) as ann:
                with pytest.raises(NodeError, match="cannot be sent"):
                    await publisher.apublish("x" * 2**20)
                await publisher.apublish("small")
                assert await ann.receive() == "small"


async def test_a_node_that_does_not_answer_is_replaced_only_for_a_message_with_a_key(ipc: str) -> None:
    channels = {"room:*": {"public": True, "history": 5}}
    async with nodes(ipc, 2, channels) as found, Publisher(ipc, gateway="chat", timeout=0.5) as publisher:
        await publisher.apublish("a", channel="room:1", idempotency_key="1")
        for gateway, _, _ in found:
            if gateway.cluster.node == publisher._relay._node:
                silent = gateway

        async def publish(*args: Any, **options: Any) -> Sent:
            await Gateway.publish(silent, *args, **options)  # and the answer is lost
            await anyio.sleep_forever()
            raise AssertionError

        silent.publish = publish  # type: ignore[method-assign]  # a node that stops in the middle
        again = await publisher.apublish("b", channel="room:1", idempotency_key="2")
        assert not again.is_new
        assert publisher._relay._node != silent.cluster.node
        publisher._relay._node = silent.cluster.node
        publisher._current().nodes.set_late(silent.cluster.node, is_late=False)
        with pytest.raises(NodeLate, match="may have been sent"):
            await publisher.apublish("c", channel="room:1")
        await publisher.apublish("d", channel="room:1")  # by the other node, because the first is late
        history = await silent.history("room:1")
        assert [each.message for each in history.publications] == ["a", "b", "c", "d"]

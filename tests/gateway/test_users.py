"""What is sent to a user, and what ends for a user, in every process of a gateway. Over each broker."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.services import BROKERS, broker
from wsgateway import EVERYBODY, ChannelError, Gateway, MessageError, Refused, testing
from wsgateway.client import asend
from wsgateway.closing import TRY_AGAIN
from wsgateway.gateway.registry import registry
from wsgateway.gateway.shapes import Closed
from wsgateway.listeners.event import HandshakeEvent, MessageEvent, SubscribeEvent


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with broker(request.param, tmp_path / "ipc") as service:
        yield service.url


@pytest.fixture
def ipc(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/ipc"


class Named:
    """The user stands in the URL. `gate` holds back `on_handshake` or `on_subscribe`."""

    gate: anyio.Event | None = None
    reached: anyio.Event

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.conn.query.get("user")
        event.channels = event.conn.query.getlist("granted")
        if event.conn.query.get("wait") == "handshake":
            await self._wait()

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        if event.channel == "slow":
            await self._wait()

    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is not None:
            event.to_user = event.conn.user

    async def _wait(self) -> None:
        assert self.gate is not None
        self.reached.set()
        await self.gate.wait()

    def hold(self) -> None:
        Named.gate, Named.reached = anyio.Event(), anyio.Event()

    def let_go(self) -> None:
        assert self.gate is not None
        self.gate.set()


class Nodes:
    """Nodes of one gateway, all in this process, and the clients of each."""

    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.gateways: list[Gateway] = []
        self.urls: list[str] = []

    async def client(self, node: int, query: str, **options: Any) -> testing.Client:
        return await self.stack.enter_async_context(testing.Client(self.urls[node], f"/ws?{query}", **options))


@asynccontextmanager
async def nodes(broker_url: str, count: int = 2, **options: Any) -> AsyncIterator[Nodes]:
    """That many nodes that know each other."""
    found = Nodes()
    async with AsyncExitStack() as stack:
        for _ in range(count):
            gateway = Gateway(Named, broker=broker_url, **options)
            found.urls.append(await stack.enter_async_context(testing.serve(gateway)))
            found.gateways.append(gateway)
            registry.remove(gateway)  # which refuses a second one, because a process is one node
        with anyio.fail_after(20):
            while any(len(gateway.cluster.nodes.alive()) < count - 1 for gateway in found.gateways):
                await anyio.sleep(0.01)  # nothing reports a new peer
        async with found.stack:
            yield found


async def test_a_message_to_a_user_reaches_each_device_wherever_it_is(url: str) -> None:
    async with nodes(url, 3) as found:
        devices = [await found.client(node, "user=ann") for node in (0, 1, 2, 2)]
        bob = await found.client(1, "user=bob")
        sent = await found.gateways[0].send({"order": 7}, user="ann")
        assert sent[:5] == (4, 4, 0, 3, True)
        assert {await device.receive() for device in devices} == {'{"order":7}'}
        published = await found.gateways[1].publish(b"\xff", user="ann", name="image")
        assert published.recipients is None
        assert {await device.receive() for device in devices} == {b"\xff"}
        assert (await found.gateways[2].send("for bob", user="bob")).recipients == 1
        assert await bob.receive() == "for bob"
        assert (await found.gateways[2].send("x", user="nobody"))[:5] == (0, 0, 0, 3, True)


async def test_a_message_keeps_the_name_of_its_event(url: str) -> None:
    async with nodes(url) as found:
        ann = await found.client(1, "user=ann", channels=[])
        for target in ({"user": "ann"}, {"connections": [conn.id for conn in found.gateways[1].connections]}, {}):
            await found.gateways[0].publish([1], name="greeting", **target)
            assert await ann.receive_json() == {"message": [1], "name": "greeting"}


async def test_the_sender_is_left_out_and_its_other_devices_are_not(ipc: str) -> None:
    async with nodes(ipc, echo_sender=False) as found:
        phone, laptop = await found.client(0, "user=ann"), await found.client(1, "user=ann")
        await phone.send("from the phone")
        assert await laptop.receive() == "from the phone"
        await laptop.send("from the laptop")
        assert await phone.receive() == "from the laptop"


async def test_a_user_is_subscribed_and_unsubscribed_on_every_device(url: str) -> None:
    async with nodes(url, 3) as found:
        gateway = found.gateways[0]
        devices = [await found.client(node, "user=ann", channels=[]) for node in (0, 1, 2)]
        await found.client(2, "user=bob", channels=["room"])
        assert await gateway.subscribe("room", user="ann", info={"n": 10**40}) == 3
        for device in devices:
            await device.subscribed("room")
        assert [member.info for member in (await found.gateways[1].presence("room")).members if member.info] != []
        assert await found.gateways[1].subscribe("room", user="ann") == 0
        assert await found.gateways[2].unsubscribe("room", user="ann", reason="removed") == 3
        for device in devices:
            assert await device.receive_json() == {"unsubscribed": "room", "code": 2000, "reason": "removed"}
        assert await gateway.unsubscribe("room", user="ann") == 0
        assert await gateway.subscribe("room", EVERYBODY) == 3
        assert await gateway.unsubscribe("room", EVERYBODY) == 4


async def test_a_user_is_disconnected_on_every_device(url: str) -> None:
    async with nodes(url, 3) as found:
        devices = [await found.client(node, "user=ann") for node in (0, 1, 2)]
        await found.client(2, "user=bob")
        assert await found.gateways[0].disconnect(user="ann", reason="logged out") == 3
        for device in devices:
            assert await device.closed() == (3503, "logged out")
        assert await found.gateways[0].disconnect(EVERYBODY, code=1000) == 1


async def test_connections_of_other_nodes_are_named_by_their_ids(ipc: str) -> None:
    async with nodes(ipc, 3) as found:
        for node in range(3):
            await found.client(node, f"user={node}", channels=[])
        ids = [conn.id for gateway in found.gateways for conn in gateway.connections]
        first = next(iter(found.gateways[0].connections))
        assert await found.gateways[0].subscribe("room", [first, *ids, "unknown", ids[1]]) == 3
        assert await found.gateways[1].unsubscribe("room", [first, ids[2]]) == 2
        assert await found.gateways[2].disconnect([ids[0], ids[0]]) == 1
        with pytest.raises(TypeError, match="use connections or their ids"):
            await found.gateways[0].disconnect([None])  # type: ignore[list-item]  # which is the point
        for wrong in (None, ""):
            with pytest.raises(ValueError, match="text that is not empty"):
                await found.gateways[0].disconnect(user=wrong)  # type: ignore[arg-type]


async def test_a_refused_subscription_is_an_error_and_the_others_begin(ipc: str) -> None:
    async with nodes(ipc, max_channels=1) as found:
        full = await found.client(1, "user=ann", channels=["one"])
        await full.subscribed("one")
        rest = [await found.client(node, "user=ann", channels=[]) for node in (0, 1)]
        with pytest.raises(ChannelError, match="at most 1 channels"):
            await found.gateways[0].subscribe("two", user="ann")
        for device in rest:
            await device.subscribed("two")
        with pytest.raises(ChannelError):
            await found.gateways[0].subscribe("two words", user="ann")


async def test_a_hook_that_decides_meanwhile_in_another_node_does_not_let_a_user_in(url: str) -> None:
    async with nodes(url) as found:
        Named().hold()
        ann = await found.client(1, "user=ann", channels=[])
        await ann.send_json({"subscribe": "slow"})
        await Named.reached.wait()
        assert await found.gateways[0].unsubscribe("slow", user="ann") == 0
        Named().let_go()
        with pytest.raises(Refused) as caught:
            await ann.subscribed("slow")
        assert caught.value.status == 503
        assert not found.gateways[1].local_channels


@pytest.mark.parametrize("disconnects", [True, False])
async def test_a_handshake_that_is_decided_meanwhile_has_to_try_again(ipc: str, disconnects: bool) -> None:
    async with nodes(ipc) as found:
        Named().hold()
        async with anyio.create_task_group() as tasks:
            closes: list[Any] = []

            async def connect(user: str) -> None:
                client = await found.client(1, f"user={user}&wait=handshake&granted=room:1")
                closes.append((user, await client.closed()) if user == "ann" else (user, None))

            tasks.start_soon(connect, "ann")
            tasks.start_soon(connect, "bob")
            await Named.reached.wait()
            if disconnects:
                assert await found.gateways[0].disconnect(user="ann") == 0
            else:
                assert await found.gateways[0].unsubscribe("room:1", user="ann") == 0
            Named().let_go()
        assert dict(closes)["ann"][0] == TRY_AGAIN
        assert dict(closes)["bob"] is None
        assert [conn.user for conn in found.gateways[1].connections] == ["bob"]


async def test_a_node_that_does_not_answer_is_logged_and_the_others_count(
    ipc: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(ipc, 3, broker_timeout=0.2) as found:
        for node in range(3):
            await found.client(node, "user=ann")
        silent = found.gateways[2]
        silent.cluster._asks._answering.clear()  # type: ignore[union-attr]  # as a node of an earlier version
        assert await found.gateways[0].subscribe("room", user="ann") == 2
        closed = await found.gateways[0].inspector.close(None, 3503, "", user="ann")
        assert (closed.closed, closed.complete) == (2, False)
        assert "subscribe: node" in caplog.text
        assert len(silent.connections) == 1


# The counts of a channel

CHANNELS: Any = {"room:*": {"public": True}}
KEPT: Any = {"room:*": {"public": True, "history": 5}}


async def test_a_message_to_a_channel_is_counted_in_every_node(url: str) -> None:
    async with nodes(url, 3, channels=CHANNELS, local_access=True) as found:
        first = found.gateways[0]
        assert (await first.send("x", channel="room:1"))[:5] == (0, 0, 0, 3, True)
        clients = [await found.client(node, "", channels=["room:1"]) for node in (0, 1, 1)]
        for client in clients:
            await client.subscribed("room:1")
        for gateway in found.gateways:
            assert (await gateway.send("x", channel="room:1"))[:5] == (3, 3, 0, 3, True)
        sent = await asend(f"{found.urls[2]}/send", "y", channel="room:1")
        assert sent[:5] == (3, 3, 0, 3, True)
        assert [(await clients[2].receive_json())["message"] for _ in range(4)] == ["x", "x", "x", "y"]
        published: tuple[object, ...] = await first.publish("z", channel="room:1")
        assert published[:5] == (None,) * 5
        for gateway in found.gateways:
            assert_nothing_waits(gateway)


@pytest.mark.parametrize("kind", ["ipc", "redis"])
async def test_a_message_to_a_channel_with_a_shared_history_is_counted_in_every_node(kind: str, tmp_path: Path) -> None:
    with broker(kind, tmp_path / "ipc") as service:
        async with nodes(service.url, 3, channels=KEPT) as found:
            first = found.gateways[0]
            assert (await first.send("x", channel="room:1"))[:5] == (0, 0, 0, 3, True)
            for node in (0, 1, 1):
                await (await found.client(node, "", channels=["room:1"])).subscribed("room:1")
            for number, gateway in enumerate(found.gateways):
                sent = await gateway.send("x", channel="room:1", idempotency_key=f"{number}")
                assert sent[:5] == (3, 3, 0, 3, True)
                again = await gateway.send("x", channel="room:1", idempotency_key=f"{number}")
                assert (again[:3], again.at, again.is_new) == ((0, 0, 0), sent.at, False)
            for gateway in found.gateways:
                assert_nothing_waits(gateway)


async def test_a_node_that_has_missed_a_message_counts_none(ipc: str) -> None:
    async with nodes(ipc, channels=CHANNELS) as found:
        one, two = found.gateways
        await (await found.client(1, "", channels=["room:1"])).subscribed("room:1")
        following = two._parts.channels.following
        assert following is not None
        following.published = lambda *_: None  # type: ignore[method-assign]  # as if the broker had lost it
        assert (await one.send("x", channel="room:1"))[:5] == (0, 0, 0, 2, True)


async def test_a_message_that_is_too_large_leaves_no_count_behind(tmp_path: Path) -> None:
    with broker("nats", tmp_path) as service:
        async with nodes(service.url, channels=CHANNELS) as found:
            with pytest.raises(MessageError, match="cannot be published"):
                await found.gateways[0].send("x" * (17 * 2**20), channel="room:1")
            assert_nothing_waits(found.gateways[0])


def assert_nothing_waits(gateway: Gateway) -> None:
    """No count of `gateway` waits for other nodes."""
    following = gateway._parts.channels.following
    assert following is not None
    assert not following.counting._own
    assert not following.counting._tallies.has_requests
    assert not gateway.cluster._acks._pending  # type: ignore[union-attr]  # it has a broker


async def test_without_the_broker_the_connections_of_this_process_are_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with broker("redis", tmp_path) as service:
        async with nodes(service.url, channels=CHANNELS) as found:
            one, two = found.gateways
            for node in (0, 1):
                await (await found.client(node, "user=ann", channels=["room:1"])).subscribed("room:1")
            service.kill()
            with anyio.fail_after(20):
                while one.cluster.is_up or two.cluster.is_up:
                    await anyio.sleep(0.01)  # nothing reports it
            assert await one.unsubscribe("room:1", user="ann") == 1
            assert (await one.inspector.close(None, 3503, "", user="ann")) == Closed(1, complete=False)
            assert await one.subscribe("room:1", [next(iter(two.connections)).id]) == 0
            assert (await one.send("x", user="ann"))[:5] == (0, 0, 0, 1, False)
            assert (await two.send("x", channel="room:1"))[:5] == (1, 1, 0, 1, False)
            assert "cannot be reached" in caplog.text

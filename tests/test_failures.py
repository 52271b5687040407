"""Failures between the processes of a gateway, with real servers. Within a history, each client has each publication
once and in order, or was notified. Bystanders notice nothing.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.cable import Cable, cable
from tests.followers import Answering, Bystander, Follower
from tests.processes import serving
from tests.services import Process, jetstream, nats, redis
from wsgateway import Gateway, SubscribeEvent, testing
from wsgateway.cluster.history.store import Append, Request
from wsgateway.exceptions import HistoryError
from wsgateway.gateway.registry import registry
from wsgateway.hub import following

CHANNELS: Any = {"room:*": {"history": 100}, "here:*": {"presence": True}, "*": {}}


class Node:
    """One node of a gateway, on a server of its own in this process."""

    def __init__(self, gateway: Gateway, url: str) -> None:
        self.gateway = gateway
        self.url = url

    async def publish(self, message: Any, channel: str = "room:1", **options: Any) -> Any:
        return await self.gateway.publish(message, channel=channel, **options)

    async def publish_surely(self, message: str) -> Any:
        """Publish as often as it takes, which an application does with a key."""
        with anyio.fail_after(20):
            while True:
                try:
                    return await self.publish(message, idempotency_key=message)
                except HistoryError:
                    await asyncio.sleep(0.05)  # an application has to pause between two tries, too

    async def ready(self) -> int:
        async with httpx.AsyncClient(base_url=self.url) as http:
            return (await http.get("/ready")).status_code

    async def is_up(self) -> None:
        """Wait until the broker is connected."""
        with anyio.fail_after(20):
            while await self.ready() != 200:
                await asyncio.sleep(0.05)  # /ready is asked, and reports no change


@asynccontextmanager
async def started(url: str, *, listener: Any = Answering, channels: Any = None, **options: Any) -> AsyncIterator[Node]:
    channels = CHANNELS if channels is None else channels
    gateway = Gateway(listener, broker=url, channels=channels, local_access=True, drain=1, **options)
    async with testing.serve(gateway) as served:
        registry.remove(gateway)  # which refuses a second gateway with one id, because a process is one node
        yield Node(gateway, served)


@asynccontextmanager
async def watched(*urls: str, **options: Any) -> AsyncIterator[tuple[list[Node], list[Follower]]]:
    """A node at each URL of a broker, each with a bystander, and a follower of `room:1`."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(started(url, **options)) for url in urls]
        for node in nodes:
            await stack.enter_async_context(Bystander(node.url))
        followers = [await stack.enter_async_context(Follower(node.url, "room:1")) for node in nodes]
        for follower in followers:
            await follower.joined()
        yield nodes, followers


async def all_have(followers: list[Follower], message: Any) -> None:
    for follower in followers:
        await follower.has(message)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    with redis("--dir", str(tmp_path), "--repl-diskless-sync-delay", "0") as service:
        yield service


@asynccontextmanager
async def publishing_fails(node: Node) -> AsyncIterator[None]:
    """Within it, `publish` raises and `POST /send` is answered with 503, once the node has noticed the failure."""
    with anyio.fail_after(20):
        while True:
            try:
                await node.publish("lost?", idempotency_key="lost?")
            except HistoryError:
                break
    async with httpx.AsyncClient(base_url=node.url, timeout=20) as http:
        answer = await http.post("/send", json={"message": "x", "channel": "room:1"})
    assert answer.status_code == 503
    yield


@pytest.mark.parametrize("kind", [redis, jetstream])
async def test_the_server_is_killed_and_restarts_empty(kind: Callable[[], AbstractContextManager[Process]]) -> None:
    with kind() as server:
        await _kill_and_restart(server)


async def _kill_and_restart(server: Process) -> None:
    async with watched(server.url, server.url) as ([one, two], followers):
        for number in range(5):
            await one.publish(number)
        await all_have(followers, 4)
        server.kill()
        async with publishing_fails(one):
            assert await one.ready() == 503
            async with Follower(two.url, "room:2") as late:
                await late.has_refusals(2)
                assert {*late.refusals} == {503}
                server.start()
                await late.joined()
        for follower in followers:
            await follower.was_told()
        await one.publish_surely("again")
        await all_have(followers, "again")
        assert [follower.messages for follower in followers] == [[0, 1, 2, 3, 4, "again"]] * 2
        assert [follower.recovered for follower in followers] == [[False, False]] * 2


async def test_redis_loses_its_data_and_keeps_its_connections(server: Process) -> None:
    async with watched(server.url, server.url) as ([one, two], followers):
        await one.publish("before")
        await all_have(followers, "before")
        server.command("FLUSHALL")
        await two.publish("noticed")
        for follower in followers:
            await follower.was_told()
        await two.publish("after")
        await all_have(followers, "after")
        assert [follower.told for follower in followers] == [1, 1]


async def test_redis_is_stopped_and_goes_on(server: Process) -> None:
    async with watched(server.url, server.url) as ([one, two], followers):
        await one.publish("before")
        await all_have(followers, "before")
        server.stop()
        with pytest.raises(HistoryError) as error:
            await two.publish("late", idempotency_key="late")
        assert error.value.is_late
        server.go_on()
        await two.publish_surely("late")
        await one.publish_surely("after")
        await all_have(followers, "after")
        assert [follower.messages for follower in followers] == [["before", "late", "after"]] * 2
        assert [follower.told for follower in followers] == [0, 0]


async def test_a_publication_whose_answer_was_lost_is_published_once(server: Process) -> None:
    async with cable(server.port) as relay:
        behind = relay.url.replace("http:", "redis:").rstrip("/")
        async with watched(server.url, behind) as ([_, two], followers):
            await two.publish("before")
            server.stop()
            publishing = asyncio.create_task(two.publish("once", idempotency_key="once"))
            await asyncio.sleep(0.2)  # the append is on its way to a server that does not read it, which nobody reports
            await relay.cut()
            with pytest.raises(HistoryError) as error:
                await publishing
            assert error.value.is_late
            server.go_on()
            await relay.repair()
            await two.publish_surely("once")
            await two.publish_surely("after")
            await all_have(followers, "after")
            assert [follower.messages for follower in followers] == [["before", "once", "after"]] * 2


@pytest.mark.parametrize("others", [0, 3, 5])
async def test_a_failover_loses_writes(server: Process, tmp_path: Path, others: int) -> None:
    """The replica lacks 3 writes, and has `others` instead when the nodes find it."""
    with redis("--dir", str(tmp_path), "--dbfilename", "replica.rdb") as replica:
        async with cable(server.port) as relay:
            behind = relay.url.replace("http:", "redis:").rstrip("/")
            async with watched(behind, behind) as ([one, _], followers):
                for number in range(5):
                    await one.publish(number)
                await replicated(server, replica)
                for number in range(3):
                    await one.publish(f"lost {number}")
                await all_have(followers, "lost 2")
                await fail_over(relay, replica, others)
                for follower in followers:
                    await follower.was_told()
                await one.publish_surely("after")
                await all_have(followers, "after")
                for follower in followers:
                    assert follower.messages == [0, 1, 2, 3, 4, "lost 0", "lost 1", "lost 2", "after"]
                    assert follower.told == 1


async def replicated(server: Process, replica: Process) -> None:
    """Copy all data of a server, and continue apart from it."""
    replica.command("REPLICAOF", "127.0.0.1", str(server.port))
    with anyio.fail_after(20):
        while replica.command("DBSIZE") != server.command("DBSIZE"):
            await asyncio.sleep(0.02)  # a replica reports nothing
    replica.command("REPLICAOF", "NO", "ONE")


async def fail_over(relay: Cable, replica: Process, others: int) -> None:
    """Lead the nodes to the replica, into which a node that has seen less has published `others`."""
    await relay.cut()
    if others:
        async with started(replica.url) as other:
            for number in range(others):
                await other.publish(f"other {number}")
    relay.connect_to(replica.port)
    await relay.repair()


@pytest.mark.parametrize(
    ("broken", "repaired", "reason"),
    [
        ("CONFIG SET maxmemory 1mb", "CONFIG SET maxmemory 0", "maxmemory"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "replica"),
    ],
)
async def test_redis_is_full_or_read_only(
    server: Process, broken: str, repaired: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(server.url, server.url) as ([one, two], followers):
        await one.publish("before")
        await all_have(followers, "before")
        server.command(*broken.split())
        async with publishing_fails(one):
            with pytest.raises(HistoryError) as error:
                await two.publish("refused")
            assert not error.value.is_late
            assert reason in str(error.value)
            async with Follower(two.url, "room:1", since=followers[0].at) as reader:
                await reader.joined()
                assert reader.recovered == [True]
        server.command(*repaired.split())
        await one.publish_surely("after")
        await all_have(followers, "after")
        assert [follower.messages for follower in followers] == [["before", "after"]] * 2
        assert [follower.told for follower in followers] == [0, 0]


async def test_the_link_of_one_node_is_cut_in_the_middle(server: Process) -> None:
    async with cable(server.port) as relay:
        behind = relay.url.replace("http:", "redis:").rstrip("/")
        async with watched(server.url, behind) as ([one, two], followers):
            for number in range(60):
                await one.publish(number)
                if number == 20:
                    await relay.cut()
                    with anyio.fail_after(20):
                        while await two.ready() != 503:
                            await asyncio.sleep(0.02)  # /ready is asked, and reports no change
                if number == 40:
                    await relay.repair()
            await two.is_up()
            await one.publish("last")
            await all_have(followers, "last")
            assert [follower.messages for follower in followers] == [[*range(60), "last"]] * 2
            assert [follower.told for follower in followers] == [0, 0]


async def test_without_a_history_what_was_sent_while_the_broker_was_away_is_lost_and_the_rest_arrives() -> None:
    channels: Any = {"live:*": {}}
    with nats() as service:
        async with started(service.url, channels=channels) as one, started(service.url, channels=channels) as two:
            async with Bystander(two.url), Follower(two.url, "live:1") as follower:
                await follower.joined()
                await one.publish("before", "live:1")
                await follower.has("before")
                service.kill()
                with anyio.fail_after(20):
                    while await one.ready() == await two.ready() == 200:
                        await asyncio.sleep(0.02)  # /ready is asked, and reports no change
                async with Follower(two.url, "live:1") as late:
                    await late.joined()  # without a history, it need not wait
                    service.start()
                    await one.is_up()
                    await two.is_up()
                    await one.publish("after", "live:1")
                    await all_have([follower, late], "after")
                assert follower.told == 0
                assert "before" in follower.messages


@pytest.mark.parametrize("heals", ["next publication", "check"])
async def test_the_broker_loses_a_message(server: Process, monkeypatch: pytest.MonkeyPatch, heals: str) -> None:
    if heals == "check":
        monkeypatch.setattr(following, "CHECK_INTERVAL", 0.3)
    async with watched(server.url, server.url) as ([one, two], followers):
        await one.publish("first")
        await all_have(followers, "first")
        await unannounced(one, "found")
        if heals == "next publication":
            await two.publish("next")
        await all_have(followers, "found")
        for node in (one, two):
            assert node.gateway.metrics.gaps["healed"] == 1
        assert [follower.told for follower in followers] == [0, 0]


async def unannounced(node: Node, text: str) -> None:
    """Add a publication to the history of `room:1`, which is announced where nobody listens."""
    shared = node.gateway._parts.channels.following
    assert shared is not None
    assert shared.history is not None
    settings, store = node.gateway._parts.channels.namespaces.find("room:1"), shared.history._store
    [page] = await store.read([Request("room:1", settings, None, 1)])
    assert not isinstance(page, HistoryError)
    assert len(text) == len("first")
    record = page.records[-1][2].replace(b"first", text.encode())
    await store.append(Append("room:1", "nowhere", record, settings))


async def test_the_process_with_the_history_server_ends(tmp_path: Path) -> None:
    url = f"ipc://{tmp_path}/ipc"
    async with AsyncExitStack() as first:
        await first.enter_async_context(started(url))
        async with watched(url, url) as ([one, _], followers):
            await one.publish("before")
            await all_have(followers, "before")
            await first.aclose()
            for follower in followers:
                await follower.was_told()
            await one.publish_surely("after")
            await all_have(followers, "after")


PUBLIC = '[channels."room:*"]\nhistory = 100\npublic = true\n[channels."here:*"]\npresence = true\npublic = true\n'


async def test_a_node_is_killed(server: Process, tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(PUBLIC)
    arguments = ("--broker", server.url, "--no-admin-enabled", "--log-file", "")
    public: Any = {"room:*": {"history": 100, "public": True}, "here:*": {"presence": True, "public": True}}
    with serving(*arguments, cwd=tmp_path) as killed:
        async with started(server.url, channels=public) as node, Bystander(node.url):
            async with Follower(node.url, "here:1") as watcher:
                async with Follower(killed.url, "here:1") as member, Follower(killed.url, "room:1") as follower:
                    await member.joined()
                    await follower.joined()
                    await watcher.has_members(2)
                    await node.publish("before")
                    await follower.has("before")
                    killed.process.send_signal(signal.SIGKILL)
                    await node.publish("missed")
                    async with Follower(node.url, "room:1", since=follower.at) as again:
                        await again.has("missed")
                        assert again.recovered == [True]
                    await watcher.has_members(1)  # within 5 s, and the 20 s of a loaded machine
                    assert len(watcher.left) == 1


class Faulty(Answering):
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        if event.channel == "room:raises":
            raise RuntimeError("a fault of the application")
        if event.channel == "room:slow":
            await asyncio.sleep(60)  # longer than `hook_timeout`


@pytest.mark.parametrize(("channel", "status"), [("room:raises", 500), ("room:slow", 503)])
async def test_on_subscribe_fails_over_a_broker(
    server: Process, monkeypatch: pytest.MonkeyPatch, channel: str, status: int
) -> None:
    monkeypatch.setattr(following, "LINGERING", 0.1)
    async with watched(server.url, server.url, listener=Faulty, hook_timeout=0.2) as ([one, two], followers):
        async with testing.Client(two.url, channels=()) as client:
            await client.send(json.dumps({"subscribe": channel, "id": 1}))
            answer = await client.receive_json()
            assert (answer["refused"], answer["status"]) == (channel, status)
        await one.publish("on")
        await all_have(followers, "on")
        await only_followed(two, {"room:1"})


async def test_a_client_disconnects_while_it_subscribes_over_a_broker(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LINGERING", 0.1)
    async with watched(server.url, server.url, listener=Faulty) as ([one, two], followers):
        server.stop()  # so that no subscription gets ready
        clients = [testing.Client(two.url, channels=()) for _ in range(5)]
        for place, client in enumerate(clients):
            async with client:
                await client.send(json.dumps({"subscribe": f"room:{place + 2}"}))
                await client.send(json.dumps({"subscribe": "room:slow"}))
                client.socket.transport.abort()
        server.go_on()
        await one.publish_surely("on")
        await all_have(followers, "on")
        await only_followed(two, {"room:1"})
        assert [*two.gateway.local_channels] == ["room:1"]


async def only_followed(node: Node, names: set[str]) -> None:
    shared = node.gateway._parts.channels.following
    with anyio.fail_after(20):
        while shared is None or {*shared._followed} != names:
            await asyncio.sleep(0.02)  # nothing reports it


async def test_nats_without_jetstream_keeps_no_history_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with nats() as server:
        async with started(server.url) as node, Follower(node.url, "room:1") as follower:
            await follower.has_refusals(1)
            assert {*follower.refusals} == {503}
            with pytest.raises(HistoryError, match="start nats-server with -js"):
                await node.publish("x")
    assert "no history can be kept: the server 127.0.0.1:" in caplog.text

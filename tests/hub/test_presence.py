"""The members of channels over several processes: gateways that share a broker, each with clients of its own."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

from tests.pipes import Pipe, joined
from tests.services import BROKERS, Service, broker, redis
from wsgateway import Gateway
from wsgateway.cluster import envelopes
from wsgateway.cluster.envelopes import VERSION, Membership
from wsgateway.cluster.questions import MemberPage, Members
from wsgateway.exceptions import NodeError
from wsgateway.gateway.registry import registry
from wsgateway.hub import presence
from wsgateway.hub.presence import SharedPresence
from wsgateway.protocols.v1 import SUBPROTOCOL

CHANNELS: Any = {"room:*": {"presence": True}, "news": {}}
ROOM = "room:1"


@pytest.fixture(scope="module", params=BROKERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with TemporaryDirectory() as folder, broker(request.param, Path(folder) / "ipc") as found:
        yield found


@pytest.fixture
def ipc(tmp_path: Path) -> Iterator[str]:
    with broker("ipc", tmp_path / "ipc") as found:
        yield found.url


@asynccontextmanager
async def nodes(url: str, count: int, **options: Any) -> AsyncIterator[list[Gateway]]:
    """So many nodes of one gateway that know each other."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(node(url, f"g{id(stack)}", **options)) for _ in range(count)]
        await met(found, count)
        yield found


@asynccontextmanager
async def node(url: str, name: str, **options: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(channels=CHANNELS, broker=url, id=name, **options)
    await gateway.start()
    registry.remove(gateway)  # which refuses a second gateway with one id, because a process is one node
    try:
        yield gateway
    finally:
        await gateway.stop()


async def met(found: list[Gateway], count: int) -> None:
    await until(lambda: all(len(each.inspector._cluster.nodes.present()) == count - 1 for each in found))


async def until(condition: Any, seconds: float = 20) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)  # what another process knows is reported to nobody


def presence_of(gateway: Gateway) -> SharedPresence:
    following = gateway._parts.channels.following
    assert following is not None
    return following.presence


def listed(gateway: Gateway, channel: str = ROOM) -> set[str]:
    """The ids of the members in the other nodes, as `gateway` knows them."""
    return {json.loads(row)["id"] for row in presence_of(gateway).rows(channel)}


class View:
    """A client of `wsgateway.v1`, and the members of its channel as it knows them."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.conn = pipe.conn
        self.is_in = False
        self.members: dict[str, Any] | None = None
        self.events: list[tuple[str, str]] = []
        self._read = self._size = 0

    def read(self) -> dict[str, Any]:
        """Take what has arrived, and return the members; none while it is not subscribed."""
        if len(self.pipe.written) == self._size:
            return self.members or {}
        self._size = len(self.pipe.written)
        for message in self.pipe.messages()[self._read :]:
            self._read += 1
            told = json.loads(message)
            if "subscribed" in told:
                self.members = {member["id"]: member for member in told["members"]}
                assert len(self.members) == len(told["members"])
            elif "unsubscribed" in told:
                self.members = None
            else:
                assert self.members is not None
                if "joined" in told:
                    member = told["joined"]
                    assert member["id"] not in self.members, "it has joined already"
                    self.members[member["id"]] = member
                    self.events.append(("joined", member["id"]))
                else:
                    assert self.members.pop(told["left"]["id"]) == told["left"]
                    self.events.append(("left", told["left"]["id"]))
        return self.members or {}


async def client(gateway: Gateway, channel: str = "", **options: Any) -> View:
    view = View(await joined(gateway, subprotocol=SUBPROTOCOL))
    if channel:
        await view.conn.subscribe(channel, **options)
        view.is_in = True
    return view


async def test_members_join_and_leave_in_every_process(service: Service) -> None:
    async with nodes(service.url, 2) as (one, two):
        ann = await client(one, ROOM, info={"nick": "Ä"})
        bob = await client(two, ROOM)
        ids = {ann.conn.id, bob.conn.id}
        await until(lambda: ann.read().keys() == ids and bob.read().keys() == ids)
        assert bob.read()[ann.conn.id] == {"id": ann.conn.id, "user": "", "info": {"nick": "Ä"}}
        assert bob.events == [("joined", bob.conn.id)]  # ann was in the list
        await ann.conn.unsubscribe(ROOM)
        await until(lambda: bob.read().keys() == {bob.conn.id})
        bob.pipe.close()
        await until(lambda: listed(one) == set())


async def test_the_list_and_the_counts_are_those_of_all_processes(service: Service) -> None:
    async with nodes(service.url, 3) as found:
        views = [await client(gateway, channel, info=[1]) for gateway in found for channel in (ROOM, "news")]
        for gateway in found:
            for channel, part in ((ROOM, views[::2]), ("news", views[1::2])):
                members, is_complete = await gateway.presence(channel)
                assert sorted(member.id for member in members) == sorted(view.conn.id for view in part)
                assert ({member.info[0] for member in members if isinstance(member.info, list)}, is_complete) == (
                    {1},
                    True,
                )
                assert await gateway.presence_counts(channel) == (3, 1, True)


async def churn(found: list[Gateway], changes: int, seed: int) -> list[View]:
    """Let clients come, join, leave, and go at random, and check at each moment what each client knows."""
    chance = random.Random(seed)
    views: list[View] = []
    for _ in range(changes):
        view = chance.choice(views) if views and chance.random() < 0.8 else None
        if view is None:
            if len(views) < 30:
                views.append(await client(chance.choice(found)))
            continue
        if chance.random() < 0.1:
            view.pipe.close()
            views.remove(view)
        elif view.is_in:
            await view.conn.unsubscribe(ROOM)
            view.is_in = False
        else:
            await view.conn.subscribe(ROOM, info=chance.choice([None, {"n": chance.random()}]))
            view.is_in = True
        if chance.random() < 0.3:
            await asyncio.sleep(0)  # one iteration of the event loop, so that some changes share an envelope
        if chance.random() < 0.05:
            chance.choice(views).read()
    return views


async def agreed(views: list[View]) -> None:
    """Wait until each client that has joined knows all members, and the others know none."""
    ids = {view.conn.id for view in views if view.is_in}

    def knows(view: View) -> bool:
        return view.read().keys() == (ids if view.is_in else set()) and (view.members is None) != view.is_in

    await until(lambda: all(knows(view) for view in views))


@pytest.mark.parametrize("seed", range(2))
async def test_what_a_client_knows_is_the_truth_after_a_thousand_changes(service: Service, seed: int) -> None:
    async with nodes(service.url, 3) as found:
        views = await churn(found, 1000, seed)
        await agreed(views)
        for view in views:
            if view.is_in:
                await view.conn.unsubscribe(ROOM)
                view.is_in = False
        await agreed(views)
        await until(lambda: all(not presence_of(gateway)._numbers for gateway in found))


async def test_a_process_that_drains_has_each_member_leave_once(service: Service) -> None:
    async with nodes(service.url, 2) as (one, two):
        watcher = await client(one, ROOM)
        members = [await client(two, ROOM) for _ in range(20)]
        ids = {view.conn.id for view in members}
        await until(lambda: watcher.read().keys() == ids | {watcher.conn.id})
        await two.stop()
        await until(lambda: watcher.read().keys() == {watcher.conn.id})
        left = [conn_id for what, conn_id in watcher.events if what == "left"]
        assert sorted(left) == sorted(ids)
        assert await one.presence_counts(ROOM) == (1, 1, True)


async def test_a_process_that_starts_later_knows_the_members(service: Service) -> None:
    async with nodes(service.url, 1) as (one,):
        ann = await client(one, ROOM)
        async with node(service.url, one.id) as two:
            await met([one, two], 2)
            bob = await client(two, ROOM)
            assert bob.read().keys() == {ann.conn.id}  # it has not joined yet
            await until(lambda: ann.read().keys() == {ann.conn.id, bob.conn.id})
        await until(lambda: ann.read().keys() == {ann.conn.id})


async def test_members_of_a_process_that_died_leave_at_once_if_its_parent_has_seen_it(ipc: str) -> None:
    async with nodes(ipc, 3) as (one, two, three):
        watcher = await client(one, ROOM)
        members = [await client(two, ROOM) for _ in range(600)]
        await until(lambda: len(watcher.read()) == 601, 60)
        cluster: Any = three.inspector._cluster
        with anyio.fail_after(3):
            cluster.died(two.inspector._cluster.node)
            while len(watcher.read()) > 1:
                await asyncio.sleep(0)  # an iteration of the event loop, one slice each
        assert len(watcher.events) == 1201
        assert {conn_id for what, conn_id in watcher.events if what == "left"} == {view.conn.id for view in members}
        await until(lambda: len(watcher.read()) == 601)  # its next heartbeat shows that it lives
        assert await one.presence_counts(ROOM) == (601, 1, True)


async def test_a_broker_that_was_away_leaves_no_ghost_and_no_gap() -> None:
    with redis() as server:
        async with nodes(server.url, 2) as (one, two):
            watcher, ann, bob = await client(one, ROOM), await client(two, ROOM), await client(two, ROOM)
            await until(lambda: len(watcher.read()) == 3)
            server.kill()
            await until(lambda: not one.inspector._cluster.is_up and not two.inspector._cluster.is_up)
            assert await one.presence_counts(ROOM) == (1, 1, False)
            assert len((await one.presence(ROOM)).members) == 1
            ann.pipe.close()
            cid = await client(two, ROOM)
            dan = await client(one, ROOM)
            assert len(dan.read()) == 3  # those that were known
            server.start()
            for view in (watcher, bob, cid, dan):
                view.is_in = True
            await agreed([watcher, bob, cid, dan])
            assert (await one.presence(ROOM)).complete


async def test_changes_that_are_lost_with_a_link_are_asked_for() -> None:
    with redis() as server:
        async with nodes(server.url, 3) as found:
            views = []
            for seed in range(4):
                views += await churn(found, 100, seed)
                server.command("CLIENT", "KILL", "TYPE", "pubsub")  # what is published now, only other links receive
            views += await churn(found, 100, 4)
            await agreed(views)


async def test_garbage_changes_nothing(ipc: str) -> None:
    async with nodes(ipc, 2) as (one, two):
        watcher, bob = await client(one, ROOM), await client(two, ROOM)
        await until(lambda: len(watcher.read()) == 2)
        origin = two.inspector._cluster.node
        known, stranger = (origin, f"{origin}.x"), ("f" * 8, "ffffffff.x")
        routing = two.inspector._cluster.routing  # type: ignore[union-attr]  # it has a broker
        for node_id, conn_id in (known, stranger):
            for row in ((conn_id, "u", "{"), ("a" * 8 + ".x", "u", "null")):
                garbage = Membership(VERSION, node_id, 0, ROOM, [row], [bob.conn.id[::-1]], 0, 2**50)
                if node_id != origin:
                    routing.publish(ROOM, envelopes.encode(garbage))
        too_long = Membership(VERSION, origin, 0, ROOM, [("x" * 65, "u", "null")], [], 0, 1)
        routing.publish(ROOM, envelopes.encode(too_long))
        cid = await client(two, ROOM)
        await until(lambda: watcher.read().keys() == {view.conn.id for view in (watcher, bob, cid)})


async def test_a_node_that_cannot_answer_is_reported_once(
    ipc: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a gateway is upgraded, nodes of the earlier version do not know the question."""
    monkeypatch.setattr(presence, "RETRY", 0.01)
    async with nodes(ipc, 2) as (one, two):
        asked = []

        async def refuse(question: Members) -> MemberPage:
            asked.append(question)
            raise NodeError("this node does not support the question")

        asks = two.inspector._cluster._asks  # type: ignore[union-attr]  # it has a broker
        monkeypatch.setitem(asks._answering, Members.name, (Members, refuse))
        caplog.clear()
        await client(one, ROOM)
        await until(lambda: len(asked) > 10)
        assert sum("the members of channels are asked for again" in each for each in caplog.messages) == 1


async def test_a_member_that_leaves_is_announced_once(ipc: str) -> None:
    async with nodes(ipc, 1) as (one,):
        watcher, bob = await client(one, ROOM), await client(one, ROOM)
        await until(lambda: len(watcher.read()) == 2)
        number = presence_of(one).number_of(ROOM)
        await one.unsubscribe(ROOM, [bob.conn])
        assert presence_of(one).number_of(ROOM) == number + 1


async def test_ten_thousand_members_are_listed_and_counted(ipc: str) -> None:
    async with nodes(ipc, 2) as (one, two):
        views = [await client(gateway, "news", info={"n": 1}) for gateway in (one, two) for _ in range(5000)]
        asked = two._parts.metrics.broker_received
        lists = await asyncio.gather(*(one.presence("news") for _ in range(10)))
        assert {view.conn.id for view in views} == {member.id for member in lists[0].members}
        assert [(len(members), is_complete) for members, is_complete in lists] == [(10_000, True)] * 10
        assert await one.presence_counts("news") == (10_000, 1, True)
        assert two._parts.metrics.broker_received - asked < 30  # of which most are heartbeats
        for view in views:
            view.pipe.close()


async def test_members_whose_infos_are_large_are_listed_in_pages(service: Service) -> None:
    async with nodes(service.url, 2) as (one, two):
        for number in range(12):
            await client(two, ROOM, info="ä" * 100_000 + str(number))
        ann = await client(one, ROOM)
        assert len(ann.read()) == 12
        members, is_complete = await one.presence(ROOM)
        assert (len(members), is_complete) == (13, True)

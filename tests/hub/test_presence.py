"""The members of channels over several processes: gateways that share a broker, each with clients of its own."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

from tests.pipes import Pipe, joined
from tests.services import BROKERS, Service, broker
from wsgateway import Gateway
from wsgateway.gateway.registry import registry
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
        found: list[Gateway] = []
        for _ in range(count):
            found.append(await stack.enter_async_context(node(url, f"g{id(stack)}", **options)))
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
        self._read = 0

    def read(self) -> dict[str, Any] | None:
        """Take what has arrived, and return the members; None while it is not subscribed."""
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
        return self.members


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
        await until(lambda: ann.read() is not None and ann.read().keys() == ids and bob.read().keys() == ids)
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

"""The members of processes that are killed, stopped, or blocked, as another process sees them."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path

import anyio
import pytest

from tests.ports import free_port
from tests.processes import Served, serving
from tests.services import broker
from wsgateway import Gateway, testing
from wsgateway.cluster.heartbeats import PING_TIMEOUT
from wsgateway.cluster.nodes import SILENCE

BLOCKED = float(os.environ.get("BLOCKED", "6"))
"""Seconds that a process is blocked, which are more than it takes to notice a dead one."""

LISTENER = """
import time

class Listener:
    async def on_message(self, event):
        time.sleep(float(event.message))  # blocks the event loop on purpose
        event.message = None
"""

SETTINGS = '[channels."room:*"]\npublic = true\npresence = true\n'

ROOM = "room:1"


@pytest.fixture(params=["redis", "ipc"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with broker(request.param, tmp_path / "ipc") as service:
        yield service.url


class Remote:
    """A process that serves, a client of it, and the id by which others know that client."""

    def __init__(self, served: Served) -> None:
        self.url = served.url
        self.pid = served.process.pid
        self.id = ""
        self.client = testing.Client(self.url, channels=[ROOM])


def started(folder: Path, url: str) -> AbstractContextManager[Served]:
    folder.mkdir()
    (folder / "listener.py").write_text(LISTENER)
    (folder / "wsgateway.toml").write_text(SETTINGS)
    listener = ("--listener", "listener.py:Listener")
    return serving(*listener, "--broker", url, "--admin-port", str(free_port()), cwd=folder)


class Room:
    """The members of a channel, as a process sees them that lives."""

    def __init__(self, client: testing.Client) -> None:
        self._client = client
        self.members: set[str] = set()
        self.events: list[tuple[str, str]] = []
        self._changed = asyncio.Condition()

    async def read(self) -> None:
        self.members = {member["id"] for member in (await self._client.subscribed(ROOM))["members"]}
        while True:
            told = await self._client.receive_json()
            what = "joined" if "joined" in told else "left"
            conn_id = told[what]["id"]
            assert (conn_id in self.members) is (what == "left")
            (self.members.add if what == "joined" else self.members.remove)(conn_id)
            self.events.append((what, conn_id))
            async with self._changed:
                self._changed.notify_all()

    async def has(self, what: str, conn_id: str, seconds: float) -> None:
        """Wait until a member has joined or left."""
        with anyio.fail_after(seconds):
            async with self._changed:
                await self._changed.wait_for(lambda: (what, conn_id) in self.events)


async def to_thread(stack: AsyncExitStack, start: AbstractContextManager[Served]) -> Served:
    """Enter `start`, which blocks, in a thread."""
    return await asyncio.to_thread(stack.enter_context, start)


async def test_members_of_a_dead_process_leave_within_5_s_and_those_of_a_blocked_one_stay(
    url: str, tmp_path: Path
) -> None:
    gateway = Gateway(channels={"room:*": {"public": True, "presence": True}}, broker=url)
    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(testing.serve(gateway))
        room = Room(await stack.enter_async_context(testing.Client(base, channels=[ROOM])))
        reading = asyncio.create_task(room.read())
        starts = [started(tmp_path / name, url) for name in ("killed", "stopped", "blocked")]
        found = [Remote(served) for served in await asyncio.gather(*(to_thread(stack, start) for start in starts))]
        for one in found:
            count = len(room.events)
            await stack.enter_async_context(one.client)
            await one.client.subscribed(ROOM)
            with anyio.fail_after(10):
                while len(room.events) == count or room.events[-1][1] in [each.id for each in found]:
                    await anyio.sleep(0.01)  # the own event may be among them
            one.id = room.events[-1][1]
        killed, stopped, blocked = found
        assert room.members >= {one.id for one in found}
        await blocked.client.send_json({"message": str(BLOCKED), "id": 1})
        began = time.monotonic()
        os.kill(killed.pid, signal.SIGKILL)
        os.kill(stopped.pid, signal.SIGSTOP)
        limit = SILENCE + PING_TIMEOUT + 1  # another second, because two cores serve everything
        try:
            async with asyncio.TaskGroup() as tasks:
                for one in (killed, stopped):
                    tasks.create_task(room.has("left", one.id, limit))
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        await room.has("joined", stopped.id, 10)
        while (await blocked.client.receive_json()).get("id") != 1:
            pass
        assert time.monotonic() - began >= BLOCKED
        assert ("left", blocked.id) not in room.events
        assert room.events.count(("left", killed.id)) == room.events.count(("left", stopped.id)) == 1
        reading.cancel()

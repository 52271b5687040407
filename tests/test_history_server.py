"""Gateways whose history is kept by the history server of `ipc://`, in one of their processes.

Under `wsgateway serve --workers`, that is the parent, which outlives the workers.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.ports import free_port
from tests.processes import Served, run, serving
from wsgateway import Gateway, testing
from wsgateway.client import ClientConnection, Subprotocol, connect
from wsgateway.exceptions import HistoryError
from wsgateway.gateway.registry import registry

SETTINGS = """
[channels."room:*"]
public = true
clients = ["subscribe", "publish"]
history = 1000
"""


@pytest.fixture
def admin() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def served(tmp_path: Path, admin: str) -> Iterator[Served]:
    (tmp_path / "wsgateway.toml").write_text(SETTINGS)
    with serving("--workers", "2", "--admin-port", admin.rpartition(":")[2], cwd=tmp_path) as found:
        yield found


async def worker_pids(admin: str) -> set[int]:
    async with httpx.AsyncClient(base_url=admin, timeout=70) as http:
        nodes = (await http.get("/api/gateways/default/nodes")).json()["nodes"]
    return {node["pid"] for node in nodes if node["state"] == "running"}


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ClientConnection]:
    url = url.replace("http", "ws", 1).rstrip("/") + "/ws"
    async with connect(url, subprotocols=[Subprotocol("wsgateway.v1")]) as client:
        yield client


async def ask(client: ClientConnection, **command: Any) -> dict[str, Any]:
    """Return the answer to a command. What arrives before it is not needed."""
    await client.send(json.dumps({**command, "id": 1}))
    with anyio.fail_after(20):
        while True:
            answer: dict[str, Any] = json.loads(await client.recv())
            if answer.get("id") == 1:
                return answer


async def publish(served: Served, numbers: list[int]) -> None:
    async with connected(served.url) as client:
        await ask(client, subscribe="room:1")
        for number in numbers:
            assert "at" in await ask(client, channel="room:1", message=number)


class Reader:
    """A client that reconnects with its position whenever it is disconnected, until it has all of `count` messages."""

    def __init__(self, served: Served) -> None:
        self.messages: list[int] = []
        self.recoveries: list[bool] = []
        self.is_subscribed = asyncio.Event()
        self._served = served
        self._since: str | None = None

    async def read(self, count: int) -> None:
        while len(self.messages) < count:
            try:
                async with connected(self._served.url) as client:
                    await self._subscribe(client)
                    while len(self.messages) < count:
                        self._take(json.loads(await client.recv()))
            except (OSError, ConnectionClosed):
                pass  # its worker has ended

    async def _subscribe(self, client: ClientConnection) -> None:
        since = {} if self._since is None else {"since": self._since}
        await client.send(json.dumps({"subscribe": "room:1", **since}))
        answer = json.loads(await client.recv())
        assert answer.get("subscribed") == "room:1", answer
        if since:
            self.recoveries.append(answer["recovered"])
        self._since = answer["at"]
        self.is_subscribed.set()

    def _take(self, frame: dict[str, Any]) -> None:
        if "message" in frame:
            self.messages.append(frame["message"])
            self._since = frame["at"]


async def test_a_roll_keeps_the_history(served: Served, admin: str) -> None:
    with anyio.fail_after(60):
        before = await worker_pids(admin)
        readers = [Reader(served) for _ in range(6)]
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(reader.read(40))
                await reader.is_subscribed.wait()
            await publish(served, list(range(20)))
            code = (await asyncio.to_thread(run, "roll", "default", "--admin-url", admin, cwd=Path.cwd())).returncode
            assert code == 0
            assert not before & await worker_pids(admin)
            await publish(served, list(range(20, 40)))
    for reader in readers:
        assert reader.messages == list(range(40))
        assert reader.recoveries
        assert all(reader.recoveries)


async def test_the_history_outlives_workers_that_are_killed(served: Served, admin: str) -> None:
    with anyio.fail_after(60):
        before = await worker_pids(admin)
        reader = Reader(served)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reader.read(20))
            await reader.is_subscribed.wait()
            await publish(served, list(range(10)))
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            while len(await worker_pids(admin) - before) < 2:
                await anyio.sleep(0.02)  # nobody is notified when a worker is replaced
            await publish(served, list(range(10, 20)))
    assert reader.messages == list(range(20))
    assert reader.recoveries
    assert all(reader.recoveries)


@asynccontextmanager
async def node(url: str, **options: Any) -> AsyncIterator[tuple[Gateway, str]]:
    """Yield a node of one gateway, and the URL of its server. The first one has the history server."""
    channels: Any = {"room:*": {"public": True, "history": 1000}}
    gateway = Gateway(channels=channels, broker=url, id="shared", **options)
    async with testing.serve(gateway) as own_url:
        registry.remove(gateway)  # which refuses a second gateway with one id, because a process is one node
        yield gateway, own_url


async def test_when_the_process_with_the_server_ends_subscribers_are_notified(tmp_path: Path) -> None:
    url = f"ipc://{tmp_path / 'ipc'}"
    async with AsyncExitStack() as first:
        one, _ = await first.enter_async_context(node(url))
        async with node(url) as (two, url_of_two), connected(url_of_two) as client:
            since = (await ask(client, subscribe="room:1"))["at"]
            for number in range(3):
                await one.publish(number, channel="room:1")
            assert [json.loads(await client.recv())["message"] for _ in range(3)] == [0, 1, 2]
            await first.aclose()
            with anyio.fail_after(20):
                while True:
                    try:
                        await two.publish("after", channel="room:1")
                        break
                    except HistoryError:
                        await anyio.sleep(0.01)  # another process takes over in its own time
                ended = json.loads(await client.recv())
                assert (ended["unsubscribed"], ended["code"]) == ("room:1", 2500)
                answer = await ask(client, subscribe="room:1", since=since)
                while answer.get("status") == 503:  # the history is back before the link of the process is
                    await anyio.sleep(0.01)  # as a client does that is told to try again later
                    answer = await ask(client, subscribe="room:1", since=since)
            assert answer["recovered"] is False
            assert answer["at"].partition(":")[0] != since.partition(":")[0]


async def test_each_process_reports_what_the_server_keeps(tmp_path: Path) -> None:
    url = f"ipc://{tmp_path / 'ipc'}"
    async with node(url, history_bytes=1_000_000) as (one, _), node(url, history_bytes=1_000_000) as (two, _):
        for number in range(40):
            for gateway in (one, two):
                await gateway.publish("x" * 50_000, channel=f"room:{number}")
        nodes = await one.inspector.samples()
        assert len(nodes) == 2
        for samples in nodes:
            ((_, _, size),), ((_, _, evictions),) = samples["history_bytes"], samples["history_evictions_total"]
            assert 0 < size <= 1_000_000
            assert evictions > 0

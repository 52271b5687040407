"""The page about many processes is true: its samples run as written, with real brokers."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.cluster.history.test_redis import PERMISSIONS
from tests.ports import free_port
from tests.processes import environment, run
from tests.samples import ROOT, run_sample, samples
from tests.services import redis
from wsgateway import Gateway
from wsgateway.gateway.registry import registry
from wsgateway.metrics import FAMILIES
from wsgateway.publisher import Publisher
from wsgateway.testing import Client, serve

PAGE = "docs/how-to/processes.md"
TEXT = (ROOT / PAGE).read_text()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with redis() as server:
        monkeypatch.setenv("BROKER", server.url)
        yield server.url


@asynccontextmanager
async def orders() -> AsyncIterator[Any]:
    """Serve the sample with a history in Redis. Yield its module."""
    module = run_sample(PAGE, "orders.py")
    async with serve(module.gateway):
        registry.remove(module.gateway)  # which refuses a second gateway with one id, because a process is one node
        yield module


async def test_a_history_in_redis_and_a_publisher_as_written(broker: str) -> None:
    jobs = run_sample(PAGE, "jobs.py")

    def ship(*orders: int) -> list[str | None]:
        with Publisher(broker, gateway="orders") as publisher:
            return [jobs.ship(publisher, "ann", order) for order in orders]

    async with orders() as one, orders() as two:
        first = await one.shipped("ann", 7)
        assert await anyio.to_thread.run_sync(ship, 7, 8) == [first, first.replace(":1", ":2")]
        assert await two.shipped("ann", 8) == first.replace(":1", ":2")
        newest = await two.gateway.history("user:ann")
        assert [publication.message for publication in newest.publications] == [{"order": 7}, {"order": 8}]


async def test_the_history_beside_the_workers_of_uvicorn_as_written(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(samples(PAGE, "python")["chat.py"])
    line = re.search(r"^uvicorn --workers 4 (chat:app)$", TEXT, re.MULTILINE)
    assert line
    port = str(free_port())
    argv = [sys.executable, "-m", "uvicorn", "--workers", "2", "--port", port, line[1]]
    url = f"http://127.0.0.1:{port}/live"
    with subprocess.Popen(argv, cwd=tmp_path, env=environment(), stdout=sys.stderr) as process:
        try:
            async with httpx.AsyncClient() as http, AsyncExitStack() as stack:
                await have_met(http, url, 2)
                clients = [Client(url, channels=["room:1"]) for _ in range(8)]
                for client in clients:
                    await stack.enter_async_context(client)
                    assert (await client.subscribed("room:1"))["at"].endswith(":0")
                answer = (await http.post(url + "/send", json={"message": "to all"})).json()
                assert (answer["queued"], answer["nodes"], answer["complete"]) == (8, 2, True)
                assert [await client.receive_json() for client in clients] == [{"message": "to all"}] * 8
                body = {"channel": "room:1", "message": "hi"}
                at = (await http.post(url + "/send", json=body)).json()["at"]
                assert [(await client.receive_json())["at"] for client in clients] == [at] * 8
                for _ in range(4):
                    async with Client(url, channels=["room:1"], since={"room:1": at[:-1] + "0"}) as again:
                        assert (await again.subscribed("room:1"))["recovered"] is True
                        assert (await again.receive_json())["message"] == "hi"
        finally:
            process.terminate()


async def have_met(http: httpx.AsyncClient, url: str, count: int) -> None:
    """Wait until `count` processes count a message."""
    with anyio.fail_after(30):
        while True:
            try:
                answer = (await http.post(url + "/send", json={"message": "to nobody"})).json()
                if (answer.get("nodes"), answer.get("complete")) == (count, True):
                    return
            except httpx.TransportError:
                pass
            await anyio.sleep(0.05)  # other processes start and meet


def test_values_over_nats_are_a_mistake_in_the_settings(tmp_path: Path) -> None:
    text = 'broker = "nats://127.0.0.1:1"\n[channels."room:*"]\nhistory = 1\nkeep = "last"\n'
    (tmp_path / "wsgateway.toml").write_text(text)
    done = run("check", cwd=tmp_path)
    assert done.returncode != 0
    assert "NATS cannot keep only the newest" in done.stderr + done.stdout


def test_the_permissions_are_those_that_the_tests_use() -> None:
    assert PERMISSIONS in TEXT


async def test_without_a_history_fewer_permissions_are_enough_and_no_key_is_written() -> None:
    shown = re.search(r"Without a history, `([^`]+)` is enough", TEXT)
    assert shown
    with redis() as server:
        assert server.command("ACL", "SETUSER", "gateway", "on", ">secret", shown[1]).startswith(b"+OK")
        url = server.url.replace("://", "://gateway:secret@")
        gateway = Gateway(broker=url, channels={"room:*": {"public": True, "presence": True}})
        async with serve(gateway) as served, Client(served, channels=["room:1"]) as ann:
            await ann.subscribed("room:1")
            assert "joined" in await ann.receive_json()
            assert (await gateway.send("hi", channel="room:1")).recipients == 1
            assert (await ann.receive_json())["message"] == "hi"
            assert server.command("DBSIZE") == b":0\r\n"
            clients = server.command("CLIENT", "LIST")
            assert clients.count(b"user=gateway ") == 2


def test_the_metrics_exist() -> None:
    names = set(re.findall(r"`wsgateway_([a-z_]+)(?:\{[a-z]+\})?`", TEXT))
    assert len(names) >= 8
    assert names <= set(FAMILIES)

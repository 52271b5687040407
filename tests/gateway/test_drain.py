"""The end of a gateway: new clients are refused, and connections are closed over time."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests import processes
from tests.raw import connect
from tests.servers import free_socket
from wsgateway import Gateway
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client

FILE = """\
listener = "listener.py:Listener"
drain = 2

[gateways.chat]
port = {port}

[gateways.news]
port = 0

[gateways.off]
startup = "manual"

[admin]
port = {admin_port}
"""
LISTENER = """
import asyncio

class Listener:
    async def on_client_close(self, event):
        if event.conn.path == "/ws/stays":
            await asyncio.sleep(1000)  # outlives the drain
"""


def two_ports() -> tuple[int, int]:
    with free_socket() as one, free_socket() as other:
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[processes.Served]:
    port, admin_port = two_ports()
    (tmp_path / "wsgateway.toml").write_text(FILE.format(port=port, admin_port=admin_port))
    (tmp_path / "listener.py").write_text(LISTENER)
    with processes.serving(cwd=tmp_path, command=[*processes.COMMAND, "serve"]) as found:
        yield found


async def test_a_drained_gateway_keeps_its_port_and_comes_back_there(tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_text(f"[gateways.a]\nport = {two_ports()[0]}\n[gateways.b]\nport = 0\nstartup = 'manual'\n")
    async with Supervisor(Store(str(file))) as supervisor:
        url = supervisor.find("a").url
        async with Client(url) as ann, httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/ready")).status_code == 200
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(supervisor.drain)
                tasks.start_soon(supervisor.drain)
            code, reason = await ann.closed()
            assert code == 1012
            assert json.loads(reason or "")["reconnect"] is True
            assert (await http.get("/ready")).status_code == 503
            assert (await http.get("/health")).status_code == 200
            with pytest.raises(InvalidStatus, match="503"):
                await Client(url).__aenter__()
        assert (supervisor.state("a"), supervisor.state("b")) == ("stopped", "stopped")
        for action in (supervisor.start, supervisor.restart):
            await action("a")
            async with Client(url) as ann:
                await ann.send("again")
                assert await ann.receive() == "again"
            await supervisor.drain()
        await supervisor.stop("a")
        with pytest.raises(OSError):
            await Client(url).__aenter__()


async def test_a_gateway_made_in_code_is_drained_too_and_a_failed_one_keeps_its_reason() -> None:
    running, failed = Gateway(id="running"), Gateway(id="failed")
    await running.start()
    failed.fail("its reason")
    async with Supervisor(gateways=[running, failed]) as supervisor:
        await supervisor.drain()
    assert (running.state, failed.state, failed.failure) == ("stopped", "failed", "its reason")


async def test_the_command_waits_until_all_are_gone_and_says_how_many(served: processes.Served, tmp_path: Path) -> None:
    async with Client(served.url) as ann, Client(served.url) as bob:
        done = await anyio.to_thread.run_sync(lambda: processes.run("drain", cwd=tmp_path))
        assert (done.returncode, done.stdout) == (0, "2 connections closed\n"), done.stderr
        assert [(await client.closed())[0] for client in (ann, bob)] == [1012, 1012]
    again = json.loads(processes.run("drain", "--json", cwd=tmp_path).stdout)
    assert again["closed"] == 0
    assert [found["state"] for found in again["gateways"]] == ["stopped"] * 3
    assert processes.run("start", "chat", cwd=tmp_path).stdout == "gateway [chat] is running\n"
    async with Client(served.url) as ann:
        await ann.send("again")
        assert await ann.receive() == "again"
    assert served.terminate() == 0


async def test_the_command_waits_no_longer_than_it_may(served: processes.Served, tmp_path: Path) -> None:
    async with Client(served.url, "/ws/stays"):
        done = await anyio.to_thread.run_sync(lambda: processes.run("drain", "--timeout", "0.2", cwd=tmp_path))
        assert (done.returncode, done.stdout) == (1, "1 connection closed; gateway [chat] is still draining\n")
    assert await anyio.to_thread.run_sync(served.terminate) == 0


async def test_a_client_that_comes_as_the_gateway_begins_to_stop_is_refused() -> None:
    gateway = Gateway()
    await gateway.start()
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        await gateway.stop()
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    extensions: dict[str, Any] = {"websocket.http.response": {}}
    scope = {"type": "websocket", "path": "/ws", "headers": [], "extensions": extensions}
    await gateway(scope, receive, send)
    assert [message.get("status") for message in sent] == [503, None]


async def test_a_request_to_the_admin_interface_does_not_delay_the_drain(
    served: processes.Served, tmp_path: Path
) -> None:
    admin = tomllib.loads((tmp_path / "wsgateway.toml").read_text())["admin"]["port"]
    async with Client(served.url) as ann, await connect(f"http://127.0.0.1:{admin}") as raw:
        await raw.send(b"POST /api/gateways HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        await raw.send(b"Content-Length: 100\r\n\r\n{")  # and the rest never comes: it has five seconds
        served.process.terminate()
        with anyio.fail_after(4):
            assert (await ann.closed())[0] == 1012
    assert await anyio.to_thread.run_sync(served.process.wait, 20) == 0

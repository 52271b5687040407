"""An attacker fills neither the log nor the table of open files: processes of their own, under a small limit."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.cli.test_main import hidden_uvloop
from tests.processes import COMMAND, Served, serving
from tests.raw import KEY, connect, handshake, masked
from wsgateway.testing import Client

LIMITED = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *COMMAND, "serve", "--port", "0", "--admin-port", "0"]
LISTENER = """
import os

class Listener:
    files = []

    async def on_message(self, event):
        if event.message == "take all":
            try:
                while True:
                    self.files.append(os.open("/", os.O_RDONLY))
            except OSError:
                pass
        elif event.message == "give back":
            while self.files:
                os.close(self.files.pop())
        elif event.message == "fail":
            raise ValueError("boom")
"""


@pytest.fixture(params=["uvloop", "asyncio"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "listener.py").write_text(LISTENER)
    return {} if request.param == "uvloop" else {"PYTHONPATH": str(hidden_uvloop(tmp_path))}


@asynccontextmanager
async def crowd(url: str, count: int, *, patience: float = 10) -> AsyncIterator[Counter[bytes]]:
    """`count` handshakes at once, kept open; how often each status was answered, and b"" nothing in `patience`."""
    statuses: Counter[bytes] = Counter()
    request = f"GET /ws HTTP/1.1\r\nHost: {url[7:]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"

    async def ask() -> None:
        stream = await stack.enter_async_context(await connect(url))
        status = b""
        with anyio.move_on_after(patience):
            try:
                await stream.send(request.encode())
                status = (await stream.receive_some())[9:12]
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                status = b"cut"
        statuses[status] += 1

    async with AsyncExitStack() as stack:
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(ask)
        yield statuses


async def echoes(client: Client) -> None:
    await client.send("still here")
    assert await client.receive() == "still here"


async def until_one_more_is_let_in(url: str) -> None:
    with anyio.fail_after(10):
        while True:
            async with crowd(url, 1) as statuses:
                if b"101" in statuses:
                    return


def lines_with(served: Served, text: str) -> list[str]:
    return [line for line in served.stderr.splitlines() if text in line]


async def test_more_clients_than_files_are_refused_and_connected_ones_stay(tmp_path: Path, env: dict[str, str]) -> None:
    options = ("--no-echo-sender", "--max-connections", "5000")
    with serving(*options, command=LIMITED, cwd=tmp_path, env=env) as served:
        async with Client(served.url) as ann, Client(served.url) as bob:
            async with crowd(served.url, 600) as statuses:
                assert statuses == {b"101": 190, b"503": 410}  # 256 less 64 that are spare
                await ann.send("hi")
                assert await bob.receive() == "hi"
            await until_one_more_is_let_in(served.url)
            assert await anyio.to_thread.run_sync(served.terminate) == 0
    assert len(lines_with(served, "256 open files are enough for 192 clients")) == 1
    assert lines_with(served, "out of system resource") == []
    assert 1 <= len(lines_with(served, "refused a handshake")) <= 6
    assert "Traceback" not in served.stderr


async def test_a_process_without_a_free_descriptor_recovers_by_itself(tmp_path: Path, env: dict[str, str]) -> None:
    with serving("--listener", "listener.py:Listener", command=LIMITED, cwd=tmp_path, env=env) as served:
        async with Client(served.url) as ann:
            await ann.send("take all")
            assert await ann.receive() == "take all"
            async with crowd(served.url, 100, patience=2) as statuses:
                assert set(statuses) <= {b"", b"cut"}
                await echoes(ann)
                await ann.send("give back")
                assert await ann.receive() == "give back"
            await until_one_more_is_let_in(served.url)
            await echoes(ann)
        assert await anyio.to_thread.run_sync(served.terminate) == 0
    assert len(lines_with(served, "out of system resource")) <= 6


async def test_requests_that_nobody_can_read_and_wrong_keys_fill_no_log(tmp_path: Path, env: dict[str, str]) -> None:
    with serving("--api-key", "k", "--listener", "listener.py:Listener", cwd=tmp_path, env=env) as served:
        async with httpx.AsyncClient(base_url=served.url) as http:
            for _ in range(100):
                async with await connect(served.url) as raw:
                    await raw.send(b"\x00\x01nonsense\r\n\r\n")
                    assert (await raw.receive_some()).startswith(b"HTTP/1.1 400")
                async with await connect(served.url) as raw:
                    await raw.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n\r\n")
                    assert (await raw.receive_some()).startswith(b"HTTP/1.1 403")
                assert (await http.post("/send", json={"message": "x"})).status_code == 401
        async with Client(served.url) as ann:
            for _ in range(100):
                await ann.send("fail")
            await echoes(ann)
        assert await anyio.to_thread.run_sync(served.terminate) == 0
    for text, most in (("Invalid HTTP request received", 20), ("refused POST /send", 20), ("on_message failed", 50)):
        assert 1 <= len(lines_with(served, text)) <= most, served.stderr


async def test_invalid_utf_8_is_no_line_for_each(tmp_path: Path, env: dict[str, str]) -> None:
    with serving(cwd=tmp_path, env=env) as served:
        for _ in range(50):
            raw, _ = await handshake(served.url)
            async with raw:
                await raw.send(masked(0x81, b"\xff\xfe"))
                assert (1007).to_bytes(2) in await raw.receive_some()
        assert await anyio.to_thread.run_sync(served.terminate) == 0
    assert len(served.stderr.splitlines()) < 20

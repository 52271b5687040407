"""Streams and a server that stops: it ends in time, whatever its clients do (B2)."""

import sys
from pathlib import Path
from time import monotonic

import anyio
import anyio.to_thread
import pytest

from tests.hostile.attack import Target, under_attack
from tests.ports import free_port
from tests.processes import serving
from tests.raw import connect, post
from tests.streams import RawStream

FIRST = b"\n\n\r\n"

LISTENER = """
class Listener:
    async def on_message(self, event):
        pass
"""

APP = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from wsgateway import Gateway

gateway = Gateway(local_access=True)
app = Starlette(
    routes=[Mount("/live", gateway)], middleware=[Middleware(GZipMiddleware)], lifespan=gateway.lifespan
)
if __name__ == "__main__":
    print(f"http://127.0.0.1:{sys.argv[1]}", flush=True)
    uvicorn.run("app:app", port=int(sys.argv[1]), http=sys.argv[2], workers=int(sys.argv[3]), log_level="warning")
"""


async def open_streams(url: str, path: str, count: int) -> list[RawStream]:
    streams: list[RawStream] = []

    async def open_some(some: int) -> None:
        for _ in range(some):
            stream = await RawStream.open(url, path)
            await stream.raw.receive_until(FIRST if "sse" in path else b"}\n\r\n")
            streams.append(stream)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(open_some, count // 20)
    return streams


async def stuck_streams(url: str, path: str, prefix: str = "") -> list[RawStream]:
    """Five clients that read nothing, and for which more waits than the system keeps."""
    stuck = [await RawStream.open(url, path, buffer=4096) for _ in range(5)]
    caller = await RawStream.open(url, prefix + "/health")
    for _ in range(20):
        await caller.raw.send(post({"message": "x" * 200_000}, path=prefix + "/send"))
        await caller.raw.receive_until(b"}")
    await caller.raw.stream.aclose()
    return stuck


async def listens(url: str) -> None:
    """Wait until a server listens, which uvicorn does not report."""
    with anyio.fail_after(30):
        while True:
            try:
                await (await connect(url)).stream.aclose()
                return
            except OSError:
                await anyio.sleep(0.05)  # uvicorn does not report it


async def close_all(streams: list[RawStream]) -> None:
    for stream in streams:
        await stream.raw.stream.aclose()


async def test_a_thousand_streams_end_with_the_drain_and_exit_code_0(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(LISTENER)
    flags = ("--listener", "chat.py:Listener", "--drain", "6", "--no-admin-enabled", "--local-access")
    with serving(*flags, cwd=tmp_path) as served:
        lines = await open_streams(served.url, "/stream", 200)
        streams = await open_streams(served.url, "/sse", 800)
        began = monotonic()
        served.process.terminate()
        ends = [await stream.raw.receive_all() for stream in streams]
        assert all(b'event: close\ndata: {"code":1012' in end and end.endswith(b"\r\n0\r\n\r\n") for end in ends)
        ends = [await stream.raw.receive_all() for stream in lines]
        assert all(b'{"close":{"code":1012' in end for end in ends)
        assert await anyio.to_thread.run_sync(served.process.wait, 20) == 0
        assert monotonic() - began < 6 + 2
        assert "Traceback" not in served.stderr
        await close_all(streams + lines)


async def test_clients_that_read_nothing_do_not_hold_a_server_that_stops(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(LISTENER)
    flags = ("--listener", "chat.py:Listener", "--drain", "5", "--no-admin-enabled", "--local-access")
    with serving(*flags, cwd=tmp_path) as served:
        streams = await open_streams(served.url, "/sse", 100)
        stuck = [*await stuck_streams(served.url, "/sse"), *await stuck_streams(served.url, "/stream")]
        began = monotonic()
        served.process.terminate()
        assert await anyio.to_thread.run_sync(served.process.wait, 20) == 0
        assert monotonic() - began < 5 + 2 + 1
        assert "Traceback" not in served.stderr
        await close_all(streams + stuck)


@pytest.mark.parametrize(("http", "workers"), [("h11", 1), ("httptools", 1), ("httptools", 2)])
async def test_plain_uvicorn_ends_although_streams_are_open(tmp_path: Path, http: str, workers: int) -> None:
    (tmp_path / "app.py").write_text(APP)
    command = [sys.executable, "app.py", str(free_port()), http, str(workers)]
    with serving(cwd=tmp_path, command=command) as served:
        await listens(served.url)
        streams = await open_streams(served.url, "/live/sse", 100)
        began = monotonic()
        served.process.terminate()
        code = await anyio.to_thread.run_sync(served.process.wait, 20)
        assert code in (0, -15)  # uvicorn raises the signal again
        assert monotonic() - began < 3
        assert "Traceback" not in served.stderr
        await close_all(streams)


async def test_streams_that_come_go_and_send_garbage_leave_nothing_behind(own: Target) -> None:
    async with under_attack(own):
        for path in ("/sse", "/stream"):
            streams = await open_streams(own.served.url, path, 100)
            for stream in streams[:50]:
                await stream.raw.send(b"x" * 5000)
            await close_all(streams)

"""Clients whose commands arrive in requests: floods of them, requests that never end, and a server that stops."""

import json
import sys
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import pytest

from tests.emulated import KINDS, Emulated
from tests.hostile.attack import Target, under_attack
from tests.hostile.peers import Peer, answer
from tests.ports import free_port
from tests.processes import serving
from tests.raw import head, post

BOUNDED = 40.0
"""MB that a server may need for a flood while it lasts."""


def posted(stream: Emulated, *commands: Any, **fields: str) -> bytes:
    data = "\n".join(json.dumps(command) for command in commands)
    body = {"session": stream.session, "node": stream.node, "data": data, **fields}
    return post(body, path="/emulation")


async def test_a_first_frame_of_100_kb_in_the_query(target: Target) -> None:
    frame = quote('{"id":1,"connect":{"token":"' + "SECRET" * 17_000 + '"}}')
    async with under_attack(target) as attack:
        for _ in range(20):
            peer = await attack.peer()
            await peer.send(head(f"GET /connection/sse?cf_connect={frame} HTTP/1.1"))
            assert b" 200 " not in (await peer.until(b"\r\n")).partition(b"\r\n")[0]
    assert "SECRET" not in target.log


async def test_10_000_posts(target: Target) -> None:
    """Guessed sessions, unknown nodes, garbage, and commands for a client whose hook never ends."""
    async with under_attack(target, tracebacks=True) as attack:
        stream = await Emulated.open(target.served.url)
        endless = {"send": {"data": "!forever"}}
        requests = [
            (posted(stream, endless, session="guessed"), {204}),
            (posted(stream, endless, session=stream.session + "x"), {204}),
            (posted(stream, endless, node="unknown"), {404}),
            (post(b"{" * 1000, path="/emulation"), {400}),
            (post(b"x" * 65_537, path="/emulation"), {413}),
        ]

        async def flood(place: int) -> None:
            peer = await attack.peer()
            peer.patience = 60
            if place < 4:
                await peer.send(posted(stream, endless))
                assert (await answer(peer)).status == 204
            for _ in range(5 if target.is_plain else 20):
                for request, statuses in requests:
                    await peer.send(request)
                    assert (await answer(peer)).status in statuses
            peer.close()

        async with anyio.create_task_group() as tasks:
            for place in range(100):
                tasks.start_soon(flood, place)
        assert attack.grown() < BOUNDED
        await stream.aclose()


async def test_requests_that_are_never_complete(target: Target) -> None:
    async with under_attack(target) as attack:
        for path in ("/emulation", "/connection/http_stream", "/connection/sse"):
            for _ in range(50):
                peer = await attack.peer()
                await peer.send(head(f"POST {path} HTTP/1.1", "Content-Length: 60000") + b"{" * 30_000)
        assert attack.grown() < BOUNDED


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_never_reads_its_stream_is_closed(target: Target, kind: str) -> None:
    async with under_attack(target) as attack:
        stream = await Emulated.open(target.served.url, kind, buffer=4096)
        caller = await attack.peer()
        for _ in range(60):
            await caller.send(post({"message": "x" * 100_000}))
            assert (await answer(caller)).status == 200
        with anyio.fail_after(20):
            while not any(" 3008" in code for code in (await target.report())["codes"] if "connection" in code):
                await anyio.sleep(0.05)  # the listener counts it, and notifies nobody
        await stream.aclose()


async def test_streams_that_come_go_and_post_behind_their_end(target: Target) -> None:
    async with under_attack(target) as attack:
        peer = await attack.peer()
        for number in range(60):
            stream = await Emulated.open(target.served.url, KINDS[number % 3])
            await peer.send(posted(stream, {"id": 2, "rpc": {}}))
            if number % 2:
                await stream.aclose()
            assert (await answer(peer)).status == 204
            await stream.aclose()
            await peer.send(posted(stream, {"id": 3, "rpc": {}}))
            assert (await answer(peer)).status == 204


async def test_a_client_that_sends_on_the_connection_of_its_stream(target: Target) -> None:
    async with under_attack(target):
        for kind in KINDS:
            stream = await Emulated.open(target.served.url, kind)
            await stream.raw.send(post({"message": "x"}) * 20)
            await stream.aclose()


async def open_streams(url: str, kind: str, count: int, prefix: str = "") -> list[Emulated]:
    streams: list[Emulated] = []

    async def open_some() -> None:
        streams.extend([await Emulated.open(url, kind, prefix=prefix) for _ in range(count // 10)])

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(open_some)
    return streams


async def test_100_streams_of_each_kind_end_with_the_drain_and_exit_code_0(tmp_path: Path) -> None:
    flags = ("--protocols", "centrifuge", "--drain", "6", "--no-admin-enabled", "--local-access")
    with serving(*flags, cwd=tmp_path) as served:
        streams = [stream for kind in KINDS for stream in await open_streams(served.url, kind, 100)]
        began = monotonic()
        served.process.terminate()
        for stream in streams:
            assert await stream.ends() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
        assert await anyio.to_thread.run_sync(served.process.wait, 20) == 0
        assert monotonic() - began < 6 + 2
        assert "Traceback" not in served.stderr
        for stream in streams:
            await stream.aclose()


APP = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from wsgateway import Gateway

gateway = Gateway(local_access=True, protocols=["centrifuge"])
app = Starlette(
    routes=[Mount("/live", gateway)], middleware=[Middleware(GZipMiddleware)], lifespan=gateway.lifespan
)
if __name__ == "__main__":
    print(f"http://127.0.0.1:{sys.argv[1]}", flush=True)
    uvicorn.run("app:app", port=int(sys.argv[1]), http=sys.argv[2], log_level="warning")
"""


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_plain_uvicorn_ends_although_streams_are_open(tmp_path: Path, http: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving(cwd=tmp_path, command=[sys.executable, "app.py", str(free_port()), http]) as served:
        with anyio.fail_after(30):
            while True:
                try:
                    (await Peer.connect(int(served.url.rpartition(":")[2]))).close()
                    break
                except OSError:
                    await anyio.sleep(0.05)  # uvicorn does not report that it listens
        streams = [stream for kind in KINDS for stream in await open_streams(served.url, kind, 30, "/live")]
        began = monotonic()
        served.process.terminate()
        for stream in streams:
            assert await stream.ends() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
        assert await anyio.to_thread.run_sync(served.process.wait, 20) in (0, -15)  # uvicorn raises the signal again
        assert monotonic() - began < 5
        assert "Traceback" not in served.stderr
        for stream in streams:
            await stream.aclose()

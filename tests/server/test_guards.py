"""How long a connection may take for a request, and how many connections there may be."""

import asyncio
import logging
import socket
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.raw import connect, head, masked, post, upgrade
from tests.server.patient import Patient
from tests.servers import OwnServer, PlainUvicorn
from wsgateway import Event, Gateway
from wsgateway.server.guards import HttpShared
from wsgateway.server.http import HttpProtocol
from wsgateway.testing import Client

own = OwnServer()


async def test_a_head_that_arrives_slowly_behind_an_answer_has_its_own_time_limit() -> None:
    listener = Patient()
    async with serving_with(Gateway(listener, local_access=True), timeout_keep_alive=0.2) as url:
        async with await connect(url) as raw:
            await raw.send(post({"message": 1}) + b"GET /health HTTP/1.1\r\nHost: loc")
            await anyio.wait_all_tasks_blocked()
            listener.release.set()
            assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")
            await idle_connection_ended(url)
            await raw.send(b"alhost\r\n\r\n")
            assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")


async def idle_connection_ended(url: str) -> None:
    """Wait until the server has closed a connection that was idle from now on."""
    async with await connect(url) as raw:
        await raw.send(head("GET /health HTTP/1.1"))
        await raw.receive_all()


async def test_a_head_is_not_refused_once_the_last_response_is_written(caplog: pytest.LogCaptureFixture) -> None:
    release, ended = anyio.Event(), anyio.Event()
    timers: list[object] = []

    async def last(request: Request) -> Response:
        await release.wait()
        return Response(headers={"connection": "close"})

    class Impatient(HttpProtocol):
        shared = HttpShared(request_timeout=0.3)

        def connection_lost(self, exc: Exception | None) -> None:
            timers.append(self.head_timer)
            super().connection_lost(exc)
            ended.set()

    app = Starlette(routes=[Route("/", last)])
    async with PlainUvicorn(http=Impatient)(app) as url, await connect(url) as raw:
        await raw.send(head("GET / HTTP/1.1") + b"GET / HTTP/1.1\r\nHo")
        await anyio.wait_all_tasks_blocked()
        release.set()
        assert b"HTTP/1.1 408" not in await raw.receive_all()
    with anyio.fail_after(10):
        await ended.wait()
    assert timers == [None]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@asynccontextmanager
async def serving_with(gateway: Gateway, *, timeout_keep_alive: float) -> AsyncIterator[str]:
    """A server with another time limit for idle connections, which is a constant of uvicorn's configuration."""

    with pytest.MonkeyPatch.context() as patch:
        init = uvicorn.Config.__init__

        def shorter(self: uvicorn.Config, *args: Any, **options: Any) -> None:
            init(self, *args, **options)
            self.timeout_keep_alive = timeout_keep_alive  # type: ignore[assignment]  # seconds, whole by convention

        patch.setattr(uvicorn.Config, "__init__", shorter)
        async with own(gateway) as url:
            yield url


@pytest.mark.parametrize("begun", [b"", b"GET /ws HT", b"GET /ws HTTP/1.1\r\nHost: x\r\n"])
async def test_a_request_that_does_not_come_is_408(begun: bytes) -> None:
    async with own(Gateway(handshake_timeout=0.2)) as url:
        async with await connect(url) as raw:
            if begun:
                await raw.send(begun)
            assert (await raw.receive_some()).startswith(b"HTTP/1.1 408 ")
            with pytest.raises(anyio.EndOfStream):
                await raw.receive_some()


async def test_one_byte_at_a_time_does_not_extend_it() -> None:
    async with own(Gateway(handshake_timeout=0.3)) as url, await connect(url) as raw:
        with anyio.fail_after(5), pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            for byte in b"GET /ws HTTP/1.1\r\nX: " + b"a" * 1000:
                await raw.send(bytes([byte]))
                await anyio.sleep(0.02)  # the pace of the attack
                if raw.buffer:
                    break
            while True:
                await raw.receive_some()


async def test_the_second_request_of_a_connection_has_the_limit_too() -> None:
    async with own(Gateway(handshake_timeout=0.3)) as url, await connect(url) as raw:
        await raw.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await raw.receive_until(b"}")
        await raw.send(b"GET /health HTTP/1.1\r\nHo")
        assert (await raw.receive_some()).startswith(b"HTTP/1.1 408 ")


@contextmanager
def logged(text: str) -> Iterator[anyio.Event]:
    """An event that is set as soon as a line with `text` is logged."""
    event = anyio.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                event.set()

    handler = Handler()
    logging.getLogger("wsgateway").addHandler(handler)
    try:
        yield event
    finally:
        logging.getLogger("wsgateway").removeHandler(handler)


@pytest.mark.parametrize(("rest", "status"), [(b"X: " + b"a" * 100_000, 431), (b"Ho", 408)], ids=["large", "slow"])
async def test_a_head_that_is_refused_while_an_answer_is_pending_ends_the_connection_after_it(
    rest: bytes, status: int
) -> None:
    listener = Patient()
    gateway = Gateway(listener, local_access=True, handshake_timeout=0.2 if status == 408 else 10)
    async with own(gateway) as url, await connect(url) as raw:
        with anyio.fail_after(10), logged(f"with {status}") as refused:
            await raw.send(post({"message": 1}) + b"GET / HTTP/1.1\r\n")
            await raw.send(rest)
            await refused.wait()
        listener.release.set()
        answers = await raw.receive_all()
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 ") == 1


async def test_a_head_without_end_is_discarded_once_it_is_refused() -> None:
    listener = Patient()
    async with own(Gateway(listener, local_access=True)) as url, await connect(url) as raw:
        await raw.send(post({"message": 1}) + b"GET / HTTP/1.1\r\n")
        tracemalloc.start()
        try:
            for _ in range(1000):
                await raw.send(b"X: " + b"a" * 100_000 + b"\r\n")
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()
        listener.release.set()
        assert (await raw.receive_all()).count(b"HTTP/1.1 ") == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are read from /proc")
async def test_who_reads_no_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.server.guards.BODY_TIMEOUT", 0.3)  # a constant, so that the test is quick
    loop = asyncio.get_running_loop()
    async with own(Gateway()) as url:
        with socket.socket() as deaf:
            before = descriptors()
            deaf.setblocking(False)
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(deaf, ("127.0.0.1", int(url.rpartition(":")[2])))
            await loop.sock_sendall(deaf, b"GET /pages/test.js HTTP/1.1\r\nHost: x\r\n\r\n" * 900)
            for count in (1, 0):  # it is accepted, and ended
                with anyio.fail_after(10):
                    while descriptors() - before != count:
                        await anyio.sleep(0.01)  # it reads nothing that would tell it


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_fast_request_is_not_cut_while_it_is_answered() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            await anyio.sleep(0.5)  # longer than handshake_timeout

    async with own(Gateway(Listener, handshake_timeout=0.2, local_access=True)) as url:
        async with httpx.AsyncClient() as http:
            assert (await http.post(url + "/send", json={"message": "x"})).status_code == 200


WITHOUT_REQUEST = {
    "an empty line": (head("GET /health HTTP/1.1"), b"\r\n"),
    "many empty lines": (head("GET /health HTTP/1.1"), b"\r\n" * 500),
    "a body after its answer": (head("POST /health HTTP/1.1", "Content-Length: 5"), b"hello"),
    "chunks after their answer": (head("POST /health HTTP/1.1", "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
    "h2c": (head("GET /health HTTP/1.1", "Upgrade: h2c", "Connection: Upgrade"), b"\r\n"),
}


@pytest.mark.parametrize("way", WITHOUT_REQUEST)
async def test_a_socket_without_a_request_is_ended_whatever_it_sends(way: str) -> None:
    first, second = WITHOUT_REQUEST[way]
    async with serving_with(Gateway(), timeout_keep_alive=0.3) as url, await connect(url) as raw:
        await raw.send(first)
        assert (await raw.receive_some()).startswith(b"HTTP/1.1 ")
        await raw.send(second)
        await raw.receive_all()


async def test_a_body_that_does_not_come_after_its_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.server.guards.BODY_TIMEOUT", 0.3)  # a constant, so that the test is quick
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(head("POST /health HTTP/1.1", "Content-Length: 5"))
        with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            while True:
                await raw.receive_some()


async def test_a_websocket_is_not_ended_by_the_keep_alive_of_a_request_before_it() -> None:
    async with serving_with(Gateway(), timeout_keep_alive=0.2) as url, await connect(url) as raw:
        await raw.send(head("GET /health HTTP/1.1"))
        await raw.receive_until(b"}")
        await raw.send(upgrade())
        assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await idle_connection_ended(url)
        await raw.send(masked(0x81, b"hello"))
        assert await raw.receive_exactly(7) == b"\x81\x05hello"


async def connect_from(source: str, url: str) -> socket.socket:
    """A socket to the server from another of this machine's loopback addresses."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(url.rpartition(":")[2])))
    return sock


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_silent_sockets_of_one_address_make_room_for_another() -> None:
    async with own(Gateway(max_connections=10)) as url:
        silent = [await connect_from("127.0.0.2", url) for _ in range(60)]  # 10, and 32 to spare
        try:
            for _ in range(3):
                async with Client(url) as client:
                    await client.send("hello")
                    assert await client.receive() == "hello"
                async with await connect(url) as raw:
                    await raw.send(head("GET /health HTTP/1.1"))
                    assert (await raw.receive_some()).startswith(b"HTTP/1.1 200 ")
        finally:
            for sock in silent:
                sock.close()


async def test_an_address_whose_own_sockets_are_silent_is_refused_on_a_full_server() -> None:
    async with own(Gateway(max_connections=10)) as url, await connect(url) as first:
        silent = [await connect(url) for _ in range(60)]
        try:
            async with await connect(url) as raw:
                assert (await raw.receive_some()).startswith(b"HTTP/1.1 503 ")
            await first.send(head("GET /health HTTP/1.1"))
            assert (await first.receive_some()).startswith(b"HTTP/1.1 200 ")
        finally:
            for raw in silent:
                await raw.stream.aclose()

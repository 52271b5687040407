"""What a proxy in front answers, and what is found from it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.servers import OwnServer, PlainUvicorn
from wsgateway import Gateway
from wsgateway.cli.checks import Severity, check_probe
from wsgateway.cli.probe import address_of, holds_streams_back, opened_to_strangers, probe

KEY = "k" * 22


@asynccontextmanager
async def proxy(target: str, change: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """Passes on to `target` what it is sent, the head of each connection's first request changed by `change`."""
    host, _, port = target.removeprefix("http://").partition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        there, back = await asyncio.open_connection(host, int(port))
        back.write(change(head))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def buffering_proxy(target: str) -> AsyncIterator[str]:
    """Passes on an answer when it is complete, except that of a handshake."""
    host, _, port = target.removeprefix("http://").partition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_handshake = b"Upgrade" in head
        there, back = await asyncio.open_connection(host, int(port))
        back.write(head if is_handshake else head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        with contextlib.suppress(OSError):
            writer.write(await there.read(65536 if is_handshake else -1))
        writer.close()
        back.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


CHANGES: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "a good one": (lambda head: head, []),
    "no upgrade": (
        lambda head: re.sub(rb"(?im)^(upgrade|connection):.*\r\n", b"", head),
        ["does not forward the upgrade to a WebSocket: a handshake is 400"],
    ),
    "another host": (
        lambda head: re.sub(rb"(?im)^host:.*\r\n", b"Host: inside:80\r\n", head),
        ["would be refused for its origin: pages from 'http://127.0.0.1:"],
    ),
    "another scheme": (
        lambda head: head.replace(b"\r\n", b"\r\nX-Forwarded-Proto: https\r\n", 1),
        ["would be refused for its origin"],
    ),
    "another path": (
        lambda head: head.replace(b" /", b" /elsewhere/", 1),
        ["/ready is 404, not 200", "a handshake is 404: there is no WebSocket at /elsewhere/ws"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_proxy_in_front(name: str) -> None:
    change, texts = CHANGES[name]
    gateway = Gateway(allowed_origins="https://other.example")  # else every loopback origin may
    async with OwnServer()(gateway) as url, proxy(url, change) as front:
        found = list(check_probe(await probe(front)))
    assert len(found) == len(texts)
    for finding, text in zip(found, texts, strict=True):
        assert text in finding.what


async def test_a_proxy_that_holds_streams_back_is_serious(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.cli.probe.FIRST_BYTE", 0.5)
    async with OwnServer()(Gateway(allowed_origins="*")) as url, buffering_proxy(url) as front:
        found = list(check_probe(await probe(front)))
        assert not await asyncio.to_thread(holds_streams_back, url)
    assert [finding.what for finding in found] == [
        f"the proxy holds streams back: nothing of GET {front}/sse has arrived within 3 s"
    ]


def forwarded(head: bytes) -> bytes:
    return head.replace(b"\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n", 1)


def renamed(head: bytes) -> bytes:
    """As a proxy does that asks by the address which it knows."""
    return re.sub(rb"(?im)^host:.*\r\n", b"Host: 127.0.0.1:10125\r\n", head)


@pytest.mark.parametrize("api_key", ["", KEY])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda head: head, False),
        (forwarded, False),
        (lambda head: forwarded(renamed(head)), False),
        (lambda head: renamed(head).replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (renamed, True),
    ],
    ids=["passes all on", "says so", "says so and renames", "HTTP/1.0", "says nothing and renames"],
)
async def test_strangers_that_are_local_are_serious(change: Callable[[bytes], bytes], told: bool, api_key: str) -> None:
    async with (
        OwnServer()(Gateway(local_access=True, api_key=[api_key] if api_key else [])) as url,
        proxy(url, change) as front,
    ):
        found = list(check_probe(await probe(front, api_key=api_key or None)))
    local = [finding for finding in found if "strangers are local" in finding.what]
    assert [finding.severity for finding in local] == [Severity.SERIOUS] * told
    assert KEY not in str(found)


async def test_a_page_that_answers_everything_is_no_gateway() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b'{"caller": "x"}'})

    async with PlainUvicorn(ws="none")(page) as url:
        assert await asyncio.to_thread(opened_to_strangers, url, KEY) == ""
    assert opened_to_strangers("http://127.0.0.1:1", None) == ""


async def test_nobody_behind_the_address() -> None:
    (found,) = check_probe(await probe("http://127.0.0.1:1"))
    assert "no server answers" in found.what


async def test_the_address_that_arrives_is_asked_for_with_the_key() -> None:
    forwarded = b"\r\nX-Forwarded-For: 203.0.113.9\r\n"
    async with OwnServer()(Gateway(api_key=KEY)) as url:
        assert await address_of(url, "/ws/doctor", KEY) == "127.0.0.1"
        assert await address_of(url, "/ws/doctor", "wrong") is None
        async with proxy(url, lambda head: head.replace(b"\r\n", forwarded, 1)) as front:
            assert await address_of(front, "/ws/doctor", KEY) == "203.0.113.9"

"""Request smuggling through the real proxies: no visitor is answered with another's response, or for another's path."""

import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from tests.processes import Served
from tests.processes import serving as serving_process
from tests.proxies import NAME, PROXIES, Proxy, Site
from tests.raw import Raw

KEY = "the-key"
ROUNDS = 200

UPGRADES = (
    b"Connection: upgrade\r\nUpgrade: foo\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket, foo\r\n",
    b"Connection: upgrade\r\nUpgrade: foo\r\nUpgrade: websocket\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: foo\r\n",
    b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
    b"Connection: close, upgrade\r\nUpgrade: \twebsocketx\r\n",
    b"",
)

FRAMINGS = (
    b"Content-Length: %(size)d\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 0\r\nContent-Length: %(size)d\r\n",
    b"Content-Length: %(size)d\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\nContent-Length: %(size)d\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Content-Length: +%(size)d\r\n",
)

SMUGGLED = (
    b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\nX-Ignore: ",
    b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n"smuggl"',
)

PADDINGS = (b"", b"\r\n" * 20_000, b"\r\n" * 150_000)
"""The parser skips empty lines, and uvicorn discards what arrives with the head."""


def attacks() -> Iterator[bytes]:
    """Requests whose body is a request. Two out of three are framed as they say, with an upgrade."""
    plain = FRAMINGS[:2]
    odd = itertools.cycle(itertools.product(UPGRADES, FRAMINGS[2:], SMUGGLED, PADDINGS[:2]))
    usual = itertools.cycle(itertools.product(SMUGGLED, PADDINGS, plain, UPGRADES))
    while True:
        for smuggled, padding, framing, upgrade in (next(usual), next(usual)):
            yield _request(upgrade, framing, padding + smuggled)
        upgrade, framing, smuggled, padding = next(odd)
        yield _request(upgrade, framing, padding + smuggled)


def _request(upgrade: bytes, framing: bytes, body: bytes) -> bytes:
    size = len(body)
    if b"chunked" in framing and b"size" not in framing:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    return b"POST /health HTTP/1.1\r\nHost: %b\r\n%b%b\r\n%b" % (
        NAME.encode(), upgrade, framing % {b"size": size} if b"%" in framing else framing, body,
    )  # fmt: skip


def head_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[0]


class Visitor:
    """A client of the site that keeps its connection, as browsers do, and takes each response for the answer to its
    last request."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._raw: Raw | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send `request`; the status and the body of the response."""
        for _ in range(2):
            raw = self._raw or await connect(self._site)
            self._raw = None
            try:
                await raw.send(request)
                head = await raw.receive_until(b"\r\n\r\n")
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                continue  # the proxy has closed an idle connection
            size = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            body = await raw.receive_exactly(int(size[1])) if size else b""
            if b"connection: close" in head.lower():
                await raw.stream.aclose()
            else:
                self._raw = raw
            return int(head.split()[1]), body
        raise AssertionError("the proxy closes every connection without a response")

    async def aclose(self) -> None:
        if self._raw is not None:
            await self._raw.stream.aclose()


async def connect(site: Site) -> Raw:
    tls = await anyio.connect_tcp(
        "127.0.0.1", site.port, ssl_context=site.trust, tls_hostname=NAME, tls_standard_compatible=False
    )
    return Raw(tls)


@asynccontextmanager
async def visiting(site: Site) -> AsyncIterator[Visitor]:
    visitor = Visitor(site)
    yield visitor
    await visitor.aclose()


async def attack(site: Site, request: bytes) -> None:
    """Send `request` on a connection of its own, and wait for a response or the end."""
    raw = await connect(site)
    async with raw:
        try:
            await raw.send(request)
            await raw.receive_until(b"\r\n\r\n")
        except (anyio.EndOfStream, anyio.BrokenResourceError, ConnectionError):
            pass  # it was refused


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    env = {"WSGATEWAY_API_KEY": KEY, "WSGATEWAY_ADMIN_ENABLED": "false"}
    folder = tmp_path / "gateway"
    folder.mkdir()
    with serving_process(cwd=folder, env=env) as found:
        yield found


@pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: str(proxy.__name__))
async def test_no_visitor_is_answered_for_what_a_stranger_has_sent(
    proxy: Proxy, served: Served, tmp_path: Path
) -> None:
    host = NAME.encode()
    with proxy([served.url.removeprefix("http://")], tmp_path) as site:
        async with visiting(site) as reader, visiting(site) as pusher, site.client() as client:
            for number, request in enumerate(itertools.islice(attacks(), ROUNDS)):
                await attack(site, request)
                status, body = await reader.ask(b"GET /own/%d HTTP/1.1\r\nHost: %b\r\n\r\n" % (number, host))
                assert (status, f"there is nothing at /own/{number};" in body.decode()) == (404, True), head_of(request)
                message = json.dumps({"message": number}).encode()
                status, body = await pusher.ask(
                    b"POST /send HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (host, KEY.encode(), len(message), message)
                )
                assert (status, json.loads(body).get("queued")) == (200, 1), head_of(request)
                assert await client.receive() == str(number)
        assert "smuggled" not in served.stderr


def test_every_kind_of_attack_is_tried() -> None:
    tried: Sequence[bytes] = list(itertools.islice(attacks(), ROUNDS))
    for part in (*UPGRADES, *SMUGGLED):
        assert any(part in request for request in tried)

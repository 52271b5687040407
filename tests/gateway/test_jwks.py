"""The key set of an issuer: when it is fetched, how long it is kept, and what is refused."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.clocks import jumping, pass_time
from tests.keys import Issuer
from wsgateway.auth.tokens import KeyRefused
from wsgateway.exceptions import Refused
from wsgateway.gateway.jwks import (
    LIFETIME,
    MAX_BYTES,
    MAX_LIFETIME,
    PAUSE,
    STALE,
    Document,
    KeySet,
    download,
    in_thread,
    lifetime_of,
)
from wsgateway.logs import GatewayLog

URL = "https://auth.example.com/jwks.json?secret=1"


class Source:
    """Answers each download with the key set of an issuer, unless it is out of order."""

    def __init__(self) -> None:
        self.issuer = Issuer()
        self.count = 0
        self.error: Exception | None = None
        self.body: bytes | None = None
        self.lifetime = LIFETIME
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, url: str) -> Document:
        assert url == URL
        self.count += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Document(self.issuer.key_set() if self.body is None else self.body, self.lifetime)


@asynccontextmanager
async def key_set_of(source: Source, *, patience: float = 10.0) -> AsyncIterator[KeySet]:
    key_set = KeySet(URL, GatewayLog("default"), patience=patience, fetch=source.fetch)
    key_set.start()
    try:
        yield key_set
    finally:
        await key_set.aclose()
        await key_set.aclose()


async def has(key_set: KeySet, kid: str | None) -> bool:
    return any(key.kid == kid for key in await key_set.keys(kid))


@jumping
async def test_it_is_fetched_at_the_start_and_kept() -> None:
    source = Source()
    async with key_set_of(source) as key_set:
        assert await has(key_set, "key 0")
        assert len(await key_set.keys(None)) == 1
        await pass_time(LIFETIME - 1)
        assert await has(key_set, "key 0")
        assert source.count == 1
        await pass_time(1)
        assert await has(key_set, "key 0")
        assert source.count == 2


@jumping
async def test_it_is_kept_for_as_long_as_the_issuer_allows() -> None:
    source = Source()
    source.lifetime = 1000
    async with key_set_of(source) as key_set:
        await key_set.keys("key 0")
        await pass_time(999)
        await key_set.keys("key 0")
        assert source.count == 1
        await pass_time(1)
        await key_set.keys("key 0")
        assert source.count == 2


@jumping
async def test_a_new_key_is_found_at_once() -> None:
    source = Source()
    async with key_set_of(source) as key_set:
        assert await has(key_set, "key 0")
        for _ in range(3):
            kid = source.issuer.rotate()
            assert await has(key_set, kid)
            await pass_time(PAUSE)
        assert await has(key_set, "key 2")
        assert not await has(key_set, "key 1")  # its issuer has removed it
        assert source.count == 5


@jumping
async def test_a_thousand_unknown_ids_cause_one_fetch() -> None:
    source = Source()
    async with key_set_of(source) as key_set:
        await key_set.keys("key 0")
        found = await asyncio.gather(*(has(key_set, f"guess {number}") for number in range(1000)))
        assert not any(found)
        assert source.count == 2
        for number in range(1000):
            await key_set.keys(f"another {number}")
        assert source.count == 2
        await pass_time(PAUSE)
        await key_set.keys("a third")
        assert source.count == 3


@jumping
async def test_clients_wait_for_the_first_key_set() -> None:
    source = Source()
    source.gate.clear()
    async with key_set_of(source) as key_set:
        waiting = [asyncio.ensure_future(has(key_set, "key 0")) for _ in range(10)]
        await asyncio.sleep(0)  # so that all of them wait
        waiting[0].cancel()
        source.gate.set()
        assert all(await asyncio.gather(*waiting[1:]))
        assert source.count == 1


@jumping
async def test_clients_wait_while_the_first_fetch_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    source.error = OSError("connection refused")
    async with key_set_of(source) as key_set:
        waiting = asyncio.ensure_future(has(key_set, "key 0"))
        await pass_time(3.5)
        assert source.count == 3
        source.error = None
        assert await waiting
        assert source.count == 4
    assert "cannot fetch the keys of tokens from https://auth.example.com/jwks.json?…: connection" in caplog.text
    assert "secret=1" not in caplog.text


@jumping
async def test_a_client_does_not_wait_for_ever() -> None:
    source = Source()
    source.error = OSError("connection refused")
    async with key_set_of(source, patience=5) as key_set:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(Refused) as refused:
            await key_set.keys("key 0")
        assert refused.value.status == 503
        assert asyncio.get_running_loop().time() - begun == 5


@jumping
async def test_the_old_keys_are_used_for_a_day_without_the_issuer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    async with key_set_of(source, patience=5) as key_set:
        await key_set.keys("key 0")
        source.error = OSError("no route to host")
        await pass_time(LIFETIME)
        assert await has(key_set, "key 0")
        count = source.count
        assert await has(key_set, "key 0")
        assert source.count == count == 2  # not for each client
        assert "the old ones are still used" in caplog.text
        await pass_time(STALE - 10)
        assert await has(key_set, "key 0")
        await pass_time(10)
        with pytest.raises(Refused):
            await key_set.keys("key 0")
        source.error = None
        await pass_time(PAUSE)
        assert await has(key_set, "key 0")


@jumping
async def test_an_hour_with_rotating_keys() -> None:
    source = Source()
    async with key_set_of(source) as key_set:
        for minute in range(60):
            if minute % 7 == 0:
                source.issuer.rotate()
            newest = len(source.issuer._keys) - 1
            assert await has(key_set, f"key {newest}")
            assert not await has(key_set, "guess")
            await pass_time(60)
        assert not await has(key_set, "key 0")


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"keys":[]}', b'{"keys":[{"kty":"oct","k":"AAAA"}]}'])
@jumping
async def test_a_document_without_keys_does_not_replace_them(body: bytes) -> None:
    source = Source()
    async with key_set_of(source) as key_set:
        await key_set.keys("key 0")
        source.body = body
        await pass_time(LIFETIME)
        assert await has(key_set, "key 0")
        assert source.count == 2


async def test_two_issuers_may_have_the_same_key_id() -> None:
    one, other = Source(), Source()
    async with key_set_of(one) as first, key_set_of(other) as second:
        assert (await first.keys("key 0"))[0].material != (await second.keys("key 0"))[0].material


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", LIFETIME),
        ("no-store", LIFETIME),
        ("max-age=600", 600),
        ("public, MAX-AGE=600, immutable", 600),
        ('max-age="600"', 600),
        ("max-age=0", PAUSE),
        ("max-age=99999999", MAX_LIFETIME),
        ("max-age=-5", LIFETIME),
        ("max-age=x", LIFETIME),
        ("x-max-age=600", LIFETIME),
        ("s-maxage=600", LIFETIME),
    ],
)
def test_the_lifetime(header: str, seconds: float) -> None:
    assert lifetime_of(header) == seconds


# Over HTTP


@contextmanager
def web_server(answers: Mapping[str, Any]) -> Iterator[str]:
    """Serve `answers` by path: a body, a status, or a location to redirect to. Yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[self.path]
            if isinstance(answer, int):
                self.send_error(answer)
            elif isinstance(answer, str):
                self.send_response(302)
                self.send_header("location", answer)
                self.end_headers()
            elif callable(answer):
                answer(self)
            else:
                self.send_response(200)
                self.send_header("cache-control", "max-age=900")
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_document_is_downloaded() -> None:
    with web_server({"/jwks": b"{}", "/moved": "/jwks"}) as url:
        assert download(f"{url}/jwks") == Document(b"{}", 900)
        assert download(f"{url}/moved") == Document(b"{}", 900)


def test_the_keys_of_this_host_come_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with web_server({"/jwks": b"{}"}) as url, web_server({f"{url}/jwks": b'{"keys":[]}'}) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        assert download(f"{url}/jwks").body == b"{}"


def test_a_redirect_to_another_host_is_not_followed() -> None:
    with web_server({"/jwks": b"{}"}) as other:
        port = other.rpartition(":")[2]
        targets = [f"{other}/jwks", f"http://localhost:{port}/jwks", "file:///etc/passwd", "ftp://127.0.0.1/x"]
        with web_server({f"/{place}": target for place, target in enumerate(targets)}) as url:
            for place in range(len(targets)):
                with pytest.raises(OSError, match=r"another host|status 302"):
                    download(f"{url}/{place}")


def test_an_answer_that_is_not_one() -> None:
    def garbage(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"garbage\r\n\r\n")

    answers = {"/404": 404, "/500": 500, "/large": b"x" * (MAX_BYTES + 1), "/loop": "/loop", "/garbage": garbage}
    with web_server(answers) as url:
        for path, error in (("/404", "status 404"), ("/500", "status 500"), ("/loop", "status 302")):
            with pytest.raises(OSError, match=error):
                download(url + path)
        with pytest.raises(KeyRefused, match="more than"):
            download(f"{url}/large")
        with pytest.raises(Exception):  # noqa: B017  which one depends on Python; `KeySet` handles each of them
            download(f"{url}/garbage")


def test_a_server_that_answers_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.gateway.jwks.TIMEOUT", 0.2)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b" ")
                time.sleep(0.02)  # the answer has to be slow
        except OSError:
            pass  # the client has given up

    with web_server({"/drip": drip}) as url, pytest.raises(TimeoutError):
        download(f"{url}/drip")


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/jwks")


async def test_an_error_of_a_thread_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert await in_thread(lambda: 5) == 5
    with pytest.raises(ValueError, match="no"):
        await in_thread(fail)


def test_a_thread_may_outlive_the_event_loop() -> None:
    gate, threads = threading.Event(), []

    async def give_up() -> None:
        def wait() -> None:
            threads.append(threading.current_thread())
            gate.wait(10)

        try:
            async with asyncio.timeout(0):
                await in_thread(wait)
        except TimeoutError:
            pass

    asyncio.run(give_up())
    gate.set()
    for thread in threads:
        thread.join(10)

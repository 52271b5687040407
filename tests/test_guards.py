"""What comes before a request is one, how many may come, and how often: limits that a raw socket meets."""

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.raw import KEY, connect, handshake, masked, post
from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Event, Gateway
from wsgateway.addresses import MAX_ADDRESS
from wsgateway.limits import Bucket
from wsgateway.testing import Client, RecordingListener

own = OwnServer()


@pytest.fixture(params=[OwnServer(), PlainUvicorn()], ids=lambda serve: serve.name)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


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


async def test_a_head_without_end_is_431_while_an_answer_is_pending() -> None:
    async with own(Gateway(listener=Patient, local_access=True)) as url, await connect(url) as raw:
        await raw.send(post({"message": 1}))
        await raw.send(b"GET / HTTP/1.1\r\n")
        with anyio.fail_after(5), pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            for _ in range(1000):
                await raw.send(b"X: " + b"a" * 100_000 + b"\r\n")
            while True:
                await raw.receive_some()


async def test_a_head_that_does_not_come_is_ended_while_an_answer_is_pending() -> None:
    async with own(Gateway(listener=Patient, local_access=True, handshake_timeout=0.2)) as url:
        async with await connect(url) as raw:
            await raw.send(post({"message": 1}) + b"GET / HTTP/1.1\r\n")
            await raw.send(b"Ho")
            with anyio.fail_after(5), pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                while True:
                    await raw.receive_some()


class Patient:
    async def on_message(self, event: Event) -> None:
        await anyio.sleep(2)  # longer than the test


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are read from /proc")
async def test_who_reads_no_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.server.guards.BODY_TIMEOUT", 0.3)
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
            await anyio.sleep(0.5)

    async with own(Gateway(Listener, handshake_timeout=0.2, local_access=True)) as url:
        async with httpx.AsyncClient() as http:
            assert (await http.post(url + "/send", json={"message": "x"})).status_code == 200


async def test_a_body_that_comes_after_its_answer_is_no_head() -> None:
    async with own(Gateway(local_access=True)) as url, await connect(url) as raw:
        await raw.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        await raw.send(b"Content-Length: 3000000\r\n\r\n")
        assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 413 ")
        for _ in range(30):
            await raw.send(b"x" * 100_000)
        await raw.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in await raw.receive_until(b"}")


async def test_requests_that_do_not_wait_for_each_other_are_answered_in_order() -> None:
    async with own(Gateway(local_access=True)) as url, await connect(url) as raw:
        head = "POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        for number in range(500):
            body = json.dumps({"message": number, "id": f"none{number}"})
            await raw.send(f"{head}{len(body)}\r\n\r\n{body}".encode())
        for number in range(500):
            assert f"[none{number}]".encode() in await raw.receive_until(b"}")


def upgrade(*headers: str, path: str = "/ws") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "\r\n"]).encode()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (upgrade("Cookie: " + "c" * 16_384), 101),
        (upgrade(*(f"X-{number}: y" for number in range(200))), 101),
        (upgrade("Cookie: " + "c" * 40_000), 431),
        (upgrade(*(f"X-{number}: {'y' * 100}" for number in range(400))), 431),
        (upgrade(path="/ws?" + "q" * 9000), 414),
        (b"GET /health HTTP/1.1\r\nCookie: " + b"c" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nX: " + b"c" * 100_000, 431),
    ],
    ids=lambda value: str(value)[:3] if isinstance(value, int) else "",
)
async def test_the_head_of_a_request_has_room_for_a_fat_cookie_and_a_limit(request_: bytes, status: int) -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request_)
        assert (await raw.receive_some()).startswith(b"HTTP/1.1 %d " % status)
        if status == 101:
            raw.buffer = b""
            await raw.send(masked(0x81, b"hi"))
            assert b"\x81\x02hi" in await raw.receive_until(b"hi")


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({f"Sec-WebSocket-Key: {KEY}\r\n": ""}, 400),
        ({KEY: "c2hvcnQ="}, 400),
        ({f"Sec-WebSocket-Key: {KEY}": f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Key: {KEY}"}, 400),
        ({"Version: 13": "Version: 8"}, 400),
        ({"GET /ws": "POST /ws"}, 400),
        ({"HTTP/1.1": "HTTP/1.0"}, 400),
        ({KEY: KEY[:-3] + "*=="}, 400),
        ({"Version: 13": "Version: 13\r\nSec-WebSocket-Version: 13"}, 400),
        ({"Upgrade: websocket": "Upgrade: websocket, h2c"}, 400),
        ({"Connection: Upgrade\r\n": ""}, 400),
    ],
)
async def test_a_handshake_that_is_none_is_refused(changed: dict[str, str], status: int) -> None:
    request = upgrade().decode()
    for before, after in changed.items():
        request = request.replace(before, after)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request.encode())
        answer = await raw.receive_some()
        assert answer.split()[1] == b"%d" % status


async def test_another_version_is_told_the_right_one() -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(upgrade().replace(b"Version: 13", b"Version: 8"))
        assert b"\r\nsec-websocket-version: 13\r\n" in await raw.receive_until(b"\r\n\r\n")


@pytest.mark.parametrize(
    "changed",
    [{"Connection: Upgrade": "Connection: keep-alive, Upgrade"}, {"Upgrade: websocket": "Upgrade: WebSocket"}],
)
async def test_a_handshake_that_is_unusual_is_accepted(changed: dict[str, str]) -> None:
    request = upgrade().decode()
    for before, after in changed.items():
        request = request.replace(before, after)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request.encode())
        head = await raw.receive_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head.lower()


async def test_on_handshake_has_a_limit_of_its_own(serve: Serve) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            await anyio.sleep(60)

    async with serve(Gateway(Listener, handshake_timeout=0.2)) as url:
        with pytest.raises(InvalidStatus, match="503"):
            async with Client(url):
                pass


async def test_more_than_max_connections_are_503_and_told_when_to_come_back(serve: Serve) -> None:
    gateway = Gateway(RecordingListener(), max_connections=2)
    async with serve(gateway) as url:
        async with Client(url), Client(url):
            with pytest.raises(InvalidStatus) as caught:
                async with Client(url):
                    pass
            assert caught.value.response.status_code == 503
            assert caught.value.response.headers["retry-after"] == "5"
            async with httpx.AsyncClient() as http:
                assert (await http.get(url + "/health")).status_code == 200
        await until(lambda: len(gateway.connections) == 0)
        async with Client(url) as ann:
            await ann.send("room again")
            assert await ann.receive() == "room again"


async def test_more_than_its_share_of_one_address_is_429(serve: Serve) -> None:
    async with serve(Gateway(max_connections_per_address=1)) as url, Client(url):
        with pytest.raises(InvalidStatus, match="429"):
            async with Client(url):
                pass


async def test_refusals_of_a_crowd_are_counted_each_and_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(max_connections=1)
    async with own(gateway) as url, Client(url):
        for _ in range(20):
            raw, _ = await handshake(url)
            await raw.stream.aclose()
    assert gateway.metrics.refusals["capacity"] == 20
    assert 1 <= sum("refused a handshake" in record.getMessage() for record in caplog.records) < 20


async def test_a_crowd_is_told_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    async with own(Gateway(max_connections=5)) as url:
        clients = [await handshake(url) for _ in range(5)]
        assert sum("max_connections" in record.getMessage() for record in caplog.records) == 1
        for raw, _ in clients:
            await raw.stream.aclose()


async def test_who_sends_too_often_is_closed_3013_and_the_others_go_on(serve: Serve) -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener, message_rate=5, message_burst=10)) as url:
        async with Client(url) as ann, Client(url) as bob:
            for number in range(30):
                await ann.send(str(number))
            assert await ann.closed() == (3013, "too many messages")
            await listener.wait_for("on_message", 10)
            await bob.send("still here")
            received = [await bob.receive() for _ in range(11)]
            assert received == [*map(str, range(10)), "still here"]
            assert listener.count("on_message") == 11


def test_a_bucket_fills_with_time_and_never_beyond_its_burst() -> None:
    bucket = Bucket(2.0, 3.0, now=100.0)
    assert [bucket.allows(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.allows(100.5) for _ in range(2)] == [True, False]
    assert [bucket.allows(900.0) for _ in range(4)] == [True, True, True, False]


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.01)


async def test_an_address_that_connects_too_often_is_429(serve: Serve) -> None:
    gateway = Gateway(connect_rate=0.001, connect_burst=3, local_access=True)
    async with serve(gateway) as url:
        for _ in range(3):
            async with Client(url):
                pass
        with pytest.raises(InvalidStatus, match="429"):
            await Client(url).__aenter__()
        assert gateway.metrics.refusals["connect_rate"] == 1
        async with httpx.AsyncClient() as http:
            assert (await http.get(url + "/health")).status_code == 200


async def test_of_an_address_that_a_header_claims_little_is_kept_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(connect_rate=0.001, connect_burst=1, max_connections_per_address=5, api_key="key")
    claimed = {"X-Forwarded-For": "a" * 5000}
    async with serve(gateway) as url, Client(url, additional_headers=claimed), httpx.AsyncClient() as http:
        assert [len(conn.address) <= MAX_ADDRESS for conn in gateway.connections] == [True]
        with pytest.raises(InvalidStatus, match="429"):
            await Client(url, additional_headers=claimed).__aenter__()
        assert (await http.get(url + "/info", headers=claimed)).status_code == 401
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) == 2
    assert max(map(len, lines)) < 400


async def test_a_key_that_is_used_too_often_is_429_and_others_are_not(serve: Serve) -> None:
    gateway = Gateway(api_key=["one", "other"], send_rate=0.001, send_burst=2)
    async with serve(gateway) as url, httpx.AsyncClient(base_url=url) as http:
        statuses = []
        for key in ("one", "one", "one", "one", "other", "wrong"):
            answer = await http.post("/send", json={"message": 1}, headers={"authorization": f"Bearer {key}"})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.headers["retry-after"] == "1"
                assert "send_rate" in answer.json()["detail"]
        assert statuses == [200, 200, 429, 429, 200, 401]
        again = await http.post("/send", json={"message": 1}, headers={"authorization": "BEARER   one"})
        assert again.status_code == 429


async def test_a_stop_tells_each_client_when_to_come_back(serve: Serve) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(url)) for _ in range(20)]
        await gateway.stop()
        said = [await client.closed() for client in clients]
    assert {code for code, _ in said} == {1012}
    reasons = [json.loads(reason or "") for _, reason in said]
    assert all(reason["reason"] == "shutdown" and reason["reconnect"] is True for reason in reasons)
    waits = {reason["retry_after_ms"] for reason in reasons}
    assert len(waits) > 5
    assert all(0 <= wait < 1000 for wait in waits)

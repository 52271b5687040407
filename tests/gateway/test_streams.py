"""The HTTP side of streams: who may open one, what is posted to a session, and CORS."""

import asyncio
import json
import logging
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.raw import connect, head
from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.streams import RawStream, Stream, streaming
from wsgateway import Event, Gateway, Refused
from wsgateway.listeners.event import MessageEvent
from wsgateway.testing import Client, RecordingListener, serve

CORS = {name: f"access-control-allow-{name}" for name in ("origin", "credentials", "methods", "headers")}


@pytest.fixture
async def http() -> Any:
    async with httpx.AsyncClient(timeout=20) as client:
        yield client


async def session_of(stream: Stream) -> str:
    event = await stream.next()
    assert event.type == "open"
    secret: str = json.loads(event.data)["session"]
    return secret


# Sessions


class Kinds:
    """Answers each message with what it was, to its sender only."""

    async def on_message(self, event: MessageEvent) -> None:
        if event.message == "refuse":
            raise Refused(418, "no tea")
        if event.message == "raise":
            raise RuntimeError("by the test")
        event.message = [type(event.message).__name__, repr(event.message), event.channel, event.name]
        event.connections = [event.conn] if event.conn else []


@pytest.mark.parametrize("server", [OwnServer(), PlainUvicorn()], ids=lambda server: server.name)
@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b'{"a":[1]}', ["dict", "{'a': [1]}"]),
        ("application/json; charset=utf-8", b"5", ["int", "5"]),
        ("application/json", b'"5"', ["str", "'5'"]),
        ("text/plain", "grüße\n".encode(), ["str", "'grüße\\n'"]),
        ("text/plain;charset=UTF-8", b"", ["str", "''"]),
        ("application/octet-stream", b"\x00\xff", ["bytes", "b'\\x00\\xff'"]),
    ],
)
async def test_a_client_of_a_stream_posts_a_message(
    server: Serve, http: httpx.AsyncClient, content_type: str, body: bytes, expected: list[str]
) -> None:
    async with server(Gateway(listener=Kinds)) as url, streaming(url) as stream:
        secret = await session_of(stream)
        headers = {"content-type": content_type}
        answer = await http.post(f"{url}/session/{secret}?name=greeting", content=body, headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert json.loads((await stream.next()).data) == [*expected, "", "greeting"]


async def test_the_answer_has_the_position_once_the_history_has_the_message(http: httpx.AsyncClient) -> None:
    channels: dict[str, Any] = {"*": {"history": 5, "public": True, "clients": ["subscribe", "publish"]}}
    async with serve(Gateway(channels=channels)) as url, streaming(url, "/sse?channel=room") as stream:
        secret = await session_of(stream)
        await stream.next()
        answer = await http.post(f"{url}/session/{secret}?channel=room", json="hi")
        assert answer.status_code == 200
        event = await stream.next()
        assert (event.data, answer.json()) == ("hi", {"at": event.id})


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"NaN", 400),
        ("application/json", b'"\\ud800"', 400),
        ("application/json", b"[" * 2000, 400),
        ("application/json", b"", 400),
        ("text/plain", b"\xff", 400),
        ("text/plain; charset=latin-1", b"x", 415),
        ("application/x-www-form-urlencoded", b"a=b", 415),
        ("", b"x", 415),
        ("text/plain", b"x" * 2000, 413),
        ("text/plain", b"refuse", 418),
        ("text/plain", b"raise", 500),
    ],
)
async def test_a_message_that_cannot_be_used_is_refused(
    http: httpx.AsyncClient, content_type: str, body: bytes, status: int
) -> None:
    gateway = Gateway(listener=Kinds, max_message_size=1000 if status == 413 else 65536)
    async with serve(gateway) as url, streaming(url) as stream:
        secret = await session_of(stream)
        headers = {"content-type": content_type} if content_type else {}
        answer = await http.post(f"{url}/session/{secret}", content=body, headers=headers)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert secret not in answer.text


@pytest.mark.parametrize("query", ["channel=", "name=", "channel=a&channel=b", "name=a%0Ab"])
async def test_a_wrong_query_of_a_post_is_refused(http: httpx.AsyncClient, query: str) -> None:
    async with serve(Gateway(listener=Kinds)) as url, streaming(url) as stream:
        secret = await session_of(stream)
        answer = await http.post(f"{url}/session/{secret}?{query}", json="hi")
        assert 400 <= answer.status_code < 500


async def test_a_guessed_or_ended_session_is_404(http: httpx.AsyncClient) -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener=listener)) as url:
        async with streaming(url) as stream:
            secret = await session_of(stream)
        await listener.wait_for("on_client_close")
        for guess in (secret, "x", secret[:-1], secret + "/x", "", "%00", "a.b", "." * 5000):
            assert (await http.post(f"{url}/session/{guess}", json="hi")).status_code == 404
        assert listener.count("on_message") == 0


async def test_nothing_is_kept_of_a_stream_that_has_ended(http: httpx.AsyncClient) -> None:
    listener = RecordingListener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        for path in ("/sse", "/stream"):
            async with streaming(url, path) as stream:
                await stream._chunk()
                assert gateway._running is not None
                assert len(gateway._running.admission.sessions) == 1
        await listener.wait_for("on_client_close", 2)
        running = gateway._running
        assert running is not None
        assert (len(running.admission.sessions), running.admission._by_address, running.drain.count) == (0, {}, 0)


async def test_the_secret_is_in_no_log_line_and_in_no_answer(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="wsgateway")
    caplog.set_level(logging.DEBUG, logger="uvicorn")
    gateway = Gateway(listener=Kinds, local_access=True, message_burst=1, message_rate=0.1, verbose=True)
    async with serve(gateway) as url, streaming(url) as stream:
        secret = await session_of(stream)
        for body in (b"raise", b"refuse", b"\xff"):
            await http.post(f"{url}/session/{secret}", content=body, headers={"content-type": "text/plain"})
        await http.get(f"{url}/session/{secret}")
        await http.post(f"{url}/session/{secret}", json=1, headers={"origin": "https://evil.example"})
        await http.post(f"{url}/session/{secret}/x", json=1)
        assert secret not in (await http.get(url + "/info")).text
    assert secret not in "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert any("a message to a session" in record.getMessage() for record in caplog.records)


async def test_a_message_that_waits_for_its_turn_when_the_gateway_restarts_is_503(http: httpx.AsyncClient) -> None:
    class Slow(RecordingListener):
        async def on_message(self, event: MessageEvent) -> None:
            self.record("on_message", event.message)
            await anyio.sleep_forever()

    listener = Slow()
    gateway = Gateway(listener=listener, drain=0.1)
    async with serve(gateway) as url, streaming(url) as stream, anyio.create_task_group() as tasks:
        secret = await session_of(stream)
        statuses = []

        async def post(number: int) -> None:
            statuses.append((await http.post(f"{url}/session/{secret}", json=number)).status_code)

        tasks.start_soon(post, 1)
        await listener.wait_for("on_message")
        tasks.start_soon(post, 2)
        with anyio.fail_after(30):
            [conn] = gateway.connections
            while conn.messages_in < 2:
                await anyio.sleep(0.01)  # nothing reports a message that waits
        await gateway.restart()
    assert statuses == [503, 503]


async def test_a_client_that_leaves_while_it_posts_changes_nothing() -> None:
    gateway = Gateway(listener=Kinds)
    async with serve(gateway) as url, streaming(url) as stream:
        secret = await session_of(stream)
        raw = await connect(url)
        await raw.send(
            head(f"POST /session/{secret} HTTP/1.1", "Content-Type: text/plain", "Content-Length: 10") + b"x"
        )
        await raw.stream.aclose()
        (conn,) = gateway.connections
        await conn.send("still there")
        assert (await stream.next()).data == "still there"


# Limits


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"max_connections": 1}, 503),
        ({"max_connections_per_address": 1}, 429),
        ({"connect_rate": 0.001, "connect_burst": 1}, 429),
        ({"allowed_hosts": ["example.com"]}, 400),
        ({"protocols": ["plain", "v1"]}, 404),
    ],
)
async def test_the_limits_of_sockets_are_those_of_streams(options: dict[str, Any], status: int) -> None:
    async with serve(Gateway(**options)) as url:
        streams = [await RawStream.open(url, path) for path in ("/sse", "/stream")]
        assert f" {status} ".encode() in streams[1].head.partition(b"\r\n")[0]
        for stream in streams:
            await stream.raw.stream.aclose()


async def test_a_stopped_gateway_answers_503_and_a_starting_one_waits(http: httpx.AsyncClient) -> None:
    gateway = Gateway()
    app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url:
        await gateway.stop()
        assert (await http.get(url + "/live/sse")).status_code == 503
        assert (await http.post(url + "/live/session/x", json=1)).status_code == 503


async def test_the_list_of_connections_tells_a_stream_from_a_socket(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(local_access=True)) as url, Client(url), streaming(url) as one, streaming(url, "/stream"):
        await one.next()
        info = (await http.get(url + "/info")).json()
        assert sorted(conn["transport"] for conn in info["connections"]) == ["sse", "stream", "websocket"]


async def test_refused_with_a_close_is_a_status_for_an_event_source_and_a_close_for_lines() -> None:
    class Closed:
        async def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first", close=3500)

    async with serve(Gateway(listener=Closed)) as url:
        async with streaming(url) as stream:
            assert stream.response.status_code == 401
        async with streaming(url, "/stream") as stream:
            end = {"code": 3500, "reason": "log in first", "reconnect": False}
            assert await stream.object() == {"close": end}


# Origins


async def ask(http: httpx.AsyncClient, url: str, path: str = "/sse", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.stream("GET", url + path, headers=names) as response:
        return response


async def test_an_origin_by_name_may_read_with_credentials(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(allowed_origins=["https://good.com"])) as url:
        answer = await ask(http, url, origin="https://good.com", sec_fetch_site="cross-site")
        assert answer.status_code == 200
        assert answer.headers[CORS["origin"]] == "https://good.com"
        assert answer.headers[CORS["credentials"]] == "true"
        assert answer.headers["vary"].lower() == "origin"


async def test_with_a_star_the_answer_is_a_star_without_credentials(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(allowed_origins=["*"])) as url:
        answer = await ask(http, url, origin="https://any.example")
        assert (answer.headers[CORS["origin"]], CORS["credentials"] in answer.headers) == ("*", False)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://good.com.evil.example", "http://good.com"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST", "HEAD"])
async def test_another_origin_gets_403_and_no_cors_header(http: httpx.AsyncClient, origin: str, method: str) -> None:
    async with serve(Gateway(allowed_origins=["https://good.com"])) as url:
        for path in ("/sse", "/stream", "/session/x"):
            answer = await http.request(method, url + path, headers={"origin": origin})
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_refusal_of_an_accepted_origin_can_be_read(http: httpx.AsyncClient) -> None:
    class Closed:
        async def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first")

    async with serve(Gateway(listener=Closed, allowed_origins=["https://good.com"])) as url:
        for method, path, status in (("GET", "/sse", 401), ("POST", "/session/x", 404)):
            answer = await http.request(method, url + path, headers={"origin": "https://good.com"})
            assert (answer.status_code, answer.headers[CORS["origin"]]) == (status, "https://good.com")


@pytest.mark.parametrize(
    ("path", "methods"), [("/sse", "GET, HEAD"), ("/stream/x", "GET, HEAD"), ("/session/x", "POST")]
)
async def test_a_preflight_is_answered(http: httpx.AsyncClient, path: str, methods: str) -> None:
    async with serve(Gateway(allowed_origins=["https://good.com"])) as url:
        headers = {"origin": "https://good.com", "access-control-request-method": "POST"}
        answer = await http.options(url + path, headers=headers)
        assert (answer.status_code, answer.headers[CORS["origin"]]) == (204, "https://good.com")
        assert answer.headers[CORS["methods"]] == methods
        assert answer.headers[CORS["headers"]] == "content-type, authorization, last-event-id"
        assert answer.headers["access-control-max-age"] == "600"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"host": "evil.example:10125"}, 403),
        ({"host": "localhost:10125"}, 200),
        ({"host": "example.com:10125", "x_forwarded_for": "203.0.113.9"}, 200),
        ({"host": "evil.example:10125", "sec_fetch_site": "same-origin"}, 403),
    ],
)
async def test_a_get_without_an_origin_is_judged_by_its_host(
    http: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    async with serve(Gateway()) as url:
        assert (await ask(http, url, **headers)).status_code == status
        assert (await ask(http, url, "/stream", **headers)).status_code == status


async def test_a_name_that_allowed_hosts_has_is_no_rebound_one(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(allowed_hosts=["example.com"])) as url:
        assert (await ask(http, url, host="example.com:10125")).status_code == 200


async def test_a_page_of_another_loopback_port_may_connect_and_read(http: httpx.AsyncClient) -> None:
    async with serve(Gateway()) as url:
        answer = await ask(http, url, origin="http://localhost:3000", sec_fetch_site="same-site")
        assert (answer.status_code, answer.headers[CORS["origin"]]) == (200, "http://localhost:3000")


async def test_own_pages_need_no_cors_header(http: httpx.AsyncClient) -> None:
    async with serve(Gateway()) as url:
        answer = await ask(http, url, origin=url)
        assert (answer.status_code, CORS["origin"] in answer.headers) == (200, False)


async def test_a_hundred_posts_at_the_same_time_are_each_answered(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(listener=Kinds)) as url, streaming(url) as stream:
        secret = await session_of(stream)
        answers = await asyncio.gather(*(http.post(f"{url}/session/{secret}", json=n) for n in range(100)))
        accepted = [answer.status_code for answer in answers].count(204)
        assert {answer.status_code for answer in answers} <= {204, 429}
        with anyio.fail_after(20):
            assert len({(await stream.next()).data for _ in range(accepted)}) == accepted

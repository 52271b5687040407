"""`POST /send` and the other routes, over real HTTP."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.raw import connect, head
from tests.servers import Hypercorn, OwnServer, PlainUvicorn, Serve
from wsgateway import Event, Gateway, limits
from wsgateway.testing import Client, serve

KEY = "k€y ünd more"
BEARER = {b"authorization": b"Bearer " + KEY.encode()}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


def is_problem(answer: httpx.Response, status: int) -> bool:
    body = answer.json()
    return (
        answer.status_code == status == body["status"]
        and answer.headers["content-type"] == "application/problem+json"
        and set(body) <= {"title", "status", "detail", "help"}
        and "Traceback" not in answer.text
    )


def nested(depth: int) -> bytes:
    return b'{"message":' + b"[" * depth + b"]" * depth + b"}"


BAD_BODIES = {
    "empty": (b"", 400),
    "no object": (b'["message"]', 400),
    "not JSON": (b'{"message": hi}', 400),
    "NaN": (b'{"message": NaN}', 400),
    "Infinity": (b'{"message": -Infinity}', 400),
    "1e999": (b'{"message": 1e999}', 400),
    "10,000 digits": (b'{"message": ' + b"1" * 10_000 + b"}", 400),
    "100,000 deep": (nested(100_000), 400),
    "300 deep": (nested(300), 400),
    "lone surrogate": (rb'{"message": "\ud800"}', 400),
    "lone surrogate in a key": (rb'{"message": "x", "\udfff": 1}', 400),
    "lone surrogate in data": (rb'{"message": "x", "data": ["\uD834 \u0041"]}', 400),
    "not UTF-8": (b'{"message": "\xff"}', 400),
    "UTF-16": ('{"message": "x"}'.encode("utf-16"), 400),
    "byte order mark": (b'\xef\xbb\xbf{"message": "x"}', 400),
    "10 MB": (b'{"message": "' + b"x" * 10_000_000 + b'"}', 413),
    "no message": (b'{"text": "x"}', 422),
    "null": (b'{"message": null}', 422),
    "id no text": (b'{"message": 1, "id": 7}', 422),
    "connections no list": (b'{"message": 1, "connections": "abc"}', 422),
    "connections no ids": (b'{"message": 1, "connections": [1]}', 422),
    "unknown gateway": (b'{"message": 1, "id": "../x"}', 404),
    "NUL in the id": (rb'{"message": 1, "id": "\u0000"}', 404),
    "id of 10 kB": (b'{"message": 1, "id": "' + b"x" * 10_000 + b'"}', 404),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_is_refused_and_disturbs_nobody(name: str, http: httpx.AsyncClient) -> None:
    body, status = BAD_BODIES[name]
    async with serve(Gateway(local_access=True)) as url, Client(url) as ann:
        answer = await http.post(url + "/send", content=body, headers={"content-type": "application/json"})
        assert is_problem(answer, status)
        assert len(answer.text) < 500
        await http.post(url + "/send", json={"message": "still here"})
        assert await ann.receive() == "still here"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ('application/json; charset="utf-8"', 200),
        ("application/json; charset=utf-16", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
async def test_only_json_in_utf8_is_taken(kind: str, status: int, http: httpx.AsyncClient) -> None:
    async with serve(Gateway(local_access=True)) as url:
        headers = {"content-type": kind} if kind else {}
        answer = await http.post(url + "/send", content=b'{"message": 1}', headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize("message", ["", 0, False, {}, [], 0.5, "\u0000", "\u2028", "😀 שלום", {"a": [None]}])
async def test_falsy_and_odd_messages_are_messages(message: Any, http: httpx.AsyncClient) -> None:
    async with serve(Gateway(local_access=True)) as url, Client(url) as ann:
        answer = await http.post(url + "/send", json={"message": message})
        assert answer.json() == {
            "id": "default",
            "recipients": 1,
            "queued": 1,
            "dropped": 0,
            "at": None,
            "is_new": True,
        }
        received = await ann.receive()
        assert received == (
            message if isinstance(message, str) else json.dumps(message, separators=(",", ":"), ensure_ascii=False)
        )


async def test_other_methods_are_405_with_allow_after_the_key(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(api_key=[KEY])) as url:
        assert is_problem(await http.get(url + "/send"), 401)
        answer = await http.get(url + "/send", headers=BEARER)
        assert is_problem(answer, 405)
        assert answer.headers["allow"] == "POST"
        assert is_problem(await http.delete(url + "/health"), 405)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer wrong",
        b"Basic " + KEY.encode(),
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 7000,
        KEY.encode(),
    ],
)
async def test_without_the_key_nothing_is_answered(
    header: bytes, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(Gateway(api_key=["other", KEY])) as url:
        headers = {b"authorization": header} if header else {}
        for path in ("/metrics", "/info"):
            assert is_problem(await http.get(url + path, headers=headers), 401)
        answer = await http.post(url + f"/send?key={KEY}", json={"message": 1}, headers=headers)
        assert is_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/info"):
            assert (await http.get(url + path, headers=BEARER)).status_code == 200
        assert (await http.post(url + "/send", json={"message": 1}, headers=BEARER)).status_code == 200
    assert KEY not in caplog.text
    assert "api_key" in caplog.text


async def test_two_authorization_headers_are_refused(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(api_key="a")) as url:
        headers = [("authorization", "Bearer a"), ("authorization", "Bearer a")]
        assert (await http.get(url + "/info", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        {"forwarded": "for=1.2.3.4"},
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-proto": "https"},
        {"x-real-ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
        {"x-envoy-internal": "true"},
        {"cf-connecting-ip": "127.0.0.1"},
        {"x-request-id": "1"},
        {"connection": "close"},
        {"connection": "keep-alive, Upgrade"},
        {"host": "attacker.example"},
        {"origin": "https://attacker.example"},
        {"origin": "null"},
    ],
)
async def test_without_a_key_only_local_callers_are_answered(header: dict[str, str], http: httpx.AsyncClient) -> None:
    async with serve(Gateway(local_access=True)) as url, Client(url) as ann:
        assert is_problem(await http.post(url + "/send", json={"message": 1}, headers=header), 403)
        assert (await http.post(url + "/send", json={"message": "local"})).status_code == 200
        assert await ann.receive() == "local"


async def test_http_1_0_is_taken_for_a_proxy() -> None:
    async with serve(Gateway(local_access=True)) as url:
        port = urlsplit(url).port
        async with await anyio.connect_tcp("127.0.0.1", port or 0) as stream:
            await stream.send(b"GET /info HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 403")


async def test_a_gateway_made_in_code_refuses_every_caller_by_default(http: httpx.AsyncClient) -> None:
    async with serve(Gateway()) as url:
        for path in ("/send", "/metrics", "/info"):
            answer = await http.get(url + path)
            assert is_problem(answer, 403)
            assert "api_key" in answer.json()["detail"]


async def test_an_unknown_host_is_400_everywhere_but_for_probes(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(allowed_hosts=["Example.com", "*.example.org"], api_key=[KEY])) as url:
        for host, status in (("127.0.0.1", 400), ("example.com:80", 200), ("a.example.org", 200), ("example.org", 400)):
            for path in ("/", "/info", "/metrics", "/pages/test.js"):
                answer = await http.get(url + path, headers={b"host": host.encode(), **BEARER})
                assert answer.status_code == status
            for path in ("/health", "/ready"):
                assert (await http.get(url + path, headers={"host": host})).status_code == 200
                assert (await http.post(url + path, headers={"host": host})).status_code == 405
        assert is_problem(await http.get(url + "/nowhere", headers={"host": "x"}), 400)
        with pytest.raises(Exception, match="HTTP 400"):
            async with Client(url):
                pass


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_a_probe_needs_no_host(path: str) -> None:
    async with serve(Gateway(allowed_hosts=["example.com"])) as url:
        for version, end in (("1.0", ""), ("1.0", "Host: 10.0.0.5\r\n"), ("1.1", "Host: 10.0.0.5:10125\r\n")):
            async with await anyio.connect_tcp("127.0.0.1", urlsplit(url).port or 0) as stream:
                await stream.send(f"GET {path} HTTP/{version}\r\n{end}Connection: close\r\n\r\n".encode())
                assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_never_comes_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.gateway.http.problems.BODY_TIMEOUT", 0.2)  # a constant, so that the test is quick
    async with serve(Gateway(local_access=True)) as url:
        async with await anyio.connect_tcp("127.0.0.1", urlsplit(url).port or 0) as stream:
            head = (
                b"POST /send HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
            )
            await stream.send(head)
            with anyio.fail_after(5):
                assert (await stream.receive()).startswith(b"HTTP/1.1 408")
    assert limits.BODY_TIMEOUT == 30


async def test_ten_gigabytes_announced_are_refused_before_they_are_read() -> None:
    async with serve(Gateway(local_access=True)) as url:
        async with await anyio.connect_tcp("127.0.0.1", urlsplit(url).port or 0) as stream:
            head = b"POST /send HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"
            await stream.send(head + b"content-length: 10000000000\r\n\r\n")
            with anyio.fail_after(5):
                assert (await stream.receive()).startswith(b"HTTP/1.1 413")


async def test_endless_chunks_are_refused_at_the_limit(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 10_000

    async with serve(Gateway(local_access=True)) as url:
        try:
            answer = await http.post(url + "/send", content=chunks(), headers={"content-type": "application/json"})
            assert is_problem(answer, 413)
        except (httpx.WriteError, httpx.ReadError):
            pass  # it may hear of the refusal only by the end of the connection
        assert (await http.get(url + "/health")).status_code == 200


async def test_a_send_finds_another_gateway_by_id_in_any_case_under_its_key(http: httpx.AsyncClient) -> None:
    stocks = Gateway(id="Stocks", api_key="theirs")
    async with serve(Gateway(api_key="ours")) as url, serve(stocks) as there, Client(there) as ann:
        body = {"message": "up", "id": " sTOCKS "}
        assert is_problem(await http.post(url + "/send", json=body, headers={"authorization": "Bearer ours"}), 401)
        async with serve(Gateway(id="open", local_access=True)) as url:
            answer = await http.post(url + "/send", json=body, headers={"authorization": "Bearer theirs"})
        assert answer.json() == {"id": "Stocks", "recipients": 1, "queued": 1, "dropped": 0, "at": None, "is_new": True}
        assert await ann.receive() == "up"


THEIRS = {"authorization": "Bearer theirs"}


@pytest.mark.parametrize(
    ("options", "headers", "body", "status"),
    [
        ({}, THEIRS, {}, 200),
        ({}, {}, {}, 401),
        ({"max_send_size": 100}, THEIRS, {}, 200),
        ({"max_send_size": 100}, THEIRS, {"more": "x" * 100}, 413),
        ({"allowed_hosts": ["b.example"]}, THEIRS, {}, 400),
        ({"allowed_hosts": ["127.0.0.1"]}, THEIRS, {}, 200),
        ({"api_key": []}, {}, {}, 403),
        ({"api_key": [], "local_access": True}, {}, {}, 200),
        ({"api_key": [], "local_access": True}, {"x-forwarded-for": "127.0.0.1"}, {}, 403),
    ],
)
async def test_a_send_to_another_gateway_meets_all_its_rules(
    options: dict[str, Any], headers: dict[str, str], body: dict[str, Any], status: int, http: httpx.AsyncClient
) -> None:
    other = Gateway(**{"id": "b", "api_key": ["theirs"], **options})
    async with serve(other), serve(Gateway(id="a", local_access=True)) as url:
        answer = await http.post(url + "/send", json={"message": "x", "id": "B", **body}, headers=headers)
        assert answer.status_code == status, answer.text


async def test_the_rate_of_a_gateway_counts_wherever_it_is_sent_to(http: httpx.AsyncClient) -> None:
    other = Gateway(id="b", api_key="k", send_rate=0.001, send_burst=2)
    bearer, body = {"authorization": "Bearer k"}, {"message": "x", "id": "b"}
    async with serve(other) as direct, serve(Gateway(id="a", api_key="k")) as url:
        assert (await http.post(url + "/send", json=body, headers=bearer)).status_code == 200
        assert (await http.post(direct + "/send", json=body, headers=bearer)).status_code == 200
        for where in (url, direct):
            answer = await http.post(where + "/send", json=body, headers=bearer)
            assert is_problem(answer, 429)
            assert answer.headers["retry-after"] == "1"
        assert (await http.post(url + "/send", json={"message": "x"}, headers=bearer)).status_code == 200


async def test_the_rules_of_the_gateway_that_is_posted_to_count_too(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(id="b", local_access=True)), serve(Gateway(id="a", max_send_size=100)) as url:
        assert is_problem(await http.post(url + "/send", json={"message": "x", "id": "b"}), 403)


async def test_an_unknown_gateway_is_named_with_those_there_are(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(id="a", local_access=True)) as url, serve(Gateway(id="b")):
        answer = await http.post(url + "/send", json={"message": 1, "id": "X"})
    assert answer.json()["detail"] == "there is no gateway with id [X], available are [a, b]"


async def test_named_connections_receive_and_unknown_ones_do_not_count(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(local_access=True)) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("x")
        await ann.receive(), await bob.receive()
        first = (await http.get(url + "/info")).json()["connections"][0]["id"]
        body = {"message": "only ann", "connections": [first, "unknown", first]}
        answer = await http.post(url + "/send", json=body)
        assert answer.json() == {
            "id": "default",
            "recipients": 1,
            "queued": 1,
            "dropped": 0,
            "at": None,
            "is_new": True,
        }
        assert await ann.receive() == "only ann"


async def test_the_rest_of_the_body_reaches_the_listener_without_the_steering_keys(http: httpx.AsyncClient) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            event.message = {"data": event.data}

    body = {"message": 1, "room": "a", "conn": 1, "action": 1, "webSocketServerAction": "stop", "id": "default"}
    async with serve(Gateway(listener=Listener, local_access=True)) as url, Client(url) as ann:
        await http.post(url + "/send", json=body)
        assert await ann.receive_json() == {"data": {"room": "a"}}


async def test_a_listener_that_raises_is_500_without_its_text(http: httpx.AsyncClient) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            raise ValueError("secret detail")

    async with serve(Gateway(listener=Listener, local_access=True)) as url:
        answer = await http.post(url + "/send", json={"message": 1})
        assert is_problem(answer, 500)
        assert "secret" not in answer.text


async def test_a_listener_may_supply_the_message(http: httpx.AsyncClient) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            event.message = event.message or "made"

    async with serve(Gateway(listener=Listener, local_access=True)) as url, Client(url) as ann:
        assert (await http.post(url + "/send", json={})).status_code == 200
        assert await ann.receive() == "made"


async def test_metrics_are_prometheus_text(http: httpx.AsyncClient) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.message == "bad":
                raise ValueError

    async with serve(Gateway(id="shop", listener=Listener, local_access=True)) as url:
        async with Client(url) as ann:
            for message in ("x", "bad", "é"):
                await ann.send(message)
            assert [await ann.receive(), await ann.receive()] == ["x", "é"]
            text = (await http.get(url + "/metrics")).text
    samples = {
        (sample.name, *(v for k, v in sample.labels.items() if k != "gateway")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["gateway"] == "shop"
    }
    assert samples["wsgateway_connections", "plain", "websocket"] == samples["wsgateway_opens_total",] == 1
    assert samples["wsgateway_messages_in_total",] == 3
    assert samples["wsgateway_bytes_in_total",] == 6
    assert samples["wsgateway_messages_out_total",] == samples["wsgateway_queued_total",] == 2
    assert samples["wsgateway_hook_errors_total", "on_message"] == 1
    assert samples["wsgateway_hook_seconds_count", "on_message"] == 3
    assert samples["wsgateway_hook_seconds_bucket", "on_message", "+Inf"] == 3


async def test_info_pages_its_connections_and_hides_secrets(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(api_key=KEY)) as url, Client(url), Client(url), Client(url):
        answer = (await http.get(url + "/info?offset=1&limit=1", headers=BEARER)).json()
        assert (answer["id"], answer["state"], answer["total"]) == ("default", "running", 3)
        assert KEY not in json.dumps(answer)
        (conn,) = answer["connections"]
        assert set(conn) == {"id", "address", "path", "transport", "protocol", "client", "expires_at", "age", "queue"}
        assert is_problem(await http.get(url + "/info?limit=x", headers=BEARER), 422)


async def test_unknown_paths_are_404(http: httpx.AsyncClient) -> None:
    async with serve(Gateway()) as url:
        assert is_problem(await http.get(url + "/nothing/here"), 404)
        assert is_problem(await http.get(url + "/pages/..%2fconfig.py"), 404)


async def test_a_plain_request_for_the_websocket_is_426_or_says_why_not(http: httpx.AsyncClient) -> None:
    async with serve(Gateway()) as url:
        assert is_problem(await http.post(url + "/ws", headers={"origin": url}), 426)
        answer = await http.post(url + "/ws", headers={"origin": "https://evil.example"})
        assert is_problem(answer, 403)
        assert "allowed_origins" in answer.json()["detail"]


async def test_ready_says_why_it_is_not(http: httpx.AsyncClient) -> None:
    gateway = Gateway()
    async with serve(gateway) as url:
        gateway.fail("the port is taken")
        answer = await http.get(url + "/ready")
        assert is_problem(answer, 503)
        assert "the port is taken" in answer.json()["detail"]


async def test_a_send_while_it_stops_is_503(http: httpx.AsyncClient) -> None:
    asked = anyio.Event()
    release = anyio.Event()

    class Listener:
        async def on_client_close(self, event: Event) -> None:
            asked.set()
            await release.wait()

    gateway = Gateway(listener=Listener, local_access=True)
    async with serve(gateway) as url, Client(url), anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.stop)
        await asked.wait()
        assert is_problem(await http.post(url + "/send", json={"message": 1}), 503)
        assert is_problem(await http.get(url + "/ready"), 503)
        release.set()


async def test_info_says_how_the_caller_is_seen(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(api_key=KEY)) as url:
        for more, local in (({}, True), ({b"via": b"x"}, False), ({b"host": b"public.example"}, False)):
            shown = (await http.get(url + "/info", headers={**BEARER, **more})).json()
            assert shown["caller"] == {"address": "127.0.0.1", "local": local}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "told"),
    [
        ("GET", "/nowhere", {}, 404, "wrong-path"),
        ("GET", "/live/ws", {}, 404, "wrong-path"),
        ("GET", "/ws", {}, 426, "not-a-websocket"),
        ("GET", "/ws", {"sec-websocket-key": "x"}, 400, "not-a-websocket"),
        ("POST", "/ws", {"origin": "https://evil.example"}, 403, "allowed_origins"),
        ("DELETE", "/health", {}, 405, "wrong-method"),
        ("POST", "/send", {"content-type": "text/plain"}, 415, "bad-body"),
        ("GET", "/info", {"via": "x"}, 403, "local_access"),
        ("GET", "/pages/nowhere", {}, 404, "wrong-path"),
    ],
)
async def test_every_refusal_is_a_warning_that_says_what_helps(
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    told: str,
    http: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = Gateway(id="shop", local_access=True)
    async with serve(gateway) as url:
        for _ in range(5):
            assert (await http.request(method, url + path + "?secret=1", headers=headers)).status_code == status
    lines = [record for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) in (1, 2)  # one a second
    assert lines[0].levelname == "WARNING"
    text = lines[0].getMessage()
    assert text.startswith(f"[shop] refused {method} {path} from 127.0.0.1: ")
    assert told in text
    assert "secret" not in text
    assert sum(gateway.metrics.refusals.values()) == 5


def posted(body: bytes, *headers: str) -> bytes:
    return head("POST /send HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)


BODY = b'{"message": "in parts"}'
RAW_SERVERS: tuple[Serve, ...] = (OwnServer(), PlainUvicorn(), Hypercorn())


def wrapped(gateway: Gateway, *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Mount("/", gateway)], middleware=list(middleware), lifespan=gateway.lifespan)


async def unchanged(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


MIDDLEWARE = {
    "none": [],
    "gzip": [Middleware(GZipMiddleware, minimum_size=1)],
    "base": [Middleware(BaseHTTPMiddleware, dispatch=unchanged)],
    "both": [Middleware(BaseHTTPMiddleware, dispatch=unchanged), Middleware(GZipMiddleware, minimum_size=1)],
}


class Reads:
    """Puts an entry into `begun` whenever a request is about to be read from, so that its next part can be sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.begun = asyncio.Queue[None]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched_receive() -> Message:
            self.begun.put_nowait(None)
            return await receive()

        await self._app(scope, watched_receive if scope["type"] == "http" else receive, send)


@pytest.mark.parametrize("middleware", MIDDLEWARE.values(), ids=MIDDLEWARE)
@pytest.mark.parametrize("serve_on", RAW_SERVERS, ids=lambda server: server.name)
async def test_a_body_may_come_in_parts(serve_on: Serve, middleware: list[Middleware]) -> None:
    reads = Reads(wrapped(Gateway(api_key="k"), *middleware))
    async with serve_on(reads) as url, Client(url) as client, await connect(url) as raw:
        for headers in ((), ("Accept-Encoding: gzip",), ("Connection: close",)):
            reads.begun = asyncio.Queue()
            await raw.send(posted(BODY, "Authorization: Bearer k", *headers))
            for part in (BODY[:5], BODY[5:6], BODY[6:]):
                with anyio.fail_after(30):
                    await reads.begun.get()
                await raw.send(part)
            answer = await raw.receive_until(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            await raw.receive_exactly(int(length[1]))
            assert await client.receive() == "in parts"


@pytest.mark.parametrize("middleware", [MIDDLEWARE["none"], MIDDLEWARE["gzip"]], ids=["none", "gzip"])
async def test_a_client_that_disconnects_within_its_body_gets_no_answer(
    middleware: list[Middleware], caplog: pytest.LogCaptureFixture, http: httpx.AsyncClient
) -> None:
    calls: list[Event] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            calls.append(event)

    reads = Reads(wrapped(Gateway(Listener, local_access=True), *middleware))
    async with serve(reads) as url:
        for sent in (b"", BODY[:5]):
            async with await connect(url) as raw:
                await raw.send(posted(BODY) + sent)
                with anyio.fail_after(30):
                    await reads.begun.get()
        assert (await http.post(url + "/send", json={"message": "whole"})).status_code == 200
    assert [call.message for call in calls] == ["whole"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("middleware", MIDDLEWARE.values(), ids=MIDDLEWARE)
async def test_a_body_that_stops_is_408_behind_a_middleware(
    middleware: list[Middleware], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgateway.gateway.http.problems.BODY_TIMEOUT", 0.2)  # a constant, so that the test is quick
    async with serve(wrapped(Gateway(local_access=True), *middleware)) as url, await connect(url) as raw:
        await raw.send(posted(BODY) + BODY[:5])
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 408 ")


async def test_a_path_is_exact(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(local_access=True)) as url:
        for path in ("/send%0A", "/Send", "//send", "/send/x", "/health%0A"):
            assert is_problem(await http.post(url + path, json={"message": "x"}), 404)
        for path in ("/send", "/send/"):
            assert (await http.post(url + path, json={"message": "x"})).status_code == 200

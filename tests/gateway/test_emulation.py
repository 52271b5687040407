"""Clients of the Centrifuge protocol whose commands arrive in requests: their streams, and `POST /emulation`."""

import asyncio
import json
import logging
from itertools import product
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from tests.emulated import CONNECT, KINDS, OPTIONS, Emulated
from tests.raw import connect, head, post
from tests.server.test_stream import streams_here
from tests.servers import Hypercorn, OwnServer, OwnServerTls, PlainUvicorn, Serve
from wsgateway import Event, Gateway, Refused
from wsgateway.gateway.http.emulation import first_frame
from wsgateway.listeners.event import MessageEvent
from wsgateway.protocols.centrifuge import client_pb2 as schema
from wsgateway.protocols.centrifuge.protobuf import varint
from wsgateway.testing import RecordingListener, serve

RPC = {"id": 2, "rpc": {"method": "x"}}

PATHS = ("/connection/sse", "/connection/http_stream", "/emulation")

CORS = {name: f"access-control-allow-{name}" for name in ("origin", "credentials", "methods", "headers")}

SERVERS = (OwnServer(), PlainUvicorn(http="httptools"), PlainUvicorn(http="h11"), Hypercorn())


def name_of(server: Serve) -> str:
    return "-".join([server.name, *getattr(server, "_options", {}).values()])


@pytest.fixture
async def http() -> Any:
    async with httpx.AsyncClient(timeout=20) as client:
        yield client


class Sent(RecordingListener):
    """Records what clients send, and broadcasts nothing. A message with the key `wait` waits for `may_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = asyncio.Event()

    async def on_message(self, event: MessageEvent) -> None:
        message: Any = event.message
        self.record("on_message", message)
        event.connections = []
        if isinstance(message, dict) and "wait" in message:
            await self.may_go.wait()

    @property
    def messages(self) -> list[Any]:
        return [value for name, value in self.events if name == "on_message"]


def send(data: Any) -> dict[str, Any]:
    return {"send": {"data": data}}


# The stream


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS, ids=name_of)
async def test_a_client_connects_posts_and_receives(server: Serve, kind: str, http: httpx.AsyncClient) -> None:
    gateway = Gateway(**OPTIONS)
    async with server(gateway) as url:
        stream = await Emulated.open(url, kind)
        for number in range(2, 5):
            answer = await stream.post(http, {**RPC, "id": number}, f'{{"id":{number + 10},"rpc":{{}}}}')
            assert (answer.status_code, answer.content) == (204, b"")
            assert [(await stream.reply())["id"] for _ in range(2)] == [number, number + 10]
        await gateway.send({"text": "hi"})
        assert (await stream.reply())["push"]["pub"]["data"] == {"text": "hi"}
        await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS, ids=name_of)
async def test_the_head_and_the_first_bytes_keep_nothing_from_holding_it_back(server: Serve, kind: str) -> None:
    async with server(Gateway(**OPTIONS)) as url:
        stream = await Emulated.request(url, kind, CONNECT)
        lines = stream.head.lower().split(b"\r\n")
        is_lines = kind == "lines"
        content_type = b"application/json" if is_lines else b"text/event-stream; charset=utf-8"
        assert b"content-type: " + content_type in lines
        assert {
            b"cache-control: no-store, no-transform",
            b"x-accel-buffering: no",
            b"content-encoding: identity",
            b"transfer-encoding: chunked",
        } <= set(lines)
        first = await stream.chunk()
        assert first.startswith(b'{"id":1,' if is_lines else b"\r\n")
        more = b"" if len(first) > 2 else await stream.chunk()
        assert (first + more).endswith(b"}\n" if is_lines else b"}\n\n")
        await stream.aclose()


async def test_a_stream_over_tls() -> None:
    async with OwnServerTls()(Gateway(**OPTIONS)) as url, httpx.AsyncClient(trust_env=True) as http:
        async with http.stream("POST", f"{url}/connection/http_stream", content=CONNECT) as response:
            assert json.loads(await anext(response.aiter_lines()))["id"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_the_socket_is_taken_over_although_the_request_has_a_body(kind: str) -> None:
    gateway = Gateway(**OPTIONS)
    async with serve(gateway) as url:
        before = len(asyncio.all_tasks())
        streams = [await Emulated.open(url, kind) for _ in range(5)]
        assert len(streams_here()) == 5
        assert len(asyncio.all_tasks()) == before
        assert b"\r\nconnection: close\r\n" in streams[0].head
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize(
    ("lines", "pieces"),
    [
        (["Transfer-Encoding: chunked"], [b"%x\r\n" % len(CONNECT), CONNECT.encode(), b"\r\n0\r\n\r\n"]),
        ([f"Content-Length: {len(CONNECT)}"], [CONNECT[:5].encode(), CONNECT[5:].encode()]),
    ],
)
async def test_a_body_that_arrives_in_pieces(lines: list[str], pieces: list[bytes]) -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        raw = await connect(url)
        await raw.send(head("POST /connection/http_stream HTTP/1.1", *lines))
        for piece in pieces:
            await asyncio.sleep(0.02)  # so that the server reads the pieces one by one
            await raw.send(piece)
        stream = Emulated(url, raw, await raw.receive_until(b"\r\n\r\n"), "")
        assert (await stream.reply())["id"] == 1
        assert len(streams_here()) == 1
        await stream.aclose()


async def test_a_client_of_http_1_0_is_served_over_asgi() -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        raw = await connect(url)
        await raw.send(post(CONNECT.encode(), path="/connection/http_stream").replace(b" HTTP/1.1", b" HTTP/1.0", 1))
        assert b'{"id":1,"connect":' in await raw.receive_until(b"}\n")
        assert not streams_here()
        await raw.stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS[:3], ids=name_of)
async def test_below_a_mount_and_behind_middleware(server: Serve, kind: str, http: httpx.AsyncClient) -> None:
    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return await call_next(request)

    gateway = Gateway(**OPTIONS)
    app = Starlette(
        routes=[Mount("/live", gateway)],
        middleware=[Middleware(GZipMiddleware), Middleware(Passing)],
        lifespan=gateway.lifespan,
    )
    async with server(app) as url:
        stream = await Emulated.open(url, kind, CONNECT, "Accept-Encoding: gzip", prefix="/live")
        assert (await stream.post(http, RPC)).status_code == 204
        assert (await stream.reply())["id"] == 2
        assert not streams_here()
        await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_has_no_heartbeat_of_its_own_but_pings(kind: str, http: httpx.AsyncClient) -> None:
    async with serve(Gateway(ping_interval=0.2, pong_timeout=5, **OPTIONS)) as url:
        stream = await Emulated.open(url, kind)
        for _ in range(3):
            assert await stream.content() == "{}"
            assert (await stream.post(http, "{}")).status_code == 204
        await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS, ids=name_of)
async def test_the_end_is_a_push_and_then_the_end_of_the_body(server: Serve, kind: str) -> None:
    gateway = Gateway(**OPTIONS)
    async with server(gateway) as url:
        stream = await Emulated.open(url, kind)
        (conn,) = gateway.connections
        await conn.close(4000, 'data: x\r\ndata: y"')
        reason = 'data: x\r\ndata: y"'
        assert await stream.ends() == {"push": {"disconnect": {"code": 4000, "reason": reason}}}
        await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS[:3], ids=name_of)
async def test_a_gateway_that_stops_ends_its_streams_with_3001(server: Serve, kind: str) -> None:
    listener = Sent()
    gateway = Gateway(listener=listener, **OPTIONS)
    async with server(gateway) as url:
        stream = await Emulated.open(url, kind)
        await gateway.stop()
        assert await stream.ends() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
        assert ("on_client_close", 3001) in listener.events
        await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_of_on_handshake_is_an_error_in_the_stream(kind: str) -> None:
    class Closed:
        async def on_handshake(self, event: Event) -> None:
            raise Refused(403, "not today")

    async with serve(Gateway(listener=Closed, **OPTIONS)) as url:
        stream = await Emulated.request(url, kind, CONNECT)
        assert stream.head.startswith(b"HTTP/1.1 200 ")
        assert await stream.reply() == {"id": 1, "error": {"code": 103, "message": "permission denied"}}
        await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS, ids=name_of)
async def test_the_reply_to_connect_comes_before_what_on_handshake_has_sent(server: Serve, kind: str) -> None:
    class Greeting:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn
            await event.conn.send("early")
            await asyncio.sleep(0.05)  # so that a writer would have time to write it

    async with server(Gateway(listener=Greeting, **OPTIONS)) as url:
        stream = await Emulated.open(url, kind)
        assert (await stream.reply())["push"]["pub"]["data"] == "early"
        await stream.aclose()


@pytest.mark.parametrize("server", SERVERS, ids=name_of)
async def test_a_client_of_protobuf_connects_posts_and_receives(server: Serve, http: httpx.AsyncClient) -> None:
    gateway = Gateway(**OPTIONS)
    binary = {"content-type": "application/octet-stream"}

    def frame_of(**fields: Any) -> bytes:
        data: bytes = schema.Command(**fields).SerializeToString()
        return varint(len(data)) + data

    async with server(gateway) as url:
        body = frame_of(id=1, connect=schema.ConnectRequest())
        async with http.stream("POST", url + "/connection/http_stream", content=body, headers=binary) as response:
            assert response.headers["content-type"] == "application/octet-stream"
            chunks = response.aiter_bytes()

            async def reply() -> Any:
                data = await anext(chunks)
                assert data[0] == len(data) - 1
                return schema.Reply.FromString(data[1:])

            result = (await reply()).connect
            frame = frame_of(id=2, rpc=schema.RPCRequest())
            posted = schema.EmulationRequest(node=result.node, session=result.session, data=frame)
            for content, status in ((posted.SerializeToString(), 204), (b"\xff", 400), (b"\xff" * 100_000, 413)):
                answer = await http.post(url + "/emulation", content=content, headers=binary)
                assert answer.status_code == status
            answer_to_rpc = await reply()
            assert (answer_to_rpc.id, answer_to_rpc.error.code) == (2, 108)
            (conn,) = gateway.connections
            await conn.close(4000, "enough")
            end = (await reply()).push.disconnect
            assert (end.code, end.reason) == (4000, "enough")
            with pytest.raises(StopAsyncIteration):
                await anext(chunks)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_first_frame_that_cannot_be_used_ends_the_stream_with_3501(kind: str) -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        for frame in ("{", '{"id":1,"rpc":{}}', "[]", "\x00", '{"id":1}\n{"x"'):
            stream = await Emulated.request(url, kind, frame)
            assert stream.head.startswith(b"HTTP/1.1 200 ")
            assert await stream.ends() == {"push": {"disconnect": {"code": 3501, "reason": "bad request"}}}, frame
            await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_several_commands_in_the_first_frame_are_answered_in_order(kind: str) -> None:
    frame = CONNECT + "".join(f'\n{{"id":{number},"rpc":{{}}}}' for number in range(2, 20))
    async with serve(Gateway(**OPTIONS)) as url:
        stream = await Emulated.open(url, kind, frame)
        assert [(await stream.reply())["id"] for _ in range(2, 20)] == [*range(2, 20)]
        await stream.aclose()


async def test_a_client_that_disconnects_leaves_nothing_behind(http: httpx.AsyncClient) -> None:
    listener = Sent()
    gateway = Gateway(listener=listener, **OPTIONS)
    async with serve(gateway) as url:
        for kind in KINDS:
            stream = await Emulated.open(url, kind)
            await stream.aclose()
        await listener.wait_for("on_client_close", 3)
        assert gateway._running is not None
        admission = gateway._running.admission
        assert (admission.posted.by_secret, admission.sessions, admission._by_address) == ({}, {}, {})
        assert (await stream.post(http, send("late"))).status_code == 204
        assert listener.messages == []


@pytest.mark.parametrize("kind", KINDS)
async def test_line_breaks_in_payloads_break_nothing(kind: str, http: httpx.AsyncClient) -> None:
    gateway = Gateway(**OPTIONS)
    async with serve(gateway) as url:
        stream = await Emulated.open(url, kind)
        for text in ("a\nb", "a\rb", "\r\n\r\ndata: x\r\n\r\n", "event: close\n\n", "\u2028", "data:", " "):
            raw = json.dumps({"send": {"data": {"text": text}}}, indent=1).replace("\n", "\r\t")
            assert (await stream.post(http, raw)).status_code == 204
            assert (await stream.reply())["push"]["pub"]["data"] == {"text": text}
            await gateway.send(text)
            assert (await stream.reply())["push"]["pub"]["data"] == text
        await stream.aclose()


# POST /emulation


async def test_the_answer_comes_before_the_commands_have_run(http: httpx.AsyncClient) -> None:
    listener = Sent()
    async with serve(Gateway(listener=listener, **OPTIONS)) as url:
        stream = await Emulated.open(url)
        for number in range(3):
            assert (await stream.post(http, send({"wait": number}))).status_code == 204
        assert listener.messages == [{"wait": 0}]
        listener.may_go.set()
        await listener.wait_for("on_message", 3)
        await stream.aclose()


async def test_posts_are_handled_in_the_order_of_their_arrival_also_while_the_inbox_is_full() -> None:
    listener = Sent()
    async with serve(Gateway(listener=listener, **OPTIONS)) as url:
        stream = await Emulated.open(url)

        def posted(data: Any) -> bytes:
            body = {"session": stream.session, "node": stream.node, "data": json.dumps(send(data))}
            return post(body, path="/emulation")

        raws = [await connect(url) for _ in range(200)]
        await raws[0].send(posted({"wait": 0}))
        await listener.wait_for("on_message")
        for number, raw in enumerate(raws):
            await raw.send(posted(number))
            while number < 20 and not await raw.receive_until(b"204 No Content"):
                pass
        waiting = raws[-1]
        assert waiting.buffer == b""
        listener.may_go.set()
        await waiting.receive_until(b"204 No Content")
        await listener.wait_for("on_message", 201)
        assert listener.messages == [{"wait": 0}, *range(200)]
        for raw in raws:
            await raw.stream.aclose()
        await stream.aclose()


async def test_a_post_is_refused_if_the_inbox_stays_full(http: httpx.AsyncClient) -> None:
    listener = Sent()
    async with serve(Gateway(listener=listener, handshake_timeout=0.5, hook_timeout=30, **OPTIONS)) as url:
        stream = await Emulated.open(url)
        statuses = []
        for number in range(40):
            statuses.append((await stream.post(http, send({"wait": number}))).status_code)
            if statuses[-1] != 204:
                break
        assert statuses == [204] * (len(statuses) - 1) + [429]
        assert len(statuses) > 30
        answer = await stream.post(http, send("more"))
        assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
        listener.may_go.set()
        with anyio.fail_after(20):
            while (await stream.post(http, send("last"))).status_code != 204:
                pass
        await listener.wait_for("on_message", len(statuses))
        assert listener.messages[-1] == "last"
        assert "more" not in listener.messages
        await stream.aclose()


async def test_posts_of_a_stream_that_ends_meanwhile_are_204(http: httpx.AsyncClient) -> None:
    listener = Sent()
    gateway = Gateway(listener=listener, hook_timeout=30, **OPTIONS)
    async with serve(gateway) as url, anyio.create_task_group() as tasks:
        stream = await Emulated.open(url)
        statuses: list[int] = []

        async def posting(number: int) -> None:
            statuses.append((await stream.post(http, send({"wait": number}))).status_code)

        for number in range(50):
            tasks.start_soon(posting, number)
        with anyio.fail_after(20):
            while len(statuses) < 30:
                await anyio.sleep(0.01)  # nothing reports a post that waits
        assert len(statuses) < 50
        await stream.aclose()
        with anyio.fail_after(5):
            while len(statuses) < 50:
                await anyio.sleep(0.01)  # the tasks have no common end
        assert statuses == [204] * 50
        listener.may_go.set()


UNREADABLE = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"5",
    b"\xff",
    b'{"session":"a","node":"b"}',
    b'{"session":"a","data":"c"}',
    b'{"node":"b","data":"c"}',
    b'{"session":"a","node":"b","data":{"id":1}}',
    b'{"session":"a","node":"b","data":null}',
    b'{"session":1,"node":"b","data":"c"}',
    b'{"session":"a","node":["b"],"data":"c"}',
    b'{"session":"a","node":"b","data":"\\ud800"}',
    b'{"session":"a","node":"b","data":"' + b"[" * 3000,
    b"[" * 3000,
)


async def test_a_body_that_cannot_be_read_is_400(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        headers = {"content-type": "application/json"}
        for body in UNREADABLE:
            answer = await http.post(url + "/emulation", content=body, headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), body


async def test_sizes(http: httpx.AsyncClient) -> None:
    listener = Sent()
    async with serve(Gateway(listener=listener, max_message_size=1000, **OPTIONS)) as url:
        stream = await Emulated.open(url)
        frame = json.dumps(send('"' * 470))
        assert 900 < len(frame) <= 1000 < len(json.dumps({"data": frame}))
        assert (await stream.post(http, frame)).status_code == 204
        assert listener.messages == ['"' * 470]
        assert (await stream.post(http, send("x" * 1000))).status_code == 413
        assert (await stream.post(http, send("ü" * 495))).status_code == 413
        assert (await http.post(url + "/emulation", content=b"x" * 1001)).status_code == 413
        assert (await http.post(url + "/emulation", content=b"x" * 100_000)).status_code == 413
        for path in ("/connection/sse", "/connection/http_stream"):
            assert (await http.post(url + path, content=b"x" * 1001)).status_code == 413
        assert (await http.get(url + "/connection/sse", params={"cf_connect": "x" * 1001})).status_code == 413
        assert (await stream.post(http, RPC)).status_code == 204
        assert (await stream.reply())["id"] == 2
        await stream.aclose()


async def test_a_guessed_session_is_204_without_effect_and_an_unknown_node_404(http: httpx.AsyncClient) -> None:
    listener = Sent()
    gateway = Gateway(listener=listener, **OPTIONS)
    async with serve(gateway) as url:
        stream = await Emulated.open(url)
        assert stream.node
        for guess in ("", "x", stream.session[:-1], stream.session + "x", "\x00", "." * 5000):
            assert (await stream.post(http, send("x"), session=guess)).status_code == 204
        for guess in ("", "x", stream.node[:-1], stream.node + " ", gateway.id, stream.session):
            answer = await stream.post(http, send("x"), node=guess)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
            assert stream.session not in answer.text
        assert listener.messages == []
        await stream.aclose()


async def test_the_session_of_another_kind_of_stream_is_not_known(http: httpx.AsyncClient) -> None:
    listener = Sent()
    async with serve(Gateway(listener=listener, **OPTIONS)) as url:
        stream = await Emulated.open(url)
        assert (await http.post(f"{url}/session/{stream.session}", json="x")).status_code == 404
        async with http.stream("GET", url + "/stream") as response:
            secret = json.loads(await anext(response.aiter_lines()))["open"]["session"]
            assert (await stream.post(http, send("x"), session=secret)).status_code == 204
        assert listener.messages == []
        await stream.aclose()


async def test_a_gateway_that_drains_still_answers_204(http: httpx.AsyncClient) -> None:
    listener = Sent()

    class Slow(Sent):
        async def on_client_close(self, event: Event) -> None:
            self.record("on_client_close", None)
            await self.may_go.wait()

    listener = Slow()
    gateway = Gateway(listener=listener, drain=20, **OPTIONS)
    async with serve(gateway) as url, anyio.create_task_group() as tasks:
        stream = await Emulated.open(url)
        tasks.start_soon(gateway.stop)
        await listener.wait_for("on_client_close")
        assert (await stream.post(http, send("x"))).status_code == 204
        assert (await stream.post(http, send("x"), node="unknown")).status_code == 204
        assert (await http.post(url + "/emulation", content=b"{")).status_code == 400
        assert (await http.post(url + "/connection/http_stream", content=CONNECT)).status_code == 503
        listener.may_go.set()
    async with serve(gateway) as url:
        await gateway.stop()
        assert (await stream.post(http, send("x"), url=url)).status_code == 503
    await stream.aclose()


REFUSED = (
    ("GET", "/connection/sse", 400),
    ("GET", "/connection/sse?cf_connect=", 400),
    ("GET", "/connection/sse?cf_connect=%7B&cf_connect=%7B", 400),
    ("GET", "/connection/sse?cf_connect=%ff", 400),
    ("GET", "/connection/sse?x=cf_connect", 400),
    ("POST", "/connection/sse", 400),
    ("POST", "/connection/http_stream", 400),
    ("GET", "/connection/http_stream", 405),
    ("PUT", "/connection/sse", 405),
    ("HEAD", "/connection/sse", 405),
    ("GET", "/emulation", 405),
    ("DELETE", "/emulation", 405),
    ("GET", "/connection/websocket", 426),
    ("GET", "/connection/x", 404),
    ("GET", "/connection", 404),
    ("POST", "/emulation/x", 404),
)


async def test_other_requests_are_refused(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        for method, path, status in REFUSED:
            assert (await http.request(method, url + path)).status_code == status, (method, path)


@pytest.mark.parametrize("path", ["/connection/http_stream", "/emulation"])
async def test_a_body_that_is_not_utf8_is_400(http: httpx.AsyncClient, path: str) -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        assert (await http.post(url + path, content=b"\xff")).status_code == 400


def test_the_first_frame_is_taken_out_of_the_query() -> None:
    query = b"a=1&cf_connect=%7B%22id%22%3A1%2C+%22x%22%3A%22%C3%BC%2B%26%22%7D&b=2&"
    assert first_frame(query) == ('{"id":1, "x":"ü+&"}', b"a=1&b=2&")


@pytest.mark.parametrize("path", [*PATHS, "/connection/websocket"])
async def test_without_centrifuge_in_protocols_the_answer_names_the_setting(http: httpx.AsyncClient, path: str) -> None:
    async with serve(Gateway()) as url:
        for method in ("GET", "POST"):
            answer = await http.request(method, url + path)
            assert answer.status_code == 404
            assert '"centrifuge" to protocols' in answer.json()["detail"]


async def test_an_unknown_path_names_the_option_of_the_client(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        assert "emulationEndpoint" in (await http.post(url + "/x/emulation")).json()["detail"]
    async with serve(Gateway()) as url:
        assert "emulationEndpoint" not in (await http.post(url + "/x")).json()["detail"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"max_connections": 1}, 503),
        ({"max_connections_per_address": 1}, 429),
        ({"connect_rate": 0.001, "connect_burst": 1}, 429),
        ({"allowed_hosts": ["example.com"]}, 400),
    ],
)
@pytest.mark.parametrize("kind", ["get", "lines"])
async def test_the_limits_of_sockets_are_those_of_streams(options: dict[str, Any], status: int, kind: str) -> None:
    async with serve(Gateway(**OPTIONS, **options)) as url:
        streams = [await Emulated.request(url, kind, CONNECT) for _ in range(2)]
        assert streams[1].head.startswith(b"HTTP/1.1 %d " % status)
        for stream in streams:
            await stream.aclose()


# Secrets


@pytest.mark.parametrize("server", SERVERS[:3], ids=name_of)
async def test_the_token_and_the_secret_are_in_no_log_line_and_in_no_answer(
    server: Serve, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("wsgateway", "uvicorn", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    gateway = Gateway(local_access=True, verbose=True, **OPTIONS)
    frame = '{"id":1,"connect":{"token":"TOKEN/a?b"}}'
    async with server(gateway) as url:
        stream = await Emulated.open(url, "get", frame)
        assert b"TOKEN" not in next(conn.query_string for conn in gateway.connections)
        for wrong in ("", "x"):
            await stream.post(http, RPC, node=wrong)
        await stream.post(http, "{")
        for query in ("cf_connect=TOKEN&cf_connect=TOKEN", "cf_connect=%ff+TOKEN"):
            assert (await http.get(f"{url}/connection/sse?{query}")).status_code == 400
        origin = {"origin": "https://evil.example"}
        await http.get(f"{url}/connection/sse?cf_connect={quote(frame)}", headers=origin)
        info = (await http.get(url + "/info")).text
        assert "TOKEN" not in info
        assert stream.session not in info
    text = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert "TOKEN" not in text
    assert stream.session not in text
    await stream.aclose()


# Origins


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://good.com.evil.example", "http://good.com"])
async def test_another_origin_gets_403_and_no_cors_header(http: httpx.AsyncClient, origin: str) -> None:
    listener = Sent()
    async with serve(Gateway(listener=listener, allowed_origins=["https://good.com"], **OPTIONS)) as url:
        stream = await Emulated.open(url)
        body = {"session": stream.session, "node": stream.node, "data": json.dumps(send("x"))}
        for path, method in product(PATHS, ("GET", "OPTIONS", "POST")):
            answer = await http.request(method, url + path, headers={"origin": origin}, json=body)
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control")]
        assert listener.messages == []
        await stream.aclose()


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_of_another_site_without_an_origin_is_403(http: httpx.AsyncClient, path: str) -> None:
    async with serve(Gateway(**OPTIONS)) as url:
        for site in ("cross-site", "same-site"):
            assert (await http.post(url + path, headers={"sec-fetch-site": site})).status_code == 403


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/connection/sse", "GET, POST"), ("/connection/http_stream", "POST"), ("/emulation", "POST")],
)
async def test_a_preflight_is_answered(http: httpx.AsyncClient, path: str, methods: str) -> None:
    async with serve(Gateway(allowed_origins=["https://good.com"], **OPTIONS)) as url:
        headers = {
            "origin": "https://good.com",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        answer = await http.options(url + path, headers=headers)
        assert (answer.status_code, answer.headers[CORS["origin"]]) == (204, "https://good.com")
        assert (answer.headers[CORS["methods"]], answer.headers[CORS["credentials"]]) == (methods, "true")
        assert "content-type" in answer.headers[CORS["headers"]]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_page_of_an_accepted_origin_may_read_streams_and_answers(kind: str, http: httpx.AsyncClient) -> None:
    headers = {"origin": "https://good.com"}
    async with serve(Gateway(allowed_origins=["https://good.com"], max_connections=1, **OPTIONS)) as url:
        stream = await Emulated.open(url, kind, CONNECT, "Origin: https://good.com")
        assert b"access-control-allow-origin: https://good.com\r\n" in stream.head
        assert b"access-control-allow-credentials: true\r\n" in stream.head
        body = {"session": stream.session, "node": stream.node, "data": "{}"}
        for fields, status in (({}, 204), ({"node": "x"}, 404), ({"data": 5}, 400)):
            answer = await http.post(url + "/emulation", json={**body, **fields}, headers=headers)
            assert (answer.status_code, answer.headers[CORS["origin"]]) == (status, "https://good.com")
        refused = await http.post(url + "/connection/http_stream", content=CONNECT, headers=headers)
        assert (refused.status_code, refused.headers[CORS["origin"]]) == (503, "https://good.com")
        await stream.aclose()


async def test_with_a_star_the_answer_is_a_star_without_credentials(http: httpx.AsyncClient) -> None:
    async with serve(Gateway(allowed_origins=["*"], **OPTIONS)) as url:
        answer = await http.options(url + "/emulation", headers={"origin": "https://any.example"})
        assert (answer.headers[CORS["origin"]], CORS["credentials"] in answer.headers) == ("*", False)

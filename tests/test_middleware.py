"""What a middleware around a mounted gateway sees, as docs/how-to/mounting.md has it."""

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.servers import Hypercorn, OwnServer, PlainUvicorn, Serve
from tests.test_docs import block, run
from wsgateway import Event, Gateway, Refused
from wsgateway.testing import Client

OWN: list[Serve] = [OwnServer(), PlainUvicorn(ws="wsgateway.server:WebSocketProtocol")]
OTHER: list[Serve] = [PlainUvicorn(), Hypercorn()]

own_protocol = pytest.mark.parametrize("serve", OWN, ids=["wsgateway", "uvicorn-ws"])
other_servers = pytest.mark.parametrize("serve", OTHER, ids=["uvicorn", "hypercorn"])
all_servers = pytest.mark.parametrize("serve", [*OWN, *OTHER], ids=["wsgateway", "uvicorn-ws", "uvicorn", "hypercorn"])

setter: ContextVar[str] = ContextVar("setter", default="nobody")


class Watch:
    """A pure ASGI middleware that sets a variable, and records what passes through it until the call returns."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.received: list[str] = []
        self.sent: list[str] = []
        self.returned = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return

        async def watched_receive() -> Message:
            message = await receive()
            self.received.append(message["type"])
            return message

        async def watched_send(message: Message) -> None:
            self.sent.append(message["type"])
            await send(message)

        token = setter.set("middleware")
        try:
            await self.app(scope, watched_receive, watched_send)
        finally:
            setter.reset(token)
            self.returned.set()


class Records:
    """Records what each hook sees of the variable."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        self.closed = anyio.Event()

    async def on_handshake(self, event: Event) -> None:
        assert event.conn is not None
        if event.conn.query.get("refuse"):
            raise Refused(401)
        self.seen["on_handshake"] = setter.get()

    def on_client_open(self, event: Event) -> None:
        self.seen["on_client_open"] = setter.get()

    async def on_first_open(self, event: Event) -> None:
        self.seen["on_first_open"] = setter.get()

    async def on_message(self, event: Event) -> None:
        self.seen["on_message" if event.conn else "on_message from /send"] = setter.get()

    async def on_client_close(self, event: Event) -> None:
        self.seen["on_client_close"] = setter.get()
        self.closed.set()


OPENING = {"on_handshake", "on_first_open", "on_client_open"}


@own_protocol
async def test_on_the_own_protocol_the_call_returns_once_the_client_is_accepted(serve: Serve) -> None:
    recorder = Records()
    watch = Watch(Gateway(listener=recorder))
    async with serve(watch) as url, Client(url) as ann:
        with anyio.fail_after(10):
            await watch.returned.wait()
        await ann.send("hi")
        assert await ann.receive() == "hi"
        assert (watch.received, watch.sent) == (["websocket.connect"], ["websocket.accept"])
        assert {hook: recorder.seen[hook] for hook in OPENING} == dict.fromkeys(OPENING, "middleware")


@other_servers
async def test_on_other_servers_the_call_returns_when_the_connection_has_ended(serve: Serve) -> None:
    recorder = Records()
    watch = Watch(Gateway(listener=recorder))
    async with serve(watch) as url:
        async with Client(url) as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
            assert not watch.returned.is_set()
        with anyio.fail_after(10):
            await watch.returned.wait()
            await recorder.closed.wait()
        assert watch.received == ["websocket.connect", "websocket.receive", "websocket.disconnect"]
        assert watch.sent[:2] == ["websocket.accept", "websocket.send"]
        assert recorder.seen == dict.fromkeys((*OPENING, "on_message", "on_client_close"), "middleware")


@all_servers
async def test_the_call_returns_once_the_client_is_refused(serve: Serve) -> None:
    watch = Watch(Gateway(listener=Records()))
    async with serve(watch) as url:
        with pytest.raises(Exception, match="HTTP 401"):
            async with Client(url, "/ws?refuse=1"):
                pass
        with anyio.fail_after(10):
            await watch.returned.wait()


class Base(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        calls.append(request.url.path)
        setter.set("base")
        return await call_next(request)


calls: list[str] = []


@all_servers
async def test_a_base_http_middleware_wraps_send_and_no_websocket(serve: Serve) -> None:
    calls.clear()
    recorder = Records()
    gateway = Gateway(listener=recorder, local_access=True)
    routes = [Mount("/live", gateway)]
    app = Starlette(routes=routes, lifespan=gateway.lifespan, middleware=[Middleware(Base)])
    async with serve(app) as url, Client(url, "/live/ws") as ann, httpx.AsyncClient() as http:
        answer = await http.post(url + "/live/send", json={"message": "pushed"})
        assert (answer.status_code, await ann.receive()) == (200, "pushed")
        assert calls == ["/live/send"]
        assert recorder.seen["on_message from /send"] == "base"
        assert recorder.seen["on_handshake"] == "nobody"


@all_servers
async def test_the_sample_of_the_docs_traces_on_every_server(serve: Serve) -> None:
    names = run(block("how-to/mounting.md", "traced.py").replace("Gateway(", "Gateway(local_access=True, "))
    async with serve(names["app"]) as url, httpx.AsyncClient() as http:
        async with Client(url, "/live/ws") as ann, Client(url, "/live/ws") as bob:
            requests: list[str] = []
            for sender in (ann, bob, ann, bob):
                await sender.send("hi")
                requests.append((await ann.receive_json())["request"])
                assert (await bob.receive_json())["request"] == requests[-1]
            await http.post(url + "/live/send", json={"message": "pushed"})
            requests.append((await ann.receive_json())["request"])
    assert requests[:2] == requests[2:4]
    assert len(set(requests)) == 3


@other_servers
async def test_a_close_hook_that_waits_for_its_turn_sees_no_variable_of_another(serve: Serve) -> None:
    number: ContextVar[int] = ContextVar("number")
    count = 0

    class Number:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal count
            count += 1
            number.set(count)
            await gateway(scope, receive, send)

    class Listener:
        seen: list[tuple[Any, int]] = []  # noqa: RUF012  one listener
        release = asyncio.Event()

        async def on_handshake(self, event: Event) -> None:
            assert event.conn is not None
            event.conn.user = number.get()

        async def on_client_close(self, event: Event) -> None:
            assert event.conn is not None
            await self.release.wait()
            self.seen.append((event.conn.user, number.get()))

    gateway = Gateway(listener=Listener)
    async with serve(Number()) as url, anyio.create_task_group() as tasks:
        clients = [Client(url) for _ in range(110)]
        for client in clients:
            await client.__aenter__()
        tasks.start_soon(gateway.stop)
        for client in clients:
            assert (await client.closed())[0] == 1012
        Listener.release.set()
    assert len(Listener.seen) == 110
    assert all(user == seen for user, seen in Listener.seen)

"""One suite over every way to be served: `wsgateway serve`'s server, plain uvicorn, hypercorn."""

from collections.abc import AsyncIterator
from typing import Any

import anyio.lowlevel
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus

from tests.servers import SERVERS, Serve
from wsgateway import Event, Gateway, Refused
from wsgateway.client import connect
from wsgateway.testing import Client, RecordingListener


@pytest.fixture(params=SERVERS, ids=lambda serve: serve.name)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(verify=False) as client:
        yield client


async def test_a_message_reaches_every_client_the_sender_too(serve: Serve) -> None:
    async with serve(Gateway()) as url, Client(url) as ann, Client(url, "/") as bob, Client(url, "/ws/room/1") as eve:
        await ann.send("hi")
        assert [await client.receive() for client in (ann, bob, eve)] == ["hi"] * 3


async def test_binary_stays_binary(serve: Serve) -> None:
    async with serve(Gateway()) as url, Client(url) as ann:
        await ann.send(b"\x00\xff")
        assert await ann.receive() == b"\x00\xff"


async def test_a_listener_rewrites_and_routes(serve: Serve) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            event.message = {"said": event.message}
            event.connections = [event.conn] if event.conn else None

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("one")
        await bob.send("two")
        assert await ann.receive_json() == {"said": "one"}
        assert await bob.receive_json() == {"said": "two"}


async def test_send_reaches_everybody_and_counts(serve: Serve, http: httpx.AsyncClient) -> None:
    async with serve(Gateway(local_access=True)) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("both are in the hub")
        assert await ann.receive() == await bob.receive()
        answer = await http.post(url + "/send", json={"message": {"n": 1}})
        assert (answer.status_code, answer.json()) == (
            200,
            {"id": "default", "recipients": 2, "queued": 2, "dropped": 0, "at": None, "is_new": True},
        )
        assert await ann.receive_json() == await bob.receive_json() == {"n": 1}


async def test_a_handshake_is_refused_with_status_and_reason(serve: Serve) -> None:
    class Listener:
        def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first")

    async with serve(Gateway(listener=Listener)) as url:
        with pytest.raises(InvalidStatus) as refused:
            async with Client(url):
                pass
    assert refused.value.response.status_code == 401
    assert refused.value.response.body == b"log in first"


async def test_a_refusal_can_be_a_close_that_a_browser_sees(serve: Serve) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first", close=3500)

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        assert await ann.closed() == (3500, "log in first")


async def test_a_foreign_origin_is_refused_with_the_setting_that_would_allow_it(serve: Serve) -> None:
    async with serve(Gateway()) as url:
        with pytest.raises(InvalidStatus) as refused:
            async with Client(url, origin="https://evil.example"):
                pass
    assert refused.value.response.status_code == 403
    assert b"allowed_origins" in (refused.value.response.body or b"")


async def test_other_paths_take_no_websocket(serve: Serve) -> None:
    async with serve(Gateway()) as url:
        with pytest.raises(InvalidStatus) as refused:
            async with Client(url, "/elsewhere"):
                pass
    assert refused.value.response.status_code == 404


async def test_every_refused_handshake_is_a_warning_that_says_what_helps(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first")

    gateway = Gateway(listener=Listener, id="shop")

    async def refused(told: str, path: str = "/ws", origin: str | None = None) -> None:
        caplog.clear()
        with pytest.raises(InvalidStatus):
            async with Client(url, path, origin=origin):
                pass
        (line,) = [record for record in caplog.records if "refused" in record.getMessage()]
        assert line.levelname == "WARNING"
        assert line.getMessage().startswith("[shop] ")
        assert told in line.getMessage()

    async with serve(gateway) as url:
        await refused(
            "there is no WebSocket at /elsewhere, it is at /ws (docs/troubleshooting.md#wrong-path)", "/elsewhere"
        )
        await refused("add that origin to allowed_origins", origin="https://evil.example")
        await refused("on_handshake refused 127.0.0.1: 401 log in first")
        await gateway.stop()
        await refused("gateway [shop] is stopped (docs/troubleshooting.md#not-running)")
        refusals = gateway.metrics.refusals
        assert {
            name: refusals[name] for name in ("unknown_path", "origin", "handshake", "not_running")
        } == dict.fromkeys(("unknown_path", "origin", "handshake", "not_running"), 1)


async def test_the_server_closes_with_code_and_reason_after_what_was_queued(serve: Serve) -> None:
    class Listener:
        async def on_client_open(self, event: Event) -> None:
            assert event.conn
            await event.conn.send("last words")
            await event.conn.close(4001, "bye")
            assert not await event.conn.send("too late")

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        assert await ann.receive() == "last words"
        assert await ann.closed() == (4001, "bye")


async def test_the_hook_reads_the_client_s_close(serve: Serve) -> None:
    recorder = RecordingListener()
    async with serve(Gateway(listener=recorder)) as url:
        async with Client(url) as ann:
            await ann.socket.close(4007, "lunch")
        await recorder.wait_for("on_client_close")
    expected = 1006 if serve.name == "hypercorn" else 4007  # hypercorn says so for every close
    assert recorder.events == [("on_client_open", ""), ("on_client_close", expected)]


async def test_a_client_that_vanishes_is_1006(serve: Serve) -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder)
    async with serve(gateway) as url:
        async with Client(url) as ann:
            await recorder.wait_for("on_client_open")
            ann.socket.transport.abort()
            await recorder.wait_for("on_client_close")
            assert len(gateway.connections) == 0
    assert recorder.events[-1] == ("on_client_close", 1006)


async def test_a_stop_closes_every_client_and_runs_every_hook(serve: Serve) -> None:
    class Listener(RecordingListener):
        async def on_start(self, event: Event) -> None:
            self.record("on_start", len(event.gateway.connections))

        async def on_stop(self, event: Event) -> None:
            self.record("on_stop", len(event.gateway.connections))

    recorder = Listener()
    gateway = Gateway(listener=recorder)
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("hi")
        await bob.receive()
        await gateway.stop()
        assert (await ann.closed())[0] == (await bob.closed())[0] == 1012
    assert [hook for hook, _ in recorder.events] == [
        "on_start",
        "on_client_open",
        "on_client_open",
        "on_message",
        "on_client_close",
        "on_client_close",
        "on_stop",
    ]


async def test_the_subprotocol_that_the_listener_chose(serve: Serve) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn
            assert event.conn.subprotocols == ("v1.chat", "v2.chat")
            event.subprotocol = "v2.chat"

    async with (
        serve(Gateway(listener=Listener)) as url,
        connect("ws" + url[4:] + "/ws", subprotocols=["v1.chat", "v2.chat"]) as socket,
    ):
        assert socket.subprotocol == "v2.chat"


async def test_what_the_request_carried(serve: Serve) -> None:
    seen: dict[str, Any] = {}

    class Listener:
        async def on_client_open(self, event: Event) -> None:
            conn = event.conn
            assert conn
            seen.update(
                path=conn.path,
                query=dict(conn.query),
                agent=conn.headers["X-Agent"],
                cookies=conn.cookies,
                address=conn.address,
                transport=conn.transport,
            )
            await conn.send("ready")

    headers = {"x-agent": "a", "cookie": "session=abc; theme=dark"}
    async with serve(Gateway(listener=Listener)) as url:
        async with Client(url, "/ws/room1?name=Ann%20B", additional_headers=headers) as ann:
            await ann.receive()
    assert seen == {
        "path": "/ws/room1",
        "query": {"name": "Ann B"},
        "agent": "a",
        "cookies": {"session": "abc", "theme": "dark"},
        "address": "127.0.0.1",
        "transport": "websocket",
    }


async def test_too_big_a_message_closes_1009_and_the_others_go_on(serve: Serve) -> None:
    gateway = Gateway(max_message_size=1000)
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        await bob.send("x" * 1000)
        assert len(await ann.receive()) == 1000
        await ann.send("é" * 501)
        assert (await ann.closed())[0] == 1009
        await bob.receive()
        await bob.send("still here")
        assert await bob.receive() == "still here"


async def test_invalid_utf8_closes_1007(serve: Serve) -> None:
    async with serve(Gateway()) as url, Client(url) as ann, Client(url) as bob:
        await ann.socket.send(b"\xff\xfe", text=True)
        assert (await ann.closed())[0] == (1006 if serve.name == "hypercorn" else 1007)  # hypercorn just ends it
        await bob.send("still here")
        assert await bob.receive() == "still here"


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after waiting"])
async def test_ten_thousand_messages_are_handled_in_order(serve: Serve, waits: bool) -> None:
    class Listener:
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def on_message(self, event: Event) -> None:
            self.seen.append(event.message)
            if waits:
                await anyio.lowlevel.checkpoint()
            event.message = None if event.message != "9999" else "done"

    listener = Listener()
    async with serve(Gateway(listener=listener)) as url, Client(url) as ann:
        for number in range(10_000):
            await ann.send(str(number))
        assert await ann.receive() == "done"
    assert listener.seen == [str(number) for number in range(10_000)]


async def test_mounted_below_a_prefix(serve: Serve, http: httpx.AsyncClient) -> None:
    gateway = Gateway(local_access=True)
    app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url, Client(url, "/live/ws/a") as ann:
        assert (await http.post(url + "/live/send", json={"message": "hi"})).status_code == 200
        assert await ann.receive() == "hi"
        assert '<base href="./">' in (await http.get(url + "/live/")).text
        connections = (await http.get(url + "/live/info")).json()["connections"]
        assert [conn["path"] for conn in connections] == ["/ws/a"]


async def test_it_starts_by_itself_where_nobody_ran_its_lifespan(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway()
    async with serve(Starlette(routes=[Mount("/live", gateway)])) as url:
        async with Client(url, "/live/ws") as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
        async with Client(url, "/live/ws"):
            pass
    await gateway.stop()
    assert sum("lifespan" in line for line in caplog.messages) == 1


async def test_a_stopped_gateway_answers_503(serve: Serve, http: httpx.AsyncClient) -> None:
    gateway = Gateway(local_access=True)
    async with serve(gateway) as url:
        assert (await http.get(url + "/ready")).status_code == 200
        await gateway.stop()
        assert (await http.get(url + "/ready")).status_code == 503
        assert (await http.get(url + "/health")).status_code == 200
        assert (await http.post(url + "/send", json={"message": 1})).status_code == 409
        with pytest.raises(InvalidStatus) as refused:
            async with Client(url):
                pass
        assert refused.value.response.status_code == 503
        await gateway.start()
        async with Client(url) as ann:
            await ann.send("again")
            assert await ann.receive() == "again"


async def test_a_client_may_close_while_hooks_wait(serve: Serve) -> None:
    recorder = RecordingListener()
    async with serve(Gateway(listener=recorder)) as url:
        for _ in range(20):
            async with Client(url) as ann:
                await ann.send("hi")
        await recorder.wait_for("on_client_close", 20)
    assert recorder.count("on_client_open") == recorder.count("on_client_close") == 20

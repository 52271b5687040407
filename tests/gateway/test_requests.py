"""Requests over HTTP, `POST /session/SECRET?reply=1`, and requests to clients of any process."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.protocols.test_requests import Answering, Silent, only
from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.streams import Stream, streaming
from tests.test_channels import V1
from wsgateway import ConnectionClosed, Gateway, MessageError, Refused, RequestEvent, RequestRefused, testing
from wsgateway.gateway.registry import registry
from wsgateway.testing import Client


@pytest.fixture(params=[OwnServer(), PlainUvicorn()], ids=lambda server: server.name)
def server(request: pytest.FixtureRequest) -> Serve:
    made: Serve = request.param
    return made


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as client:
        yield client


@asynccontextmanager
async def nodes(
    folder: Path, count: int = 2, listener: Any = Answering, **options: Any
) -> AsyncIterator[list[tuple[Gateway, str]]]:
    """So many nodes of one gateway that know each other, each with the URL of its server."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            gateway = Gateway(listener=listener, broker=f"ipc://{folder}/ipc", **options)
            found.append((gateway, await stack.enter_async_context(testing.serve(gateway))))
            registry.remove(gateway)  # which refuses a second gateway with one id, because a process is one node
        with anyio.fail_after(20):
            while any(len(gateway.cluster.nodes.alive()) < count - 1 for gateway, _ in found):
                await anyio.sleep(0.01)  # nothing reports a new peer
        yield found


async def sse_session(stream: Stream) -> str:
    secret: str = json.loads((await stream.next()).data)["session"]
    return secret


# POST /session/SECRET?reply=1


async def test_the_answer_is_the_body(server: Serve, http: httpx.AsyncClient) -> None:
    async with server(Gateway(listener=Answering)) as url, streaming(url) as stream:
        session = f"{url}/session/{await sse_session(stream)}?reply=1&name="
        answer = await http.post(f"{session}sum", json=[1, 2])
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {"sum": 3}
        answer = await http.post(f"{session}nothing", json=1)
        assert (answer.status_code, answer.text) == (200, "null")
        answer = await http.post(f"{session}echo", content="grüße", headers={"content-type": "text/plain"})
        assert (answer.text, answer.headers["content-type"]) == ("grüße", "text/plain; charset=utf-8")
        answer = await http.post(f"{session}bytes", json=1)
        assert (answer.content, answer.headers["content-type"]) == (b"\x00\x01", "application/octet-stream")
        answer = await http.post(f"{session}close", json=1)  # a name that only events must not have
        assert (answer.status_code, answer.json()["detail"]) == (404, "there is no such method")


async def test_lines_of_json_answer_in_the_body_too(server: Serve, http: httpx.AsyncClient) -> None:
    async with server(Gateway(listener=Answering)) as url, streaming(url, "/stream") as stream:
        secret = json.loads(await stream.line())["open"]["session"]
        answer = await http.post(f"{url}/session/{secret}?reply=1&name=sum", json=[5])
        assert answer.json() == {"sum": 5}


REFUSED = [
    ("reply=1&name=refuse", 418),
    ("reply=1&name=fail", 500),
    ("reply=1&name=unsendable", 500),
    ("reply=1&name=two%20words", 400),
    ("reply=0", 400),
    ("reply=", 400),
    ("reply=1&reply=1", 400),
    ("reply=1&channel=room", 400),
]


async def test_a_refused_request_is_a_problem(http: httpx.AsyncClient) -> None:
    async with testing.serve(Gateway(listener=Answering)) as url, streaming(url) as stream:
        session = f"{url}/session/{await sse_session(stream)}"
        for query, status in REFUSED:
            answer = await http.post(f"{session}?{query}", json=[418])
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_without_on_request_the_reason_names_it(http: httpx.AsyncClient) -> None:
    async with testing.serve(Gateway(listener=Silent)) as url, streaming(url) as stream:
        answer = await http.post(f"{url}/session/{await sse_session(stream)}?reply=1", json=1)
        assert answer.status_code == 404
        assert "on_request" in answer.json()["detail"]


async def test_a_client_of_a_stream_cannot_be_asked() -> None:
    gateway = Gateway()
    async with testing.serve(gateway) as url:
        for path in ("/sse", "/stream"):
            async with streaming(url, path):
                conn = await only(gateway)
                with pytest.raises(TypeError, match="stream"):
                    await conn.request("q")
                with pytest.raises(TypeError, match="stream"):
                    await gateway.request(conn.id, "q")
            with anyio.fail_after(20):
                while gateway.connections:
                    await anyio.sleep(0.001)  # nothing reports that a stream has ended


async def test_a_request_is_posted_in_another_process(tmp_path: Path) -> None:
    async with (
        nodes(tmp_path) as [(_, url), (_, other)],
        streaming(url) as stream,
        httpx.AsyncClient(timeout=20) as http,
    ):
        session = f"{other}/session/{await sse_session(stream)}?reply=1&name="
        assert (await http.post(f"{session}sum", json=[2, 3])).json() == {"sum": 5}
        assert (await http.post(f"{session}bytes", json=1)).content == b"\x00\x01"
        assert (await http.post(f"{session}refuse", json=[418])).json()["detail"] == "not now"
        assert (await http.post(f"{session}fail", json=1)).status_code == 500


# gateway.request


class Client1(V1):
    """Answers each request of the server."""

    async def serve(self) -> None:
        while True:
            question = await self.receive_json()
            match question.get("name"):
                case "refuse":
                    await self.tell(refused=None, id=question["id"], status=409, reason="no")
                case "ignore":
                    pass
                case "close":
                    await self.socket.close()
                    return
                case _:
                    await self.tell(reply=[question.get("request"), question.get("base64")], id=question["id"])


@pytest.mark.parametrize("is_remote", [False, True])
async def test_a_client_is_asked_in_any_process(tmp_path: Path, is_remote: bool) -> None:
    async with nodes(tmp_path, listener=Silent) as [(one, url), (two, _)]:
        async with Client1(url) as client, anyio.create_task_group() as tasks:
            conn_id, gateway = (await only(one)).id, two if is_remote else one
            tasks.start_soon(client.serve)
            assert await gateway.request(conn_id, {"a": 10**30}) == [{"a": 10**30}, None]
            assert await gateway.request(conn_id, "text") == ["text", None]
            assert await gateway.request(conn_id, b"\x00") == [None, "AA=="]
            assert await gateway.request(conn_id, None) == [None, None]
            with pytest.raises(RequestRefused) as refused:
                await gateway.request(conn_id, 1, "refuse")
            assert (refused.value.code, refused.value.reason) == (409, "no")
            with pytest.raises(TimeoutError):
                await gateway.request(conn_id, 1, "ignore", timeout=0.01)
            with pytest.raises(ValueError, match="timeout"):
                await gateway.request(conn_id, 1, timeout=-1)
            with pytest.raises(ValueError, match="printable"):
                await gateway.request(conn_id, 1, "two words")
            with pytest.raises(MessageError):
                await gateway.request(conn_id, object())
            with pytest.raises(ConnectionClosed):
                await gateway.request(conn_id, 1, "close")
        with pytest.raises(ConnectionClosed):
            await gateway.request(conn_id, 1)


async def test_a_connection_that_never_was(tmp_path: Path) -> None:
    async with nodes(tmp_path) as [(one, _), (two, _)]:
        for conn_id in ("", "x", f"{two.cluster.node}.unknown", f"{one.cluster.node}.unknown", "00000000.unknown"):
            with pytest.raises(ConnectionClosed, match="has closed"):
                await one.request(conn_id, 1)
        with pytest.raises(TypeError, match="conn_id"):
            await one.request(5, 1)  # type: ignore[arg-type]  # the mistake


class Chain:
    """Answers a request with what the client answers to another one."""

    async def on_request(self, event: RequestEvent) -> None:
        try:
            event.reply = await event.gateway.request(event.conn.id, event.message, "back")
        except RequestRefused as exc:
            raise Refused(409, exc.reason) from exc


async def test_a_request_within_a_request() -> None:
    async with testing.serve(Gateway(listener=Chain)) as url:
        async with V1(url) as client:
            assert await client.ask(request=1, id=5) == {"request": 1, "id": 1, "name": "back"}
            assert await client.ask(reply=2, id=1) == {"reply": 2, "id": 5}
            await client.ask(request=1, id=6)
            refused = await client.ask(refused=None, id=2, status=1, reason="no")
            assert refused == {"refused": None, "status": 409, "reason": "no", "id": 6}
        async with Client(url) as plain:
            await plain.send_json({"jsonrpc": "2.0", "method": "m", "params": [1], "id": 1})
            question = await plain.receive_json()
            assert question == {"jsonrpc": "2.0", "method": "back", "params": [1], "id": 1}
            await plain.send_json({"jsonrpc": "2.0", "result": 2, "id": 1})
            assert await plain.receive_json() == {"jsonrpc": "2.0", "result": 2, "id": 1}

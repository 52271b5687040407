"""Requests with replies, in both directions: wsgateway.v1, and JSON-RPC 2.0 on the plain protocol. On both servers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tests.clocks import jumping, pass_time
from tests.leftovers import assert_nothing_is_left
from tests.protocols.test_session import Made
from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.test_channels import V1
from wsgateway import Connection, ConnectionClosed, Gateway, MessageEvent, Refused, RequestEvent, RequestRefused
from wsgateway.gateway.running import Ticker
from wsgateway.gateway.wheel import Wheel
from wsgateway.listeners.inbox import INBOX_MESSAGES, OVERFULL_MESSAGES
from wsgateway.protocols.requests import MAX_REQUESTS, Requests
from wsgateway.testing import Client, RecordingListener


@pytest.fixture(params=[OwnServer(), PlainUvicorn()], ids=lambda server: server.name)
def server(request: pytest.FixtureRequest) -> Serve:
    made: Serve = request.param
    return made


class Answering(RecordingListener):
    """Answers requests, and notes messages, which it sends to nobody."""

    gate: anyio.Event | None = None

    async def on_request(self, event: RequestEvent) -> None:
        self.record("on_request", (event.name, event.message))
        if self.gate is not None:
            await self.gate.wait()
        match event.name:
            case "sum":
                event.reply = {"sum": sum(event.message)}
            case "echo":
                event.reply = event.message
            case "bytes":
                event.reply = b"\x00\x01"
            case "fail":
                raise ValueError("broken")
            case "unsendable":
                event.reply = object()
            case "refuse":
                raise Refused(event.message[0], "not now")
            case "nothing":
                pass
            case _:
                raise Refused(404, "there is no such method")

    async def on_message(self, event: MessageEvent) -> None:
        self.record("on_message", event.message)
        event.message = None


class Silent(RecordingListener):
    """Answers no requests."""

    async def on_message(self, event: MessageEvent) -> None:
        self.record("on_message", event.message)
        event.message = None


@asynccontextmanager
async def served(server: Serve, listener: object, **options: Any) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(listener=listener, **options)
    async with server(gateway) as url:
        yield gateway, url
    assert_nothing_is_left(gateway)


async def only(gateway: Gateway) -> Connection:
    """Return the only connection, as soon as it is open."""
    with anyio.fail_after(30):
        while not gateway.connections:
            await anyio.sleep(0.001)  # no event tells when a client is open
    (conn,) = gateway.connections
    return conn


class Asking:
    """A request of the server that waits for its answer in a task."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.error: BaseException | None = None
        self.done = anyio.Event()

    async def run(self, conn: Connection, message: object, name: str = "", seconds: float = 30.0) -> None:
        try:
            self.answer = await conn.request(message, name, seconds)
        except Exception as exc:
            self.error = exc
        self.done.set()

    async def outcome(self) -> Any:
        """Return the answer, or raise the error."""
        with anyio.fail_after(30):
            await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.answer


# wsgateway.v1: the client asks


async def test_a_request_is_answered(server: Serve) -> None:
    async with served(server, listener := Answering()) as (_, url), V1(url) as client:
        assert await client.ask(request=[1, 2], id=7, name="sum") == {"reply": {"sum": 3}, "id": 7}
        assert await client.ask(request="hi", id=-8, name="echo") == {"reply": "hi", "id": -8}
        assert await client.ask(request=1, id=0, name="nothing") == {"reply": None, "id": 0}
        assert await client.ask(request=1, id=0, name="bytes") == {"reply": None, "base64": "AAE=", "id": 0}
        assert listener.events[1:3] == [("on_request", ("sum", [1, 2])), ("on_request", ("echo", "hi"))]


async def test_a_request_is_refused_with_a_status_and_a_reason(server: Serve) -> None:
    async with served(server, Answering()) as (gateway, url), V1(url) as client:
        refused = {"refused": None, "status": 404, "reason": "there is no such method", "id": 1}
        assert await client.ask(request=None, id=1) == refused
        assert (await client.ask(request=[429], id=2, name="refuse"))["status"] == 429
        assert (await client.ask(request=1, id=3, name="fail"))["status"] == 500
        assert (await client.ask(request=1, id=4, name="unsendable"))["status"] == 500
        assert gateway.metrics.hook_errors["on_request"] == 2
        assert gateway.metrics.refusals["on_request"] == 2


async def test_a_listener_without_on_request_refuses_with_its_name(server: Serve) -> None:
    async with served(server, Silent()) as (_, url), V1(url) as client:
        answer = await client.ask(request=1, id=1, name="sum")
        assert (answer["status"], answer["id"]) == (404, 1)
        assert "on_request" in answer["reason"]


MALFORMED = [
    '{"request":1}',
    '{"request":1,"id":true}',
    '{"request":1,"id":1.0}',
    '{"request":1,"id":"1"}',
    '{"request":1,"id":99999999999999999999}',
    '{"request":1,"id":1,"name":5}',
    '{"request":1,"id":1,"name":"two words"}',
    '{"request":1,"id":1,"channel":"room"}',
    '{"request":1,"id":1,"message":2}',
    '{"reply":1}',
    '{"reply":1,"id":true}',
    '{"reply":1,"id":1,"name":"x"}',
    '{"refused":null,"id":1,"status":"x"}',
    '{"refused":null,"id":1,"reason":5}',
    '{"reply":1,"refused":null,"id":1}',
    '{"reply":1,"request":1,"id":1}',
]


async def test_a_malformed_request_or_answer_is_400(server: Serve) -> None:
    async with served(server, listener := Answering()) as (_, url), V1(url) as client:
        for command in MALFORMED:
            await client.send(command)
            answer = await client.receive_json()
            assert answer["status"] == 400, command
        assert await client.ask(request="hi", id=1, name="echo") == {"reply": "hi", "id": 1}
        assert listener.count("on_request") == 1


async def test_answers_come_in_the_order_of_the_commands(server: Serve) -> None:
    listener = Answering()
    listener.gate = anyio.Event()
    async with served(server, listener) as (_, url), V1(url) as client:
        await client.tell(request=1, id=1, name="echo")
        await client.tell(message="m", id=2)
        await client.tell(request=3, id=3, name="echo")
        await listener.wait_for("on_request")
        listener.gate.set()
        assert [(await client.receive_json())["id"] for _ in range(3)] == [1, 2, 3]


# wsgateway.v1: the server asks


async def test_the_server_asks_a_client(server: Serve) -> None:
    async with served(server, Silent()) as (gateway, url), V1(url) as client, anyio.create_task_group() as tasks:
        conn, asking = await only(gateway), Asking()
        tasks.start_soon(asking.run, conn, {"delete": 5}, "confirm")
        assert await client.receive_json() == {"request": {"delete": 5}, "id": 1, "name": "confirm"}
        await client.tell(reply={"yes": True}, id=1)
        assert await asking.outcome() == {"yes": True}
        asking = Asking()
        tasks.start_soon(asking.run, conn, b"\x00\x01")
        assert await client.receive_json() == {"request": None, "base64": "AAE=", "id": 2}
        await client.tell(refused=None, id=2, status=404, reason="unknown")
        with pytest.raises(RequestRefused, match="404 unknown") as refused:
            await asking.outcome()
        assert (refused.value.code, refused.value.reason) == (404, "unknown")


async def test_both_directions_number_independently(server: Serve) -> None:
    async with served(server, Answering()) as (gateway, url), V1(url) as client, anyio.create_task_group() as tasks:
        asking = Asking()
        tasks.start_soon(asking.run, await only(gateway), "q")
        assert (await client.receive_json())["id"] == 1
        assert await client.ask(request="mine", id=1, name="echo") == {"reply": "mine", "id": 1}
        await client.tell(reply="yours", id=1)
        assert await asking.outcome() == "yours"


async def test_answers_to_nothing_are_ignored(server: Serve) -> None:
    async with served(server, listener := Silent()) as (gateway, url), V1(url) as client:
        async with anyio.create_task_group() as tasks:
            asking = Asking()
            tasks.start_soon(asking.run, await only(gateway), "q")
            await client.receive_json()
            for ident in (2, 0, -1, 2**53 - 1):
                await client.tell(reply="wrong", id=ident)
                await client.tell(refused=None, id=ident)
            await client.tell(reply="right", id=1)
            await client.tell(reply="twice", id=1)
            assert await asking.outcome() == "right"
        assert (await client.ask(message="m", id=5)) == {"id": 5}
        assert [value for name, value in listener.events if name == "on_message"] == ["m"]


class Confirming(RecordingListener):
    """Asks the client during each of its messages."""

    async def on_message(self, event: MessageEvent) -> None:
        assert event.conn
        answer = await event.conn.request({"sure": event.message}, "confirm", 30)
        self.record("on_message", (event.message, answer))
        event.message = None


async def test_a_hook_that_asks_its_own_client_does_not_wait_for_itself(server: Serve) -> None:
    async with served(server, listener := Confirming()) as (_, url), V1(url) as client:
        for number in range(200):  # more than the inbox holds, before the answer
            await client.tell(message=number)
        for number in range(200):
            question = await client.receive_json()
            assert question["request"] == {"sure": number}
            await client.tell(reply=number + 1, id=question["id"])
        await listener.wait_for("on_message", 200)
        answers = [value for name, value in listener.events if name == "on_message"]
        assert answers == [(number, number + 1) for number in range(200)]


async def test_from_the_event_loop_it_would_wait_for_itself(server: Serve) -> None:
    async with served(server, Silent()) as (gateway, url), V1(url):
        conn = await only(gateway)
        with pytest.raises(RuntimeError, match=r"await (conn|gateway)\.request"):
            conn.request_from_thread("q")
        with pytest.raises(RuntimeError, match=r"await (conn|gateway)\.request"):
            gateway.request_from_thread(conn.id, "q")


class Blocking:
    """A `def` hook, which asks from its thread."""

    def on_message(self, event: MessageEvent) -> None:
        assert event.conn
        event.conn.send_from_thread(event.conn.request_from_thread("q", "ask", 30))
        event.message = None


async def test_a_hook_in_a_thread_asks(server: Serve) -> None:
    async with served(server, Blocking()) as (_, url), V1(url) as client:
        await client.tell(message=1)
        assert await client.receive_json() == {"request": "q", "id": 1, "name": "ask"}
        await client.tell(reply="a", id=1)
        assert await client.receive_json() == {"message": "a"}


async def test_a_close_fails_the_open_requests(server: Serve) -> None:
    async with served(server, Silent()) as (gateway, url):
        for closes_here in (True, False):
            async with V1(url) as client, anyio.create_task_group() as tasks:
                conn, askings = await only(gateway), [Asking(), Asking()]
                for asking in askings:
                    tasks.start_soon(asking.run, conn, "q")
                    await client.receive_json()
                if closes_here:
                    await conn.close(4000, "enough")
                else:
                    await client.socket.close()
                for asking in askings:
                    with pytest.raises(ConnectionClosed) as closed:
                        await asking.outcome()
                    assert closed.value.conn_id == conn.id
                with pytest.raises(ConnectionClosed):
                    await conn.request("q")


async def test_at_most_a_hundred_requests_of_the_server_are_open(server: Serve) -> None:
    async with served(server, Silent()) as (gateway, url), V1(url) as client, anyio.create_task_group() as tasks:
        conn, askings = await only(gateway), [Asking() for _ in range(MAX_REQUESTS)]
        for asking in askings:
            tasks.start_soon(asking.run, conn, "q")
        idents = [(await client.receive_json())["id"] for _ in askings]
        with pytest.raises(RequestRefused, match="429"):
            await conn.request("one more")
        await client.tell(reply=0, id=idents[0])
        assert await askings[0].outcome() == 0
        asking = Asking()
        tasks.start_soon(asking.run, conn, "q")
        await client.receive_json()
        await client.socket.close()
        with pytest.raises(ConnectionClosed):
            await asking.outcome()


async def test_a_huge_answer_closes_the_client(server: Serve) -> None:
    async with served(server, Silent()) as (gateway, url), V1(url) as client, anyio.create_task_group() as tasks:
        asking = Asking()
        tasks.start_soon(asking.run, await only(gateway), "q")
        await client.receive_json()
        await client.tell(reply="x" * 70_000, id=1)
        with pytest.raises(ConnectionClosed):
            await asking.outcome()
        assert (await client.closed())[0] == 1009


async def test_answers_count_as_messages(server: Serve) -> None:
    async with (
        served(server, Silent(), message_rate=1, message_burst=20) as (gateway, url),
        V1(url) as client,
        anyio.create_task_group() as tasks,
    ):
        conn, asking = await only(gateway), Asking()
        tasks.start_soon(asking.run, conn, "q")
        await client.receive_json()
        await client.tell(reply=1, id=1)
        assert await asking.outcome() == 1
        assert conn.messages_in == 1
        for ident in range(40):
            await client.tell(reply=1, id=ident)
        assert (await client.closed())[0] == 3013


async def test_a_timeout_that_cannot_be_used(server: Serve) -> None:
    unusable: list[Any] = [0, -1, float("nan"), float("inf"), 10**9, True, "5", None]
    async with served(server, Silent()) as (gateway, url), V1(url):
        conn = await only(gateway)
        for seconds in unusable:
            with pytest.raises((ValueError, TypeError), match="timeout is"):
                await conn.request("q", timeout=seconds)


async def test_what_cannot_be_sent_is_an_error_of_the_caller(server: Serve) -> None:
    async with served(server, Silent()) as (gateway, url), V1(url) as client:
        conn = await only(gateway)
        for message, name in ((object(), ""), ("q", "two words"), ("\ud800", "")):
            with pytest.raises(ValueError):
                await conn.request(message, name)
        assert (await client.ask(message=1, id=1)) == {"id": 1}


# Timeouts


class Noting(list[Any]):
    """Notes how requests end."""

    def __call__(self, answer: object, error: Exception | None) -> None:
        self.append(answer if error is None else type(error))


def test_requests_expire_on_the_wheel_and_a_late_answer_settles_nothing() -> None:
    wheel = Wheel(1.0, lambda: None)
    requests, noted = Requests(wheel), Noting()
    assert [requests.ask(noted, due) for due in (5.0, 3.0, 9.0)] == [1, 2, 3]
    wheel.advance(2.9, 10)
    assert noted == []
    wheel.advance(5.0, 10)
    assert noted == [TimeoutError, TimeoutError]
    assert not requests.answer(1, "late")
    assert not requests.refuse(2, 1, "late")
    assert requests.owes(1)
    assert requests.answer(3, "in time")
    assert noted == [TimeoutError, TimeoutError, "in time"]
    assert not requests.owes(3)
    wheel.advance(100.0, 10)
    assert wheel.is_empty


def test_what_nobody_waits_for_is_remembered_up_to_a_limit() -> None:
    requests = Requests(Wheel(1.0, lambda: None))
    for _ in range(3 * MAX_REQUESTS):
        requests.forget(requests.ask(Noting(), 1.0))
    assert not requests.owes(2 * MAX_REQUESTS)
    assert requests.owes(2 * MAX_REQUESTS + 1)
    assert not requests.is_waiting


def test_a_close_fails_each_request_once_also_if_its_caller_asks_again() -> None:
    requests = Requests(Wheel(1.0, lambda: None))
    noted = Noting()
    for _ in range(3):
        requests.ask(noted, 1.0)
    requests.close("conn")
    requests.close("conn")
    assert noted == [ConnectionClosed] * 3


async def made(listener: object, **options: Any) -> Made:
    """Return a plain client that has connected, whose timers run."""
    client = Made(listener, **options)
    client.session._parts = replace(client.session._parts, timers=Ticker(1.0).wheel)
    await client.connect()
    return client


def result(ident: int) -> str:
    return json.dumps({"jsonrpc": "2.0", "result": "late", "id": ident})


@jumping
async def test_a_late_answer_of_a_plain_client_reaches_no_hook() -> None:
    client = await made(listener := Silent())
    for _ in range(2):
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await client.conn.request("q", timeout=10)
        assert 10 <= asyncio.get_running_loop().time() - begun <= 11
    assert client.session.received(result(1), 50)
    assert client.session.received(result(3), 50)
    assert client.session.received(result(1), 50)
    await listener.wait_for("on_message", 2)
    assert listener.events[1:] == [("on_message", result(3)), ("on_message", result(1))]


class Patient:
    """Asks for longer than a hook may take."""

    async def on_message(self, event: MessageEvent) -> None:
        assert event.conn
        await event.conn.request("q", timeout=60)


@jumping
async def test_a_hook_that_is_abandoned_waits_for_no_answer() -> None:
    client = await made(Patient(), hook_timeout=5)
    assert client.session.received("m", 1)
    assert client.session.requests.is_waiting
    await pass_time(6)
    assert not client.session.requests.is_waiting
    await client.dispatcher.runner.idle()
    assert client.session.received(result(1), 50)
    await pass_time(100)


@jumping
async def test_a_full_inbox_accepts_more_while_an_answer_may_follow_but_not_without_limit() -> None:
    gate = anyio.Event()

    class Gated:
        async def on_message(self, event: MessageEvent) -> None:
            assert event.conn
            await gate.wait()
            await event.conn.request("q", timeout=30)

    client = await made(Gated(), hook_timeout=60)
    accepted = 0
    while client.session.received("m", 1):
        accepted += 1
    assert accepted == INBOX_MESSAGES
    gate.set()
    await pass_time(0.1)
    assert "resume" in client.transport.calls
    while client.session.received("m", 1):
        accepted += 1
    assert accepted == OVERFULL_MESSAGES
    client.session.finished(1000, "")
    await pass_time(2000)


# JSON-RPC on the plain protocol


def rpc(method: str, params: Any, ident: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params, "id": ident}


async def call(client: Client, method: str, params: Any, ident: Any = 1) -> Any:
    await client.send_json(rpc(method, params, ident))
    answer = await client.receive_json()
    assert answer.pop("jsonrpc") == "2.0"
    assert answer.pop("id") == ident
    return answer


async def test_a_plain_client_asks_with_json_rpc(server: Serve) -> None:
    async with served(server, listener := Answering()) as (_, url), Client(url) as client:
        assert await call(client, "sum", [1, 2]) == {"result": {"sum": 3}}
        assert await call(client, "echo", {"a": 1}, "abc") == {"result": {"a": 1}}
        assert await call(client, "nothing", [], 1.5) == {"result": None}
        assert await call(client, "bytes", []) == {"result": "AAE="}
        await client.send_json({"jsonrpc": "2.0", "method": "echo", "id": 5})
        assert await client.receive_json() == {"jsonrpc": "2.0", "result": "", "id": 5}
        assert listener.count("on_message") == 0


ERRORS: list[tuple[str, Any, int]] = [
    ("unknown", [], -32601),
    ("refuse", [404], -32601),
    ("refuse", [400], -32602),
    ("refuse", [422], -32602),
    ("refuse", [403], -32403),
    ("refuse", [429], -32429),
    ("refuse", [500], -32500),
    ("fail", [], -32603),
    ("unsendable", [], -32603),
    ("two words", [], -32602),
]


async def test_an_error_has_the_code_of_json_rpc(server: Serve) -> None:
    async with served(server, Answering()) as (_, url), Client(url) as client:
        for method, params, code in ERRORS:
            answer = await call(client, method, params)
            assert answer["error"]["code"] == code
            assert isinstance(answer["error"]["message"], str)


ORDINARY: list[str | bytes] = [
    "hi",
    '{"a":1}',
    '"jsonrpc"',
    '{"jsonrpc":"2.0","method":"sum","params":[1]}',
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":null}',
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":true}',
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":[1]}',
    '{"jsonrpc":"2.0","method":"sum","params":1,"id":1}',
    '{"jsonrpc":"2.0","method":5,"params":[1],"id":1}',
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":1,"more":1}',
    '{"jsonrpc":"1.0","method":"sum","params":[1],"id":1}',
    '{"jsonrpc":2.0,"method":"sum","params":[1],"id":1}',
    '[{"jsonrpc":"2.0","method":"sum","params":[1],"id":1}]',
    '{"jsonrpc":"2.0","result":1,"id":1}',
    '{"jsonrpc":"2.0","error":{"code":1,"message":""},"id":1}',
    '{"jsonrpc":"2.0","method":"sum","params":[1e999],"id":1}',
    '{"jsonrpc":"2.0","method":"sum","params":' + "[" * 5000 + "]" * 5000 + ',"id":1}',
    '{"jsonrpc":"2.0","method":"sum","params":[' + "9" * 5000 + '],"id":1}',
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":1',
    b'{"jsonrpc":"2.0","method":"sum","params":[1],"id":1}',
]


async def test_anything_else_is_an_ordinary_message(server: Serve) -> None:
    async with served(server, listener := Answering()) as (_, url), Client(url) as client:
        for message in ORDINARY:
            await client.send(message)
        assert await call(client, "echo", ["after"]) == {"result": ["after"]}
        assert [value for name, value in listener.events if name == "on_message"] == ORDINARY


async def test_without_on_request_a_request_is_an_ordinary_message(server: Serve) -> None:
    async with served(server, listener := Silent()) as (gateway, url), Client(url) as client:
        text = json.dumps(rpc("sum", [1], 1))
        await client.send(text)
        await listener.wait_for("on_message")
        assert listener.events[1] == ("on_message", text)
        async with anyio.create_task_group() as tasks:
            asking = Asking()
            tasks.start_soon(asking.run, await only(gateway), ["q"], "ask")
            assert await client.receive_json() == rpc("ask", ["q"], 1)
            await client.send(text)
            await listener.wait_for("on_message", 2)
            await client.send_json({"jsonrpc": "2.0", "result": 5, "id": 1})
            assert await asking.outcome() == 5


async def test_a_plain_client_answers_with_json_rpc(server: Serve) -> None:
    async with served(server, listener := Silent()) as (gateway, url), Client(url) as client:
        conn = await only(gateway)
        async with anyio.create_task_group() as tasks:
            for message, params in (({"a": 1}, {"a": 1}), ("hi", ["hi"]), (None, [None]), (b"\x00\x01", ["AAE="])):
                asking = Asking()
                tasks.start_soon(asking.run, conn, message, "ask")
                question = await client.receive_json()
                assert question == rpc("ask", params, question["id"])
                await client.send_json({"jsonrpc": "2.0", "result": params, "id": question["id"]})
                assert await asking.outcome() == params
            asking = Asking()
            tasks.start_soon(asking.run, conn, [])
            ident = (await client.receive_json())["id"]
            error = {"code": -32601, "message": "no", "data": 1}
            await client.send_json({"jsonrpc": "2.0", "error": error, "id": ident})
            with pytest.raises(RequestRefused) as refused:
                await asking.outcome()
            assert (refused.value.code, refused.value.reason) == (-32601, "no")
        answer = json.dumps({"jsonrpc": "2.0", "result": 1, "id": ident})
        await client.send(answer)
        await listener.wait_for("on_message")
        assert listener.events[1] == ("on_message", answer)


async def test_a_hook_that_asks_its_own_plain_client_does_not_wait_for_itself(server: Serve) -> None:
    async with served(server, listener := Confirming()) as (_, url), Client(url) as client:
        for number in range(100):
            await client.send(str(number))
        for _ in range(100):
            question = await client.receive_json()
            await client.send_json({"jsonrpc": "2.0", "result": 1, "id": question["id"]})
        await listener.wait_for("on_message", 100)

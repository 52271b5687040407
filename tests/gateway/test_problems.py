"""Bodies that are read, and refusals that are answered."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from tests.clocks import jumping, jumping_loop, pass_time
from wsgateway.exceptions import Refusal, Refused
from wsgateway.gateway.http.problems import deny, problem, query_int, read_body, read_fields, report_refusal
from wsgateway.limits import BODY_TIMEOUT
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

JSON = {"content-type": "application/json"}


def request(*parts: bytes, headers: dict[str, str] | None = None, query: str = "", cut: bool = False) -> Request:
    """Return a request whose body arrives in `parts`. With `cut` the client disconnects after them."""
    events: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    events.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    pairs: Iterable[tuple[str, str]] = (JSON if headers is None else headers).items()
    raw = [(name.encode(), value.encode()) for name, value in pairs]
    return Request({"type": "http", "method": "POST", "headers": raw, "query_string": query.encode()}, receive)


async def test_the_fields_of_a_body_that_arrives_in_parts_are_read() -> None:
    assert await read_fields(request(b'{"a"', b": 1}"), 100) == {"a": 1}


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[]", JSON, 400),
        (b"{", JSON, 400),
        (b"{}", {}, 415),
        (b"{}", {"content-type": "application/json; charset=latin-1"}, 415),
        (b"{}", {**JSON, "content-length": "101"}, 413),
        (b"{}", {**JSON, "content-length": "9" * 5000}, 413),
        (b" " * 101, JSON, 413),
    ],
)
async def test_a_body_that_cannot_be_used_is_refused(body: bytes, headers: dict[str, str], status: int) -> None:
    with pytest.raises(Refused) as caught:
        await read_fields(request(body, headers=headers), 100, "max_send_size")
    assert caught.value.status == status
    assert (status == 413) is ("max_send_size, 100 bytes" in str(caught.value))


async def test_a_client_that_disconnects_gets_no_answer() -> None:
    with pytest.raises(ClientDisconnect):
        await read_fields(request(b"{", cut=True), 100)


class SlowBody:
    """A client whose body arrives in `parts`, each after `seconds`."""

    def __init__(self, *parts: bytes, seconds: float) -> None:
        self._parts = list(parts)
        self._seconds = seconds
        self.tasks: set[asyncio.Task[Any] | None] = set()

    async def receive(self) -> dict[str, Any]:
        self.tasks.add(asyncio.current_task())
        await pass_time(self._seconds)
        self.tasks.add(asyncio.current_task())
        part = self._parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}

    @property
    def request(self) -> Request:
        return Request({"type": "http", "method": "POST", "headers": []}, self.receive)


@jumping
async def test_a_body_that_arrives_slowly_is_read_in_one_task() -> None:
    client = SlowBody(b"a", b"b", b"c", seconds=BODY_TIMEOUT / 4)
    assert await read_body(client.request, 100) == b"abc"
    assert client.tasks == {asyncio.current_task()}


@jumping
async def test_the_parts_of_a_body_have_one_time_limit() -> None:
    with pytest.raises(Refused) as caught:
        await read_body(SlowBody(b"a", b"b", b"c", seconds=BODY_TIMEOUT / 2.5).request, 100)
    assert (caught.value.status, jumping_loop().time()) == (408, BODY_TIMEOUT)
    assert caught.value.refusal.headers == (("connection", "close"),)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@jumping
async def test_a_slow_body_has_a_limit_of_size() -> None:
    with pytest.raises(Refused, match="413"):
        await read_body(SlowBody(b"a", b"b" * 100, b"c", seconds=1).request, 100)


@jumping
async def test_a_caller_that_is_cancelled_reads_no_further() -> None:
    client = SlowBody(b"a", b"b", seconds=1)
    reading = asyncio.create_task(read_body(client.request, 100))
    await pass_time(0.5)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@jumping
async def test_a_server_may_answer_a_cancelled_receive() -> None:
    async def receive() -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # waits once more although it was cancelled
        return {"type": "http.request", "body": b"a", "more_body": False}

    assert await read_body(Request({"type": "http", "headers": []}, receive), 100) == b"a"
    assert jumping_loop().time() == BODY_TIMEOUT


@pytest.mark.parametrize(("query", "number"), [("", 7), ("n=0", 0), ("n=10", 10)])
def test_a_number_of_the_query_is_read(query: str, number: int) -> None:
    assert query_int(request(query=query), "n", 7, 0, 10) == number


@pytest.mark.parametrize("text", ["", "11", "-1", "1.0", "x", "\u0661", "9" * 5000])
def test_a_number_of_the_query_that_is_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="n: use a whole number from 0 to 10"):
        query_int(request(query=f"n={text}"), "n", 7, 0, 10)


def test_a_problem_names_the_documentation() -> None:
    answer = problem(Refusal(429, "send_rate", "too often", "too-often", (("retry-after", "1"),)))
    assert json.loads(bytes(answer.body)) == {
        "title": "Too Many Requests",
        "status": 429,
        "detail": "too often",
        "help": "docs/troubleshooting.md#too-often",
    }
    assert (answer.media_type, answer.headers["retry-after"]) == ("application/problem+json", "1")


def test_a_status_that_has_no_name_is_a_problem_too() -> None:
    answer = problem(Refusal(499, "refused", "not today"))
    assert json.loads(bytes(answer.body)) == {"title": "Refused", "status": 499, "detail": "not today"}


@pytest.mark.parametrize(
    ("extensions", "status"), [({}, None), ({"websocket.http.response": {}}, 503)], ids=["old server", "new server"]
)
async def test_a_handshake_is_denied_as_the_server_can(extensions: dict[str, Any], status: int | None) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await deny({"extensions": extensions}, send, 503, "full \ud800")
    assert sent[0].get("status") == status
    if status is None:
        assert [message["type"] for message in sent] == ["websocket.close"]
    else:
        assert (b"retry-after", b"5") in sent[0]["headers"]
        assert sent[1]["body"] == b"full ?"


def test_a_refusal_is_counted_always_and_logged_once_per_second(caplog: pytest.LogCaptureFixture) -> None:
    metrics, log = Metrics(), GatewayLog("chat")
    for _ in range(3):
        refusal = Refusal(403, "origin", "not from there")
        report_refusal({"client": ("192.0.2.1", 5)}, refusal, "a handshake", key="handshake", metrics=metrics, log=log)
    assert metrics.refusals["origin"] == 3
    assert caplog.messages == ["[chat] refused a handshake from 192.0.2.1: not from there"]

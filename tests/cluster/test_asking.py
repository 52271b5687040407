"""Requests between two nodes, and what becomes of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from wsgateway.cluster.asking import MAX_ASKED, Asks
from wsgateway.cluster.envelopes import VERSION, Answer, Ask, Envelope, Info
from wsgateway.cluster.nodes import Nodes
from wsgateway.exceptions import GatewayConflict, NodeError, NodeLate
from wsgateway.logs import GatewayLog

INFO = Info(host="h", pid=1, version="1", age=0.0, state="running")
A, B = "a" * 8, "b" * 8

Operation = Callable[[dict[str, Any]], Awaitable[Any]]


class Pair:
    """The nodes A and B. What one sends, the other handles in the next iteration, unless `is_cut`."""

    def __init__(self, **operations: Operation) -> None:
        self.is_up = True
        self.is_cut = False
        self.sent: list[Envelope] = []
        self.nodes = Nodes()
        self.nodes.see(B, INFO, 0)
        self.a, self.b = self._asks(A, self.nodes, {}), self._asks(B, Nodes(), operations)

    def _asks(self, node: str, nodes: Nodes, operations: dict[str, Operation]) -> Asks:
        return Asks(
            node,
            nodes,
            operations=operations,
            publish=self._publish,
            is_up=lambda: self.is_up,
            timeout=0.05,
            log=GatewayLog(node),
        )

    def _publish(self, node_id: str, make: Callable[[int], Envelope]) -> bool:
        envelope = make(1)
        self.sent.append(envelope)
        if isinstance(envelope, Answer) and isinstance(envelope.value, set):
            return False  # MessagePack has no sets
        if not self.is_cut:
            asks = self.a if node_id == A else self.b
            handle: Any = asks.handle if isinstance(envelope, Ask) else asks.handle_answer
            asyncio.get_running_loop().call_soon(handle, envelope)
        return True


async def double(arguments: dict[str, Any]) -> Any:
    return 2 * arguments["number"]


async def test_an_answer_reaches_its_caller() -> None:
    pair = Pair(double=double)
    assert await pair.a.ask(B, "double", {"number": 4}) == 8
    assert await pair.a.ask_all("double", {"number": 5}) == {B: 10}


async def test_an_unknown_node_or_an_unavailable_broker_is_not_asked() -> None:
    pair = Pair()
    with pytest.raises(NodeError, match="cannot be reached"):
        await pair.a.ask("c" * 8, "double", {})
    pair.is_up = False
    with pytest.raises(NodeError, match="cannot be reached"):
        await pair.a.ask(B, "double", {})
    assert pair.sent == []


async def test_a_node_that_does_not_answer_is_late_and_then_left_out() -> None:
    pair = Pair(double=double)
    pair.is_cut = True
    with pytest.raises(NodeLate, match=r"within 0.05 s"):
        await pair.a.ask(B, "double", {"number": 1})
    pair.is_cut = False
    assert await pair.a.ask_all("double", {"number": 1}) == {}
    pair.nodes.see(B, INFO, 1)
    assert await pair.a.ask_all("double", {"number": 1}) == {B: 2}


async def raises_conflict(arguments: dict[str, Any]) -> Any:
    raise GatewayConflict("it is stopped")


async def raises_bug(arguments: dict[str, Any]) -> Any:
    raise ZeroDivisionError("secret")


async def returns_set(arguments: dict[str, Any]) -> Any:
    return {1}


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ("raises_conflict", "it is stopped"),
        ("raises_bug", "it failed there, the log has the reason"),
        ("returns_set", "its answer cannot be sent"),
        ("unknown", "does not know the operation 'unknown'"),
        ("totals", "an answer that cannot be used"),
    ],
)
async def test_a_request_that_fails_there_is_an_error_here(operation: str, text: str) -> None:
    pair = Pair(raises_conflict=raises_conflict, raises_bug=raises_bug, returns_set=returns_set, totals=returns_text)
    with pytest.raises(NodeError, match=text) as caught:
        await pair.a.ask(B, operation, {})
    assert "secret" not in str(caught.value)


async def returns_text(arguments: dict[str, Any]) -> Any:
    return "not a mapping of totals"


async def test_only_the_node_that_was_asked_can_answer() -> None:
    pair = Pair(double=double)
    pair.is_cut = True
    async with anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await pair.a.ask_within(10, B, "double", {"number": 1}))

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        pair.a.handle_answer(Answer(VERSION, "c" * 8, 1, 1, "wrong"))
        for value in (2, 3):  # the second one comes too late
            pair.a.handle_answer(Answer(VERSION, B, 1, 1, value))
    assert answers == [2]


async def test_a_node_handles_a_limited_number_of_requests_until_it_is_closed() -> None:
    async def wait(arguments: dict[str, Any]) -> Any:
        await anyio.sleep_forever()

    pair = Pair(wait=wait)
    for number in range(MAX_ASKED + 1):
        pair.b.handle(Ask(VERSION, A, 1, number, "wait", {}))
    [refused] = pair.sent
    assert isinstance(refused, Answer)
    assert (refused.ask, "too many" in refused.error) == (MAX_ASKED, True)
    with anyio.fail_after(10):
        await pair.b.aclose()
        await pair.b.aclose()
    assert len(pair.sent) == 1

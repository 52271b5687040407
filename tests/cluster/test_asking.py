"""Questions between two nodes, and their answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from wsgateway.cluster.asking import MAX_ASKED, Answering, Asks
from wsgateway.cluster.envelopes import VERSION, Answer, Ask, Envelope, Info
from wsgateway.cluster.nodes import Nodes
from wsgateway.cluster.questions import Question, Search
from wsgateway.exceptions import GatewayConflict, NodeError, NodeLate
from wsgateway.logs import GatewayLog

INFO = Info(host="h", pid=1, version="1", age=0.0, state="running")
A, B = "a" * 8, "b" * 8

FOUR = Search("four")

Answerer = Callable[[Any], Awaitable[Any]]


class Pair:
    """The nodes A and B. What one sends, the other handles in the next iteration, unless `is_cut`."""

    def __init__(self, answering: Answering) -> None:
        self.is_up = True
        self.is_cut = False
        self.sent: list[Envelope] = []
        self.nodes = Nodes()
        self.nodes.see(B, INFO, 0)
        self.a, self.b = self._asks(A, self.nodes, {}), self._asks(B, Nodes(), answering)

    def _asks(self, node: str, nodes: Nodes, answering: Answering) -> Asks:
        return Asks(
            node,
            nodes,
            answering=answering,
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


async def length(question: Search) -> int:
    return len(question.search)


async def test_an_answer_reaches_its_caller() -> None:
    pair = Pair({Search: length})
    assert await pair.a.ask(B, FOUR) == 4
    assert await pair.a.ask_all(Search("three")) == {B: 5}


async def test_an_unknown_node_or_an_unavailable_broker_is_not_asked() -> None:
    pair = Pair({Search: length})
    with pytest.raises(NodeError, match="cannot be reached"):
        await pair.a.ask("c" * 8, FOUR)
    pair.is_up = False
    with pytest.raises(NodeError, match="cannot be reached"):
        await pair.a.ask(B, FOUR)
    assert pair.sent == []


async def test_a_node_that_does_not_answer_is_late_and_then_left_out() -> None:
    pair = Pair({Search: length})
    pair.is_cut = True
    with pytest.raises(NodeLate, match=r"within 0.05 s"):
        await pair.a.ask(B, FOUR)
    pair.is_cut = False
    assert await pair.a.ask_all(FOUR) == {}
    pair.nodes.see(B, INFO, 1)
    assert await pair.a.ask_all(FOUR) == {B: 4}


async def test_single_nodes_are_asked_even_if_they_are_late() -> None:
    pair = Pair({Search: length})
    pair.nodes.set_late(B, is_late=True)
    assert await pair.a.ask_each([(B, FOUR), ("c" * 8, FOUR), (B, Search("three"))]) == [(B, 4), (B, 5)]


async def test_an_absent_node_is_asked_and_not_waited_for() -> None:
    pair = Pair({Search: length})
    pair.nodes.set_absent(B)
    pair.is_cut = True
    with anyio.fail_after(0.04):  # less than the timeout of a question
        assert await pair.a.ask_each([(B, FOUR)]) == []
    assert isinstance(pair.sent[0], Ask)


async def raise_conflict(question: Question[Any]) -> Any:
    raise GatewayConflict("it is stopped")


async def raise_bug(question: Question[Any]) -> Any:
    raise ZeroDivisionError("secret")


async def return_set(question: Question[Any]) -> Any:
    return {1}


async def return_text(question: Question[Any]) -> Any:
    return "not a number"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (raise_conflict, "it is stopped"),
        (raise_bug, "it failed there, the log has the reason"),
        (return_set, "its answer cannot be sent"),
        (return_text, "an answer that cannot be used"),
        (None, "does not support the question 'search'"),
    ],
)
async def test_a_question_that_fails_there_is_an_error_here(answer: Answerer | None, text: str) -> None:
    pair = Pair({} if answer is None else {Search: answer})
    with pytest.raises(NodeError, match=text) as caught:
        await pair.a.ask(B, FOUR)
    assert "secret" not in str(caught.value)


async def test_a_question_with_wrong_arguments_is_refused() -> None:
    pair = Pair({Search: length})
    pair.b.handle(Ask(VERSION, A, 1, 1, "search", {"search": 4}))
    await anyio.wait_all_tasks_blocked()
    [refused] = pair.sent
    assert isinstance(refused, Answer)
    assert refused.error.startswith("the question has wrong arguments")


async def test_only_the_node_that_was_asked_can_answer() -> None:
    pair = Pair({Search: length})
    pair.is_cut = True
    async with anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await pair.a.ask_within(10, B, FOUR))

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        pair.a.handle_answer(Answer(VERSION, "c" * 8, 1, 1, "wrong"))
        for value in (2, 3):  # the second one comes too late
            pair.a.handle_answer(Answer(VERSION, B, 1, 1, value))
    assert answers == [2]


async def test_a_node_answers_a_limited_number_of_questions_until_it_is_closed() -> None:
    async def wait(question: Search) -> Any:
        await anyio.sleep_forever()  # hangs until the node is closed

    pair = Pair({Search: wait})
    for number in range(MAX_ASKED + 1):
        pair.b.handle(Ask(VERSION, A, 1, number, "search", {"search": ""}))
    [refused] = pair.sent
    assert isinstance(refused, Answer)
    assert (refused.ask, "busy" in refused.error) == (MAX_ASKED, True)
    with anyio.fail_after(10):
        await pair.b.aclose()
        await pair.b.aclose()
    assert len(pair.sent) == 1

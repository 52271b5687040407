"""Questions between the nodes of a gateway, and their answers. Knows no topics; the caller passes how to publish."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from wsgateway.cluster.envelopes import MAX_ERROR, VERSION, Answer, Ask, Envelope
from wsgateway.cluster.nodes import Nodes
from wsgateway.cluster.questions import Question, answer_of, arguments_of, question_of
from wsgateway.exceptions import EnvelopeError, GatewayError, NodeError, NodeLate
from wsgateway.logs import GatewayLog

A = TypeVar("A")

Answering = Mapping[type[Question[Any]], Callable[[Any], Awaitable[Any]]]
"""The functions that answer the questions of other nodes, by the type of the question."""

MAX_ASKED = 1000
"""Questions of other nodes that one node answers concurrently. A further one is refused."""


class Asks:
    """The questions that the process `node` asks other nodes, and those of other nodes that it answers.

    `publish` sends an envelope with its number to one node. `is_up` returns whether the broker is available.
    """

    def __init__(
        self,
        node: str,
        nodes: Nodes,
        *,
        answering: Answering,
        publish: Callable[[str, Callable[[int], Envelope]], bool],
        is_up: Callable[[], bool],
        timeout: float,
        log: GatewayLog,
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._answering = {kind.name: (kind, function) for kind, function in answering.items()}
        self._publish = publish
        self._is_up = is_up
        self._timeout = timeout
        self._log = log
        self._count = 0
        self._answers: dict[int, tuple[str, asyncio.Future[Any]]] = {}  # by number: the node that has to answer
        self._tasks: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Abandon the questions of other nodes. May be called twice."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # Asking

    async def ask(self, node_id: str, question: Question[A]) -> A:
        """Ask another node and return its answer. Raise `NodeError` if it refuses, `NodeLate` if it is late."""
        try:
            return await self.ask_within(self._timeout, node_id, question)
        except NodeLate:
            self._nodes.set_late(node_id, is_late=True)
            raise

    async def ask_within(self, seconds: float, node_id: str, question: Question[A]) -> A:
        """Do the same as `ask`, but wait at most `seconds`, because the answer may take long."""
        if not self._is_up() or self._nodes.get(node_id) is None:
            raise NodeError(f"node {node_id!r} cannot be reached")
        self._count += 1
        number = self._count
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = node_id, answer
        name, arguments = question.name, arguments_of(question)
        try:
            if not self._publish(node_id, lambda seq: Ask(VERSION, self._node, seq, number, name, arguments)):
                raise NodeError(f"the question {name} cannot be sent to node {node_id!r}")
            async with asyncio.timeout(seconds):
                value = await answer
            return answer_of(type(question), value)
        except TimeoutError:
            raise NodeLate(f"node {node_id!r} has not answered within {seconds:g} s") from None
        except EnvelopeError as exc:
            raise NodeError(f"node {node_id!r} gave an answer that cannot be used, {exc}") from exc
        finally:
            del self._answers[number]

    async def ask_all(self, question: Question[A]) -> dict[str, A]:
        """Return the answers of the other nodes, by node. A node that is late is left out, and skipped until its next
        heartbeat."""
        nodes = [node for node in self._nodes.present() if not node.is_late]
        return dict(await self.ask_each([(node.id, question) for node in nodes]))

    async def ask_each(self, questions: Sequence[tuple[str, Question[A]]]) -> list[tuple[str, A]]:
        """Ask each question of its node, also of a node that was late, and return the answers, each with its node.

        A question that is not answered in time is left out, and logged. An absent node is asked, because it may still
        act on the question, but not waited for.
        """
        asked = [self._ask_once(node_id, question) for node_id, question in questions]
        results = await asyncio.gather(*asked, return_exceptions=True)
        answers = []
        for (node_id, question), answer in zip(questions, results, strict=True):
            if not isinstance(answer, BaseException):
                answers.append((node_id, answer))
            elif isinstance(answer, NodeError):
                self._log.limited(f"asked for {question.name}").warning("%s: %s", question.name, answer)
            else:
                raise answer
        return answers

    async def _ask_once(self, node_id: str, question: Question[A]) -> A:
        node = self._nodes.get(node_id)
        if node is not None and node.is_absent:
            return await self.ask_within(0.0, node_id, question)
        return await self.ask(node_id, question)

    def handle_answer(self, answer: Answer) -> None:
        """Pass an answer to its caller. Ignore an answer of a node that was not asked."""
        node_id, future = self._answers.get(answer.ask, ("", None))
        if future is None or future.done() or node_id != answer.origin:
            return
        if answer.error:
            future.set_exception(NodeError(f"node {node_id!r}: {answer.error}"))
        else:
            future.set_result(answer.value)

    # Answering

    def handle(self, ask: Ask) -> None:
        """Begin to answer a question of another node."""
        if len(self._tasks) >= MAX_ASKED:
            text = "refused a question of node %s: more than %d questions are being answered"
            self._log.limited("asked").warning(text, ask.origin, MAX_ASKED)
            self._reply(ask, None, "the node is busy, try again later")
            return
        task = asyncio.create_task(self._do(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, ask: Ask) -> None:
        value: Any = None
        error = ""
        try:
            if ask.question not in self._answering:
                raise NodeError(f"this node does not support the question {ask.question[:40]!r}")
            kind, answer = self._answering[ask.question]
            value = await answer(question_of(kind, ask.arguments))
        except EnvelopeError as exc:
            text = "node %s asked for %s with wrong %s"
            self._log.limited(f"wrong {ask.question}").warning(text, ask.origin, ask.question, exc)
            error = f"the question has wrong {exc}"
        except GatewayError as exc:
            error = str(exc)
        except Exception as exc:
            text = "node %s asked for %s: %r"
            log = self._log.limited(f"failed {ask.question}")
            log.error(text, ask.origin, ask.question, exc, exc_info=exc)
            error = "it failed there, the log has the reason"
        if not self._reply(ask, value, error):
            self._reply(ask, None, "its answer cannot be sent, the log has the reason")

    def _reply(self, ask: Ask, value: Any, error: str) -> bool:
        short = error[:MAX_ERROR]
        return self._publish(ask.origin, lambda seq: Answer(VERSION, self._node, seq, ask.ask, value, short))

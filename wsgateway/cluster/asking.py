"""Requests between the nodes of a gateway, and their answers. Knows no topics; the caller passes how to publish."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from wsgateway.cluster.envelopes import MAX_ERROR, VERSION, Answer, Ask, Envelope
from wsgateway.cluster.nodes import Nodes
from wsgateway.cluster.questions import check_answer
from wsgateway.exceptions import EnvelopeError, GatewayError, NodeError, NodeLate
from wsgateway.logs import GatewayLog

MAX_ASKED = 1000
"""Requests of other nodes that one node handles concurrently. A further one is refused."""


class Asks:
    """The requests that the process `node` sends to other nodes, and those of other nodes that it answers.

    `operations` are the functions that other nodes may call, by name. `publish` sends an envelope with its number to
    one node. `is_up` returns whether the broker is available.
    """

    def __init__(
        self,
        node: str,
        nodes: Nodes,
        *,
        operations: Mapping[str, Callable[[dict[str, Any]], Awaitable[Any]]],
        publish: Callable[[str, Callable[[int], Envelope]], bool],
        is_up: Callable[[], bool],
        timeout: float,
        log: GatewayLog,
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._operations = operations
        self._publish = publish
        self._is_up = is_up
        self._timeout = timeout
        self._log = log
        self._count = 0
        self._answers: dict[int, tuple[str, asyncio.Future[Any]]] = {}  # by number: the node that has to answer
        self._tasks: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Abandon the requests of other nodes. May be called twice."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # Asking

    async def ask(self, node_id: str, operation: str, arguments: dict[str, Any]) -> Any:
        """Ask another node and return its answer. Raise `NodeError` if it refuses, `NodeLate` if it is late."""
        try:
            return await self.ask_within(self._timeout, node_id, operation, arguments)
        except NodeLate:
            late = self._nodes.get(node_id)
            if late is not None:
                late.is_late = True
            raise

    async def ask_within(self, seconds: float, node_id: str, operation: str, arguments: dict[str, Any]) -> Any:
        """Do the same as `ask`, but wait at most `seconds`, because the operation may take long."""
        if not self._is_up() or self._nodes.get(node_id) is None:
            raise NodeError(f"node {node_id!r} cannot be reached")
        self._count += 1
        number = self._count
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = node_id, answer
        try:
            if not self._publish(node_id, lambda seq: Ask(VERSION, self._node, seq, number, operation, arguments)):
                raise NodeError(f"the request {operation} cannot be sent to node {node_id!r}")
            async with asyncio.timeout(seconds):
                value = await answer
            check_answer(operation, value)
            return value
        except TimeoutError:
            raise NodeLate(f"node {node_id!r} has not answered within {seconds:g} s") from None
        except EnvelopeError as exc:
            raise NodeError(f"node {node_id!r} gave an answer that cannot be used, {exc}") from exc
        finally:
            del self._answers[number]

    async def ask_all(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the answers of the other nodes, by node. A node that is late is left out, and skipped until its next
        heartbeat."""
        nodes = [node for node in self._nodes.alive() if not node.is_late]
        results = await asyncio.gather(
            *(self.ask(node.id, operation, arguments) for node in nodes), return_exceptions=True
        )
        answers = {}
        for node, answer in zip(nodes, results, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, NodeError):
                    raise answer
                self._log.limited(f"asked for {operation}").warning("%s: %s", operation, answer)
            else:
                answers[node.id] = answer
        return answers

    def handle_answer(self, answer: Answer) -> None:
        """Pass an answer to its caller. Ignore answers of nodes that were not asked."""
        node_id, future = self._answers.get(answer.ask, ("", None))
        if future is None or future.done() or node_id != answer.origin:
            return
        if answer.error:
            future.set_exception(NodeError(f"node {node_id!r}: {answer.error}"))
        else:
            future.set_result(answer.value)

    # Answering

    def handle(self, ask: Ask) -> None:
        """Begin to handle a request of another node, and answer when it is done."""
        if len(self._tasks) >= MAX_ASKED:
            self._log.limited("asked").warning("refused a request of node %s: too many at the same time", ask.origin)
            self._reply(ask, None, "it is handling too many requests of other nodes")
            return
        task = asyncio.create_task(self._do(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, ask: Ask) -> None:
        operation = self._operations.get(ask.operation)
        value: Any = None
        error = ""
        try:
            if operation is None:
                raise NodeError(f"this process does not know the operation {ask.operation[:40]!r}")
            value = await operation(ask.arguments)
        except EnvelopeError as exc:
            text = "node %s asked for %s with wrong %s"
            self._log.limited(f"wrong {ask.operation}").warning(text, ask.origin, ask.operation, exc)
            error = f"the request has wrong {exc}"
        except GatewayError as exc:
            error = str(exc)
        except Exception as exc:
            text = "node %s asked for %s: %r"
            log = self._log.limited(f"failed {ask.operation}")
            log.error(text, ask.origin, ask.operation, exc, exc_info=exc)
            error = "it failed there, the log has the reason"
        if not self._reply(ask, value, error):
            self._reply(ask, None, "its answer cannot be sent, the log has the reason")

    def _reply(self, ask: Ask, value: Any, error: str) -> bool:
        short = error[:MAX_ERROR]
        return self._publish(ask.origin, lambda seq: Answer(VERSION, self._node, seq, ask.ask, value, short))

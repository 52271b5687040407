"""Requests to clients, in whichever process they are connected. Knows no client protocol."""

from collections.abc import Callable
from typing import Any

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.nodes import node_of
from wsgateway.cluster.sending import AskClient, RequestReport
from wsgateway.cluster.single import AnyCluster
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ConnectionClosed, MessageError, NodeError, NodeLate, RequestRefused
from wsgateway.gateway.relay import message_of
from wsgateway.hub.connection import check_timeout
from wsgateway.hub.hub import Connections
from wsgateway.messages import NULL, encode
from wsgateway.text import short

MAX_ASKED = 500
"""Requests of other nodes that wait for the clients of this one, because they take up half of `asking.MAX_ASKED`."""

MAX_CODE = 2**53
"""The largest code of a refusal that is passed on, because a client may have sent one with any number of digits."""

_ERRORS: dict[str, type[Exception]] = {"timeout": TimeoutError, "type": TypeError, "value": ValueError}
"""The errors that the other node raises again, by their name in a report, if their only argument is the reason."""


class ClientRequests:
    """Sends requests to clients by the ids of their connections. `answering` answers the questions of other nodes."""

    def __init__(self, connections: Connections, cluster: Callable[[], AnyCluster], settings: Settings) -> None:
        self._connections = connections
        self._cluster = cluster
        self._grace = 1 + 2 * settings.broker_timeout
        self._asked = 0
        self.answering: Answering = {AskClient: self._answer}

    async def ask(self, conn_id: str, message: object, name: str, seconds: float) -> Any:
        """Send a request to a client, and return its answer. Raise the errors of `Gateway.request`."""
        if not isinstance(conn_id, str):
            raise TypeError(f"conn_id is {short(conn_id)}, use the id of a connection")
        conn = self._connections.get(conn_id)
        if conn is not None:
            return await conn.request(message, name, seconds)
        check_timeout(seconds)
        content = encode(message) or NULL
        cluster = self._cluster()
        if not cluster.is_remote(conn_id):
            raise ConnectionClosed(conn_id)
        question = AskClient(conn_id, content.payload, content.kind.value, name, float(seconds))
        try:
            report = await cluster.ask_within(seconds + self._grace, node_of(conn_id), question)
        except NodeLate as exc:
            raise TimeoutError(str(exc)) from exc
        return _result(conn_id, report)

    async def _answer(self, question: AskClient) -> RequestReport:
        if self._asked >= MAX_ASKED:
            return RequestReport(error="refused", code=429, reason="too many requests of other processes are open")
        self._asked += 1
        try:
            message = message_of(question.payload, question.kind)
            answer = await self.ask(question.conn_id, message, question.event_name, question.seconds)
            reply = encode(answer) or NULL
        except RequestRefused as exc:
            code = exc.code if abs(exc.code) <= MAX_CODE else 0
            return RequestReport(error="refused", code=code, reason=exc.reason)
        except ConnectionClosed:
            return RequestReport(error="closed")
        except MessageError as exc:
            return RequestReport(error="message", reason=str(exc))
        except (TimeoutError, TypeError, ValueError) as exc:
            name = next(name for name, kind in _ERRORS.items() if isinstance(exc, kind))
            return RequestReport(error=name, reason=str(exc))
        finally:
            self._asked -= 1
        return RequestReport(reply.payload, reply.kind.value)


def _result(conn_id: str, report: RequestReport) -> object:
    """Return the answer in `report`, or raise its error."""
    match report.error:
        case "":
            return message_of(report.payload, report.kind)
        case "refused":
            raise RequestRefused(report.code, report.reason)
        case "closed":
            raise ConnectionClosed(conn_id)
        case "message":
            raise MessageError(report.reason)
        case name if name in _ERRORS:
            raise _ERRORS[name](report.reason)
        case _:
            raise NodeError(f"the request failed in the node of its client: {report.reason}")

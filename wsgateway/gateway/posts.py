"""Messages that clients post to their sessions, in whichever process the request arrives. Knows no HTTP."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.nodes import node_of
from wsgateway.cluster.questions import Question
from wsgateway.cluster.sending import Feed, FeedRequest, RequestReport, SendRefusal
from wsgateway.cluster.single import AnyCluster
from wsgateway.config.settings import Settings
from wsgateway.exceptions import GatewayError, MessageError, NodeError, NodeLate, Refusal, Refused
from wsgateway.gateway.http.send import refusal_of_send
from wsgateway.messages import Kind, Message, decode_json
from wsgateway.protocols.posted import PostedSession
from wsgateway.protocols.session import Session

NO_SESSION = Refusal(
    404, "session", "there is no such session, its stream has ended; open a stream, whose first event names one"
)

A = TypeVar("A")

PostKind = Literal["text", "bytes", "json"]


class Posts:
    """Passes each message to its session. `answering` answers the questions of other nodes.

    `sessions` returns the sessions of this process by their secrets, which begin with the id of their node.
    """

    def __init__(
        self, sessions: Callable[[], Mapping[str, Session]], cluster: Callable[[], AnyCluster], settings: Settings
    ) -> None:
        self._sessions = sessions
        self._cluster = cluster
        self._seconds = settings.hook_timeout + 2 * settings.broker_timeout
        self.answering: Answering = {Feed: self._answer_feed, FeedRequest: self._answer_request}

    def check(self, secret: str) -> None:
        """Raise `Refused` with 404 if there is no such session in this process, and no other node can have it."""
        session = self._find(secret)
        is_here = session is not None and session.is_open
        if not is_here and (session is not None or not self._cluster().is_remote(secret)):
            raise Refused.of(NO_SESSION)

    def _find(self, secret: str) -> PostedSession | None:
        """Return a session of this process. That of a client that posts frames is not one of these."""
        session = self._sessions().get(secret)
        return session if isinstance(session, PostedSession) else None

    async def feed(self, secret: str, payload: bytes, kind: PostKind, *, channel: str, name: str) -> str | None:
        """Handle a message of the client, and return its position, None if it is in no history. Raise `Refused`."""
        self.check(secret)
        session = self._find(secret)
        if session is None:
            return await self._feed_elsewhere(Feed(secret, payload, kind, channel, name))
        try:
            message = _decoded(payload, kind)
            position = await session.feed(message, len(payload), channel=channel, name=name)
        except Refused:
            raise
        except GatewayError as exc:
            refusal = refusal_of_send(exc)
            if refusal is None:
                raise
            raise Refused.of(refusal) from exc
        return None if position is None else str(position)

    async def _feed_elsewhere(self, question: Feed) -> str | None:
        report = await self._ask_node(question.secret, question)
        if isinstance(report, SendRefusal):
            raise Refused.of(Refusal(report.status, "session", report.reason))
        return report

    async def _answer_feed(self, question: Feed) -> str | SendRefusal | None:
        if self._find(question.secret) is None:
            return SendRefusal(NO_SESSION.status, NO_SESSION.detail)
        try:
            return await self.feed(
                question.secret, question.payload, question.kind, channel=question.channel, name=question.event_name
            )
        except Refused as exc:
            return SendRefusal(exc.status, exc.refusal.detail)

    # Requests

    async def request(self, secret: str, payload: bytes, kind: PostKind, *, name: str) -> Message:
        """Handle a request of the client, and return the answer. Raise `Refused`."""
        self.check(secret)
        session = self._find(secret)
        if session is not None:
            return await session.feed_request(_decoded(payload, kind), len(payload), name=name)
        report = await self._ask_node(secret, FeedRequest(secret, payload, kind, name))
        if report.error:
            raise Refused.of(Refusal(report.code, "session", report.reason))
        return Message(report.payload, Kind(report.kind))

    async def _answer_request(self, question: FeedRequest) -> RequestReport:
        if self._find(question.secret) is None:
            return RequestReport(error="refused", code=NO_SESSION.status, reason=NO_SESSION.detail)
        try:
            reply = await self.request(question.secret, question.payload, question.kind, name=question.event_name)
        except Refused as exc:
            return RequestReport(error="refused", code=exc.status, reason=exc.refusal.detail)
        return RequestReport(reply.payload, reply.kind.value)

    async def _ask_node(self, secret: str, question: Question[A]) -> A:
        """Ask the node of a session. Raise `Refused` if it does not answer."""
        try:
            return await self._cluster().ask_within(self._seconds, node_of(secret), question)
        except NodeLate as exc:
            detail = "the process of this session has not answered in time; the message may have been handled"
            raise Refused.of(Refusal(503, "session", detail)) from exc
        except NodeError as exc:
            detail = "the process of this session cannot be reached, try again later"
            raise Refused.of(Refusal(503, "session", detail)) from exc


def _decoded(payload: bytes, kind: PostKind) -> object:
    """Return the message in `payload`. Raise `Refused`."""
    if kind == "bytes":
        return payload
    try:
        return decode_json(payload) if kind == "json" else payload.decode()
    except MessageError as exc:
        raise Refused.of(Refusal(400, "body", str(exc), "bad-body")) from exc
    except UnicodeDecodeError as exc:
        detail = f"the body is not UTF-8: byte {exc.start} is 0x{payload[exc.start]:02x}"
        raise Refused.of(Refusal(400, "body", detail, "bad-body")) from exc

"""The HTTP endpoints of streams: access, messages that a client posts to its session, and CORS.

Errors are problem+json.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wsgateway.auth.headers import first_value
from wsgateway.auth.rules import Rules
from wsgateway.exceptions import Refusal, Refused
from wsgateway.frames import check_event_name, check_request_name
from wsgateway.gateway.admission import Admission
from wsgateway.gateway.clients import StreamProtocol
from wsgateway.gateway.http.problems import problem, read_body, report_refusal
from wsgateway.gateway.parts import Parts
from wsgateway.gateway.posts import PostKind
from wsgateway.gateway.shapes import PostedAnswer, encoded
from wsgateway.messages import Kind
from wsgateway.transports.stream import stream_headers

CORS_HEADERS = b"content-type, authorization, last-event-id"
"""Headers that a page of an accepted origin may send."""

CORS_MAX_AGE = b"600"
"""Seconds for which a browser may keep the answer to a preflight."""

MAX_NAMED = 60
"""Characters of a request's text that a refusal quotes."""

REPLY_TYPES = {
    Kind.JSON: "application/json",
    Kind.TEXT: "text/plain; charset=utf-8",
    Kind.BYTES: "application/octet-stream",
}
"""The content types of answers of the listener."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ClientContext:
    """The parts of one gateway that these endpoints use. `admission` waits for its start, or raises `Refused`."""

    parts: Parts
    rules: Rules
    admission: Callable[[], Awaitable[Admission]]


class Guarded(ABC):
    """An endpoint that pages of other origins may use. Checks host and origin, and answers preflights."""

    what = ""
    """The subject of a refusal in the log. It is not the path, which may be a secret."""

    methods: tuple[str, ...] = ()

    def __init__(self, context: ClientContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cors: Headers = []
        try:
            self._check(scope)
            cors = self._context.rules.cors_headers(scope)
            if scope["method"] == "OPTIONS":
                response: Response | None = self._preflight()
            else:
                response = await self.answer(scope, receive, send)
        except Refused as exc:
            self._report(scope, exc.refusal)
            response = problem(exc.refusal)
        except ClientDisconnect:
            return
        if response is not None:
            response.raw_headers += cors
            await response(scope, receive, send)

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Return the response, or None if it was sent. Raise `Refused`."""

    def _check(self, scope: Scope) -> None:
        rules = self._context.rules
        refusal = rules.check_host(scope) or rules.check_page(scope)
        if refusal is None and scope["method"] not in (*self.methods, "OPTIONS"):
            allow = ", ".join(self.methods)
            detail = f"{scope['method'][:20]} is not allowed here, only {allow}"
            refusal = Refusal(405, "method", detail, "wrong-method", (("allow", allow),))
        if refusal is not None:
            raise Refused.of(refusal)

    def _preflight(self) -> Response:
        response = Response(status_code=204)
        response.raw_headers += [
            (b"access-control-allow-methods", ", ".join(self.methods).encode()),
            (b"access-control-allow-headers", CORS_HEADERS),
            (b"access-control-max-age", CORS_MAX_AGE),
        ]
        return response

    def _report(self, scope: Scope, refusal: Refusal) -> None:
        parts = self._context.parts
        report_refusal(scope, refusal, self.what, key=self.what, metrics=parts.metrics, log=parts.log)


class StreamEndpoint(Guarded):
    """`GET /sse` or `GET /stream`: a response that never ends."""

    what = "a stream"
    methods = ("GET", "HEAD")

    def __init__(self, context: ClientContext, protocol: StreamProtocol) -> None:
        super().__init__(context)
        self._protocol = protocol

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        if scope["method"] == "HEAD":
            response = Response()
            response.raw_headers = stream_headers(self._protocol.kind, ())
            return response
        admission = await self._context.admission()
        cors = self._context.rules.cors_headers(scope)
        await admission.admit_stream(scope, receive, send, path=scope["path"], protocol=self._protocol, headers=cors)
        return None


class SessionEndpoint(Guarded):
    """`POST /session/SECRET`: one message from the client of a stream. With `?reply=1`, it is a request."""

    what = "a message to a session"
    methods = ("POST",)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Response:
        del send
        request = Request(scope, receive)
        secret = request.path_params["secret"]
        channel, name = _single(request, "channel"), _single(request, "name")
        has_reply = _has_reply(request, channel)
        try:
            (check_request_name if has_reply else check_event_name)(name)
        except ValueError as exc:
            raise Refused.of(Refusal(400, "query", str(exc))) from None
        await self._context.admission()
        posts = self._context.parts.posts
        posts.check(secret)  # before the body is read
        body = await read_body(request, self._context.parts.settings.max_message_size, "max_message_size")
        if has_reply:
            reply = await posts.request(secret, body, _kind_of(request), name=name)
            return Response(reply.payload, media_type=REPLY_TYPES[reply.kind])
        position = await posts.feed(secret, body, _kind_of(request), channel=channel, name=name)
        if position is None:
            return Response(status_code=204)
        return Response(encoded(PostedAnswer(position)), media_type="application/json")


def _single(request: Request, name: str) -> str:
    """Return the parameter `name` of the query, empty if it is missing. Raise `Refused` if it is repeated or empty."""
    values = request.query_params.getlist(name)
    if len(values) > 1 or values == [""]:
        raise Refused.of(Refusal(400, "query", f"{name}: use a value that is not empty, or leave it out"))
    return values[0] if values else ""


def _has_reply(request: Request, channel: str) -> bool:
    """Return whether the client asks for an answer of the listener. Raise `Refused`."""
    reply = _single(request, "reply")
    if reply not in ("", "1"):
        raise Refused.of(Refusal(400, "query", "reply: use reply=1, or leave it out"))
    if reply and channel:
        raise Refused.of(Refusal(400, "query", "channel: a request has no channel, leave it out"))
    return bool(reply)


def _kind_of(request: Request) -> PostKind:
    """Return whether the body is JSON, text, or bytes, by its content type. Raise `Refused`."""
    content_type = first_value(request.scope["headers"], b"content-type").decode("latin-1").lower()
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    charset = next((part.partition("=")[2].strip(' "') for part in parameters if part.startswith("charset=")), "utf-8")
    if kind == "application/octet-stream":
        return "bytes"
    if kind not in ("application/json", "text/plain") or charset not in ("utf-8", "utf8"):
        detail = (
            "send the message as content-type: application/json, text/plain, or application/octet-stream, in UTF-8, "
            f"not {content_type[:MAX_NAMED]!r}"
        )
        raise Refused.of(Refusal(415, "type", detail, "bad-body"))
    return "json" if kind == "application/json" else "text"

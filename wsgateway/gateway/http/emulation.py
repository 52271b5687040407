"""The HTTP endpoints of clients whose frames arrive in requests: a stream that begins with one, and those that follow.

Errors are problem+json.
"""

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wsgateway.auth.headers import first_value
from wsgateway.exceptions import Refusal, Refused
from wsgateway.gateway.admission import Admission
from wsgateway.gateway.clients import NO_PROTOBUF, StreamProtocol, emulation_reader
from wsgateway.gateway.http.problems import decode_fields, read_body, too_large
from wsgateway.gateway.http.streams import ClientContext, Guarded
from wsgateway.logs import FRAME_PARAMETER
from wsgateway.protocols.centrifuge.commands import FrameError
from wsgateway.protocols.centrifuge.streams import Carrier

BINARY = b"application/octet-stream"

ESCAPED = 2
"""How much longer a frame may be as a JSON string, in which each quotation mark has a backslash."""

MAX_AROUND = 1024
"""Bytes of a JSON body besides the frame."""


class FramedStreamEndpoint(Guarded):
    """A response that never ends. The request contains the first frame: in its body, or with GET in its query."""

    what = "a stream"

    def __init__(self, context: ClientContext, carrier: Carrier) -> None:
        super().__init__(context)
        self.methods = ("GET", "POST") if carrier is Carrier.EVENTS else ("POST",)
        self._carrier = carrier

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        admission = await self._context.admission()
        max_size = self._context.parts.settings.max_message_size
        is_binary = self._carrier is Carrier.LINES and _is_binary(scope)
        protocol = _protocol_of(admission, Carrier.BINARY if is_binary else self._carrier)
        frame: str | bytes
        if scope["method"] == "GET":
            frame, rest = first_frame(scope["query_string"])
            if len(frame.encode()) > max_size:
                raise too_large(max_size, "max_message_size")
            scope = {**scope, "query_string": rest}  # nothing else needs the token
        else:
            body = await read_body(Request(scope, receive), max_size, "max_message_size")
            frame = body if is_binary else _decoded(body)
        if not frame:
            raise Refused.of(Refusal(400, "body", "send the first commands in the body", "bad-body"))
        cors = self._context.rules.cors_headers(scope)
        await admission.admit_stream(
            scope, receive, send, path=scope["path"], protocol=protocol, headers=cors, frame=frame
        )
        return None


def _protocol_of(admission: Admission, carrier: Carrier) -> StreamProtocol:
    """Return the protocol of such streams. Raise `Refused` if there is none."""
    clients = admission.centrifuge
    if clients is None or carrier not in clients.streams:
        raise Refused.of(NO_PROTOBUF)
    return clients.streams[carrier]


class EmulationEndpoint(Guarded):
    """`POST /emulation`: one frame for a stream, which may belong to any process."""

    what = "commands for a stream"
    methods = ("POST",)

    def __init__(self, context: ClientContext) -> None:
        super().__init__(context)
        self._read_binary = emulation_reader()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Response:
        del send
        parts = self._context.parts
        max_size = parts.settings.max_message_size
        is_binary = _is_binary(scope)
        if is_binary and self._read_binary is None:
            raise Refused.of(NO_PROTOBUF)
        body = await read_body(Request(scope, receive), ESCAPED * max_size + MAX_AROUND, "max_message_size")
        try:
            node, secret, frame = self._read(body, is_binary=is_binary)
        except Refused:
            if len(body) > max_size:
                raise too_large(max_size, "max_message_size") from None
            raise
        size = len(frame if isinstance(frame, bytes) else frame.encode())
        if size > max_size:
            raise too_large(max_size, "max_message_size")
        await parts.emulation.post(node, secret, frame, size)
        return Response(status_code=204)

    def _read(self, body: bytes, *, is_binary: bool) -> tuple[str, str, str | bytes]:
        """Return node, secret, and frame. Raise `Refused`."""
        if not is_binary or self._read_binary is None:
            return read_emulation(body)
        try:
            return self._read_binary(body)
        except FrameError as exc:
            raise Refused.of(Refusal(400, "body", f"the body is not an EmulationRequest: {exc}", "bad-body")) from exc


def read_emulation(body: bytes) -> tuple[str, str, str]:
    """Return the node, the session secret, and the frame in a JSON body. Raise `Refused`."""
    fields = decode_fields(body)
    node, secret, frame = (_text(fields, name) for name in ("node", "session", "data"))
    return node, secret, frame


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        detail = f'{name} is not text; post {{"session": S, "node": N, "data": "commands, one in each line"}}'
        raise Refused.of(Refusal(400, "body", detail, "bad-body"))
    return value


def first_frame(query: bytes) -> tuple[str, bytes]:
    """Return the frame in `FRAME_PARAMETER` of a query string, and the rest of it. Raise `Refused`."""
    pairs = query.split(b"&")
    prefix = FRAME_PARAMETER.encode() + b"="
    frames = [pair for pair in pairs if pair.startswith(prefix)]
    if len(frames) != 1:
        detail = f"send the first commands in one query parameter {FRAME_PARAMETER}, or in the body of a POST"
        raise Refused.of(Refusal(400, "query", detail))
    rest = b"&".join([pair for pair in pairs if not pair.startswith(prefix)])
    try:
        return unquote_to_bytes(frames[0].removeprefix(prefix).replace(b"+", b" ")).decode(), rest
    except UnicodeDecodeError:
        raise Refused.of(Refusal(400, "query", f"{FRAME_PARAMETER} is not UTF-8")) from None


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        detail = f"the body is not UTF-8: byte {exc.start} is 0x{body[exc.start]:02x}"
        raise Refused.of(Refusal(400, "body", detail, "bad-body")) from exc


def _is_binary(scope: Scope) -> bool:
    content_type = first_value(scope["headers"], b"content-type").lower()
    return content_type.partition(b";")[0].strip() == BINARY

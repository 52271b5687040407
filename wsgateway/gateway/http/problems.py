"""Reads the bodies of requests, reports refusals, and answers them: as problem documents (RFC 9457), or to a handshake.

Knows no gateway.
"""

import asyncio
from collections.abc import Coroutine, Generator, Iterable, Mapping
from http import HTTPStatus
from types import coroutine
from typing import Any, cast

from msgspec import UNSET, Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope, Send

from wsgateway.auth.headers import first_value
from wsgateway.exceptions import DOCS, ChannelError, MessageError, Refusal, Refused
from wsgateway.gateway.http.paths import sender_of
from wsgateway.gateway.shapes import Problem, encoded
from wsgateway.limits import BODY_TIMEOUT
from wsgateway.logs import GatewayLog
from wsgateway.messages import decode_json
from wsgateway.metrics import Metrics


class JsonResponse(Response):
    """A response whose body is JSON already. Its headers are put together here, because `Response` takes longer."""

    background = None

    def __init__(
        self, body: bytes, status: int, headers: Iterable[tuple[str, str]] = (), media_type: str = "application/json"
    ) -> None:
        self.body = body
        self.status_code = status
        self.media_type = media_type
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self.raw_headers.append((b"content-length", b"%d" % len(body)))
        self.raw_headers.append((b"content-type", media_type.encode()))


def answer(shape: Struct, status: int = 200, *, headers: Iterable[tuple[str, str]] = ()) -> JsonResponse:
    """Return `shape` as a JSON response. The names of `headers` are in lower case."""
    return JsonResponse(encoded(shape), status, headers)


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def problem(refusal: Refusal) -> JsonResponse:
    """Return `refusal` as `application/problem+json` (RFC 9457); `help` names the part of the documentation."""
    shape = Problem(
        _PHRASES.get(refusal.status, "Refused"),  # a listener may choose a status without a name
        refusal.status,
        refusal.detail,
        f"{DOCS}#{refusal.help}" if refusal.help else UNSET,
    )
    return JsonResponse(encoded(shape), refusal.status, refusal.headers, "application/problem+json")


def report_refusal(
    scope: Mapping[str, Any], refusal: Refusal, what: str, *, key: str, metrics: Metrics, log: GatewayLog
) -> None:
    """Count and log the refusal of `what`. Lines with the same `key` and kind are logged once per second."""
    metrics.refusals[refusal.kind] += 1
    log.limited(f"{key} {refusal.kind}").warning("refused %s from %s: %s", what, sender_of(scope), refusal)


async def deny(scope: Scope, send: Send, status: int, detail: str, headers: Iterable[tuple[str, str]] = ()) -> None:
    """Answer a handshake with `status`, or with an empty 403 on a server without ASGI's `websocket.http.response`."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    body = detail.encode(errors="replace")
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    fields += [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if status in (429, 503):
        fields.append((b"retry-after", b"5"))
    await send({"type": "websocket.http.response.start", "status": status, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": body})


async def read_fields(request: Request, max_size: int, setting: str = "") -> dict[str, Any]:
    """Return the JSON object in the body, of at most `max_size` bytes. Raise `Refused` as `read_body` does."""
    return decode_fields(await read_json(request, max_size, setting))


async def read_json(request: Request, max_size: int, setting: str = "") -> bytes:
    """Return the body, of at most `max_size` bytes, if its content type is JSON. Raise `Refused`."""
    _check_json_type(request)
    return await read_body(request, max_size, setting)


def decode_fields(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raise `Refused`."""
    try:
        fields = decode_json(body)
    except MessageError as exc:
        raise Refused.of(Refusal(400, "body", str(exc), "bad-body")) from exc
    if not isinstance(fields, dict):
        raise Refused.of(Refusal(400, "body", 'the body is not a JSON object like {"message": "hi"}', "bad-body"))
    return fields


def _check_json_type(request: Request) -> None:
    content_type = first_value(request.scope["headers"], b"content-type").lower()
    if content_type == b"application/json":
        return
    kind, *parameters = content_type.decode("latin-1").split(";")
    charset = next((p.partition("=")[2].strip(' "') for p in parameters if p.strip().startswith("charset=")), "utf-8")
    if kind.strip() != "application/json" or charset not in ("utf-8", "utf8"):
        detail = "send the body as content-type: application/json, in UTF-8"
        raise Refused.of(Refusal(415, "type", detail, "bad-body"))


async def read_body(request: Request, max_size: int, setting: str = "") -> bytes:
    """Return the body, of at most `max_size` bytes, within `BODY_TIMEOUT` seconds.

    Raise `Refused`. If `setting` defines the limit, its name is in the text.
    """
    announced = first_value(request.scope["headers"], b"content-length")
    if announced.isdigit() and (len(announced) > 18 or int(announced) > max_size):
        raise too_large(max_size, setting)
    reading = _read(request, max_size, setting)
    try:
        waits_for = reading.send(None)
    except StopIteration as end:  # the body was there, so it needs no timer
        return cast(bytes, end.value)
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _resumed(reading, waits_for)
    except TimeoutError:
        detail = f"the body did not arrive within {BODY_TIMEOUT:g} s"
        raise Refused.of(Refusal(408, "timeout", detail, "too-slow", (("connection", "close"),))) from None


def too_large(max_size: int, setting: str = "") -> Refused:
    """Return the refusal of a body of more than `max_size` bytes, the limit that `setting` defines."""
    what = f"{setting}, {max_size} bytes" if setting else f"{max_size} bytes"
    return Refused.of(Refusal(413, "size", f"the body is larger than {what}", "too-large"))


@coroutine
def _resumed(begun: Coroutine[Any, Any, bytes], waits_for: object) -> Generator[Any, Any, bytes]:
    """Await the rest of `begun`, which this task has run until it waits for `waits_for`."""
    while True:
        try:
            yield waits_for
        except BaseException as exc:  # the task is cancelled, which `begun` may handle
            try:
                waits_for = begun.throw(exc)
            except StopIteration as end:
                return cast(bytes, end.value)
        else:
            return cast(bytes, (yield from begun))


async def _read(request: Request, max_size: int, setting: str) -> bytes:
    body = bytearray()
    while True:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        body += event.get("body", b"")
        if len(body) > max_size:
            raise too_large(max_size, setting)
        if not event.get("more_body", False):
            return bytes(body)


def query_int(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return the number `name` of the query. Raise `Refused` unless it is from `least` to `most`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
        detail = f"{name}: use a whole number from {least} to {most}"
        raise Refused.of(Refusal(422, "query", detail, "bad-body"))
    return int(text)


def query_flag(request: Request, name: str) -> bool:
    """Return whether `name` is true in the query, by default false. Raise `Refused` for another word."""
    word = request.query_params.get(name, "false").lower()
    if word not in ("true", "1", "false", "0"):
        raise Refused.of(Refusal(422, "query", f"{name}: use true or false", "bad-body"))
    return word in ("true", "1")


def channel_refusal(error: ValueError) -> Refusal:
    """Return the refusal of a request about a channel: 404 if there can be no such channel, otherwise 422."""
    if isinstance(error, ChannelError):
        return Refusal(404, "unknown_channel", str(error), "unknown-channel")
    return Refusal(422, "query", str(error), "bad-body")

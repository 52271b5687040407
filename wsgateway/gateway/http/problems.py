"""Requests read, and refusals answered as problem documents (RFC 9457)."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from wsgateway.exceptions import (
    DOCS,
    MessageError,
    Refusal,
)
from wsgateway.limits import BODY_TIMEOUT
from wsgateway.messages import decode_json


class ProblemError(Exception):
    """Ends a request with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def problem(refusal: Refusal) -> Response:
    """`refusal` as `application/problem+json` (RFC 9457); `help` names the part of the documentation."""
    body: dict[str, object] = {
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": refusal.detail,
    }
    if refusal.help:
        body["help"] = f"{DOCS}#{refusal.help}"
    return JSONResponse(body, refusal.status, headers=dict(refusal.headers), media_type="application/problem+json")


async def read_fields(request: Request, most: int) -> dict[str, Any]:
    """Return the JSON object in the body, of at most `most` bytes. Raise `ProblemError`."""
    return decode_fields(await read_json(request, most))


async def read_json(request: Request, most: int) -> bytes:
    """Return the body, of at most `most` bytes, which its type says is JSON. Raise `ProblemError`."""
    _check_json_type(request)
    return await read_body(request, most)


def decode_fields(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raise `ProblemError`."""
    try:
        fields = decode_json(body)
    except MessageError as exc:
        raise ProblemError(Refusal(400, "body", str(exc), "bad-body")) from exc
    if not isinstance(fields, dict):
        raise ProblemError(Refusal(400, "body", 'the body is no JSON object like {"message": "hi"}', "bad-body"))
    return fields


def _check_json_type(request: Request) -> None:
    kind, *parameters = request.headers.get("content-type", "").lower().split(";")
    charset = next((p.partition("=")[2].strip(' "') for p in parameters if p.strip().startswith("charset=")), "utf-8")
    if kind.strip() != "application/json" or charset not in ("utf-8", "utf8"):
        detail = "the body has to be sent as content-type: application/json, in UTF-8"
        raise ProblemError(Refusal(415, "type", detail, "bad-body"))


async def read_body(request: Request, most: int) -> bytes:
    """The body, of at most `most` bytes, within `BODY_TIMEOUT` seconds."""
    too_large = _too_large(most)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
        raise too_large
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _read(request, most, too_large)
    except TimeoutError:
        detail = f"the body did not arrive within {BODY_TIMEOUT:g} s"
        raise ProblemError(Refusal(408, "timeout", detail, "too-slow", (("connection", "close"),))) from None


def _too_large(most: int) -> ProblemError:
    return ProblemError(Refusal(413, "size", f"the body is larger than max_send_size, {most} bytes", "too-large"))


async def _read(request: Request, most: int, too_large: ProblemError) -> bytes:
    body = bytearray()
    while True:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        body += event.get("body", b"")
        if len(body) > most:
            raise too_large
        if not event.get("more_body", False):
            return bytes(body)


def _field(fields: dict[str, Any], name: str, kind: type) -> Any:
    """Take the optional field `name` out of `fields`."""
    value = fields.pop(name, None)
    if value is not None and not isinstance(value, kind):
        detail = f"{name}: it has to be a {'list' if kind is list else 'text'}, not {json.dumps(value)[:60]}"
        raise ProblemError(Refusal(422, "body", detail, "bad-body"))
    return value


def query_int(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
        raise ProblemError(
            Refusal(422, "query", f"{name}: it has to be a whole number from {least} to {most}", "bad-body")
        )
    return int(text)

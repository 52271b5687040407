"""`client.js` for browsers, and its types: as responses, and as text. Knows no gateway."""

from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

SCRIPT, TYPES = "client.js", "client.d.ts"

MEDIA_TYPES = {SCRIPT: "text/javascript; charset=utf-8", TYPES: "text/plain; charset=utf-8"}
"""The files, with their media types."""

_SCRIPTS = files("wsgateway.gateway.http") / "scripts"

_HEADERS = {
    "cache-control": "no-cache",
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
}
"""A browser asks whether the file has changed. Pages of any origin may import it, because it has no secrets."""


def script_text(name: str) -> str:
    """Return the text of the file `name`, one of `MEDIA_TYPES`."""
    return (_SCRIPTS / name).read_text(encoding="utf-8")


def script_response(request: Request, name: str) -> Response:
    """Return the file `name`, or 304 if the client has it (RFC 9110 13.1.2)."""
    content = script_text(name).encode()
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "etag": etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=MEDIA_TYPES[name], headers=headers)

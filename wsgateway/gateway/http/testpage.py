"""The test page: its files with their types and headers, and the facts that it shows. Knows no gateway."""

import json
from html import escape
from importlib.resources import files

from starlette.responses import Response

PAGE_TYPES = {"test.js": "text/javascript; charset=utf-8", "test.css": "text/css; charset=utf-8"}
"""The files of the page, with their types."""

_PAGES = files("wsgateway.gateway.http") / "pages"

_PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self' ws: wss:; base-uri 'self'; frame-ancestors 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page(facts: dict[str, object], *, base: str) -> Response:
    """Return the page, which reads `facts`; `base` is where the gateway is mounted, relative to the page."""
    text = (_PAGES / "test.html").read_text(encoding="utf-8")
    text = text.replace("{{base}}", escape(base, quote=True))
    text = text.replace("{{page}}", json.dumps(facts).replace("<", "\\u003c"))
    return Response(text, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)


def page_file(name: str) -> Response:
    """Return the file `name`, one of `PAGE_TYPES`."""
    text = (_PAGES / name).read_text(encoding="utf-8")
    return Response(text, media_type=PAGE_TYPES[name], headers=_PAGE_HEADERS)

"""The test page."""

from importlib.resources import files

_PAGES = files("wsgateway.gateway.http") / "pages"

_PAGE_TYPES = {"test.js": "text/javascript; charset=utf-8", "test.css": "text/css; charset=utf-8"}

_PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self' ws: wss:; base-uri 'self'; frame-ancestors 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

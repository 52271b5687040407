"""Rules for the head of a request: its size, its target, the framing of its body, and handshakes. No I/O."""

import re
from itertools import chain

import httptools

from wsgateway.auth.headers import list_elements

RawHeaders = list[tuple[bytes, bytes]]
"""Names in lower case, and values without surrounding whitespace."""

MAX_HEAD = 32 * 1024
"""Bytes of a request's head; a cookie of 16 KB fits."""

MAX_URL = 8 * 1024
"""Bytes of a request's path and query string."""

FRAMING_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that determine where a body ends (RFC 9112 6)."""

LAST_HEADERS = frozenset({b"upgrade", b"expect"})
"""Headers that make a request the last of its connection, because a proxy and this server may disagree on the bytes
that follow it: another protocol, or a body that the client sends only after a 100 response."""

STREAM_PATHS = ("/connection/sse", "/connection/http_stream")
"""The ends of the paths at which a POST may be answered with a stream, so that every other POST costs nothing more."""

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (RFC 6455 4.1, 7)."""

_KEY_HEADERS = frozenset({b"sec-websocket-version", b"sec-websocket-key"})
"""Headers that a handshake has exactly once."""

_USUAL_ONCE = _KEY_HEADERS | {b"upgrade"}

_USUAL_CONNECTION = frozenset({b"upgrade", b"keep-alive, upgrade"})

TARGET_SCHEMES = frozenset({b"http", b"https", b"ws", b"wss"})
"""Schemes of a target in absolute form that this server serves."""


def size_of(headers: RawHeaders) -> int:
    """Return the bytes of `headers` in a head, each with a colon, a space, and the end of its line."""
    return sum(map(len, chain.from_iterable(headers))) + 4 * len(headers)


def ends_connection(headers: RawHeaders) -> bool:
    """Return whether nothing that follows a request with these headers may be parsed."""
    return not LAST_HEADERS.isdisjoint(dict(headers))


def framing_head(method: bytes, version: str, headers: RawHeaders) -> bytes:
    """Return a head that announces the same body as a request with these headers, and asks for no upgrade."""
    framing = b"".join(b"%b: %b\r\n" % header for header in headers if header[0] in FRAMING_HEADERS)
    return b"%b / HTTP/%b\r\nconnection: close\r\n%b\r\n" % (method, version.encode(), framing)


def may_ask_for_stream(method: str, path: str) -> bool:
    """Return whether the response may be a stream: to any GET, and to a POST to one of `STREAM_PATHS`."""
    return method == "GET" or (method == "POST" and path.endswith(STREAM_PATHS))


def split_target(target: bytes) -> tuple[bytes, bytes] | None:
    """Return the host and the path of a target in absolute form; None if this server cannot serve it.

    The path includes the query string. The host replaces the one of the header `Host` (RFC 9112 3.2.2).
    """
    url = httptools.parse_url(target)
    if not url.host or url.schema.lower() not in TARGET_SCHEMES or url.userinfo is not None:
        return None
    host = b"[%b]" % url.host if b":" in url.host else url.host
    host += b":%d" % url.port if url.port else b""
    return host, (url.path or b"/") + (b"" if url.query is None else b"?" + url.query)


def asks_for_websocket(headers: RawHeaders) -> bool:
    """Return whether `headers` ask for a WebSocket (RFC 6455 4.2.1, 3 and 4)."""
    return b"upgrade" in _tokens(headers, b"connection") and b"websocket" in _tokens(headers, b"upgrade")


def handshake_mistake(method: str, version: str, target: bytes, headers: RawHeaders) -> tuple[str, bytes] | None:
    """Return why a request that asks for a WebSocket is not a handshake, and a header for the response, or None."""
    if method != "GET" or version != "1.1" or not target.isascii():
        return "a WebSocket begins with a GET of HTTP/1.1 and an address in ASCII (RFC 6455 4.1)", b""
    if _tokens(headers, b"upgrade") != {b"websocket"}:
        return "a WebSocket handshake has no Upgrade other than websocket (RFC 6455 4.1)", b""
    if any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers):
        return "a WebSocket handshake has no body", b""
    if any(name == b"sec-websocket-version" and value != b"13" for name, value in headers):
        # RFC 6455 4.2.2 asks for the right version, which websockets leaves out
        return "the version of a WebSocket is 13", b"sec-websocket-version: 13\r\n"
    return None


def valid_key(headers: RawHeaders) -> str | None:
    """Return the key of a handshake with one key and one version, both valid (RFC 6455 4.2.1); None for any other."""
    values = dict(headers)
    key = values.get(b"sec-websocket-key", b"")
    if values.get(b"sec-websocket-version") != b"13" or not _KEY.fullmatch(key) or not _has_once(headers, _KEY_HEADERS):
        return None
    return key.decode()


def usual_key(method: bytes, version: str, target: bytes, headers: RawHeaders) -> str | None:
    """Return the key of a handshake in the form in which almost every client sends it; None for any other request.

    Such a handshake asks for a WebSocket, has no mistake, and has a valid key. The functions above take longer to
    find that out.
    """
    values = dict(headers)
    key = values.get(b"sec-websocket-key", b"")
    if (
        values.get(b"upgrade") != b"websocket"
        or values.get(b"connection", b"").lower() not in _USUAL_CONNECTION
        or values.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key)
        or not FRAMING_HEADERS.isdisjoint(values)
        or not _has_once(headers, _USUAL_ONCE)
        or method != b"GET"
        or version != "1.1"
        or not target.isascii()
    ):
        return None
    return key.decode()


def _has_once(headers: RawHeaders, names: frozenset[bytes]) -> bool:
    """Return whether each of `names`, which are all in `headers`, is there once."""
    return len([name for name, _ in headers if name in names]) == len(names)


def _tokens(headers: RawHeaders, name: bytes) -> set[bytes]:
    return set(map(bytes.lower, list_elements(headers, name)))

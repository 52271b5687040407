"""The parts of a client's request that may be shown, even with read-only access. No secret of a client is shown."""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote_plus

from wsgateway.text import cut, mask_query, mask_url

SHOWN_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-length"),
        *("content-type", "date", "dnt", "host", "origin", "pragma", "priority", "upgrade", "user-agent"),
        *("sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-gpc"),
        *("sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user"),
        *("sec-websocket-extensions", "sec-websocket-version"),
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"),
    }
)
"""Headers whose values are shown. Any other header may hold a secret, whatever its name."""

MAX_VALUE = 200
"""Characters of a header's value, or of a name, that are shown."""

MAX_QUERY = 8192
"""Bytes of a query string that are read."""

MAX_NAMES = 100
"""Parameters and subprotocols that are shown."""


def shown_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the headers in `SHOWN_HEADERS`, and the lengths of all others. Names are in lower case."""
    return {cut(name, MAX_VALUE): _shown_value(name, value) for name, value in headers.items()}


def _shown_value(name: str, value: str) -> str:
    if name == "sec-websocket-key":
        return "***"  # random, and always 24 characters long
    if name not in SHOWN_HEADERS:
        return _length_of(value)
    value = cut(value, MAX_VALUE)
    return mask_url(value) if name in ("host", "origin", "x-forwarded-host") else mask_query(value)


def shown_subprotocols(names: Sequence[str]) -> list[str]:
    """Return the first `MAX_NAMES` of `names`, and the length of each that may be a token.

    Browsers cannot send an `Authorization` header with a WebSocket, so applications put tokens among subprotocols.
    """
    shown = [_shown_word(name) for name in names[:MAX_NAMES]]
    if "bearer" in shown[:-1]:  # the next one is a token, however short it is
        place = shown.index("bearer") + 1
        shown[place] = _length_of(names[place])
    return shown


def _shown_word(word: str) -> str:
    is_name = len(word) < 20 or ("." not in word and len(word) < 32)
    return word if is_name else _length_of(word)


def _length_of(text: str) -> str:
    return f"*** ({len(text)} character{'' if len(text) == 1 else 's'})"


def shown_parameters(query_string: bytes) -> list[str]:
    """Return the names of a query string's parameters, sorted. Values are never shown.

    A parameter without a value may be a token itself, so only its length is returned.
    """
    pairs = (pair.partition(b"=") for pair in query_string[:MAX_QUERY].split(b"&")[:MAX_NAMES] if pair)
    texts = ((unquote_plus(name.decode("latin-1")), value.strip(b"=")) for name, _, value in pairs)
    return sorted({_shown_word(name) if value else _length_of(name) for name, value in texts})

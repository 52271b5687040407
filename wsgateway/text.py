"""Text for people: cut, without secrets, without control characters, and suggestions for it. No I/O."""

import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

# Each expression takes time proportional to the length of the text, because a remote peer may have written it.
_WORD = re.compile(r"[^ \t\r\n]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"(?:[\w.~-]*|\[[0-9A-Fa-f:.%\w]*\])(?::[0-9]{1,5})?")
_NEXT_SERVER = re.compile(r",(?=(?:nats|tls|ws|wss)://)", re.IGNORECASE)

MAX_SHOWN = 60
"""Maximum number of characters of a value that a `repr` shows."""


def cut(text: str, length: int) -> str:
    """Return `text`, or its first `length` characters and `…` if it is longer."""
    return text if len(text) <= length else f"{text[:length]}…"


def short(value: object) -> str:
    """Return `repr(value)`, cut to `MAX_SHOWN` characters. Never raise, whatever the value's own `repr` does."""
    if isinstance(value, (str, bytes)):
        value = value[:MAX_SHOWN]  # a long one takes milliseconds
    try:
        text = reprlib.repr(value) if isinstance(value, (dict, list, tuple, set)) else repr(value)
    except Exception as exc:
        text = f"<{type(value).__name__}, whose repr raised {type(exc).__name__}>"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the name in `known` that is most similar to `name`; empty if no name is similar."""
    return next(iter(get_close_matches(name, list(known), n=1)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about a name that is not known: `, did you mean X?`, or nothing."""
    close = nearest(name, known)
    return f", did you mean {close}?" if close else ""


def mask_query(text: str) -> str:
    """Return `text` with `?…` instead of the query string of each path or URL in it, up to the next space."""
    return _WORD.sub(_masked_word, text) if "?" in text else text


def _masked_word(match: re.Match[str]) -> str:
    path, _, query = match[0].partition("?")
    return f"{path}?…" if query and ("/" in path or "=" in query) else match[0]


def mask_url(url: str) -> str:
    """Return only the scheme, host, port, and path of `url`, or of each URL in a list of NATS servers.

    A password may contain `@`, `/`, `?`, `#`, or a comma that should have been percent-encoded. If it is not clear
    which part is the host, only the scheme is returned.
    """
    if url[:7].lower().startswith(("nats://", "tls://")):
        return ",".join(map(_masked_url, _NEXT_SERVER.split(url)))
    return _masked_url(url)


def _masked_url(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    if not slashes or not _SCHEME.fullmatch(scheme):
        scheme, slashes, rest = "", "", url
    host, path = _split_host(rest)
    if "@" in path and host:  # in the path, or in a password that has a slash, `?` or `#`
        is_password = not _are_hosts(host) and rest.count("@") == 1
        host, path = _split_host(rest.rpartition("@")[2]) if is_password else ("…@", "")
    else:
        host = host.rpartition("@")[2]
    if not _are_hosts(host):
        return f"{scheme}{slashes}…"
    path, mark, _ = path.partition("#")[0].partition("?")
    return f"{scheme}{slashes}{host}{path}{'?…' if mark else ''}"


def _split_host(rest: str) -> tuple[str, str]:
    """Split a URL without its scheme before its first `/`, `?` or `#`, where the host ends (RFC 3986 3.2)."""
    end = min((index for mark in "/?#" if (index := rest.find(mark)) >= 0), default=len(rest))
    return rest[:end], rest[end:]


def _are_hosts(text: str) -> bool:
    """Return whether `text` is a host with or without a port, several of them, or nothing."""
    return all(_HOST.fullmatch(part) for part in text.split(","))


def has_controls(text: str) -> bool:
    """Return whether `escape_controls` would change `text`."""
    return _CONTROL.search(text) is not None


def escape_controls(text: str) -> str:
    r"""Return `text` with the characters that act on a terminal instead of being shown written as `\x1b` or `\u2028`.

    These are control characters, line separators, marks that change the direction of text, and lone surrogates.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)

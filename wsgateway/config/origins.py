"""Origins and host names in the form in which browsers compare them (RFC 6454, WHATWG URL). No I/O."""

import re
from ipaddress import IPv6Address
from urllib.parse import unquote_to_bytes

MAX_ORIGIN = 300
"""Characters of an origin or a host name; a name has 253 (RFC 1035 2.3.4)."""

_SCHEMES = {"ws": "http", "wss": "https"}
_DEFAULT_PORTS = {"http": 80, "https": 443}

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^/?#\\@:\[\]]*)(?::(?P<port>[0-9]{0,5}))?/?",
    re.ASCII | re.IGNORECASE,
)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f#%*/:<>?@\[\\\]^|]")
"""Characters that a host name cannot have: the forbidden domain code points of the WHATWG, and `*`, a wildcard."""


def normalized_origin(text: str) -> str:
    """Return `text` as browsers send it in `Origin`; `*` and `null` are unchanged. Raise `ValueError`.

    Case, the default port, one trailing slash, percent-encoding, and the form of a name (UTS 46) do not matter, and
    `ws` is `http`. Schemes without rules of their own, such as `app` and `chrome-extension`, keep host and port.
    """
    if text in ("*", "null"):
        return text
    parts = _ORIGIN.fullmatch(text)
    try:
        if parts is None:
            raise ValueError
        scheme = parts["scheme"].lower()
        scheme = _SCHEMES.get(scheme, scheme)
        host = _web_host(parts["host"]) if scheme in _DEFAULT_PORTS else _other_host(parts["host"])
        port = int(parts["port"]) if parts["port"] else None
        if port is not None and port > 65535:
            raise ValueError
    except ValueError as exc:  # UnicodeError is one
        wildcard = "; an origin cannot have a wildcard; name each origin, or * for all" if "*" in text else ""
        example = "one looks like https://example.com, http://localhost:8000, or app://localhost"
        raise ValueError(f"{text!r} is not an origin{wildcard or '; ' + example}") from exc
    return f"{scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}")


def ascii_host(name: str) -> str:
    """Return the host `name` in lower case, and in Punycode where it is not ASCII (UTS 46). Raise `ValueError`."""
    if name.isascii():
        return name.lower()
    import idna  # imported here because its tables take a megabyte, and few gateways need them

    mapped = idna.uts46_remap(name, std3_rules=False)  # `idna.encode` refuses names that browsers take, as 💩.la
    labels = (label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in mapped.split("."))
    return ".".join(labels)


def _web_host(host: str) -> str:
    if host.startswith("["):
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    host = ascii_host(unquote_to_bytes(host).decode() if "%" in host else host)
    if not host or _FORBIDDEN.search(host):
        raise ValueError
    return host


def _other_host(host: str) -> str:
    if _FORBIDDEN.search(host.strip("[]").replace(":", "")):
        raise ValueError
    return host.lower()

"""IP addresses as text in one form, so that rules, limits, and logs can compare them. No I/O."""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

MAX_ADDRESS = 64
"""Characters of an address that are kept; an IPv6 address with a zone has about 60. A forwarded header may contain any
text, and limits and connections keep it."""


def plain_address(host: str) -> str:
    """Return `host` with an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) written as the IPv4 address.

    A server that listens on `::` sees `::ffff:192.0.2.1` for an IPv4 client. Any other text is returned unchanged,
    except that it is cut after `MAX_ADDRESS` characters.
    """
    if len(host) > MAX_ADDRESS:
        return host[:MAX_ADDRESS]
    if ":" not in host or ("." not in host and "ffff" not in host.lower()):
        return host
    return _unmapped(host)


@lru_cache(maxsize=4096)
def _unmapped(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return host if mapped is None else str(mapped)


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address with or without brackets, is this machine's loopback."""
    return len(host) <= MAX_ADDRESS and _is_loopback(host)  # a longer one would be kept in the cache


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(plain_address(host.removeprefix("[").removesuffix("]"))).is_loopback
    except ValueError:
        return False


def url_host(host: str) -> str:
    """Return the host of a URL for this machine, if a server listens on `host`: `[::1]` for `::`."""
    plain = host.removeprefix("[").removesuffix("]")
    plain = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(plain, plain)
    return f"[{plain}]" if ":" in plain else plain


REMOTE_END = "wsgateway.peer"
"""The entry in `scope["extensions"]` under which `wsgateway.server` puts a `RemoteEnd`."""


class RemoteEnd(NamedTuple):
    """The other end of a request's TCP connection or Unix socket, regardless of forwarded headers.

    `host` is its IP address, empty on a Unix socket. `uid` is the user of its process, known only on a Unix socket.
    """

    host: str
    uid: int | None = None
    is_unix: bool = False


def remote_end_of(scope: Mapping[str, Any]) -> RemoteEnd:
    """Return the remote end of a request. On other servers, it is the `client` of `scope`, which a proxy may set."""
    remote_end = (scope.get("extensions") or {}).get(REMOTE_END)
    if isinstance(remote_end, RemoteEnd):
        return remote_end
    client = scope.get("client")
    return RemoteEnd(plain_address(client[0]) if client else "")

"""Forwarded headers: the client's address and the scheme, as a trusted proxy reports them.

Knows nothing of the application that is served.
"""

import os
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from wsgateway.auth.headers import list_elements
from wsgateway.config.addresses import plain_address, remote_end_of
from wsgateway.config.exposure import ALLOW_IPS

SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
"""The scheme of a WebSocket, by the scheme that a proxy reports."""

FORWARDED = frozenset({b"x-forwarded-proto", b"x-forwarded-for"})


class ForwardedHeaders:
    """ASGI middleware that takes `client` and `scheme` from `X-Forwarded-For` and `X-Forwarded-Proto`.

    Trusts proxies on loopback, or those that `FORWARDED_ALLOW_IPS` names, and every peer on a Unix socket, because
    the permissions of that file determine which processes may connect.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        allowed = os.environ.get(ALLOW_IPS, "127.0.0.1,::1")
        # only for its set of trusted hosts: as a middleware it compares addresses as text
        self._trusted = ProxyHeadersMiddleware(app, allowed).trusted_hosts  # type: ignore[arg-type]  # its own ASGI types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            remote_end = remote_end_of(scope)
            if remote_end.is_unix or remote_end.host in self._trusted:
                self._apply(scope)
        await self._app(scope, receive, send)

    def _apply(self, scope: Scope) -> None:
        headers = scope["headers"]
        if FORWARDED.isdisjoint(dict(headers)):
            return
        schemes = list_elements(headers, b"x-forwarded-proto")
        scheme = schemes[0].decode("latin-1").lower() if schemes else ""
        if scheme in SCHEMES:
            scope["scheme"] = SCHEMES[scheme] if scope["type"] == "websocket" else scheme.replace("ws", "http")
        hops = [address for address in map(_address_in, list_elements(headers, b"x-forwarded-for")) if address]
        if hops:
            # each proxy appends its own peer, so the client is the last address that is not a trusted proxy
            named = hops[:1] if self._trusted.always_trust else [hop for hop in hops if hop not in self._trusted]
            scope["client"] = (named[-1] if named else hops[0], 0)


def _address_in(element: bytes) -> str:
    """Return the IP address of an element such as `[2001:db8::1]:4711`; empty if `element` is not an address."""
    host = element.decode("latin-1")
    if host.startswith("["):
        host = host[1 : host.find("]")]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        ip_address(host)
    except ValueError:
        return ""
    return plain_address(host)

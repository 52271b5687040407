"""Signs that a request came through a proxy, so its sender is not a local caller. No I/O.

A missing sign proves nothing, because a proxy may add none. After a false sign, a local caller only needs a key, so
the list is wide.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from wsgateway.auth.headers import HeaderPairs, list_elements, values_of

MAX_CACHED = 64
"""Bytes of a header's name up to which the answer is cached, so that a remote peer cannot fill the cache with long
names."""

_ADDED = re.compile(
    r"""
    (x-)?forward.* | (x-)?via(-.*)?                    # RFC 7239 and 9110; X-Forwarded-For, -Proto, -Host, -Ssl, …
    | (x-)?proxy.* | .*-proxy(-.*)?                    # Proxy-Connection, X-ProxyUser-Ip, WL-Proxy-Client-IP
    | .*-(ip|ips|ipaddress|ip-address|addr|clientip)   # X-Real-IP, CF-Connecting-IP, X-Cluster-Client-IP
    | (.*-)?(client|real|remote|connecting|source|src|peer)-?(ip|addr|address|host|port|proto)s?(-.*)?
    | x-(real|remote|cluster|original|originating|orig|ssl|tls|arr|geo|country|accel|unique|newrelic)(-.*)?
    | remote-(user|groups|name|email) | true-client(-.*)? | x-client-(cert|verify|dn)(-.*)?
    | ssl-(client|cipher|protocol|server)(-.*)? | front-end-.* | x-sendfile-type
    | x-(scheme|url-scheme|proto|protocol|https|host|port|server-name|rewrite-url|http-host-override)
    | client-cert(-chain)? | early-data | max-forwards | surrogate-capability    # RFC 9440, 8470, 9110
    | (x-)?(request|correlation|unique|trace|transaction)-?id | x-(request|queue)-start
    | (.*-)?traceparent | tracestate | (x-)?b3(-.*)? | uber-trace-id | sentry-trace
    | x-(cloud|datadog|ot|edge|amz|amzn|azure|fd|ms|appservice|waws|appgw|appengine|google|goog|gfe|cdn)(-.*)?
    | (cf|cdn|cloudfront|fly|do|incap|ali|rndr|ngrok|tailscale|l5d)-.* | disguised-host
    | (x-)?(fastly|akamai|varnish|sucuri|ali|eagleeye|tencent|vercel|nf|railway|render|heroku|ngrok|replit)(-.*)?
    | x-(envoy|istio|haproxy|nginx|traefik|caddy|kong|consumer|lb|backend|upstream|iisnode|openresty)(-.*)?
    | x-(auth-request|webauth|pomerium|vouch|authentik|squid|bluecoat|imforwards)(-.*)?
    """,
    re.VERBOSE,
)
"""Headers that proxies, load balancers, content networks, platforms, meshes, and login gateways add.

Headers of tracing are among them, because a caller in development sends none, and some sidecars add no other sign.
"""


def forwarded_header(headers: HeaderPairs) -> str | None:
    """Return the name of a header that a proxy has added, or None. No page can set such a header in a handshake."""
    for name, _ in headers:
        if _is_cached_added(name) if len(name) <= MAX_CACHED else _is_added(name):
            return name.decode("latin-1")
    return None


def _is_added(name: bytes) -> bool:
    return _ADDED.fullmatch(name.decode("latin-1").lower().replace("_", "-")) is not None


_is_cached_added = lru_cache(maxsize=512)(_is_added)


def sign_of_proxy(scope: Mapping[str, Any]) -> str | None:
    """Return what shows that a proxy has forwarded the request, such as a header's name; None if nothing does.

    Proxies use HTTP/1.0 or send `Connection: close` unless they are configured otherwise. Proxies configured for
    WebSockets often send `Connection: upgrade` with every request.
    """
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    name = forwarded_header(headers)
    if name is not None:
        return name
    if scope.get("http_version") == "1.0":
        return "HTTP/1.0"
    connections = [value.decode("latin-1") for value in values_of(headers, b"connection")]
    if not connections:
        return None
    tokens = {element.lower() for element in list_elements(headers, b"connection")}
    if b"close" in tokens:
        return "Connection: close"
    if b"upgrade" not in tokens:
        return None
    if not values_of(headers, b"upgrade") and not (scope.get("type") != "websocket" and b"http2-settings" in tokens):
        return "Connection: upgrade without Upgrade"
    # a client behind a proxy may choose Upgrade, but not Connection: clients write `Upgrade`, proxies `upgrade`
    return "Connection: upgrade" if [value.strip() for value in connections] == ["upgrade"] else None

"""Signs that a proxy has passed a request on."""

from typing import Any

import pytest

from wsgateway.auth.forwarding import forwarded_header, sign_of_proxy

ADDED = [
    "Forwarded", "Forwarded-For", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host",
    "X-Forwarded-Ssl", "X-Forward-For", "X_Forwarded_For", "Via", "X-Via", "X-Real-IP", "X-Real-Port",
    "X-Client-IP", "X-ClientIP", "Client-IP", "HTTP_CLIENT_IP", "X-Remote-IP", "X-Remote-Addr",
    "X-Cluster-Client-IP", "X-Originating-IP", "X-Original-Host", "X-Original-URL", "X-Original-Forwarded-For",
    "X-ProxyUser-Ip", "Proxy-Client-IP", "WL-Proxy-Client-IP", "Proxy-Connection", "CF-Connecting-IP", "CF-Ray",
    "CF-Visitor", "CF-IPCountry", "True-Client-IP", "Fastly-Client-IP", "Fastly-SSL", "Fly-Client-IP",
    "Fly-Forwarded-Port", "CDN-Loop", "X-CDN", "CloudFront-Viewer-Country", "X-Amz-Cf-Id", "X-Amzn-Trace-Id",
    "X-Amzn-Oidc-Data", "X-Azure-ClientIP", "X-Azure-Ref", "X-FD-HealthProbe", "X-MS-Client-Principal",
    "X-ARR-SSL", "X-Appengine-User-IP", "X-Google-Apps-Metadata", "X-Cloud-Trace-Context",
    "X-Envoy-External-Address", "X-Envoy-Internal", "X-B3-TraceId", "b3", "traceparent", "X-Request-Id",
    "X-Correlation-ID", "X-Unique-Id", "X-Request-Start", "X-Varnish", "X-Scheme", "X-Url-Scheme", "X-Host",
    "X-HTTPS", "Front-End-Https", "X-SSL-Client-Cert", "SSL_CLIENT_CERT", "X-Nginx-Proxy", "X-Auth-Request-User",
    "Remote-User", "Ali-CDN-Real-IP", "Eagleeye-TraceId", "Do-Connecting-Ip", "Incap-Client-IP",
    "X-Sucuri-ClientIP", "X-Akamai-Edgescape", "X-Vercel-Id", "X-NF-Client-Connection-IP",
    "Tailscale-User-Login", "X-Kong-Request-Id", "Early-Data", "Max-Forwards", "Client-Cert",
]  # fmt: skip

OWN = [
    "Host", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Content-Length",
    "Authorization", "Cookie", "Origin", "Referer", "Sec-Fetch-Site", "Sec-WebSocket-Key", "Sec-CH-UA", "Pragma",
    "Cache-Control", "DNT", "TE", "Expect", "Priority", "Range", "If-None-Match", "Date", "X-Requested-With",
    "X-CSRF-Token", "X-Api-Key", "X-Auth-Token", "X-Client-Version", "X-Agent", "X-User", "Idempotency-Key",
    "HTTP2-Settings", "Upgrade-Insecure-Requests", "Keep-Alive", "Transfer-Encoding",
]  # fmt: skip


def headers(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in pairs]


def sign(*pairs: tuple[str, str], kind: str = "http", version: str = "1.1") -> str | None:
    scope: dict[str, Any] = {"type": kind, "http_version": version, "headers": headers(*pairs)}
    return sign_of_proxy(scope)


@pytest.mark.parametrize("name", ADDED)
def test_a_header_that_proxies_add_is_a_sign(name: str) -> None:
    assert forwarded_header(headers(("Host", "localhost"), (name, "x"))) == name.lower()
    assert sign((name, "x"), kind="websocket") == name.lower()


@pytest.mark.parametrize("name", OWN)
def test_a_header_of_clients_is_none(name: str) -> None:
    assert sign((name, "x")) is None


@pytest.mark.parametrize(
    "said",
    [
        ["close"],
        ["Close"],
        ["keep-alive, CLOSE"],
        ["keep-alive", "close"],
        ["upgrade"],
        ["Upgrade"],
        ["keep-alive, UPGRADE"],
        [" keep-alive ,\tupgrade "],
        ["upgrade", "keep-alive"],
        ["Upgrade, X-Other"],
    ],
)
def test_a_connection_that_clients_of_http_do_not_ask_for_is_a_sign(said: list[str]) -> None:
    assert "Connection" in str(sign(*(("Connection", value) for value in said)))


@pytest.mark.parametrize("said", [["keep-alive"], ["Keep-Alive"], ["TE"], ["closed"], ["x-upgrade"], [""]])
def test_another_one_is_none(said: list[str]) -> None:
    assert sign(*(("Connection", value) for value in said)) is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_handshake_is_no_sign(kind: str) -> None:
    for said in ("Upgrade", "keep-alive, Upgrade", "keep-alive, upgrade"):
        assert sign(("Connection", said), ("Upgrade", "websocket"), kind=kind) is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_connection_of_a_configuration_is_a_sign_whatever_upgrade_a_stranger_sends(kind: str) -> None:
    assert sign(("Connection", "upgrade"), ("Upgrade", "websocket"), kind=kind) == "Connection: upgrade"
    assert sign(("Connection", "close"), ("Upgrade", "x"), kind=kind) == "Connection: close"


def test_a_client_that_offers_http_2_is_no_sign() -> None:
    offer = [("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABk")]
    assert sign(*offer, ("Upgrade", "h2c")) is None


def test_http_1_0_is_a_sign() -> None:
    assert sign(version="1.0") == "HTTP/1.0"
    assert sign(version="2") is None

"""What a proxy says of its client: believed from the proxies that are trusted, in every form that they use."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.raw import Raw, upgrade
from wsgateway import Gateway
from wsgateway.config.addresses import REMOTE_END, RemoteEnd
from wsgateway.config.exposure import ALLOW_IPS
from wsgateway.server.proxy_headers import ForwardedHeaders
from wsgateway.server.serving import serving

Header = tuple[bytes, bytes]


async def seen(
    headers: Sequence[Header],
    *,
    client: tuple[str, int] | None = ("127.0.0.1", 1),
    trusted: str | None = None,
    kind: str = "websocket",
    peer: RemoteEnd | None = None,
) -> tuple[str, str]:
    """The client's address and the scheme as an application sees them."""
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    scope: dict[str, Any] = {"type": kind, "scheme": "ws" if kind == "websocket" else "http", "client": client}
    scope |= {"headers": list(headers), "extensions": {} if peer is None else {REMOTE_END: peer}}
    with pytest.MonkeyPatch.context() as patch:
        if trusted is not None:
            patch.setenv(ALLOW_IPS, trusted)
        middleware = ForwardedHeaders(app)
    await middleware(scope, None, None)  # type: ignore[arg-type]  # the application uses neither
    found = scopes[0]["client"]
    return (found[0] if found else ""), scopes[0]["scheme"]


def proto(*values: str) -> list[Header]:
    return [(b"x-forwarded-proto", value.encode()) for value in values]


def forwarded_for(*values: str) -> list[Header]:
    return [(b"x-forwarded-for", value.encode()) for value in values]


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        (["https"], "wss"),
        (["HTTPS"], "wss"),
        (["https, http"], "wss"),
        (["https,http", "http"], "wss"),
        ([" Https , http"], "wss"),
        (["wss"], "wss"),
        (["http, https"], "ws"),
        (["gopher"], "ws"),
        ([""], "ws"),
        ([], "ws"),
    ],
)
async def test_the_first_scheme_counts_in_any_case(values: list[str], scheme: str) -> None:
    assert (await seen(proto(*values)))[1] == scheme
    plain = scheme.replace("ws", "http")
    assert (await seen(proto(*values), kind="http"))[1] == plain


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["203.0.113.1"], "203.0.113.1"),
        (["203.0.113.1:4711"], "203.0.113.1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["::ffff:203.0.113.1"], "203.0.113.1"),
        (["198.51.100.9, 203.0.113.1"], "203.0.113.1"),
        (["198.51.100.9", "203.0.113.1"], "203.0.113.1"),
        (["203.0.113.1, 127.0.0.1"], "203.0.113.1"),
        (["203.0.113.1, ::ffff:127.0.0.1"], "203.0.113.1"),
        (["203.0.113.1, ::1"], "203.0.113.1"),
        (["127.0.0.1"], "127.0.0.1"),
        (["unknown, 203.0.113.1"], "203.0.113.1"),
        (["a" * 30_000], "127.0.0.1"),
        (["unknown"], "127.0.0.1"),
        ([""], "127.0.0.1"),
    ],
)
async def test_the_last_address_that_is_not_a_trusted_proxy_is_the_client(values: list[str], address: str) -> None:
    assert (await seen(forwarded_for(*values)))[0] == address


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_proxies_on_loopback_are_believed_however_their_address_is_spelled(peer: str) -> None:
    assert await seen([*forwarded_for("203.0.113.1"), *proto("https")], client=(peer, 1)) == ("203.0.113.1", "wss")


@pytest.mark.parametrize("peer", ["203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9"])
async def test_a_stranger_is_not_believed(peer: str) -> None:
    _, scheme = await seen([*forwarded_for("127.0.0.1"), *proto("https")], client=(peer, 1))
    assert scheme == "ws"


async def test_the_variable_of_uvicorn_names_the_trusted_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/8")
    headers = [*forwarded_for("203.0.113.1"), *proto("https")]
    assert (await seen(headers, client=("::ffff:10.1.2.3", 1)))[1] == "wss"
    assert (await seen(headers, client=("127.0.0.1", 1)))[1] == "ws"
    assert await seen(forwarded_for("198.51.100.1, 203.0.113.1"), trusted="*") == ("198.51.100.1", "ws")


@pytest.mark.parametrize("uid", [None, os.getuid(), 65534])
async def test_every_peer_on_a_unix_socket_is_believed(uid: int | None) -> None:
    headers = [*forwarded_for("203.0.113.1"), *proto("https")]
    assert await seen(headers, client=None, peer=RemoteEnd("", uid, is_unix=True)) == ("203.0.113.1", "wss")


async def test_a_client_without_an_address_is_not_taken_for_one_on_a_unix_socket() -> None:
    headers = [*forwarded_for("203.0.113.1"), *proto("https")]
    assert await seen(headers, client=None, peer=RemoteEnd("")) == ("", "ws")


async def test_the_page_of_a_site_passes_its_tls_proxy_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    gateway = Gateway(uds=str(path))
    async with serving(gateway, gateway.settings):
        raw = Raw(await anyio.connect_unix(path))
        async with raw:
            headers = ["Origin: https://example.com", "X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.1"]
            await raw.send(upgrade(*headers, host="example.com"))
            assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert [conn.address for conn in gateway.connections] == ["203.0.113.1"]


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_a_proxy_that_connects_over_ipv4_is_believed_on_a_socket_of_both_families() -> None:
    gateway = Gateway(host="::", port=0)
    async with serving(gateway, gateway.settings) as url:
        async with Raw(await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))) as raw:
            headers = ["Origin: https://example.com", "X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.1"]
            await raw.send(upgrade(*headers, host="example.com"))
            assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

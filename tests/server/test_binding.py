"""Listening sockets: where, with which mode, and under which URL."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from wsgateway import Gateway, Settings, StartError
from wsgateway.config.addresses import is_loopback
from wsgateway.server.binding import bind, network_url, unbind, url_of
from wsgateway.server.serving import serving
from wsgateway.testing import Client


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"host": "127.0.0.1"}, "http://127.0.0.1:"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:"),
        ({"host": "localhost"}, "http://localhost:"),
        ({"host": "::1"}, "http://[::1]:"),
    ],
)
def test_the_url_is_one_that_a_client_can_use(options: dict[str, str], expected: str) -> None:
    settings = Settings(port=0, **options)  # type: ignore[arg-type]  # texts only
    listening = bind(settings)
    assert url_of(settings, listening).startswith(expected)
    unbind(settings, listening)


async def test_a_small_message_does_not_wait_for_the_acknowledgement_of_the_one_before() -> None:
    """Without uvloop, which sets TCP_NODELAY on every socket, it could wait for 40 ms."""
    settings = Settings(port=0)
    listening = bind(settings)
    accepted = asyncio.get_running_loop().create_future()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(transport.get_extra_info("socket"))

    server = await asyncio.get_running_loop().create_server(Accepting, sock=listening[0])
    with socket.create_connection(listening[0].getsockname()):
        assert (await accepted).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    server.close()
    unbind(settings, listening)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.77"])
def test_a_host_that_is_not_here_says_so(host: str) -> None:
    with pytest.raises(StartError, match="cannot listen on"):
        bind(Settings(host=host, port=0))


async def test_an_ipv4_client_has_its_ipv4_address_on_a_socket_of_both_families() -> None:
    gateway = Gateway(host="::", port=0, local_access=True, api_key="k")
    async with serving(gateway, gateway.settings) as url:
        port = url.rpartition(":")[2]
        async with Client(f"http://127.0.0.1:{port}"):
            assert [conn.address for conn in gateway.connections] == ["127.0.0.1"]


async def test_a_name_is_listened_on_at_every_address_that_it_has() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    gateway = Gateway(host="localhost", port=0)
    async with serving(gateway, gateway.settings) as url:
        port = int(url.rpartition(":")[2])
        for host in {str(found[4][0]) for found in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}:
            async with Client(f"http://localhost:{port}", host=host, port=port) as client:
                await client.send("hello")
                assert await client.receive() == "hello"


@pytest.mark.parametrize(("mode", "expected"), [("660", 0o660), ("0600", 0o600), ("666", 0o666)])
async def test_the_mode_of_a_unix_socket_is_a_setting(mode: str, expected: int, tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    gateway = Gateway(uds=str(path), uds_mode=mode)
    async with serving(gateway, gateway.settings):
        assert path.stat().st_mode & 0o777 == expected


def test_a_mode_that_is_not_one_is_a_mistake() -> None:
    for mode in ("rw", "888", "66", "1777", ""):
        with pytest.raises(ValueError, match="mode"):
            raise ValueError(str(_mistake(uds_mode=mode)))


def _mistake(**options: Any) -> Exception:
    try:
        Settings(**options)
    except Exception as exc:
        return exc
    raise AssertionError(f"{options} passed")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), None),
        (Settings(host="localhost"), None),
        (Settings(uds="/tmp/x.sock", host="0.0.0.0"), None),
        (Settings(host="192.0.2.7"), "http://192.0.2.7:8000"),
        (Settings(host="gateway.example"), "http://gateway.example:8000"),
    ],
)
def test_the_url_for_other_machines(settings: Settings, expected: str | None) -> None:
    assert network_url(settings, "http://127.0.0.1:8000") == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_url_for_other_machines_is_none_of_this_machine_alone(host: str) -> None:
    url = network_url(Settings(host=host), "https://127.0.0.1:8000")
    if url is not None:  # a machine without a network has none
        assert url.startswith("https://")
        assert url.endswith(":8000")
        assert not is_loopback(url.removeprefix("https://").removesuffix(":8000"))

"""What the head of a request may look like, and a handshake."""

import pytest

from tests.raw import KEY, connect, upgrade
from tests.servers import OwnServer
from wsgateway import Gateway

own = OwnServer()


@pytest.mark.parametrize(
    "changed",
    [
        {"Connection: Upgrade": "Connection: keep-alive, Upgrade"},
        {"Connection: Upgrade": "Connection: Upgrade, keep-alive"},
        {"Connection: Upgrade": "Connection: keep-alive\r\nConnection: Upgrade"},
        {"Connection: Upgrade": "Connection: Upgrade\r\nConnection: keep-alive"},
        {"Connection: Upgrade": "Connection: uPGRADE\t"},
        {"Upgrade: websocket": "Upgrade: WebSocket  "},
        {f"Key: {KEY}": f"Key:   {KEY}  "},
        {"Version: 13": "Version: 13 \t"},
        {"GET /ws": "GET http://localhost/ws"},
        {"GET /ws": "GET ws://localhost/ws"},
        {"GET /ws": "GET HTTP://LOCALHOST/ws"},
        {"GET /ws": "GET ws://localhost/ws?a=b"},
        {"GET /ws": "GET http://localhost"},
    ],
    ids=str,
)
async def test_a_handshake_in_any_form_that_the_rfcs_allow(changed: dict[str, str]) -> None:
    request = upgrade().decode()
    for before, after in changed.items():
        assert before in request
        request = request.replace(before, after)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request.encode())
        assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize(
    "value", ["", ",,", "permessage-deflate;", "permessage-deflate; =", "foo/bar", "x- -y", "\xff"]
)
async def test_extensions_that_cannot_be_parsed_are_ignored(
    value: str, compression: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with own(Gateway(compression=compression)) as url, await connect(url) as raw:
        await raw.send(
            upgrade().replace(b"\r\n\r\n", f"\r\nSec-WebSocket-Extensions: {value}\r\n\r\n".encode("latin-1"))
        )
        assert (await raw.receive_some()).split()[1] in (b"101", b"400")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("target", ["http://user@localhost/ws", "ftp://localhost/ws", "ws:/ws"])
async def test_a_target_that_is_no_address_of_the_gateway_is_400(target: str) -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(upgrade(path=target))
        answer = await raw.receive_all()
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_the_host_of_an_absolute_target_counts_and_not_the_header() -> None:
    async with own(Gateway(allowed_hosts=["good.example"])) as url:
        for target, status in (("http://good.example/info", b"403"), ("http://evil.example/info", b"400")):
            async with await connect(url) as raw:
                await raw.send(f"GET {target} HTTP/1.1\r\nHost: good.example\r\n\r\n".encode())
                assert (await raw.receive_some()).split()[1] == status


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({f"Sec-WebSocket-Key: {KEY}\r\n": ""}, 400),
        ({KEY: "c2hvcnQ="}, 400),
        ({f"Sec-WebSocket-Key: {KEY}": f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Key: {KEY}"}, 400),
        ({"Version: 13": "Version: 8"}, 400),
        ({"GET /ws": "POST /ws"}, 400),
        ({"HTTP/1.1": "HTTP/1.0"}, 400),
        ({KEY: KEY[:-3] + "*=="}, 400),
        ({"Version: 13": "Version: 13\r\nSec-WebSocket-Version: 13"}, 400),
        ({"Upgrade: websocket": "Upgrade: websocket, h2c"}, 400),
        ({"Connection: Upgrade\r\n": ""}, 400),
    ],
)
async def test_a_handshake_that_is_none_is_refused(changed: dict[str, str], status: int) -> None:
    request = upgrade().decode()
    for before, after in changed.items():
        request = request.replace(before, after)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request.encode())
        answer = await raw.receive_some()
        assert answer.split()[1] == b"%d" % status


async def test_a_client_of_another_version_gets_the_right_one() -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(upgrade().replace(b"Version: 13", b"Version: 8"))
        assert b"\r\nsec-websocket-version: 13\r\n" in await raw.receive_until(b"\r\n\r\n")


@pytest.mark.parametrize(
    "changed",
    [{"Connection: Upgrade": "Connection: keep-alive, Upgrade"}, {"Upgrade: websocket": "Upgrade: WebSocket"}],
)
async def test_a_handshake_that_is_unusual_is_accepted(changed: dict[str, str]) -> None:
    request = upgrade().decode()
    for before, after in changed.items():
        request = request.replace(before, after)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request.encode())
        head = await raw.receive_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head.lower()

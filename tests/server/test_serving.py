"""The gateway's own server: what it adds to uvicorn's."""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trustme
import uvicorn
from anyio.streams.tls import TLSStream
from starlette.applications import Starlette
from websockets.exceptions import InvalidStatus

from tests.raw import connect, upgrade
from tests.servers import OwnServerTls, free_socket
from wsgateway import ConfigError, Event, Gateway, MessageEvent, Refused, Settings, StartError
from wsgateway.server.binding import bind
from wsgateway.server.serving import serving
from wsgateway.testing import Client, RecordingListener, serve


async def test_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    files = {"ssl_keyfile": str(tmp_path / "key.pem"), "ssl_certfile": str(tmp_path / "cert.pem")}
    async with serve(Gateway(local_access=True, **files)) as url:  # type: ignore[arg-type]  # texts only
        assert url.startswith("https://127.0.0.1:")
        async with Client(url, ssl=trusted, origin=url) as ann, httpx.AsyncClient(verify=trusted) as http:
            assert (await http.post(url + "/send", json={"message": "hi"})).status_code == 200
            assert await ann.receive() == "hi"


async def test_a_refusal_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            raise Refused(418, "short and stout")

    async with serve(Gateway(listener=Listener)) as url:
        with pytest.raises(InvalidStatus):
            async with Client(url):
                pass
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_port_that_is_taken_fails_the_gateway_which_runs_once_it_is_free() -> None:
    with free_socket() as taken:
        taken.listen()
        gateway = Gateway(port=taken.getsockname()[1])
        with pytest.raises(StartError, match="another port"):
            async with serving(gateway, gateway.settings):
                pass
        assert gateway.state == "failed"
        assert "cannot listen" in gateway.failure
    async with serving(gateway, gateway.settings) as url, Client(url) as ann:
        assert gateway.state == "running"
        await ann.send("x")
        assert await ann.receive() == "x"


async def test_a_listener_that_fails_frees_the_port() -> None:
    with free_socket() as probe:
        port = probe.getsockname()[1]
    gateway = Gateway(port=port, listener="nowhere:Listener")
    with pytest.raises(StartError):
        async with serving(gateway, gateway.settings):
            pass
    bind(Settings(port=port))[0].close()


async def test_a_log_file_that_cannot_be_opened_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="log_file"):
        Gateway(log_file=str(tmp_path / "file" / "WebSocket.log"))


async def test_on_client_close_runs_once_when_a_client_vanishes_in_the_handshake() -> None:
    asked, release = anyio.Event(), anyio.Event()

    class Listener(RecordingListener):
        async def on_handshake(self, event: Event) -> None:
            asked.set()
            await release.wait()

    listener = Listener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stream:
            request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            await stream.send((request + key).encode())
            with anyio.fail_after(5):
                await asked.wait()
        release.set()
        async with Client(url) as ann:
            await ann.send("x")
            await ann.receive()
        await listener.wait_for("on_client_close", listener.count("on_client_open"))
        assert len(gateway.connections) == 0
    assert listener.count("on_client_open") == listener.count("on_client_close")


def masked(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """One frame as a client sends it (RFC 6455 5.2)."""
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([opcode | (128 if fin else 0)]) + length + mask + body


WIRE = [
    masked(1, b"one"),
    masked(2, b"\xff\x00"),
    masked(1, "ü".encode() * 100),
    masked(1, b"fr", fin=False),
    masked(9, b"ping"),
    masked(0, b"ag", fin=False),
    masked(0, b"ment"),
    masked(1, b""),
    masked(10, b"nobody asked"),
    masked(1, b"x" * 125),
    masked(1, b"y" * 126),
    masked(1, b"last"),
]
MESSAGES = ["one", b"\xff\x00", "ü" * 100, "fragment", "", "x" * 125, "y" * 126, "last"]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 50, 131, 10_000])
async def test_frames_cut_anywhere_are_the_same_messages(piece: int) -> None:
    class Listener(RecordingListener):
        async def on_message(self, event: MessageEvent) -> None:
            await super().on_message(event)
            event.message = None

    listener = Listener()
    data = b"".join(WIRE * 3)
    async with serve(Gateway(listener=listener)) as url, raw_client(url) as stream:
        for start in range(0, len(data), piece):
            await stream.send(data[start : start + piece])
            await anyio.lowlevel.checkpoint()
        await listener.wait_for("on_message", len(MESSAGES) * 3)
    assert [message for hook, message in listener.events if hook == "on_message"] == MESSAGES * 3


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x03abc", 1002),  # unmasked
        (masked(1, b"\xff\xfe"), 1007),
        (masked(3, b"x"), 1002),  # an opcode that is none
        (b"\xc1" + masked(1, b"x")[1:], 1002),  # a bit that nobody negotiated
        (masked(0, b"x"), 1002),  # a continuation of nothing
        (b"\x81\xfe\xff\xff" + bytes(4), 1009),
        (b"\x81\xff" + (2**62).to_bytes(8) + bytes(4), 1009),
    ],
)
async def test_what_breaks_the_protocol_closes_also_after_good_messages(sent: bytes, code: int) -> None:
    recorder = RecordingListener()
    async with serve(Gateway(listener=recorder, max_message_size=1000)) as url, raw_client(url) as stream:
        await stream.send(masked(1, b"good") + masked(1, b"good") + sent)
        await recorder.wait_for("on_client_close")
        assert recorder.events[-1] == ("on_client_close", code)
        assert recorder.count("on_message") == 2
        received = b""
        with anyio.fail_after(5), suppress(anyio.EndOfStream):
            while True:
                received += await stream.receive()
    assert b"\x88" + bytes([received[received.index(b"\x88") + 1]]) + code.to_bytes(2) in received


async def test_a_client_that_sends_far_too_much_still_reads_why_it_is_closed() -> None:
    recorder = RecordingListener()
    async with serve(Gateway(listener=recorder, max_message_size=1000)) as url:
        for _ in range(5):
            async with raw_client(url) as stream:
                head = b"\x82\xff" + (5_000_000).to_bytes(8) + bytes(4)
                with anyio.fail_after(10):
                    await stream.send(head + bytes(5_000_000))
                    assert (await stream.receive())[2:4] == (1009).to_bytes(2)
        await recorder.wait_for("on_client_close", 5)
    assert {code for hook, code in recorder.events if hook == "on_client_close"} == {1009}


async def test_the_socket_stays_open_until_the_client_has_answered_the_close() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            assert event.conn
            await event.conn.close(4000, "bye")

    async with serve(Gateway(listener=Listener)) as url, raw_client(url) as stream:
        await stream.send(masked(1, b"close, please"))
        closing = b"\x88\x05\x0f\xa0bye"
        assert await stream.receive() == closing
        for _ in range(5):  # what it sent before it has read the close is no reason to cut it off
            await stream.send(masked(1, b"on its way"))
        with anyio.move_on_after(0.2) as waiting:
            await stream.receive()
        assert waiting.cancelled_caught
        await stream.send(masked(8, b"\x0f\xa0"))
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await stream.receive()


@asynccontextmanager
async def raw_client(url: str) -> AsyncIterator[anyio.abc.SocketStream]:
    """A client that has shaken hands by hand."""
    async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stream:
        request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        await stream.send((request + key).encode())
        assert (await stream.receive()).startswith(b"HTTP/1.1 101")
        yield stream


async def test_a_client_that_begins_no_tls_is_ended(tmp_path: Path) -> None:
    files = certified(tmp_path)
    async with (
        serve(Gateway(handshake_timeout=0.2, **files)) as url,
        await connect(url.removeprefix("https://")) as raw,
    ):
        with pytest.raises(anyio.EndOfStream):
            await raw.receive_some()


async def test_a_client_that_takes_a_large_message_slowly_over_tls_is_not_too_slow(tmp_path: Path) -> None:
    files = certified(tmp_path)
    gateway = Gateway(send_timeout=0.5, outbox_bytes=100_000_000, **files)
    async with serve(gateway) as url, await raw_tls(url) as stream:
        await stream.send(upgrade())
        await stream.receive()
        while not len(gateway.connections):
            await anyio.sleep(0.01)  # it is told nobody
        for size in (12_000_000, 600_000, 600_000):
            await gateway.send(b"x" * size)
        taken = 0
        with anyio.fail_after(30):
            while taken < 13_200_000:
                taken += len(await stream.receive(1 << 16))
                await anyio.sleep(0.002)  # how slow it is
    assert gateway.metrics.too_slow == 0


def certified(folder: Path) -> dict[str, Any]:
    """The settings for TLS, with a certificate that nobody has to trust."""
    certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return {"ssl_keyfile": str(folder / "key.pem"), "ssl_certfile": str(folder / "cert.pem")}


async def raw_tls(url: str) -> TLSStream:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]), ssl_context=context)


async def test_what_failed_leaves_no_unix_socket(tmp_path: Path) -> None:
    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    path = tmp_path / "gateway.sock"
    with pytest.raises(StartError, match="start-up failed"):
        async with serving(Starlette(lifespan=lifespan), Settings(uds=str(path))):
            pass
    assert not path.exists()


async def test_a_gateway_whose_server_cannot_start_is_stopped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Listener(RecordingListener):
        async def on_start(self, event: Event) -> None:
            self.record("on_start", None)

        async def on_stop(self, event: Event) -> None:
            self.record("on_stop", None)

    async def broken(self: uvicorn.Server, sockets: object = None) -> None:
        raise OSError("no more files")

    monkeypatch.setattr(uvicorn.Server, "startup", broken)  # nothing else makes the start of uvicorn fail here
    listener = Listener()
    gateway = Gateway(listener, port=0)
    with pytest.raises(OSError, match="no more files"):
        async with serving(gateway, gateway.settings):
            pass
    assert [hook for hook, _ in listener.events] == ["on_start", "on_stop"]
    assert gateway.state == "stopped"


async def test_plain_http_at_a_port_with_tls_is_a_line_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with OwnServerTls()(Gateway()) as url:
        async with await connect("http://127.0.0.1:" + url.rpartition(":")[2]) as raw:
            await raw.send(upgrade())
            await raw.receive_all()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("uses plain HTTP (ws:// or http://) on a port with TLS" in line for line in lines)

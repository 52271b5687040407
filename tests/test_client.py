"""The client for HTTP and WebSockets: it speaks to the host of its URL only, reads a bounded answer, and raises what is
documented."""

import datetime
import decimal
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import trustme
from websockets.exceptions import InvalidStatus, InvalidURI

from tests.servers import OwnServerTls
from wsgateway import Gateway, MessageError, MessageEvent, SendError, client, testing
from wsgateway.cli.checks import check_probe
from wsgateway.cli.probe import probe
from wsgateway.client import asend, handshake, request, send

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
KEY = "the-key-of-the-gateway"


class Peer:
    """A server for one answer after the other; what it was asked is kept in `heads`."""

    def __init__(self, answer: bytes | Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self._answer = answer
        self.heads: list[str] = []
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(30)
                try:
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += connection.recv(65536) or b"\r\n\r\n"
                    self.heads.append(data.decode("latin-1").partition("\r\n\r\n")[0])
                    if callable(self._answer):
                        self._answer(connection)
                    else:
                        connection.sendall(self._answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # to be closed with anything unread would reset the connection
                        pass
                except OSError:
                    pass  # the client has gone

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(30)


@contextmanager
def peer(answer: bytes | Callable[[socket.socket], None] = OK + b"\r\n", host: str = "127.0.0.1") -> Iterator[Peer]:
    server = Peer(answer, host)
    try:
        yield server
    finally:
        server.close()


def answer_of(body: object) -> bytes:
    data = json.dumps(body).encode()
    return OK + b"content-length: %d\r\n\r\n%b" % (len(data), data)


SENT = {"id": "default", "recipients": 2, "queued": 1, "dropped": 1}


# What is asked


def test_the_request_has_the_key_and_no_word_of_the_connection() -> None:
    with peer(answer_of(SENT)) as server:
        sent = send(f"{server.url}/send", "hi", api_key=KEY)
    assert (sent.recipients, sent.queued, sent.dropped) == (2, 1, 1)
    (head,) = server.heads
    lines = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head.split("\r\n")[1:]}
    assert head.startswith("POST /send HTTP/1.1\r\n")
    assert lines["authorization"] == f"Bearer {KEY}"
    assert lines["host"] == f"127.0.0.1:{server.port}"
    assert "connection" not in lines


def test_a_key_of_any_text_is_sent_as_utf_8() -> None:
    with peer(answer_of(SENT)) as server:
        send(f"{server.url}/send", "hi", api_key="schlüssel")
    assert "Bearer schlüssel".encode() in server.heads[0].encode("latin-1")


def test_an_ipv6_address_and_a_path_in_any_language() -> None:
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    with peer(answer_of([1]), host="::1") as server:
        assert request("GET", f"{server.url}/räume/a%2Fb?name=ö&x=1#part") == [1]
    assert server.heads[0].startswith("GET /r%C3%A4ume/a%2Fb?name=%C3%B6&x=1 HTTP/1.1\r\n")
    assert f"Host: [::1]:{server.port}" in server.heads[0]


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    with peer() as proxy:
        for name in PROXIES:
            monkeypatch.setenv(name, proxy.url)
        async with testing.serve(Gateway(api_key=KEY)) as url, testing.Client(url) as ann:
            assert (await asend(f"{url}/send", "hi", api_key=KEY)).queued == 1
            assert await ann.receive() == "hi"
            assert await handshake(f"{url}/ws") == (101, "")
            async with client.connect(client.websocket_url(url) + "/ws") as socket_:
                await socket_.send("x")
        for host in ("localhost", "[::1]", "nowhere.invalid"):
            with pytest.raises(OSError):
                await asend(f"http://{host}:1/send", "hi", api_key=KEY)
        with pytest.raises(OSError):
            await handshake("http://nowhere.invalid/ws")
        assert proxy.heads == []


# Redirects


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
def test_no_redirect_is_followed_and_the_error_says_where_it_points(status: int) -> None:
    with peer(answer_of(SENT)) as other:
        where = f"{other.url}/send?token={KEY}".encode()
        head = b"HTTP/1.1 %d Moved\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % (status, where)
        with peer(head) as server, pytest.raises(SendError) as error:
            send(f"{server.url}/send", "hi", api_key=KEY)
        assert other.heads == []
    assert error.value.status == status
    assert f"{other.url}/send?…" in str(error.value)
    assert KEY not in str(error.value)


async def test_no_websocket_follows_a_redirect() -> None:
    with peer(answer_of(SENT)) as other:
        head = f"HTTP/1.1 302 Found\r\nlocation: {other.url.replace('http', 'ws')}/ws\r\ncontent-length: 0\r\n\r\n"
        with peer(head.encode()) as server:
            with pytest.raises(InvalidStatus):
                await client.connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers={"authorization": KEY})
            assert (await handshake(f"{server.url}/ws"))[0] == 302
        assert other.heads == []


async def test_doctor_says_where_a_redirect_points() -> None:
    with peer(b"HTTP/1.1 301 Moved\r\nlocation: https://example.com/ready\r\ncontent-length: 0\r\n\r\n") as server:
        (found,) = check_probe(await probe(server.url))
    assert "a redirect (301)" in found.what
    assert "https://example.com/ready" in found.what


# Answers


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return answer


def dripping(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(0.05)  # as a server that drips does

    return answer


ENDLESS = {
    "a body without a length": endless(OK + b"\r\n", b"x" * 65536),
    "a chunked body": endless(OK + b"transfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "a body of 10 TB": endless(OK + b"content-length: 9999999999999\r\n\r\n", b"x" * 65536),
    "a refusal": endless(b"HTTP/1.1 403 Forbidden\r\n\r\n", b"x" * 65536),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_answer_is_not_read_to_its_end(name: str) -> None:
    with peer(ENDLESS[name]) as server, pytest.raises(SendError):
        send(f"{server.url}/send", "hi", timeout=30)


DRIPPING = {
    "a line of the head": dripping(b"HTTP/1.1 200 OK\r\nx: ", b"x"),
    "fields of the head": dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "interim responses": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the body": dripping(OK + b"\r\n", b" "),
    "nothing": lambda connection: connection.recv(1) and None,
}


@pytest.mark.parametrize("name", DRIPPING)
def test_the_timeout_is_for_all_of_the_answer(name: str) -> None:
    with peer(DRIPPING[name]) as server:
        began = time.monotonic()
        with pytest.raises(OSError):
            send(f"{server.url}/send", "hi", timeout=0.5)
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: 5\r\n\r\n<htm>",
        OK + b"content-length: 2\r\n\r\n[]",
        OK + b"content-length: 1\r\n\r\n5",
        OK + b"content-length: 2\r\n\r\n{}",
        OK + b"content-length: 4\r\n\r\nnull",
        OK + b"content-length: 0\r\n\r\n",
        OK + b"content-length: 100000\r\n\r\n" + b"[" * 100000,
        OK + b"content-length: 1\r\n\r\n\xff",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 7\r\n\r\n<html>\xff",
        b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 100000\r\n\r\n" + b"[" * 100000,
    ],
)
def test_an_answer_that_is_not_a_gateways_is_a_send_error(answer: bytes) -> None:
    with peer(answer) as server, pytest.raises(SendError) as error:
        send(f"{server.url}/send", "hi")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200],
)
def test_what_does_not_speak_http_is_an_os_error(answer: bytes) -> None:
    with peer(answer) as server, pytest.raises(OSError):
        send(f"{server.url}/send", "hi")


def test_a_body_that_is_cut_off_is_an_os_error() -> None:
    with peer(OK + b"content-length: 100\r\n\r\n{}") as server, pytest.raises(OSError, match="cut off"):
        send(f"{server.url}/send", "hi")


# TLS


async def test_a_certificate_is_checked(tmp_path: Path) -> None:
    async with OwnServerTls()(Gateway(api_key=KEY)) as url:  # which patches SSL_CERT_FILE meanwhile
        assert (await asend(f"{url}/send", "hi", api_key=KEY)).recipients == 0
        assert await handshake(f"{url}/ws") == (101, "")
        with pytest.raises(ssl.SSLCertVerificationError):
            await asend(f"{url.replace('127.0.0.1', '127.1')}/send", "hi", api_key=KEY)
        trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ssl.SSLCertVerificationError):
            patch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
            await asend(f"{url}/send", "hi", api_key=KEY)
        with pytest.raises(OSError):
            await asend(f"{url.replace('https', 'http')}/send", "hi", api_key=KEY)
    async with testing.serve(Gateway()) as url:
        with pytest.raises(OSError):
            await asend(f"{url.replace('http', 'https')}/send", "hi", api_key=KEY)


# What is refused before anything is asked


URLS = ["", "x", "//h/", "ftp://h/", "ws://h/", "http:", "http://", "https:///send", "http://:80/", "http://h:0/"]
URLS += ["http://h:65536/", "http://h:x/", "http://h:-1/", "http://a b/", " http://h/", "http://h/ ", "http://h/\n"]
URLS += [
    "http://h/\x00",
    "http://h/\x7f",
    "http://h\t/",
    "http://h/\r\nx: y",
    "http://[::1",
    "http://::1:80:/",
    "http://[zz]",
]
URLS += [
    "http://u@h/",
    "http://:SECRET@h/",
    "http://u:SECRET@h/send",
    f"http://{'a' * 300}/",
    "http://.../",
    "http://ä..b/",
]
URLS += ["http://h/\ud800"]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_is_none_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError) as error:
        send(url, "hi", api_key=KEY, timeout=1)
    assert "SECRET" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["", "x", "http://", "ftp://h", "http://h:65536", "http://a b", "http://h\n", "ws://"])
async def test_a_url_for_a_handshake_that_is_none_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError):
        await handshake(url)
    with pytest.raises((InvalidURI, ValueError)):
        client.connect(url)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]

NO_JSON = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "set": {1},
    "bytes": b"x",
    "object": object(),
    "lone surrogate": "\ud800",
    "lone surrogate as a key": {"\ud800": 1},
    "tuple as a key": {(1, 2): 3},
    "cycle": CYCLE,
    "deep": DEEP,
    "generator": (number for number in range(3)),
    "complex": 1j,
}


@pytest.mark.parametrize("name", NO_JSON)
async def test_what_json_cannot_carry_is_a_value_error(name: str) -> None:
    with peer(answer_of(SENT)) as server:
        url = f"{server.url}/send"
        for arguments in ((NO_JSON[name], None), ([NO_JSON[name]], None), ("x", {"more": NO_JSON[name]})):
            with pytest.raises(MessageError):
                send(url, arguments[0], data=arguments[1])
            with pytest.raises(ValueError):
                await asend(url, arguments[0], data=arguments[1])
        assert server.heads == []


async def test_a_message_may_have_the_types_that_the_gateway_itself_accepts() -> None:
    with peer(answer_of(SENT)) as server:
        message = {"date": datetime.date(2024, 1, 2), "price": decimal.Decimal("1.50")}
        send(f"{server.url}/send", message, user=uuid.UUID(int=1))
        assert server.heads
    assert client._encode(message) == b'{"date":"2024-01-02","price":"1.50"}'


def test_a_page_of_html_is_one_sentence() -> None:
    with peer(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n\n<!DOCTYPE html>\n<html>") as server:
        with pytest.raises(SendError, match="404 Not a gateway: the answer is a page of HTML; check the path") as error:
            send(f"{server.url}/nowhere", "x")
    assert "DOCTYPE" not in str(error.value)


def test_a_text_for_connections_and_a_key_that_no_header_carries_are_value_errors() -> None:
    with pytest.raises(ValueError, match="list of connection ids"):
        send("http://127.0.0.1:1/send", "x", connections="abc")
    for key in ("SECRET\n", "SECRET\r\nx: y", "SECRET\x00", "\ud800SECRET"):
        with pytest.raises(ValueError) as error:
            send("http://127.0.0.1:1/send", "x", api_key=key)
        assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("message", ["", 0, False, {}, [], "ü\u2028\x00", {"a": [1, None, "x"]}, 10**30, 1.5, (1, 2)])
async def test_any_json_value_arrives(message: object) -> None:
    async with testing.serve(Gateway(local_access=True)) as url, testing.Client(url) as ann:
        assert (await asend(f"{url}/send", message)).queued == 1
        received = await ann.receive()
        assert (
            received == message if isinstance(message, str) else json.loads(received) == json.loads(json.dumps(message))
        )


async def test_a_refusal_is_a_send_error_with_its_problem() -> None:
    async with testing.serve(Gateway(api_key=KEY)) as url:
        with pytest.raises(SendError) as error:
            await anyio.to_thread.run_sync(lambda: send(f"{url}/send", "hi", api_key="wrong"))
        assert (error.value.status, error.value.problem["status"]) == (401, 401)
    with pytest.raises(OSError):
        await asend(f"{url}/send", "hi")


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, str, Any]] = []

    async def on_message(self, event: MessageEvent) -> None:
        self.events.append((event.channel, event.to_user, event.name, event.key, event.data))


WRONG_NAMES: tuple[object, ...] = (None, "", 5, [])


async def test_a_message_is_sent_to_a_channel_once_and_answers_with_its_position() -> None:
    listener = Told()
    gateway = Gateway(listener, channels={"room:*": {"history": 5}}, local_access=True)
    async with testing.serve(gateway) as url:
        options: Any = {"name": "n", "key": "k", "tags": {"a": "b"}, "ttl": 5.5, "idempotency_key": "i"}
        sent = await asend(url + "/send", "x", channel="room:1", data={"more": 1}, **options)
        again = await asend(url + "/send", "x", channel="room:1", **options)
        assert sent.at == again.at == (await gateway.history("room:1")).at
        assert (sent.is_new, again.is_new) == (True, False)
        assert listener.events[0] == ("room:1", "", "n", "k", {"channel": "room:1", "name": "n", "more": 1})
        await asend(url + "/send", "x", user="ann")
        assert listener.events[-1][:2] == ("", "ann")
        with pytest.raises(SendError, match="did you mean") as caught:
            await asend(url + "/send", "x", channel="rom:1")
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("options", "text"),
    [
        *[({"channel": value}, "channel is ") for value in WRONG_NAMES],
        *[({"user": value}, "user is ") for value in WRONG_NAMES if value != 5],
        ({"channel": "a", "user": "b"}, "channel and user are given"),
        ({"channel": "a", "connections": []}, "channel and connections are given"),
        *[({name: "x"}, f"{name}: only a message to a channel") for name in ("key", "idempotency_key", "ttl", "tags")],
        ({"data": {"user": "ann"}}, "data: 'user' would choose the recipients"),
        ({"chanel": ""}, "no argument 'chanel', did you mean channel[?]"),
    ],
)
def test_a_mistake_in_the_recipients_is_raised_before_anything_is_sent(options: Any, text: str) -> None:
    with peer() as server:
        with pytest.raises((ValueError, TypeError), match=text):
            send(server.url, "x", **options)
        assert server.heads == []


@pytest.mark.parametrize("options", [{"chanel": ""}, {"chanel": None}, {"channel": None}, {"user": ""}])
async def test_a_gateway_sends_to_nobody_if_the_recipients_are_a_mistake(options: Any) -> None:
    listener = Told()
    gateway = Gateway(listener)
    async with gateway.lifespan():
        for send_or_publish in (gateway.send, gateway.publish):
            with pytest.raises((ValueError, TypeError)):
                await send_or_publish("x", **options)
    assert listener.events == []

"""What a hook is given: how it looks in a log, and what is said where it is used wrongly."""

import asyncio
import re
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from wsgateway import Event, Gateway, HandshakeEvent, HookError, Refused
from wsgateway.client import websocket_url
from wsgateway.testing import Client, RecordingListener, serve

# repr


async def reprs(url_path: str, *messages: str) -> list[tuple[str, str]]:
    """The event and the connection of each hook of a client that sends `messages` and closes with 4001."""
    shown: list[tuple[str, str]] = []
    closed = anyio.Event()

    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn is not None
            event.subprotocol = "chat"
            event.conn.user = {"name": "ann"}
            event.conn.user_id = "ann"
            shown.append((repr(event), repr(event.conn)))

        async def on_message(self, event: Event) -> None:
            assert event.conn is not None
            event.connections = [event.conn]
            shown.append((repr(event), repr(event.conn)))

        async def on_client_close(self, event: Event) -> None:
            shown.append((repr(event), repr(event.conn)))
            closed.set()

    gateway = Gateway(listener=Listener, id="chat")
    headers = {"authorization": "Bearer secret", "cookie": "session=secret"}
    async with serve(gateway) as url:
        async with Client(url, url_path, subprotocols=["chat"], additional_headers=headers) as ann:
            for message in messages:
                await ann.send(message)
                assert await ann.receive() == message
            await ann.socket.close(4001, "done")
        with anyio.fail_after(10):
            await closed.wait()
    return shown


async def test_an_event_shows_what_its_hook_can_use() -> None:
    (handshake, conn), (message, _), (close, closed_conn) = await reprs("/ws/room?token=secret", "hi")
    conn_id = re.findall(r"<Connection (\S+) ", conn)[0]
    assert handshake == f"<HandshakeEvent gateway='chat' conn='{conn_id}' message='' subprotocol='chat'>"
    assert message == f"<MessageEvent gateway='chat' conn='{conn_id}' message='hi' connections=['{conn_id}']>"
    assert close == f"<CloseEvent gateway='chat' conn='{conn_id}' code=4001 reason='done'>"
    assert conn == f"<Connection {conn_id} '/ws/room' user={{'name': 'ann'}} address='127.0.0.1' closed>"
    assert closed_conn == conn
    assert "secret" not in handshake + conn + message + close


async def test_an_event_without_a_connection_shows_the_names_in_its_data() -> None:
    shown: list[str] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            shown.append(repr(event))
            event.message = None

    gateway = Gateway(listener=Listener)
    async with gateway.lifespan():
        await gateway.send({"a": [1]}, data={"token": "secret"})
        await gateway.send(b"x" * 1_000_000, connections=[])
    assert shown == [
        "<MessageEvent gateway='default' conn=None message={'a': [1]} data=['token']>",
        f"<MessageEvent gateway='default' conn=None message=b'{'x' * 57}… connections=[]>",
    ]


# Recipients and messages that are none


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            "conn",
            r"event.connections is <Connection .* use None or a list of connections or their ids, such as \[ev",
        ),
        ("id", r"event.connections is '[^']+', use None or a list"),
        (5, "event.connections is 5, use None or a list"),
        (b"abc", "event.connections is b'abc', use None"),
        (False, "event.connections is False, use None"),
    ],
)
async def test_recipients_that_are_none_are_an_error_of_the_hook(
    wanted: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            assert event.conn is not None
            if event.message == "bad":
                values: dict[str, Any] = {"conn": event.conn, "id": event.conn.id}
                event.connections = values.get(str(wanted), wanted)

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        await ann.send("bad")
        await ann.send("good")
        assert await ann.receive() == "good"
    (line,) = [line for line in caplog.messages if "on_message failed" in line]
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [([None, 7], "2 .* such as None"), ([["nested"]], r"1 .* such as \['nested'\]"), ({1: "x"}, "1 ")],
)
async def test_an_item_that_is_no_recipient_is_skipped_with_a_warning(
    wanted: Any, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            recipients: list[Any] = [*wanted, event.conn]
            event.connections = recipients

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        assert await ann.receive() == "hi"
    assert gateway.metrics.skipped_recipients == len(wanted)
    (record,) = [record for record in caplog.records if "neither connections nor ids" in record.getMessage()]
    assert (record.levelname, gateway.metrics.hook_errors) == ("WARNING", {})
    assert re.search(f"skipped {shown}", record.getMessage())


@pytest.mark.parametrize("connections", ["an id", 5, b"an id"])
async def test_recipients_that_are_none_are_an_error_of_the_caller(connections: Any) -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder)
    async with gateway.lifespan():
        with pytest.raises(TypeError, match="connections"):
            await gateway.send("x", connections=connections)
    assert (recorder.events, gateway.metrics.hook_errors) == ([], {})


async def test_a_hook_may_read_recipients_that_were_given_as_an_iterator() -> None:
    seen: list[list[Any]] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            assert event.connections is not None
            seen.append(list(event.connections))

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        with anyio.fail_after(10):
            while not gateway.connections:
                await anyio.sleep(0.01)  # this listener does not report new connections
        sent = await gateway.send("x", connections=(conn for conn in gateway.connections))
        assert (sent.queued, len(seen[0]), await ann.receive()) == (1, 1, "x")


# Messages that come from no client


class NeedsConn:
    async def on_message(self, event: Event) -> None:
        event.connections = [event.conn.id]  # type: ignore[union-attr]  # the mistake that is tested


async def test_the_error_of_a_hook_that_needs_a_connection_says_how_to_check(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(listener=NeedsConn, local_access=True)
    async with serve(gateway) as url, Client(url) as ann, httpx.AsyncClient() as http:
        with pytest.raises(HookError, match=r"for a message without a connection \(event.conn is None\)"):
            await gateway.send("x")
        answer = await http.post(url + "/send", json={"message": "x"})
        assert answer.status_code == 500
        assert "the listener failed in on_message for a message without a connection" in answer.json()["detail"]
        await ann.send("from a client")
        assert await ann.receive() == "from a client"
    lines = [line for line in caplog.messages if "on_message failed" in line]
    assert len(lines) == 2
    assert all("without a connection" in line and "`if event.conn is None: …`" in line for line in lines)


async def test_a_handshake_hook_that_misses_the_session_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        async def on_handshake(self, event: HandshakeEvent) -> None:
            event.conn.user_id = event.scope["session"]["user"]

    async with serve(Gateway(listener=Listener)) as url:
        with pytest.raises(InvalidStatus, match="500"):
            await connect(websocket_url(url))
    (line,) = [line for line in caplog.messages if "on_handshake failed" in line]
    assert line.endswith("(is SessionMiddleware missing in the application around the gateway?): KeyError('session')")


async def test_the_failure_of_a_client_message_says_nothing_of_the_kind(caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.message == "bad":
                raise LookupError("no such room")

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        await ann.send("bad")
        await ann.send("good")
        assert await ann.receive() == "good"
    (line,) = [line for line in caplog.messages if "on_message failed" in line]
    assert line.endswith("on_message failed: LookupError('no such room')")


def test_the_failure_of_another_hook_does_not_speak_of_messages() -> None:
    assert str(HookError("on_start")) == "the listener failed in on_start; the log has the reason"


# Refusals and closes


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("log in first",), {}, r"is 'log in first', use an int from 400 to 599, as in Refused\(403, 'log in first'\)"),
        ((200,), {}, "is 200, use an int from 400 to 599"),
        ((401.5,), {}, "is 401.5, use an int"),
        ((True,), {}, "is True, use an int"),
        ((None,), {}, "is None, use an int"),
        ((401, None), {}, "reason of a refusal is None, use a str"),
        ((401, b"no"), {}, "reason of a refusal is b'no', use a str"),
        ((401, "x"), {"close": "3500"}, "not '3500'"),
        ((401, "x"), {"close": 1005}, "not 1005"),
        ((401, "x"), {"close": 3500.0}, r"not 3500\.0"),
        ((401, "x" * 124), {"close": 3500}, "at most 123 bytes"),
    ],
)
def test_a_refusal_that_cannot_be_sent_is_refused(arguments: Any, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Refused(*arguments, **options)


@pytest.mark.parametrize(("code", "reason"), [("1000", ""), (1000.0, ""), (None, ""), (1000, None), (1000, b"bye")])
async def test_a_close_that_cannot_be_sent_is_refused(code: Any, reason: Any) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        await ann.receive()
        (conn,) = gateway.connections
        with pytest.raises(ValueError, match="close"):
            await conn.close(code, reason)
        assert conn.is_open


async def test_codes_of_clients_are_counted_as_other() -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder)
    async with serve(gateway) as url:
        for code in (3001, 4000, 4999, 1000, 1001):
            async with Client(url) as ann:
                await ann.socket.close(code)
        await recorder.wait_for("on_client_close", 5)
    assert recorder.count("on_client_close") == 5
    assert gateway.metrics.closes == {"other": 3, "1000": 1, "1001": 1}


# Cookies


@pytest.mark.parametrize(
    "headers",
    [
        ["n=plain"],
        [r'n="a\054b c"; m=2'],
        [r'n="say \"hi\""'],
        ['n="Zo\\353"'],
        ['n=5"'],
        ['n="5'],
        ['n=""', 'm="'],
        ["n=a=b=c; =x; y; ;; z= ;"],
        ["n=1", "n=2; m=3"],
        ["n=1; n=2"],
        ["  n = spaced  "],
        ["n=\xe9\xff"],
        ["n=a%20b+c"],
        [""],
        [";"],
        ["n=\t1\t;\tm=2"],
        ['n="a; b"'],
        [r'n="\777\08\1"'],
        [],
    ],
    ids=repr,
)
async def test_cookies_are_those_of_starlette(headers: list[str]) -> None:
    seen: list[dict[str, str]] = []

    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn is not None
            seen.append(event.conn.cookies)

    async with serve(Gateway(listener=Listener)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        lines = [
            "GET /ws HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *(f"Cookie: {value}" for value in headers),
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        with anyio.fail_after(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 101")
        writer.transport.abort()
    raw = [(b"cookie", value.strip(" \t").encode("latin-1")) for value in headers]
    assert seen == [Request({"type": "http", "headers": raw}).cookies]

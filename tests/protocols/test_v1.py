"""What clients of `wsgateway.v1` send: garbage, limits, floods. On both transports where the transport matters."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.leftovers import assert_nothing_is_left
from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.test_channels import CHANNELS, V1, Rooms
from wsgateway import Gateway, MessageEvent, testing
from wsgateway.frames import Position
from wsgateway.protocols.commands import Authenticate, ClientMessage, Malformed, Subscribe, Unsubscribe
from wsgateway.protocols.query import read_query
from wsgateway.protocols.v1 import read_command
from wsgateway.testing import Client

BOTH: tuple[Serve, ...] = (OwnServer(), PlainUvicorn())


@asynccontextmanager
async def served(server: Serve, listener: object = Rooms, **options: Any) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(listener=listener, channels=CHANNELS, **options)
    async with server(gateway) as url:
        yield gateway, url
    assert_nothing_is_left(gateway)


MALFORMED = [
    "",
    " ",
    "x",
    "{",
    "null",
    "5",
    '"text"',
    "[]",
    '[{"message":1}]',
    "{}",
    '{"id":1}',
    '{"message":NaN}',
    '{"message":1e999}',
    '{"message":"\\ud800"}',
    '{"message":1,"subscribe":"a"}',
    '{"message":1,"nonsense":2}',
    '{"message":1,"id":true}',
    '{"message":1,"id":1.0}',
    '{"message":1,"id":1.5}',
    '{"message":1,"id":"1"}',
    '{"message":1,"id":[]}',
    '{"message":1,"id":9007199254740992}',
    '{"message":1,"id":-9007199254740992}',
    '{"message":1,"channel":""}',
    '{"message":1,"channel":null}',
    '{"message":1,"channel":5}',
    '{"message":1,"name":5}',
    '{"message":1,"name":null}',
    '{"message":1,"name":"a\\nb"}',
    '{"message":1,"name":"a b"}',
    '{"message":1,"name":"a*"}',
    json.dumps({"message": 1, "name": "x" * 256}),
    json.dumps({"message": 1, "name": "ü" * 128}),
    '{"subscribe":""}',
    '{"subscribe":null}',
    '{"subscribe":["room:1"]}',
    '{"subscribe":"\\ud800"}',
    '{"subscribe":"a","last":-1}',
    '{"subscribe":"a","last":"x"}',
    '{"subscribe":"a","last":1.5}',
    '{"subscribe":"a","last":true}',
    '{"subscribe":"a","unsubscribe":"a"}',
    '{"subscribe":"a","message":1}',
    '{"subscribe":"a","channel":"a"}',
    '{"unsubscribe":5}',
    '{"unsubscribe":"a","since":"x:1"}',
    '{"token":5}',
    '{"token":"x","since":"a@b:1"}',
    '{"token":"x","since":[5]}',
    "[" * 30_000,
    '{"message":' + "[" * 5000 + "]" * 5000 + "}",
    '{"message":' + "9" * 10_000 + "}",
]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:30])
def test_what_is_no_command(text: str) -> None:
    assert isinstance(read_command(text), Malformed)


def test_what_is_a_command() -> None:
    assert read_command('{"message":null}') == ClientMessage(None)
    assert read_command('{"message":{"a":1},"channel":"c","name":"n","id":0}') == ClientMessage({"a": 1}, "c", "n", 0)
    assert read_command('{"message":1,"id":null,"name":""}') == ClientMessage(1)
    assert read_command('{"message":1,"id":-9007199254740991}') == ClientMessage(1, ident=-(2**53) + 1)
    assert read_command('{"unsubscribe":"c","id":5}') == Unsubscribe("c", 5)
    assert read_command('{"token":"","since":["a@b@c:1"]}') == Authenticate("", ("a@b@c:1",))


@pytest.mark.parametrize(
    ("since", "position", "is_garbled"),
    [
        ("abc:7", Position("abc", 7), False),
        (":7", Position("", 7), False),
        (f"abc:{2**63 - 1}", Position("abc", 2**63 - 1), False),
        (f"abc:{2**63}", None, True),
        (f"abc:{2**64}", None, True),
        ("abc:-1", None, True),
        ("abc:", None, True),
        (":", None, True),
        ("", None, True),
        ("7", None, True),
        ("a b:7", None, True),
        ("abc:\u0667", None, True),
        ("x" * 30_000, None, True),
        (5, None, True),
        ([], None, True),
        (None, None, False),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_since(since: Any, position: Position | None, is_garbled: bool) -> None:
    command = read_command(json.dumps({"subscribe": "room:1", "since": since}))
    assert isinstance(command, Subscribe)
    assert (command.wanted.since, command.wanted.is_garbled) == (position, is_garbled)
    async with served(OwnServer()) as (gateway, url), V1(url) as client:
        await gateway.publish("kept", channel="room:1")
        at = (await gateway.history("room:1")).at
        answer = await client.ask(subscribe="room:1", since=since)
        assert (answer["recovered"], answer["at"]) == (False, at)
        text = f"room:1@{since}" if isinstance(since, str) else "room:1@"
        if len(text) < 1000:
            async with V1(url, f"channel=room:1&last=1&since={quote(text)}") as other:
                assert (await other.receive_json())["recovered"] is False
                assert (await other.receive_json())["message"] == "kept"


async def test_an_empty_epoch_is_any() -> None:
    async with served(OwnServer()) as (gateway, url), V1(url) as client:
        for number in range(3):
            await gateway.publish(number, channel="room:1")
        answer = await client.ask(subscribe="room:1", since=":1")
        assert (answer["recovered"], answer["at"][-2:]) == (True, ":1")
        assert [(await client.receive_json())["message"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    "query",
    [
        "channel=room:1&last=x",
        "channel=room:1&last=-1",
        "channel=room:1&last=1.5",
        "channel=room:1&last=%D9%A7",
        "channel=room:1&last=1&last=2",
        "channel=room:1&data=1&data=2",
        "channel=room:1&data=x",
        "channel=room:1&data=%22%5Cud800%22",
        "channel=room:1&since=abc:1",
        "since=abc",
        "auth=last",
        "auth=",
    ],
)
async def test_a_query_that_is_wrong_is_400(query: str) -> None:
    async with served(OwnServer()) as (_, url):
        with pytest.raises(InvalidStatus) as refused:
            async with V1(url, query):
                pass
        assert refused.value.response.status_code == 400


async def test_since_of_a_plain_client_is_400() -> None:
    async with served(OwnServer()) as (_, url):
        with pytest.raises(InvalidStatus) as refused:
            async with Client(url, "/ws?channel=room:1&since=room:1@abc:1"):
                pass
        assert refused.value.response.status_code == 400


def test_last_counts_up_to_ten_thousand() -> None:
    for text, last in (("0", 0), ("10000", 10_000), ("9" * 50, 10_000)):
        (command,) = read_query([("channel", "a"), ("last", text)], has_positions=False).channels
        assert command.wanted.last == last or (command.wanted.last or 0) >= 10_000
    command_of = read_command('{"subscribe":"a","last":99999999999999999999}')
    assert isinstance(command_of, Subscribe)
    assert command_of.wanted.last == 10_000


@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_garbage_is_refused_one_by_one_and_the_client_stays(server: Serve) -> None:
    async with served(server) as (_, url), V1(url) as client:
        for text in MALFORMED:
            await client.send(text)
            answer = await client.receive_json()
            assert (answer["status"], set(answer) - {"id"}) == (400, {"refused", "status", "reason"}), text
            assert len(answer["reason"]) < 300
        assert (await client.ask(subscribe="price:x", id=1))["subscribed"] == "price:x"


@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_a_binary_frame_is_closed_with_1003(server: Serve) -> None:
    async with served(server) as (_, url), V1(url) as client:
        await client.ask(subscribe="room:1")
        await client.send(b'{"message":1}')
        assert (await client.closed())[0] == 1003


@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_a_command_of_the_largest_size_and_one_more(server: Serve) -> None:
    async with served(server, max_message_size=2000) as (_, url), V1(url) as client:
        await client.ask(subscribe="room:1")
        await client.receive_json()
        text = json.dumps({"channel": "room:1", "message": ""})
        await client.send(text.replace('""', '"' + "x" * (2000 - len(text)) + '"'))
        assert len((await client.receive_json())["message"]) == 2000 - len(text)
        await client.send(text.replace('""', '"' + "x" * (2001 - len(text)) + '"'))
        assert (await client.closed())[0] == 1009


@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_a_thousand_subscribe_and_unsubscribe_leave_nothing(server: Serve) -> None:
    async with served(server) as (gateway, url), V1(url) as client:
        async with anyio.create_task_group() as tasks:

            async def send_all() -> None:
                for number in range(1000):
                    await client.tell(subscribe=f"user:{number}")
                    await client.tell(unsubscribe=f"user:{number}")
                await client.tell(unsubscribe="user:0", id=1)

            tasks.start_soon(send_all)
            with anyio.fail_after(30):
                for number in range(1000):
                    assert (await client.receive_json())["subscribed"] == f"user:{number}"
                    assert (await client.receive_json())["unsubscribed"] == f"user:{number}"
                assert await client.receive_json() == {"unsubscribed": "user:0", "code": 2000, "reason": "", "id": 1}
        assert len(gateway.local_channels) == 0
        assert gateway.metrics.subscriptions == 0
        assert gateway._parts.history.channels == 0  # they have no history


@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_above_message_rate_subscribes_are_closed_with_3013(server: Serve) -> None:
    async with served(server, message_rate=50, message_burst=50) as (_, url), V1(url, max_queue=None) as client:
        try:
            for number in range(1000):
                await client.tell(subscribe=f"user:{number % 5}")
                await client.tell(unsubscribe=f"user:{number % 5}")
        except ConnectionClosed:
            pass
        assert (await client.closed())[0] == 3013


async def test_a_client_that_reads_no_refusals_is_bounded_by_their_size() -> None:
    """A refusal repeats the name that the client has sent, so a hundred of a megabyte would wait for it."""
    async with served(PlainUvicorn(), outbox_bytes=1_000_000, max_message_size=1_000_000, send_timeout=60) as (
        gateway,
        url,
    ):
        async with V1(url, max_queue=1, compression=None, close_timeout=0.1) as client:
            try:
                for _ in range(100):
                    await client.tell(subscribe="x" * 900_000)
                    for conn in gateway.connections:
                        assert conn.queued_bytes <= 2_000_000
                        assert conn.queued_bytes // 900_000 == conn.queued_messages
            except ConnectionClosed:
                pass
            with anyio.fail_after(30):
                while len(gateway.connections):
                    await anyio.sleep(0.02)  # it is closed as too slow while nothing is read
    assert gateway.metrics.too_slow == 1


@pytest.mark.parametrize("ident", [0, -1, 2**53 - 1, None])
async def test_answers_carry_the_id(ident: int | None) -> None:
    async with served(OwnServer()) as (_, url), V1(url) as client:
        commands: list[dict[str, Any]] = [
            {"subscribe": "price:x"},
            {"subscribe": "room:secret"},
            {"channel": "price:x", "message": 1},
            {"message": 1},
            {"unsubscribe": "price:x"},
            {"unsubscribe": "price:x"},
            {"unsubscribe": "rom:x"},
            {"nonsense": 1},
        ]
        for command in commands:
            answer = await client.ask(**command, **({} if ident is None else {"id": ident}))
            assert answer.get("id") == ident, command


async def test_history_and_idempotency_of_the_application() -> None:
    channels: Any = {"*": {"history": 10_000, "public": True}}
    gateway = Gateway(channels=channels)
    async with testing.serve(gateway):
        for number in range(20):
            await gateway.publish(number, channel="a")
        assert len((await gateway.history("a", limit=10_000)).publications) == 20
        for limit in (10_001, -1, True, 1.0, None, "1"):
            with pytest.raises(ValueError):
                await gateway.history("a", limit=limit)  # type: ignore[arg-type]  # what the test is about
        for since in ("", ":", "x", f"a:{2**63}", "a:-1", 5, b"a:1"):
            with pytest.raises(ValueError):
                await gateway.history("a", since=since)  # type: ignore[arg-type]  # what the test is about
        before = gateway._parts.history.bytes
        for key in ("k" * 1_000_000, "ü" * 1_000_000):
            one = await gateway.publish("once", channel="a", idempotency_key=key)
            two = await gateway.publish("twice", channel="a", idempotency_key=key)
            assert (one.is_new, two.is_new, two.at) == (True, False, one.at)
        assert gateway._parts.history.bytes - before < 5000


async def test_a_message_that_the_hook_drops_is_accepted() -> None:
    class Listener:
        async def on_message(self, event: MessageEvent) -> None:
            event.message = None

    async with served(OwnServer(), Listener) as (gateway, url), V1(url) as client:
        assert await client.ask(message=1, id=1) == {"id": 1}
        assert not sum(gateway.metrics.refusals.values())

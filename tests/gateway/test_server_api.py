"""The server API, as a backend calls it: each method, every kind of bad input, and the keys."""

import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.gateway.test_users import Nodes, nodes
from wsgateway import Gateway, MessageEvent, Refused
from wsgateway.admin.rest import OPERATIONS
from wsgateway.gateway.http.description import FIELDS
from wsgateway.gateway.http.server_api import METHODS
from wsgateway.gateway.overview import PAGE, matcher
from wsgateway.listeners.event import HandshakeEvent
from wsgateway.testing import Client, serve

KEY = {"x-api-key": "secret"}
CHANNELS: dict[str, Any] = {"room:*": {"history": 100, "presence": True, "public": True}, "live:*": {"public": True}}


class Backend:
    """A backend of one gateway, with its key."""

    def __init__(self, http: httpx.AsyncClient, gateway: Gateway, url: str) -> None:
        self.http = http
        self.gateway = gateway
        self.url = url

    async def call(self, method: str, **fields: Any) -> Any:
        """Call a method, and return its answer, which has the status 200."""
        response = await self.http.post(f"/api/{method}", json=fields, headers=KEY)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        return response.json()

    async def result(self, method: str, **fields: Any) -> Any:
        answer = await self.call(method, **fields)
        assert list(answer) == ["result"], answer
        return answer["result"]

    async def error(self, method: str, **fields: Any) -> int:
        """Call a method that fails, and return its code."""
        answer = await self.call(method, **fields)
        assert list(answer) == ["error"], answer
        assert list(answer["error"]) == ["code", "message"]
        code: int = answer["error"]["code"]
        return code


class Listener:
    """The user stands in the URL. A message is refused, changed, or kept as it says."""

    events: list[MessageEvent]

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.conn.query.get("user")

    async def on_message(self, event: MessageEvent) -> None:
        if isinstance(event.message, dict) and "refuse" in event.message:
            raise Refused(event.message["refuse"], "no")
        if event.message == "fail":
            raise RuntimeError("as told")
        if event.message == "elsewhere":
            event.channel = "rom:1"
        if event.message == "nothing":
            event.message = None


@asynccontextmanager
async def served(gateway: Gateway) -> AsyncIterator[Backend]:
    """The backend of a gateway on a server, to which clients may connect."""
    async with serve(gateway) as url, httpx.AsyncClient(base_url=url) as http:
        yield Backend(http, gateway, url)


@asynccontextmanager
async def called(gateway: Gateway) -> AsyncIterator[Backend]:
    """The backend of a gateway that is called directly."""
    transport = httpx.ASGITransport(gateway)
    async with gateway.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        yield Backend(http, gateway, "")


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with served(Gateway(Listener, api_key="secret", channels=CHANNELS)) as backend:
        yield backend


@pytest.fixture
async def api() -> AsyncIterator[Backend]:
    async with called(Gateway(Listener, api_key="secret", channels=CHANNELS)) as backend:
        yield backend


def member(backend: Backend, user: str = "", *, channel: str = "") -> Client:
    return Client(backend.url, f"/ws?user={user}", channels=[channel] if channel else [])


async def reached(gateway: Gateway, count: int) -> None:
    """Wait until the gateway has `count` connections."""
    with anyio.fail_after(10):
        while len(gateway.connections) != count:
            await anyio.sleep(0.01)  # nothing reports a connection that has ended


# Publications


async def test_a_publication_reaches_the_subscribers_and_has_a_position(backend: Backend) -> None:
    async with member(backend, channel="room:1") as client:
        await client.subscribed("room:1")
        await client.receive_json()  # its own join
        first = await backend.result("publish", channel="room:1", data={"text": "hi"}, tags={"lang": "en"})
        assert first["offset"] == 1
        received = await client.receive_json()
        assert received["message"] == {"text": "hi"}
        assert received["tags"] == {"lang": "en"}
        assert received["at"] == f"{first['epoch']}:1"


async def test_a_publication_without_a_history_has_an_empty_result(api: Backend) -> None:
    assert await api.result("publish", channel="live:1", data=0) == {}
    assert await api.result("publish", channel="room:1", data="nothing") == {}


async def test_skip_history_delivers_live_and_does_not_move_the_position(backend: Backend) -> None:
    await backend.result("publish", channel="room:1", data=1)
    async with member(backend, channel="room:1") as client:
        await client.subscribed("room:1")
        await client.receive_json()  # its own join
        assert await backend.result("publish", channel="room:1", data=2, skip_history=True) == {}
        assert await client.receive_json() == {"channel": "room:1", "message": 2}
    assert (await backend.result("history", channel="room:1", limit=-1))["publications"] == [{"data": 1, "offset": 1}]


async def test_b64data_is_a_binary_message_and_wins_over_data(backend: Backend) -> None:
    async with Client(backend.url, "/ws?channel=room:1") as client:
        await backend.result("publish", channel="room:1", data={"a": 1}, b64data=b64encode(b"\xff\x00").decode())
        assert await client.receive() == b"\xff\x00"


async def test_a_repeated_idempotency_key_has_the_first_result_and_sends_nothing(api: Backend) -> None:
    first = await api.result("publish", channel="room:1", data=1, idempotency_key="a")
    assert await api.result("publish", channel="room:1", data=2, idempotency_key="a") == first
    assert (await api.result("publish", channel="room:2", data=3, idempotency_key="a"))["offset"] == 1
    history = await api.result("history", channel="room:1", limit=10)
    assert [publication["data"] for publication in history["publications"]] == [1]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"channel": "rom:1", "data": 1}, 102),
        ({"data": 1}, 107),
        ({"channel": "", "data": 1}, 107),
        ({"channel": "two words", "data": 1}, 107),
        ({"channel": "x" * 256, "data": 1}, 107),
        ({"channel": 5, "data": 1}, 107),
        ({"channel": ["room:1"], "data": 1}, 107),
        ({"channel": "room:1"}, 107),
        ({"channel": "room:1", "data": None}, 107),
        ({"channel": "room:1", "b64data": "?"}, 107),
        ({"channel": "room:1", "b64data": "YQ"}, 107),
        ({"channel": "room:1", "b64data": 5}, 107),
        ({"channel": "room:1", "data": 1, "tags": {"a": 1}}, 107),
        ({"channel": "room:1", "data": 1, "tags": "a"}, 107),
        ({"channel": "room:1", "data": 1, "skip_history": 1}, 107),
        ({"channel": "room:1", "data": 1, "idempotency_key": 5}, 107),
        ({"channel": "room:1", "data": 1, "idempotency_key": "a", "skip_history": True}, 107),
        ({"channel": "live:1", "data": 1, "idempotency_key": "a"}, 107),
        ({"channel": "room:1", "data": {"refuse": 401}}, 101),
        ({"channel": "room:1", "data": {"refuse": 403}}, 103),
        ({"channel": "room:1", "data": {"refuse": 404}}, 102),
        ({"channel": "room:1", "data": {"refuse": 429}}, 111),
        ({"channel": "room:1", "data": {"refuse": 503}}, 100),
        ({"channel": "room:1", "data": "fail"}, 100),
        ({"channel": "room:1", "data": "elsewhere"}, 102),
    ],
)
async def test_a_publication_that_cannot_be_made_has_a_code(api: Backend, fields: dict[str, Any], code: int) -> None:
    assert await api.error("publish", **fields) == code
    responses = (await api.call("broadcast", **{**fields, "channels": [fields.get("channel", "")]})).get("result")
    if responses is not None:  # a field that is wrong for every channel is an error of the whole broadcast
        assert [response["error"]["code"] for response in responses["responses"]] == [code]


async def test_fields_that_are_null_or_unknown_count_as_missing(api: Backend) -> None:
    fields = {"tags": None, "skip_history": None, "idempotency_key": None, "b64data": None, "delta": True, "version": 5}
    assert (await api.result("publish", channel="room:1", data=1, **fields))["offset"] == 1
    assert (await api.result("publish", channel="room:1", data=1, tags=[]))["offset"] == 2  # an empty array of PHP


async def test_a_broadcast_has_a_response_for_each_channel_in_order(api: Backend) -> None:
    names = ["room:1", "rom:1", "", "live:1", "room:1"]
    responses = (await api.result("broadcast", channels=names, data="x"))["responses"]
    assert responses[0]["result"]["offset"] == 1
    assert responses[1] == {"error": {"code": 102, "message": "unknown channel"}}
    assert responses[2] == {"error": {"code": 107, "message": "bad request"}}
    assert responses[3] == {"result": {}}
    assert responses[4]["result"]["offset"] == 2


@pytest.mark.parametrize("names", [[], None, "room:1", [5], [None], {"room:1": 1}])
async def test_a_broadcast_to_no_channels_is_a_bad_request(api: Backend, names: object) -> None:
    assert await api.error("broadcast", channels=names, data="x") == 107


async def test_a_broadcast_to_10000_channels_is_published_to_each(api: Backend) -> None:
    names = [f"room:{number}" for number in range(10_000)]
    responses = (await api.result("broadcast", channels=names, data="x"))["responses"]
    assert {response["result"]["offset"] for response in responses} == {1}


# Connections of a user


async def test_a_user_is_subscribed_with_info_data_and_what_it_has_missed(backend: Backend) -> None:
    epoch = (await backend.result("publish", channel="room:1", data=1))["epoch"]
    await backend.result("publish", channel="room:1", data=2)
    async with member(backend, "ann") as ann, member(backend, "ann") as other, member(backend, "bob"):
        since = {"offset": 1, "epoch": epoch}
        fields = {"info": {"n": 1}, "data": {"state": 5}, "recover_since": since}
        assert await backend.result("subscribe", user="ann", channel="room:1", **fields) == {}
        for client in (ann, other):
            subscribed = await client.subscribed("room:1")
            assert (subscribed["recovered"], subscribed["reply"]) == (True, {"state": 5})
            assert (await client.receive_json())["message"] == 2
        presence = (await backend.result("presence", channel="room:1"))["presence"]
        assert [info["chan_info"] for info in presence.values()] == [{"n": 1}] * 2
        assert {info["user"] for info in presence.values()} == {"ann"}
        assert {key: info["client"] for key, info in presence.items()} == {key: key for key in presence}


@pytest.mark.parametrize("epoch", ["other", "_", "two words", "x" * 500])
async def test_a_position_that_cannot_be_recovered_is_reported_to_the_client(backend: Backend, epoch: str) -> None:
    await backend.result("publish", channel="room:1", data=1)
    async with member(backend, "ann") as ann:
        since = {"offset": 0, "epoch": epoch}
        await backend.result("subscribe", user="ann", channel="room:1", recover_since=since)
        assert (await ann.subscribed("room:1"))["recovered"] is False


async def test_b64info_is_json_and_b64data_is_bytes(backend: Backend) -> None:
    async with member(backend, "ann") as ann:
        info, data = (b64encode(value).decode() for value in (b'{"a": 1}', b"\xff"))
        await backend.result("subscribe", user="ann", channel="live:1", b64info=info, b64data=data)
        assert (await ann.receive_json())["subscribed"] == "live:1"
        presence = (await backend.result("presence", channel="live:1"))["presence"]
        assert [client["chan_info"] for client in presence.values()] == [{"a": 1}]


async def test_client_and_session_narrow_the_choice(backend: Backend) -> None:
    async with member(backend, "ann") as ann, member(backend, "ann"), member(backend, "bob"):
        first, second, bob = (conn.id for conn in backend.gateway.connections)
        await backend.result("subscribe", user="ann", client=first, channel="live:1")
        await ann.subscribed("live:1")
        await backend.result("subscribe", user="ann", client=bob, channel="live:1")
        await backend.result("subscribe", user="ann", client=second, session="unknown", channel="live:1")
        await backend.result("subscribe", user="ann", session="unknown", channel="live:1")
        await backend.result("subscribe", user="nobody", client=first, channel="live:1")
        assert list((await backend.result("presence", channel="live:1"))["presence"]) == [first]
        await backend.result("subscribe", user="", client=bob, channel="live:1")
        assert await backend.result("presence_stats", channel="live:1") == {"num_clients": 2, "num_users": 2}
        await backend.result("unsubscribe", user="ann", client=bob, channel="live:1")
        await backend.result("unsubscribe", user="bob", client=bob, channel="live:1")
        assert list((await backend.result("presence", channel="live:1"))["presence"]) == [first]


async def test_the_session_of_a_stream_names_its_connection(backend: Backend) -> None:
    async with backend.http.stream("GET", "/sse?user=ann") as stream, member(backend, "ann"):
        lines = stream.aiter_lines()
        opened = json.loads([line async for line in _first(lines, 4)][-1].removeprefix("data: "))
        await backend.result("subscribe", user="ann", session=opened["session"], channel="live:1")
        assert list((await backend.result("presence", channel="live:1"))["presence"]) == [opened["id"]]


async def _first(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield await anext(lines)


async def test_unsubscribe_ends_the_subscriptions_of_a_user_for_good(backend: Backend) -> None:
    async with member(backend, "ann", channel="live:1") as ann, member(backend, "bob", channel="live:1"):
        await ann.subscribed("live:1")
        assert await backend.result("unsubscribe", user="ann", channel="live:1") == {}
        assert await ann.receive_json() == {"unsubscribed": "live:1", "code": 2000, "reason": ""}
        assert (await backend.result("presence_stats", channel="live:1"))["num_clients"] == 1


@pytest.mark.parametrize(
    ("fields", "closed"),
    [
        ({}, (3503, "force disconnect")),
        ({"disconnect": {"code": 0, "reason": ""}}, (3503, "force disconnect")),
        ({"disconnect": {"code": 4000, "reason": "bye"}}, (4000, "bye")),
        ({"disconnect": {"code": 1000}}, (1000, "")),
    ],
)
async def test_disconnect_closes_a_user(backend: Backend, fields: dict[str, Any], closed: tuple[int, str]) -> None:
    async with member(backend, "ann") as ann, member(backend, "ann") as other, member(backend, "bob"):
        assert await backend.result("disconnect", user="ann", **fields) == {}
        assert await ann.closed() == await other.closed() == closed
        await reached(backend.gateway, 1)


async def test_disconnect_keeps_what_the_whitelist_names(backend: Backend) -> None:
    async with member(backend, "ann") as first, member(backend, "ann"), member(backend, "ann") as third:
        ids = [conn.id for conn in backend.gateway.connections]
        await backend.result("disconnect", user="ann", whitelist=[ids[1], "unknown"])
        assert (await first.closed(), await third.closed()) == ((3503, "force disconnect"),) * 2
        await reached(backend.gateway, 1)
        await backend.result("disconnect", user="ann", client=ids[1], whitelist=[ids[1]])
        assert [conn.id for conn in backend.gateway.connections] == [ids[1]]


async def test_refresh_with_expired_closes_a_user(backend: Backend) -> None:
    async with member(backend, "ann") as ann:
        assert await backend.result("refresh", user="ann", expired=True, expire_at=1) == {}
        assert await ann.closed() == (3005, "connection expired")


async def test_refresh_changes_when_a_user_expires(backend: Backend) -> None:
    async with member(backend, "ann") as ann, member(backend, "ann") as other, member(backend, "bob"):
        first, second, bob = backend.gateway.connections
        assert await backend.result("refresh", user="ann", expire_at=4e9) == {}
        assert await backend.result("refresh", user="ann", client=second.id, expire_at=5_000_000_000) == {}
        assert [conn.expires_at for conn in (first, second, bob)] == [4e9, 5e9, None]
        for nothing in ({}, {"expire_at": 0}, {"expire_at": None, "expired": False}):
            assert await backend.result("refresh", user="ann", **nothing) == {}
            assert [conn.expires_at for conn in (first, second, bob)] == [None, None, None]
        await backend.result("refresh", user="ann", expire_at=1)
        assert [(await client.closed())[0] for client in (ann, other)] == [3005, 3005]
        await reached(backend.gateway, 1)


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe", "disconnect", "refresh"])
async def test_a_user_without_connections_is_no_error_and_an_empty_one_is(backend: Backend, method: str) -> None:
    async with member(backend):
        assert await backend.result(method, user="nobody", client="x", session="y", channel="live:1") == {}
        assert await backend.result(method, user="nobody", channel="live:1") == {}
        for fields in ({}, {"user": ""}, {"user": None}, {"user": "", "session": "x"}, {"user": 5}, {"client": ""}):
            assert await backend.error(method, channel="live:1", **fields) == 107
        assert len(backend.gateway.connections) == 1
        assert (await backend.result("presence_stats", channel="live:1"))["num_clients"] == 0


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("subscribe", {"channel": "rom:1"}, 102),
        ("subscribe", {"channel": "a b"}, 107),
        ("subscribe", {"channel": "live:1", "recover_since": []}, 107),
        ("subscribe", {"channel": "live:1", "recover_since": {"offset": -1}}, 107),
        ("subscribe", {"channel": "live:1", "recover_since": {"offset": 2**63}}, 107),
        ("subscribe", {"channel": "live:1", "recover_since": {"offset": "1"}}, 107),
        ("subscribe", {"channel": "live:1", "recover_since": {"offset": 1, "epoch": 5}}, 107),
        ("subscribe", {"channel": "live:1", "b64info": "e30"}, 107),
        ("subscribe", {"channel": "live:1", "b64info": b64encode(b"nothing").decode()}, 107),
        ("subscribe", {"channel": "live:1", "b64data": "*"}, 107),
        ("unsubscribe", {"channel": "rom:1"}, 102),
        ("disconnect", {"disconnect": {"code": 1006}}, 107),
        ("disconnect", {"disconnect": {"code": 5000}}, 107),
        ("disconnect", {"disconnect": {"code": -1}}, 107),
        ("disconnect", {"disconnect": {"code": 4000.5}}, 107),
        ("disconnect", {"disconnect": {"code": "4000"}}, 107),
        ("disconnect", {"disconnect": {"code": 4000, "reason": "x" * 124}}, 107),
        ("disconnect", {"disconnect": 4000}, 107),
        ("disconnect", {"whitelist": "x"}, 107),
        ("disconnect", {"whitelist": [1]}, 107),
        ("refresh", {"expired": "yes"}, 107),
        ("refresh", {"expire_at": "soon"}, 107),
        ("refresh", {"expire_at": -1}, 107),
        ("refresh", {"expire_at": True}, 107),
        ("refresh", {"expire_at": 1e300}, 107),
        ("refresh", {"expire_at": 10**4000}, 107),
    ],
)
async def test_a_wrong_field_has_a_code(api: Backend, method: str, fields: dict[str, Any], code: int) -> None:
    assert await api.error(method, user="ann", **fields) == code


async def test_a_user_with_too_many_channels_is_a_limit() -> None:
    gateway = Gateway(Listener, api_key="secret", max_channels=1)
    async with served(gateway) as backend, member(backend, "ann"):
        assert await backend.result("subscribe", user="ann", channel="one") == {}
        assert await backend.error("subscribe", user="ann", channel="two") == 106


async def test_a_centrifuge_client_is_subscribed_unsubscribed_and_disconnected() -> None:
    gateway = Gateway(Listener, api_key="secret", channels=CHANNELS, protocols=["centrifuge"])
    async with served(gateway) as backend:
        epoch = (await backend.result("publish", channel="room:1", data=1))["epoch"]
        await backend.result("publish", channel="room:1", data={"n": 2}, tags={"a": "b"})
        path = "/connection/websocket?user=ann"
        async with Client(backend.url, path, protocol="centrifuge") as ann:
            since = {"offset": 1, "epoch": epoch}
            fields = {"data": {"state": 5}, "info": {"n": 1}, "recover_since": since}
            await backend.result("subscribe", user="ann", channel="room:1", **fields)
            subscribed = {"recoverable": True, "positioned": True, "epoch": epoch, "offset": 1, "data": {"state": 5}}
            pushes = [(await ann.receive_json())["push"] for _ in range(3)]
            assert pushes[0] == {"channel": "room:1", "subscribe": subscribed}
            assert pushes[1] == {"channel": "room:1", "pub": {"data": {"n": 2}, "offset": 2, "tags": {"a": "b"}}}
            assert pushes[2]["join"]["info"]["chan_info"] == {"n": 1}
            await backend.result("unsubscribe", user="ann", channel="room:1")
            ended = {"code": 2000, "reason": "server unsubscribe"}
            assert (await ann.receive_json())["push"] == {"channel": "room:1", "unsubscribe": ended}
            await backend.result("disconnect", user="ann")
            assert await ann.closed() == (3503, "force disconnect")


# Channels


async def test_presence_of_an_empty_channel(api: Backend) -> None:
    assert await api.result("presence", channel="room:1") == {"presence": {}}
    assert await api.result("presence_stats", channel="room:1") == {"num_clients": 0, "num_users": 0}


async def test_the_history_is_read_in_pages_and_backward(api: Backend) -> None:
    for number in range(1, 6):
        await api.result("publish", channel="room:1", data=number)

    async def read(**fields: Any) -> list[int]:
        history = await api.result("history", channel="room:1", **fields)
        assert history["offset"] == 5
        return [publication["offset"] for publication in history["publications"]]

    epoch = (await api.result("history", channel="room:1"))["epoch"]
    assert await read() == await read(limit=0) == []
    assert await read(limit=2) == [1, 2]
    assert await read(limit=2, since={"offset": 2, "epoch": epoch}) == [3, 4]
    assert await read(limit=2, since={"offset": 4}) == [5]
    assert await read(limit=2, since={"offset": 5, "epoch": epoch}) == []
    assert await read(limit=-1) == await read(limit=-1, since={}) == [1, 2, 3, 4, 5]
    assert await read(limit=-1, reverse=True) == [5, 4, 3, 2, 1]
    assert await read(limit=2, reverse=True, since={"offset": 4}) == [3, 2]
    assert await read(limit=10**30) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"channel": "live:1"}, 108),
        ({"channel": "rom:1"}, 102),
        ({"channel": ""}, 107),
        ({"channel": "room:1", "reverse": True, "since": {"offset": 0}}, 107),
        ({"channel": "room:1", "limit": "5"}, 107),
        ({"channel": "room:1", "limit": 1.5}, 107),
        ({"channel": "room:1", "reverse": 1}, 107),
        ({"channel": "room:1", "since": "x:1"}, 107),
        ({"channel": "room:1", "since": {"offset": 2**64}}, 107),
        ({"channel": "room:1", "since": {"offset": 1, "epoch": "other"}}, 112),
        ({"channel": "room:1", "since": {"offset": 1, "epoch": "_"}}, 112),
        ({"channel": "room:1", "limit": 5, "since": {"offset": 1, "epoch": "other"}}, 112),
    ],
)
async def test_a_history_that_cannot_be_read_has_a_code(api: Backend, fields: dict[str, Any], code: int) -> None:
    assert await api.error("history", **fields) == code


async def test_a_history_shows_senders_names_and_tags_and_leaves_out_bytes(api: Backend) -> None:
    gateway = api.gateway
    await gateway.publish("text", channel="room:1", name="greeting", tags={"a": "1"})
    await gateway.publish(b"\xff", channel="room:1")
    await gateway.publish({"big": 10**40}, channel="room:1")
    history = await api.result("history", channel="room:1", limit=10)
    assert history["publications"] == [
        {"data": "text", "offset": 1, "tags": {"a": "1", "name": "greeting"}},
        {"data": {"big": 10**40}, "offset": 3},
    ]


async def test_a_history_is_at_most_as_large_as_a_recovery() -> None:
    async with called(Gateway(api_key="secret", channels=CHANNELS, outbox_bytes=1000)) as api:
        for _ in range(5):
            await api.result("publish", channel="room:1", data="x" * 300)
        history = await api.result("history", channel="room:1", limit=-1)
        assert [publication["offset"] for publication in history["publications"]] == [1, 2, 3]
        await api.result("publish", channel="room:2", data="x" * 3000)
        assert len((await api.result("history", channel="room:2", limit=-1))["publications"]) == 1


async def test_history_remove_keeps_the_position(api: Backend) -> None:
    epoch = (await api.result("publish", channel="room:1", data=1))["epoch"]
    assert await api.result("history_remove", channel="room:1") == {}
    history = await api.result("history", channel="room:1", limit=10)
    assert history == {"publications": [], "offset": 1, "epoch": epoch}
    assert await api.result("history_remove", channel="live:1") == {}
    assert await api.error("history_remove", channel="rom:1") == 102


async def test_channels_are_those_with_subscribers_that_match(backend: Backend) -> None:
    await backend.result("publish", channel="room:9", data="kept without a subscriber")
    async with member(backend, channel="room:1") as one, member(backend, channel="room:10") as two:
        await one.subscribed("room:1")
        await two.subscribed("room:10")
        await backend.gateway.subscribe("live:[1]", [conn.id for conn in backend.gateway.connections])

        async def names(pattern: object) -> dict[str, int]:
            channels = (await backend.result("channels", pattern=pattern))["channels"]
            return {name: channel["num_clients"] for name, channel in channels.items()}

        assert await names("") == await names("*") == await names(None)
        assert await names("") == {"room:1": 1, "room:10": 1, "live:[1]": 2}
        assert await names("room:?") == {"room:1": 1}
        assert await names("*1*") == await names("")
        assert await names("live:[1]") == await names("live:[*") == {"live:[1]": 2}
        assert await names("live:[12]") == await names("room") == {}
        assert await backend.error("channels", pattern=5) == 107
        assert await backend.error("channels", pattern="*" * 1001) == 107


def test_a_pattern_takes_no_exponential_time() -> None:
    is_match = matcher("*a" * 400 + "b")
    assert not is_match("a" * 255)
    assert matcher("?" * 255)("ü" * 255)


# The gateway


async def test_info_shows_the_only_node(backend: Backend) -> None:
    async with member(backend, "ann", channel="live:1"), member(backend, "ann", channel="live:1"), member(backend):
        (node,) = (await backend.result("info"))["nodes"]
        assert node.pop("uid")
        assert node.pop("name")
        assert node.pop("uptime") >= 0
        assert node == {
            "version": backend.gateway.version,
            "num_clients": 3,
            "num_users": 2,
            "num_subs": 2,
            "num_channels": 1,
        }


@pytest.mark.parametrize("is_parallel", [False, True])
async def test_a_batch_has_a_reply_for_each_command_in_order(api: Backend, *, is_parallel: bool) -> None:
    commands = [
        {"publish": {"channel": "room:1", "data": 1}},
        {"publish": {"channel": "rom:1", "data": 1}},
        {"broadcast": {"channels": ["room:2", "live:1"], "data": 1}},
        {"presence": {"channel": "room:1"}, "unknown field": 1},
        {"rpc": {}},
        {"batch": {"commands": []}},
        {"publish": 5},
        {"info": {}, "channels": {}},
        {},
        5,
    ]
    answer = await api.call("batch", commands=commands, parallel=is_parallel)
    assert list(answer) == ["replies"]
    replies = answer["replies"]
    assert replies[0]["publish"]["offset"] == 1
    assert replies[1] == {"error": {"code": 102, "message": "unknown channel"}}
    assert replies[2]["broadcast"]["responses"][1] == {"result": {}}
    assert replies[3] == {"presence": {"presence": {}}}
    assert [reply["error"]["code"] for reply in replies[4:]] == [104, 104, 107, 107, 107, 107]


async def test_the_commands_of_a_batch_run_one_after_the_other(api: Backend) -> None:
    commands: list[Any] = [{"publish": {"channel": "room:1", "data": number}} for number in range(50)]
    commands.append({"history": {"channel": "room:1", "limit": -1}})
    replies = (await api.call("batch", commands=commands))["replies"]
    assert [publication["data"] for publication in replies[-1]["history"]["publications"]] == [*range(50)]
    assert (await api.call("batch", commands=[])) == {"replies": []}


async def test_a_batch_whose_replies_are_too_large_stops_running(api: Backend) -> None:
    await api.gateway.publish("x" * 1_000_000, channel="room:1")
    commands = [{"history": {"channel": "room:1", "limit": 1}}] * 40 + [{"publish": {"channel": "room:1", "data": 1}}]
    replies = (await api.call("batch", commands=commands))["replies"]
    assert [list(reply) for reply in replies] == [["history"]] * 34 + [["error"]] * 7
    assert replies[-1] == {"error": {"code": 106, "message": "limit exceeded"}}
    assert (await api.result("history", channel="room:1"))["offset"] == 1


@pytest.mark.parametrize("commands", [None, 5, "x", {"publish": {}}])
async def test_a_batch_without_a_list_is_a_bad_request(api: Backend, commands: object) -> None:
    assert await api.error("batch", commands=commands) == 107
    assert await api.error("batch", commands=[], parallel="yes") == 107


@pytest.mark.parametrize("method", ["rpc", "map_publish", "shared_poll_publish", "x/y", "PUBLISH", "gateways"])
async def test_an_unknown_method_has_a_code(api: Backend, method: str) -> None:
    assert await api.error(method) == 104


# What fails before a method runs


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'"x"', {}, 400),
        (b'{"channel":"room:1","data":NaN}', {}, 400),
        (b'{"channel":"room:1","data":1e999}', {}, 400),
        (b'{"channel":"room:1","data":' + b"9" * 5000 + b"}", {}, 400),
        (b'{"channel":"room:1","data":' + b"[" * 300 + b"]" * 300 + b"}", {}, 400),
        (b'{"channel":"room:1","data":' + b"[" * 200_000 + b"]" * 200_000 + b"}", {}, 400),
        (b'{"channel":"room:1","data":"\xff"}', {}, 400),
        (b'{"channel":"room:1","data":"\\ud800"}', {}, 400),
        (b'{"channel":"room:1","data":"' + b"x" * 2**20 + b'"}', {}, 413),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"x-api-key": "other"}, 401),
        (b"{}", {"x-api-key": ""}, 401),
    ],
)
async def test_a_request_that_cannot_be_read(api: Backend, body: bytes, headers: dict[str, str], status: int) -> None:
    own = {**KEY, "content-type": "application/json", **headers}
    for method in ("publish", "batch", "unknown"):
        response = await api.http.post(f"/api/{method}", content=body, headers=own)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        same = await api.http.post("/send", content=body, headers=own)
        assert (same.status_code, same.json()) == (response.status_code, response.json())


async def test_another_method_of_http_is_not_allowed(api: Backend) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD"):
        response = await api.http.request(method, "/api/publish", headers=KEY)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_without_a_key_in_the_settings_only_local_callers_are_answered() -> None:
    async with served(Gateway(local_access=True)) as backend:
        assert (await backend.http.post("/api/info", json={})).status_code == 200
        forwarded = {"x-forwarded-for": "1.2.3.4"}
        assert (await backend.http.post("/api/info", json={}, headers=forwarded)).status_code == 403
    async with served(Gateway(local_access=False)) as backend:
        assert (await backend.http.post("/api/info", json={}, headers=KEY)).status_code == 403


@pytest.mark.parametrize("path", ["/api/info", "/send"])
async def test_a_key_stands_in_one_of_three_headers(api: Backend, path: str) -> None:
    async def status(*headers: tuple[str, str], query: str = "") -> int:
        body = {"message": "hi", "channel": "live:1"}
        return (await api.http.post(path + query, json=body, headers=list(headers))).status_code

    for accepted in ("Bearer secret", "bearer secret", "apikey secret", "APIKEY  secret"):
        assert await status(("authorization", accepted)) == 200
    assert await status(("x-api-key", "secret")) == 200
    assert await status(("x-api-key", "of a proxy"), ("authorization", "Bearer secret")) == 200
    assert await status(("x-api-key", "secret"), ("authorization", "Basic abc")) == 200
    for refused in ("secret", "Basic secret", "apikey", "apikey other", "apikeysecret"):
        assert await status(("authorization", refused)) == 401
    assert await status(("x-api-key", "secret"), ("x-api-key", "secret")) == 401
    assert await status(("x-api-key", "secret"), ("x-api-key", "other")) == 401
    assert await status(("authorization", "apikey secret"), ("authorization", "apikey secret")) == 401
    assert await status(("x-api-key", "Bearer secret")) == 401
    for query in ("?api_key=secret", "?apikey=secret", "?x-api-key=secret", "?key=secret"):
        assert await status(query=query) == 401


async def test_the_rate_counts_each_publication_and_command() -> None:
    async with called(Gateway(api_key="secret", send_rate=0.001, send_burst=4)) as api:
        commands = [{"publish": {"channel": "a", "data": 1}}, {"broadcast": {"channels": ["a", "b", "c"], "data": 1}}]
        replies = (await api.call("batch", commands=[*commands, {"info": {}}]))["replies"]
        assert replies[0] == {"publish": {}}
        assert replies[1]["broadcast"]["responses"] == [{"result": {}}] * 3
        assert replies[2] == {"error": {"code": 111, "message": "too many requests"}}
        response = await api.http.post("/api/info", json={}, headers=KEY)
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")


async def test_a_gateway_that_does_not_run_answers_as_send_does() -> None:
    async with called(Gateway(api_key="secret")) as api:
        await api.gateway.stop()
        response = await api.http.post("/api/publish", json={"channel": "a", "data": 1}, headers=KEY)
        same = await api.http.post("/send", json={"channel": "a", "message": 1}, headers=KEY)
        assert (response.status_code, response.json()) == (same.status_code, same.json())
        assert response.status_code == 409


async def test_an_error_is_logged_with_its_reason_and_without_secrets(
    api: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "wsgateway"):
        await api.error("publish", channel="rom:1", data="confidential")
        await api.error("subscribe", user="ann", channel="live:1", session=["hush"])
    assert 'server API: publish: error 102, there is no channel "rom:1", did you mean "room:*"?' in caplog.text
    assert "server API: subscribe: error 107, session: use text" in caplog.text
    assert not {word for word in ("secret", "hush", "confidential") if word in caplog.text}


async def test_the_api_works_below_a_prefix() -> None:
    gateway = Gateway(api_key="secret")
    app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url, httpx.AsyncClient(base_url=f"{url}/live") as http:
        backend = Backend(http, gateway, url)
        assert await backend.result("publish", channel="a", data=1) == {}
        assert await backend.error("rpc") == 104
        response = await http.post(f"{url}/api/publish", json={}, headers=KEY)
        assert response.status_code == 404


async def test_the_description_is_valid_and_complete(api: Backend) -> None:
    assert (await api.http.get("/openapi.json")).status_code == 401
    document = (await api.http.get("/openapi.json", headers=KEY)).json()
    validate(document)
    assert document["paths"].keys() == {"/send", *(f"/api/{name}" for name in METHODS)}
    assert {field for method in METHODS.values() for field in method.fields} == FIELDS.keys()


async def test_answers_are_as_described(api: Backend) -> None:
    document = (await api.http.get("/openapi.json", headers=KEY)).json()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("publish", {"channel": "room:1", "data": 1}),
        ("publish", {"channel": "rom:1", "data": 1}),
        ("broadcast", {"channels": ["room:1", "live:1", "rom:1"], "data": 1}),
        *[(name, {"user": "nobody", "channel": "live:1"}) for name in ("subscribe", "unsubscribe", "disconnect")],
        *[(name, {"channel": "room:1", "limit": 5}) for name in ("history", "presence", "presence_stats")],
        *[(name, {}) for name in ("channels", "info")],
        ("batch", {"commands": [{"publish": {"channel": "room:1", "data": 1}}, {"rpc": {}}]}),
        ("batch", {}),
    ]
    for name, fields in calls:
        response = document["paths"][f"/api/{name}"]["post"]["responses"]["200"]
        schema = response["content"]["application/json"]["schema"]
        OAS31Validator({**schema, "components": document["components"]}).validate(await api.call(name, **fields))


def test_the_api_has_no_path_in_common_with_rest() -> None:
    paths = {f"/api/{name}" for name in METHODS}
    assert not paths & {operation.path for operation in OPERATIONS}
    assert not {path for path in paths if any(operation.path.startswith(f"{path}/") for operation in OPERATIONS)}


# Several processes


class Cluster:
    """The nodes of a gateway, and a backend at each."""

    def __init__(self, found: Nodes, backends: list[Backend]) -> None:
        self.nodes = found
        self.backends = backends


@pytest.fixture
async def cluster(tmp_path: Any) -> AsyncIterator[Cluster]:
    async with nodes(f"ipc://{tmp_path}/ipc", channels=CHANNELS, api_key="secret") as found:
        clients = [httpx.AsyncClient(base_url=url) for url in found.urls]
        yield Cluster(found, [Backend(*each) for each in zip(clients, found.gateways, found.urls, strict=True)])
        for client in clients:
            await client.aclose()


async def test_a_user_is_reached_in_every_process(cluster: Cluster) -> None:
    one, two = cluster.backends
    devices = [await cluster.nodes.client(node, "user=ann", channels=[]) for node in (0, 1)]
    epoch = (await one.result("publish", channel="room:1", data=1))["epoch"]
    since = {"offset": 0, "epoch": epoch}
    await two.result("subscribe", user="ann", channel="room:1", data={"n": 1}, info=2, recover_since=since)
    for device in devices:
        subscribed = await device.subscribed("room:1")
        assert (subscribed["recovered"], subscribed["reply"]) == (True, {"n": 1})
        assert (await device.receive_json())["message"] == 1
    presence = (await one.result("presence", channel="room:1"))["presence"]
    assert [client["chan_info"] for client in presence.values()] == [2, 2]
    assert await one.result("channels") == {"channels": {"room:1": {"num_clients": 2}}}
    assert await one.result("presence_stats", channel="room:1") == {"num_clients": 2, "num_users": 1}
    local = next(iter(one.gateway.connections)).id
    await two.result("unsubscribe", user="ann", client=local, channel="room:1")
    assert local not in (await two.result("presence", channel="room:1"))["presence"]


async def test_a_choice_is_narrowed_in_another_process(cluster: Cluster) -> None:
    one, two = cluster.backends
    clients = [await cluster.nodes.client(node, "user=ann") for node in (0, 0, 1)]
    first, second = (conn.id for conn in one.gateway.connections)
    await two.result("disconnect", user="bob", client=first)
    await two.result("disconnect", user="ann", client=first, session="other")
    await two.result("disconnect", user="ann", client=first)
    assert await clients[0].closed() == (3503, "force disconnect")
    await two.result("disconnect", user="ann", whitelist=[second])
    assert await clients[2].closed() == (3503, "force disconnect")
    await reached(two.gateway, 0)
    assert [conn.id for conn in one.gateway.connections] == [second]
    await two.result("refresh", user="ann", expire_at=4e9)
    await two.result("refresh", user="ann", client=first, expire_at=5e9)
    assert [conn.expires_at for conn in one.gateway.connections] == [4e9]
    await two.result("refresh", user="ann", expired=True)
    assert await clients[1].closed() == (3005, "connection expired")


async def test_info_counts_in_every_process(cluster: Cluster) -> None:
    one, two = cluster.backends
    client = await cluster.nodes.client(1, "user=ann", channels=["live:1"])
    await client.subscribed("live:1")
    shown = {node["uid"]: node for node in (await one.result("info"))["nodes"]}
    assert list(shown) == [one.gateway.cluster.node, two.gateway.cluster.node]
    counts = [[node[f"num_{name}"] for name in ("clients", "users", "subs", "channels")] for node in shown.values()]
    assert counts == [[0, 0, 0, 0], [1, 1, 1, 1]]


async def test_channels_of_another_process_are_listed_page_by_page(cluster: Cluster) -> None:
    one, two = cluster.backends
    found = {f"live:{number:05}" for number in range(2 * PAGE + 5)}
    for start in range(0, len(found), 100):
        client = await cluster.nodes.client(1, "", channels=sorted(found)[start : start + 100])
        await client.subscribed(sorted(found)[min(start + 99, len(found) - 1)])
    assert len(two.gateway.local_channels) == len(found)
    assert (await one.result("channels", pattern="live:*"))["channels"].keys() == found

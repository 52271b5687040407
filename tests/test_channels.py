"""Channels end to end on both transports: subscriptions, history, members, and `wsgateway.v1`."""

import gc
import json
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from websockets.typing import Subprotocol

from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import EVERYBODY, Event, Gateway, HandshakeEvent, MessageEvent, Refused, SubscribeEvent, UnsubscribeEvent
from wsgateway.listeners.event import ChannelEvent
from wsgateway.testing import Client, RecordingListener


class Rooms(RecordingListener):
    """Lets everybody into rooms whose name does not begin with `secret`."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.conn.query.get("user")
        if event.conn.user == "ann":
            event.channels = ["user:ann"]

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        self.record("on_subscribe", event.channel)
        if event.channel.startswith("room:secret"):
            raise Refused(403, "not your room")
        event.info = event.message or None

    async def on_unsubscribe(self, event: UnsubscribeEvent) -> None:
        self.record("on_unsubscribe", (event.channel, event.code))


class V1(Client):
    """A client of `wsgateway.v1`."""

    def __init__(self, url: str, query: str = "", **options: Any) -> None:
        super().__init__(url, f"/ws?{query}", subprotocols=[Subprotocol("wsgateway.v1")], **options)

    async def tell(self, **command: Any) -> None:
        await self.send(json.dumps(command))

    async def ask(self, **command: Any) -> Any:
        await self.tell(**command)
        return await self.receive_json()


CHANNELS: Any = {
    "room:*": {"history": 5, "clients": ["subscribe", "publish"], "presence": True},
    "user:*": {},
    "price:*": {"public": True, "history": 10, "keep": "last"},
}


@pytest.fixture(params=[OwnServer(), PlainUvicorn()], ids=lambda server: server.name)
def server(request: pytest.FixtureRequest) -> Serve:
    made: Serve = request.param
    return made


@asynccontextmanager
async def served(server: Serve, listener: object = Rooms, **options: Any) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(listener=listener, channels=CHANNELS, **options)
    async with server(gateway) as url:
        yield gateway, url


async def test_a_client_subscribes_publishes_and_recovers_what_it_missed(server: Serve) -> None:
    listener = Rooms()
    async with served(server, listener) as (gateway, url):
        async with V1(url, "user=ann") as ann:
            assert await ann.receive_json() == {"subscribed": "user:ann", "recovered": False}
            answer = await ann.ask(subscribe="room:1", data={"nick": "A"}, id=1)
            at = answer.pop("at")
            assert answer == {"subscribed": "room:1", "recovered": False, "members": [], "id": 1}
            assert at.endswith(":0")
            joined = await ann.receive_json()
            assert joined == {
                "channel": "room:1",
                "joined": {"id": joined["joined"]["id"], "user": "ann", "info": {"nick": "A"}},
            }
            await ann.tell(channel="room:1", message={"text": "hi"}, id=2)
            first = await ann.receive_json()
            assert first["message"] == {"text": "hi"}
            assert first["from"]["user"] == "ann"
            assert await ann.receive_json() == {"id": 2, "at": first["at"]}
        await listener.wait_for("on_client_close")
        assert listener.events[-3:-1] == [("on_unsubscribe", ("user:ann", 1000)), ("on_unsubscribe", ("room:1", 1000))]
        for number in range(3):
            sent = await gateway.publish(number, channel="room:1")
            assert sent.recipients is None
        async with V1(url, "user=bob") as bob:
            answer = await bob.ask(subscribe="room:1", since=first["at"])
            assert answer["recovered"] is True
            assert answer["at"] == first["at"]
            assert [(await bob.receive_json())["message"] for _ in range(3)] == [0, 1, 2]


async def test_a_client_is_refused(server: Serve) -> None:
    async with served(server) as (_, url), V1(url) as client:
        assert await client.ask(subscribe="room:secret", id=1) == {
            "refused": "room:secret",
            "status": 403,
            "reason": "not your room",
            "id": 1,
        }
        answer = await client.ask(subscribe="rom:1")
        assert (answer["refused"], answer["status"]) == ("rom:1", 404)
        assert "room:*" not in answer["reason"]  # a client learns no names of namespaces
        answer = await client.ask(message="to nobody")
        assert (answer["refused"], answer["status"]) == (None, 403)
        answer = await client.ask(channel="room:1", message="not subscribed", id=3)
        assert (answer["refused"], answer["status"], answer["id"]) == ("room:1", 403, 3)
        assert (await client.ask(nonsense=1))["status"] == 400


async def test_a_plain_client_names_its_channel_in_the_url(server: Serve) -> None:
    class Listener(Rooms):
        async def on_message(self, event: MessageEvent) -> None:
            assert event.conn is None or event.channel == "room:1"
            self.record("on_message", event.message)

    async with served(server, Listener) as (gateway, url):
        await gateway.publish("before", channel="room:1")
        async with Client(url, "/ws?channel=room:1&last=5") as client:
            assert await client.receive() == "before"
            await client.send("mine")
            assert await client.receive() == "mine"
            assert (await gateway.send("all", channel="room:1")).at is not None
            assert await client.receive() == "all"
            assert list(gateway.local_channels) == ["room:1"]
            assert await gateway.unsubscribe("room:1", [next(iter(gateway.connections))]) == 1
            assert list(gateway.local_channels) == []


async def test_all_devices_of_a_user_receive_and_are_disconnected(server: Serve) -> None:
    async with (
        served(server) as (gateway, url),
        V1(url, "user=ann") as phone,
        V1(url, "user=ann") as tab,
        V1(url) as other,
    ):
        for client in (phone, tab):
            assert (await client.receive_json())["subscribed"] == "user:ann"
        assert (await gateway.publish("hi", user="ann")).at is None
        assert (await gateway.send("ho", user="ann", name="greeting")).recipients == 2
        for client in (phone, tab):
            assert await client.receive_json() == {"message": "hi"}
            assert await client.receive_json() == {"message": "ho", "name": "greeting"}
        assert await gateway.subscribe("price:x", user="ann") == 2
        assert await gateway.disconnect(user="ann") == 2
        assert (await phone.closed())[0] == 3503
        assert len(gateway.connections) == 1
        assert (await other.ask(subscribe="price:x", id=1))["subscribed"] == "price:x"


@pytest.mark.parametrize("way", ["again", "meanwhile", "everybody", "by the client"])
async def test_a_subscription_of_your_code_that_was_lost_and_then_ended_needs_on_subscribe(way: str) -> None:
    async with served(OwnServer()) as (gateway, url), V1(url) as client:
        assert (await client.ask(subscribe="room:1"))["subscribed"] == "room:1"
        [conn] = gateway.connections
        await client.receive_json()
        assert await gateway.subscribe("room:secret", [conn]) == 1
        assert await gateway.unsubscribe("room:secret", [conn], code=2500) == 1
        match way:
            case "again":
                await client.tell(subscribe="room:secret", id=1)
                while (await client.receive_json()).get("id") != 1:
                    pass
                assert await gateway.unsubscribe("room:secret", [conn]) == 1
            case "meanwhile":
                assert await gateway.unsubscribe("room:secret", [conn]) == 0
            case "everybody":
                assert await gateway.unsubscribe("room:secret", EVERYBODY) == 0
            case _:
                await client.tell(unsubscribe="room:secret")
        await client.tell(subscribe="room:secret", id=2)
        while (answer := await client.receive_json()).get("id") != 2:
            pass
        assert answer["status"] == 403


async def test_a_client_that_could_recover_when_load_was_called_is_refused_if_it_no_longer_can() -> None:
    class Documents(Rooms):
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            await event.load(dict)
            for number in range(6):  # more than the history has
                await event.gateway.publish(number, channel=event.channel)

    async with served(OwnServer(), Documents) as (gateway, url), V1(url) as client:
        at = (await gateway.publish("old", channel="room:1")).at
        answer = await client.ask(subscribe="room:1", since=at, id=1)
        assert (answer["refused"], answer["status"]) == ("room:1", 503)  # else it would start over without a state


@pytest.mark.parametrize("name", ["open", "close", "subscribed", "left", "error", "base64"])
async def test_a_client_cannot_send_an_event_of_the_gateway_itself(name: str) -> None:
    async with served(OwnServer()) as (gateway, url), V1(url) as client:
        assert (await client.ask(message="hi", name=name))["status"] == 400
        with pytest.raises(ValueError, match="another name"):
            await gateway.send("hi", name=name)


async def test_a_client_that_subscribes_and_unsubscribes_lets_no_hooks_wait_without_limit() -> None:
    class Listener(Rooms):
        async def on_first_subscribe(self, event: ChannelEvent) -> None:
            self.record("first", event.channel)
            await anyio.sleep(0.5)  # a hook that is slower than the client

        async def on_last_unsubscribe(self, event: ChannelEvent) -> None:
            self.record("last", event.channel)

        async def on_stop(self, event: Event) -> None:
            self.record("on_stop", None)

    listener = Listener()
    with anyio.fail_after(20):
        async with served(OwnServer(), listener) as (_, url), V1(url, max_queue=None) as client:
            for _ in range(5):
                await client.tell(subscribe="room:1")
                await client.tell(unsubscribe="room:1")
            await client.tell(subscribe="room:2")
            await listener.wait_for("first", 2)
    changes = [event for event in listener.events if event[0] in ("first", "last", "on_stop")]
    assert changes == [
        ("first", "room:1"),
        ("last", "room:1"),
        ("first", "room:2"),
        ("last", "room:2"),
        ("on_stop", None),
    ]


@pytest.mark.parametrize("query", ["", "channel=room:1&"])
@pytest.mark.parametrize("way", ["user", "everybody"])
async def test_a_subscription_that_was_ended_while_on_subscribe_ran_does_not_begin(query: str, way: str) -> None:
    asked, ended = anyio.Event(), anyio.Event()

    class Slow(Rooms):
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            asked.set()
            await ended.wait()

    async with served(OwnServer(), Slow) as (gateway, url), anyio.create_task_group() as tasks:

        async def end() -> None:
            await asked.wait()
            who: Any = {"user": "bob"} if way == "user" else {"connections": EVERYBODY}
            assert await gateway.unsubscribe("room:1", **who) == 0
            ended.set()

        tasks.start_soon(end)
        if query:
            async with Client(url, f"/ws?{query}user=bob") as client:
                assert (await client.closed())[0] == 1013
        else:
            async with V1(url, "user=bob") as client:
                assert (await client.ask(subscribe="room:1"))["status"] == 503
                assert (await client.ask(subscribe="room:1"))["subscribed"] == "room:1"


async def test_nothing_is_remembered_of_a_client_that_leaves_after_it_has_lost_its_only_subscription() -> None:
    listener = Rooms()
    async with served(OwnServer(), listener) as (gateway, url):
        async with V1(url, "user=ann") as client:
            assert (await client.receive_json())["subscribed"] == "user:ann"
            await gateway.unsubscribe("user:ann", user="ann", code=2500)
            alive = weakref.ref(next(iter(gateway.connections)))
        await listener.wait_for("on_client_close")
        listener.events.clear()
        gc.collect()
        assert alive() is None


async def test_a_token_may_come_as_the_first_object(server: Serve) -> None:
    class Listener(Rooms):
        async def on_handshake(self, event: HandshakeEvent) -> None:
            if event.token != "secret":
                raise Refused(401, "log in first")
            event.conn.user = "ann"

    async with served(server, Listener) as (gateway, url):
        async with V1(url, "auth=first&channel=room:1&channel=room:secret") as client:
            assert len(gateway.connections) == 0
            await client.tell(token="secret")
            assert (await client.receive_json())["subscribed"] == "room:1"
            assert (await client.receive_json())["joined"]["user"] == "ann"
            assert (await client.receive_json())["refused"] == "room:secret"
        async with V1(url, "auth=first") as client:
            assert (await client.ask(token="guess"))["status"] == 401
            assert (await client.closed())[0] == 3500
        async with V1(url, "auth=first") as client:
            await client.tell(message="hi")
            assert (await client.closed())[0] == 3501

"""The hooks of subscriptions, end to end: which clients may subscribe, errors, and one call of `on_unsubscribe` for
each subscription."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from websockets.exceptions import InvalidStatus

from tests.leftovers import assert_nothing_is_left
from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.test_channels import CHANNELS, V1
from wsgateway import EVERYBODY, ChannelError, Gateway, HandshakeEvent, Refused, SubscribeEvent, testing
from wsgateway.testing import Client, RecordingListener

BOTH: tuple[Serve, ...] = (OwnServer(), PlainUvicorn())


class Recorder(RecordingListener):
    """Records every hook about subscriptions."""

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        self.record("on_subscribe", event.channel)

    async def on_unsubscribe(self, event: Any) -> None:
        self.record("on_unsubscribe", (event.channel, event.code))

    async def on_first_subscribe(self, event: Any) -> None:
        self.record("on_first_subscribe", event.channel)

    async def on_last_unsubscribe(self, event: Any) -> None:
        self.record("on_last_unsubscribe", event.channel)


def made(listener: object, **options: Any) -> Gateway:
    return Gateway(listener=listener, channels=CHANNELS, **options)


# Which clients may subscribe


class Refusing:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        raise Refused(418, "a teapot: \ud800")


class Raising:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        raise ZeroDivisionError


class Hanging:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        await anyio.sleep_forever()


class Blocking:
    def on_subscribe(self, event: SubscribeEvent) -> None:
        raise Refused(403, "not here")


class WrongReply:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        event.reply = object()


class WrongInfo:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        event.info = {"nan": float("nan")}


class LoadingNothing:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        await event.load(dict)


class HooklessForSubscriptions:
    async def on_message(self, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("listener", "channel", "status"),
    [
        (Refusing, "room:1", 418),
        (Raising, "room:1", 500),
        (Hanging, "room:1", 503),
        (Blocking, "room:1", 403),
        (WrongReply, "room:1", 500),
        (WrongInfo, "room:1", 500),
        (LoadingNothing, "user:1", 500),
        (HooklessForSubscriptions, "room:1", 403),
        (Recorder, "rom:1", 404),
        (Recorder, "room:*", 400),
        (Recorder, "room: 1", 400),
        (Recorder, "room:\n", 400),
        (Recorder, "room:" + "ü" * 126, 400),
    ],
)
@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_a_client_is_refused_and_nothing_is_left(
    listener: Callable[[], object], channel: str, status: int, server: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = made(listener, hook_timeout=0.3)
    async with server(gateway) as url:
        async with V1(url) as client:
            answer = await client.ask(subscribe=channel, id=7)
            assert (answer["refused"], answer["status"], answer["id"]) == (channel, status, 7)
            answer = await client.ask(subscribe="price:x", id=8)
            assert (answer["subscribed"], answer["id"]) == ("price:x", 8)
            (conn,) = gateway.connections
            assert conn.channels == ("price:x",)
        with pytest.raises(InvalidStatus) as refused:
            async with Client(url, f"/ws?channel={quote(channel)}"):
                pass
        assert refused.value.response.status_code == status
        if listener is HooklessForSubscriptions:
            assert "on_subscribe" in caplog.text
        if status == 404:
            assert 'did you mean "room:*"' in caplog.text
    assert_nothing_is_left(gateway)


async def test_a_name_of_255_bytes_is_one_and_a_longer_one_is_none() -> None:
    gateway = made(Recorder)
    async with testing.serve(gateway) as url, V1(url) as client:
        longest = "room:" + "ü" * 125
        assert (await client.ask(subscribe=longest))["subscribed"] == longest
        assert (await client.receive_json())["joined"]
        assert (await client.ask(subscribe=longest + "x"))["status"] == 400


REPLIES: list[Any] = ["text", {"a": [1, None]}, b"\x00\xff", None]


class Replying:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        event.reply = REPLIES[event.message]


class ReplyingInThread:
    def on_subscribe(self, event: SubscribeEvent) -> None:
        event.reply = REPLIES[event.message]


@pytest.mark.parametrize("listener", [Replying, ReplyingInThread])
async def test_a_reply_and_the_data_of_the_client(listener: type) -> None:
    gateway = Gateway(listener)
    async with testing.serve(gateway) as url, V1(url) as client:
        for number, (key, value) in enumerate((("reply", "text"), ("reply", {"a": [1, None]}), ("base64", "AP8="))):
            answer = await client.ask(subscribe=f"c{number}", data=number)
            assert answer == {"subscribed": f"c{number}", "recovered": False, key: value}
        assert await client.ask(subscribe="c4", data=3) == {"subscribed": "c4", "recovered": False}


async def test_info_is_what_it_was_when_the_hook_returned() -> None:
    infos: list[Any] = []

    class Listener:
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            event.info = {"nick": "A"}
            infos.append(event.info)

    gateway = made(Listener)
    async with testing.serve(gateway) as url, V1(url) as ann:
        await ann.ask(subscribe="room:1")
        infos[0]["nick"] = object()
        assert (await ann.receive_json())["joined"]["info"] == {"nick": "A"}
        async with V1(url) as bob:
            assert (await bob.ask(subscribe="room:1"))["members"][0]["info"] == {"nick": "A"}
            await ann.receive_json()
            infos[1]["nick"] = object()
        assert (await ann.receive_json())["left"]["info"] == {"nick": "A"}
        await ann.tell(channel="room:1", message=1)
        assert (await ann.receive_json())["from"]["info"] == {"nick": "A"}


# load


class Loading:
    """Loads a state while `during` happens."""

    def __init__(self, during: int = 0, *, is_async: bool = True) -> None:
        self.during = during
        self.calls = 0
        self.is_async = is_async

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        await event.load(self.state if self.is_async else self.state_in_thread, event)
        if not self.calls:  # nothing was loaded
            await self.publish(event)

    async def publish(self, event: SubscribeEvent) -> None:
        for number in range(self.during):
            await event.gateway.publish(f"during {number}", channel=event.channel)

    async def state(self, event: SubscribeEvent) -> object:
        self.calls += 1
        await self.publish(event)
        return {"state": 1}

    def state_in_thread(self, event: SubscribeEvent) -> object:
        self.calls += 1
        for number in range(self.during):
            event.gateway.publish_from_thread(f"during {number}", channel=event.channel)
        return {"state": 1}


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_loaded_state_and_what_was_published_meanwhile(is_async: bool) -> None:
    listener = Loading(3, is_async=is_async)
    gateway = made(listener)
    async with testing.serve(gateway) as url, V1(url) as client:
        await gateway.publish("before", channel="room:1")
        answer = await client.ask(subscribe="room:1", last=5)
        assert (answer["recovered"], answer["reply"], answer["at"][-2:]) == (False, {"state": 1}, ":1")
        for number in range(3):
            assert (await client.receive_json())["message"] == f"during {number}"
        assert (await client.receive_json())["joined"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_too_much_published_during_load_is_503(is_async: bool) -> None:
    gateway = made(Loading(6, is_async=is_async))  # of 5 kept
    async with testing.serve(gateway) as url, V1(url) as client:
        assert (await client.ask(subscribe="room:1", id=1))["status"] == 503
        with pytest.raises(InvalidStatus):
            async with Client(url, "/ws?channel=user:1"):  # without history
                pass
        async with Client(url, "/ws?channel=room:1") as plain:
            assert (await plain.closed())[0] == 1013


async def test_a_client_that_can_recover_loads_nothing() -> None:
    listener = Loading()
    gateway = made(listener)
    async with testing.serve(gateway) as url, V1(url) as client:
        at = (await gateway.publish(0, channel="room:1")).at
        await gateway.publish(1, channel="room:1")
        answer = await client.ask(subscribe="room:1", since=at)
        assert (answer["recovered"], "reply" in answer, listener.calls) == (True, False, 0)
        assert (await client.receive_json())["message"] == 1


async def test_a_client_that_could_recover_until_the_hook_went_on_is_503_and_does_not_start_from_nothing() -> None:
    gateway = made(Loading(6))
    async with testing.serve(gateway) as url, V1(url) as client:
        at = (await gateway.publish(0, channel="room:1")).at
        assert (await client.ask(subscribe="room:1", since=at))["status"] == 503
        answer = await client.ask(subscribe="room:1", since=at)
        assert (answer.get("status"), answer.get("reply")) == (503, None)  # `load` publishes six again


async def test_a_load_that_fails_and_is_caught_is_none() -> None:
    class Listener:
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            try:
                await event.load(lambda: 1 / 0)
            except ZeroDivisionError:
                event.reply = "fallback"

    gateway = made(Listener)
    async with testing.serve(gateway) as url, V1(url) as client:
        await gateway.publish("kept", channel="room:1")
        assert (await client.ask(subscribe="room:1", last=1))["reply"] == "fallback"
        assert (await client.receive_json())["message"] == "kept"


# Every end, exactly once


async def end_by_client(gateway: Gateway, client: V1) -> int:
    await client.tell(unsubscribe="room:1")
    return 2000


async def end_by_code(gateway: Gateway, client: V1) -> int:
    assert await gateway.unsubscribe("room:1", EVERYBODY, code=2400, reason="moved") == 1
    return 2400


async def end_by_connection(gateway: Gateway, client: V1) -> int:
    (conn,) = gateway.connections
    assert await conn.unsubscribe("room:1")
    return 2000


async def end_by_close_of_the_client(gateway: Gateway, client: V1) -> int:
    await client.socket.close(4001)
    return 4001


async def end_by_close_of_the_server(gateway: Gateway, client: V1) -> int:
    await gateway.disconnect(EVERYBODY)
    return 3503


async def end_by_a_broken_connection(gateway: Gateway, client: V1) -> int:
    client.socket.transport.abort()
    return 1006


async def end_by_stop(gateway: Gateway, client: V1) -> int:
    await gateway.stop()
    return 1012


ENDS: list[Any] = [
    end_by_client,
    end_by_code,
    end_by_connection,
    end_by_close_of_the_client,
    end_by_close_of_the_server,
    end_by_a_broken_connection,
    end_by_stop,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_every_end_is_told_once_before_the_close(end: Any, server: Serve) -> None:
    listener = Recorder()
    gateway = made(listener)
    async with server(gateway) as url:
        async with V1(url) as client:
            await client.ask(subscribe="room:1")
            code = await end(gateway, client)
            await listener.wait_for("on_unsubscribe")
            await listener.wait_for("on_last_unsubscribe")
        await listener.wait_for("on_client_close")
    names = [name for name, _ in listener.events]
    assert [value for name, value in listener.events if name == "on_unsubscribe"] == [("room:1", code)]
    assert names.index("on_unsubscribe") < names.index("on_client_close")
    assert names.count("on_first_subscribe") == names.count("on_last_unsubscribe") == 1
    assert_nothing_is_left(gateway)


async def test_nothing_is_told_of_a_subscription_that_never_began() -> None:
    """A client that disconnects while `on_subscribe` runs, and one that is closed."""
    release = anyio.Event()

    class Listener(Recorder):
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            self.record("on_subscribe", event.channel)
            await release.wait()

    listener = Listener()
    gateway = made(listener)
    async with testing.serve(gateway) as url:
        async with V1(url) as one, V1(url) as two:
            await one.tell(subscribe="room:1")
            await two.tell(subscribe="room:1")
            await listener.wait_for("on_subscribe", 2)
            await two.tell(unsubscribe="room:1")
            one.socket.transport.abort()
            while len(gateway.connections) > 1:
                await anyio.sleep(0.01)  # a socket that is broken is not told
            assert await gateway.disconnect(EVERYBODY) == 1
            release.set()
            await listener.wait_for("on_client_close", 2)
    assert {name for name, _ in listener.events} == {"on_client_open", "on_subscribe", "on_client_close"}
    assert_nothing_is_left(gateway)


async def test_the_next_message_of_a_client_finds_it_subscribed_and_the_hooks_are_in_order() -> None:
    class Listener(Recorder):
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            await asyncio.sleep(0)  # so that the hook does not end at once
            self.record("on_subscribe", event.channel)

        async def on_message(self, event: Any) -> None:
            await asyncio.sleep(0)  # so that the hook does not end at once
            self.record("on_message", (event.conn.channels, event.message))

    listener = Listener()
    gateway = made(listener)
    async with testing.serve(gateway) as url, V1(url) as client:
        await client.tell(subscribe="room:1", id=1)
        await client.tell(channel="room:1", message="a", id=2)
        await client.tell(unsubscribe="room:1", id=3)
        await client.tell(channel="room:1", message="b", id=4)
        await client.tell(subscribe="room:1", id=5)
        await client.tell(unsubscribe="room:1", id=6)
        told: list[Any] = []
        while not told or told[-1].get("id") != 6:
            told.append(await client.receive_json())
        assert [one["id"] for one in told if "id" in one] == [1, 2, 3, 4, 5, 6]
        assert [one["message"] for one in told if "message" in one] == ["a"]
        await listener.wait_for("on_unsubscribe", 2)
    in_inbox = ("on_subscribe", "on_message", "on_unsubscribe")
    assert [one for one in listener.events if one[0] in in_inbox][:5] == [
        ("on_subscribe", "room:1"),
        ("on_message", (("room:1",), "a")),
        ("on_unsubscribe", ("room:1", 2000)),
        ("on_subscribe", "room:1"),
        ("on_unsubscribe", ("room:1", 2000)),
    ]
    assert listener.count("on_first_subscribe") == listener.count("on_last_unsubscribe") == 2


async def test_first_and_last_alternate_when_a_hook_subscribes_others() -> None:
    class Listener(Recorder):
        async def on_unsubscribe(self, event: Any) -> None:
            await super().on_unsubscribe(event)
            await event.gateway.subscribe(
                "user:b", [conn for conn in event.gateway.connections if conn is not event.conn]
            )

        async def on_last_unsubscribe(self, event: Any) -> None:
            await super().on_last_unsubscribe(event)
            assert "user:b" not in event.gateway.local_channels

    listener = Listener()
    gateway = made(listener)
    async with testing.serve(gateway) as url, V1(url) as one, V1(url) as two:
        await one.ask(subscribe="user:b")
        await one.ask(unsubscribe="user:b")
        assert (await two.receive_json())["subscribed"] == "user:b"
    pairs = [name for name, _ in listener.events if name in ("on_first_subscribe", "on_last_unsubscribe")]
    assert len(pairs) >= 4
    assert pairs == ["on_first_subscribe", "on_last_unsubscribe"] * (len(pairs) // 2)
    assert not listener.count("on_error")
    assert_nothing_is_left(gateway)


# Subscribing again


async def test_a_subscription_of_the_application_may_begin_again_only_until_it_ends_for_good() -> None:
    listener = Recorder()
    gateway = made(listener)
    async with testing.serve(gateway) as url, V1(url) as client:
        await client.ask(unsubscribe="room:x")
        (conn,) = gateway.connections
        for is_subscribed_meanwhile in (True, False):
            await conn.subscribe("user:1")
            assert await conn.unsubscribe("user:1", 2500)
            if is_subscribed_meanwhile:
                assert (await client.receive_json())["subscribed"] == "user:1"
                assert (await client.receive_json())["code"] == 2500
                assert (await client.ask(subscribe="user:1"))["subscribed"] == "user:1"
                assert listener.count("on_subscribe") == 0
                assert await gateway.unsubscribe("user:1", [conn]) == 1
            else:
                assert await gateway.unsubscribe("user:1", EVERYBODY) == 0  # it has not subscribed again yet
                await client.receive_json()
            await client.receive_json()
            await client.ask(subscribe="user:1")
            assert listener.count("on_subscribe") == 1
            await client.ask(unsubscribe="user:1")
            listener.events.clear()
        await conn.subscribe("user:1")
        await conn.unsubscribe("user:1", 2500)
    assert_nothing_is_left(gateway)


async def test_a_client_may_have_128_channels() -> None:
    gateway = made(Recorder, max_channels=128)
    async with testing.serve(gateway) as url, V1(url) as client:
        for number in range(128):
            assert (await client.ask(subscribe=f"user:{number}"))["subscribed"]
        assert (await client.ask(subscribe="user:x", id=1))["status"] == 403
        assert (await client.ask(subscribe="user:5", id=2))["subscribed"] == "user:5"
        (conn,) = gateway.connections
        with pytest.raises(ChannelError):
            await conn.subscribe("user:x")
        assert conn.channels == tuple(f"user:{number}" for number in range(128))
        await client.ask(unsubscribe="user:0")
        assert (await client.ask(subscribe="user:x", id=3))["subscribed"] == "user:x"
        for names in (129, 5000):
            query = "&".join(f"channel=user:{number}" for number in range(names))
            with pytest.raises(InvalidStatus) as refused:
                async with Client(url, f"/ws?{query}"):
                    pass
            assert refused.value.response.status_code in (403, 414, 431)
    assert_nothing_is_left(gateway)


# on_handshake


def handshaking(change: Callable[[HandshakeEvent], None]) -> RecordingListener:
    class Listener(RecordingListener):
        async def on_handshake(self, event: HandshakeEvent) -> None:
            change(event)

    return Listener()


def setting(name: str, value: Any) -> Callable[[HandshakeEvent], None]:
    return lambda event: setattr(event if name == "channels" else event.conn, name, value)


def raising(change: Callable[[HandshakeEvent], None]) -> Callable[[HandshakeEvent], None]:
    """A hook that does it, and expects an error."""

    def with_error(event: HandshakeEvent) -> None:
        with pytest.raises((ValueError, TypeError)):
            change(event)
        raise Refused(418)

    return with_error


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (setting("channels", "room:1"), 500),
        (setting("channels", ["rom:1"]), 500),
        (setting("channels", [5]), 500),
        (setting("channels", [[]]), 500),
        (setting("channels", None), 500),
        (setting("channels", [f"room:{number}" for number in range(129)]), 500),
        (setting("user", object()), 500),
        (setting("user", {"id": 1}), 500),
        (setting("user", True), 500),
        (setting("user", b"ann"), 500),
        (setting("user", "\ud800"), 500),
        (raising(setting("user_id", 5)), 418),
        (raising(setting("user_id", None)), 418),
        (raising(setting("user_id", "\ud800")), 418),
    ],
)
async def test_what_on_handshake_may_not_set(
    change: Callable[[HandshakeEvent], None], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = made(handshaking(change))
    async with testing.serve(gateway) as url:
        for path in ("/ws", "/ws?channel=price:x"):
            with pytest.raises(InvalidStatus) as refused:
                async with Client(url, path):
                    pass
            assert refused.value.response.status_code == status
        assert status != 500 or "on_handshake: " in caplog.text
    assert_nothing_is_left(gateway)


UUID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("user", "user_id"), [(None, ""), ("ann", "ann"), (7, "7"), (0, "0"), (UUID, str(UUID)), ("", "")]
)
async def test_the_user_id_is_text_and_fixed(user: Any, user_id: str) -> None:
    gateway = made(handshaking(setting("user", user)))
    async with testing.serve(gateway) as url, Client(url) as client:
        (conn,) = gateway.connections
        assert conn.user_id == user_id
        with pytest.raises(AttributeError):
            conn.user_id = "other"
        if user_id:
            await gateway.publish("yours", user=user_id)
            assert await client.receive() == "yours"


async def test_the_hook_may_read_the_user_id_as_soon_as_it_has_set_the_user() -> None:
    def check(event: HandshakeEvent) -> None:
        assert event.conn.user_id == ""
        event.conn.user = 7
        event.channels = [f"user:{event.conn.user_id}"]

    gateway = made(handshaking(check))
    async with testing.serve(gateway) as url, Client(url):
        (conn,) = gateway.connections
        assert conn.channels == ("user:7",)
        conn.user = "other"
        assert conn.user_id == "7"


async def test_the_hook_finds_the_token_and_the_scope_and_names_channels() -> None:
    def check(event: HandshakeEvent) -> None:
        assert event.token == "secret"
        assert event.scope["type"] == "websocket"
        event.conn.user, event.conn.user_id = object(), "ann"
        event.channels = iter(["price:x", "user:ann", "price:x"])

    listener = handshaking(check)
    gateway = made(listener)
    async with testing.serve(gateway) as url:
        headers = {"authorization": "bearer  secret"}
        async with V1(url, "channel=price:x&channel=price:y", additional_headers=headers) as client:
            told = [(await client.receive_json())["subscribed"] for _ in range(3)]
            assert told == ["price:x", "user:ann", "price:y"]
            (conn,) = gateway.connections
            assert conn.user_id == "ann"
    assert_nothing_is_left(gateway)

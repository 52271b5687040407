"""A Centrifuge client on a real server: its `connect`, its subscriptions and their recovery, and what it may ask."""

import asyncio
from typing import Any

import pytest

from wsgateway import CloseEvent, Gateway, HandshakeEvent, MessageEvent, OpenEvent, Refused, SubscribeEvent
from wsgateway.testing import Client, RecordingListener, serve

ROOM: Any = {"public": True, "clients": ["subscribe", "publish"], "history": 10, "presence": True}
CHANNELS: Any = {
    "room:*": ROOM,
    "last:*": {**ROOM, "keep": "last", "presence": False},
    "asked:*": {"history": 10},
    "plain:*": {"public": True},
}


def served(listener: object = None, **options: Any) -> Gateway:
    return Gateway(listener, protocols=["plain", "v1", "sse", "centrifuge"], channels=CHANNELS, **options)


def centrifuge(url: str, **options: Any) -> Client:
    return Client(url, protocol="centrifuge", **options)


async def pushes(client: Client, count: int) -> list[dict[str, Any]]:
    return [(await client.receive_json())["push"] for _ in range(count)]


# The first reply


class Welcoming:
    """Sends a message and subscribes the client before it is open."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        self.seen = event.message, event.data
        await event.conn.send("early")
        event.channels = ["room:1", "plain:1"]
        event.reply = {"hello": event.message}

    async def on_client_open(self, event: OpenEvent) -> None:
        await event.conn.send("opened")


async def test_everything_follows_the_reply_to_connect() -> None:
    gateway = served(listener := Welcoming())
    async with serve(gateway) as url, Client(url, "/connection/websocket") as client:
        await client.send_json(
            {"id": 7, "connect": {"data": [1], "name": "js", "version": "5.8", "headers": {"a": "b"}}}
        )
        first = await client.receive_json()
        assert first["id"] == 7
        reply = first["connect"]
        assert reply["data"] == {"hello": [1]}
        assert set(reply["subs"]) == {"room:1", "plain:1", "default"}
        assert reply["subs"]["plain:1"] == reply["subs"]["default"] == {}
        assert (reply["ping"], reply["pong"]) == (25, True)
        assert not {"session", "node", "expires", "ttl"} & reply.keys()
        assert listener.seen == ([1], {"headers": {"a": "b"}, "name": "js", "version": "5.8"})
        (conn,) = gateway.connections
        assert (conn.client, conn.protocol, conn.id) == ("js 5.8", "centrifuge", reply["client"])
        kinds = [(push["channel"], *(push.keys() - {"channel"})) for push in await pushes(client, 3)]
        assert sorted(kinds) == [("default", "pub"), ("default", "pub"), ("room:1", "join")]


async def test_the_name_of_a_client_is_cut() -> None:
    gateway = served()
    async with serve(gateway) as url, Client(url, "/connection/websocket") as client:
        await client.send_json({"id": 1, "connect": {"name": "n" * 100, "version": "v" * 100}})
        await client.receive_json()
        (conn,) = gateway.connections
        assert conn.client == f"{'n' * 16} {'v' * 64}"


class Refusing:
    def __init__(self, refused: Exception) -> None:
        self.refused = refused

    async def on_handshake(self, event: HandshakeEvent) -> None:
        await event.conn.send("early")
        raise self.refused


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(401), 101),
        (Refused(404), 102),
        (Refused(403), 103),
        (Refused(400), 103),
        (Refused(429), 111),
        (Refused(503), 100),
        (RuntimeError("no"), 100),
    ],
    ids=str,
)
async def test_a_refusal_is_one_reply_and_nothing_else(error: Exception, code: int) -> None:
    gateway = served(Refusing(error))
    async with serve(gateway) as url, Client(url, "/connection/websocket") as client:
        await client.send('{"id":1,"connect":{}}\n{"id":2,"ping":{}}')
        assert (await client.receive_json())["error"]["code"] == code
        assert (await client.closed())[0] == 3501
    assert not gateway.connections
    assert sum(gateway.metrics.refusals.values()) == 1


async def test_a_refusal_with_a_close_is_a_close() -> None:
    async with (
        serve(served(Refusing(Refused(403, "not today", close=4001)))) as url,
        Client(url, "/connection/websocket") as client,
    ):
        await client.send_json({"id": 1, "connect": {}})
        assert await client.closed() == (4001, "not today")


class Wanting:
    """Subscribes each client to channels."""

    def __init__(self, *channels: str) -> None:
        self.channels = channels

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.channels = self.channels


async def test_a_channel_that_cannot_exist_ends_the_connect() -> None:
    async with serve(served(Wanting("nowhere"))) as url:
        with pytest.raises(Refused, match="102 unknown channel"):
            async with centrifuge(url):
                pass


async def test_too_many_channels_close_the_client() -> None:
    gateway = served(Wanting("room:1", "room:2"), max_channels=1)
    async with serve(gateway) as url, Client(url, "/connection/websocket") as client:
        await client.send_json({"id": 1, "connect": {}})
        assert await client.closed() == (3505, "channel limit")


# Subscriptions that the server has made


async def test_a_subscription_of_the_server_recovers_in_the_reply_to_connect() -> None:
    gateway = served(Wanting("room:1"))
    async with serve(gateway) as url:
        async with centrifuge(url) as client:
            at = (await client.subscribed("room:1"))["epoch"]
        for number in range(3):
            await gateway.publish(number, channel="room:1")
        async with centrifuge(url, since={"room:1": f"{at}:1"}) as client:
            sub = await client.subscribed("room:1")
            assert (sub["recovered"], sub["was_recovering"], sub["offset"]) == (True, True, 1)
            assert [(each["data"], each["offset"]) for each in sub["publications"]] == [(1, 2), (2, 3)]
        async with centrifuge(url, since={"room:1": "other:1"}) as client:
            sub = await client.subscribed("room:1")
            assert (sub.get("recovered"), sub["was_recovering"], sub["offset"]) == (None, True, 3)
            assert "publications" not in sub


async def test_the_state_of_a_subscription_of_the_server_follows_as_pushes() -> None:
    gateway = served(Wanting("last:1"))
    async with serve(gateway) as url:
        for number in range(3):
            await gateway.publish(number, channel="last:1", key=str(number % 2))
        async with centrifuge(url) as client:
            assert "publications" not in await client.subscribed("last:1")
            assert [push["pub"]["data"] for push in await pushes(client, 2)] == [1, 2]


async def test_a_subscription_that_was_lost_closes_the_client_if_the_server_has_made_it() -> None:
    gateway = served(Wanting("room:1"))
    channels = gateway._parts.channels
    async with serve(gateway) as url, centrifuge(url, channels=["room:2"]) as client:
        await client.subscribed("room:2")
        (conn,) = gateway.connections
        channels.lose(conn, "room:2")
        lost = next(push for push in await pushes(client, 3) if "unsubscribe" in push)
        assert lost == {"channel": "room:2", "unsubscribe": {"code": 2500, "reason": "publications were missed"}}
        channels.lose(conn, "room:1")
        assert await client.closed() == (3010, "insufficient state")


async def test_the_application_subscribes_and_unsubscribes_with_pushes() -> None:
    gateway = served()
    async with serve(gateway) as url, centrifuge(url) as client:
        await gateway.publish("before", channel="room:1")
        (conn,) = gateway.connections
        await conn.subscribe("room:1", since=":0")
        sub, publication = await pushes(client, 2)
        assert sub["subscribe"].keys() == {"recoverable", "positioned", "epoch", "offset"}
        assert publication["pub"]["data"] == "before"
        assert "join" in (await pushes(client, 1))[0]
        with pytest.raises(Refused, match="105"):
            await client.call("subscribe", channel="room:1")
        await conn.unsubscribe("room:1")
        (end,) = await pushes(client, 1)
        assert end == {"channel": "room:1", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}


# Subscriptions of the client


@pytest.mark.parametrize(
    ("offset", "epoch", "recovered", "values"),
    [
        (0, "", None, None),  # the history of 10 has lost what follows it
        (2, "", True, list(range(2, 12))),
        (5, "same", True, list(range(5, 12))),
        (12, "same", True, []),
        (13, "same", None, None),
        (5, "other", None, None),
        (0, "_", None, None),
        (2**63, "same", None, None),
        (-1, "same", None, None),
    ],
)
async def test_a_client_recovers_or_starts_over(
    offset: int, epoch: str, recovered: bool | None, values: list[int] | None
) -> None:
    gateway = served()
    async with serve(gateway) as url, centrifuge(url) as client:
        own = ""
        for number in range(12):
            sent = await gateway.publish(number, channel="room:1")
            own = (sent.at or "").partition(":")[0]
        epoch = own if epoch == "same" else epoch
        sub = await client.call("subscribe", channel="room:1", recover=True, offset=offset, epoch=epoch)
        assert (sub.get("recovered"), sub["was_recovering"], sub["epoch"]) == (recovered, True, own)
        assert sub["offset"] == (offset if recovered else 12)
        if values is None:
            assert "publications" not in sub
        else:
            assert [each["data"] for each in sub["publications"]] == values


async def test_an_invalid_state_never_recovers_not_even_in_an_empty_channel() -> None:
    async with serve(served()) as url, centrifuge(url) as client:
        sub = await client.call("subscribe", channel="room:1", recover=True, offset=0, epoch="_")
        assert "recovered" not in sub
        with pytest.raises(Refused, match="112"):
            await client.call("subscribe", channel="room:2", recover=True, offset=0, epoch="_", flag=2)
        await client.call("subscribe", channel="room:2", recover=True, offset=0, epoch="", flag=2)


async def test_a_channel_of_last_values_answers_with_them() -> None:
    gateway = served()
    async with serve(gateway) as url, centrifuge(url) as client:
        for number in range(3):
            await gateway.publish(number, channel="last:1", key=str(number % 2))
        for asked in ({}, {"recover": True, "offset": 1, "epoch": "other"}):
            sub = await client.call("subscribe", channel="last:1", **asked)
            assert [each["data"] for each in sub["publications"]] == [1, 2]
            assert (sub["offset"], "recovered" in sub) == (3, False)
            await client.call("unsubscribe", channel="last:1")


class Loading:
    """Loads a state, and publishes while it does."""

    def __init__(self) -> None:
        self.calls = 0

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        async def state() -> str:
            self.calls += 1
            await event.gateway.publish("meanwhile", channel=event.channel)
            return "the state"

        await event.load(state)
        event.info = {"role": event.message}


async def test_a_loaded_state_is_the_data_of_the_reply() -> None:
    gateway = served(listener := Loading())
    async with serve(gateway) as url, centrifuge(url) as client:
        sub = await client.call("subscribe", channel="asked:1", data="guest", flag=2, recover=True, offset=9, epoch="x")
        assert (sub["data"], sub.get("recovered"), sub["offset"]) == ("the state", None, 0)
        assert [push["pub"]["data"] for push in await pushes(client, 1)] == ["meanwhile"]
        await client.call("unsubscribe", channel="asked:1")
        sub = await client.call("subscribe", channel="asked:1", recover=True, offset=0, epoch=sub["epoch"])
        assert (sub["recovered"], "data" in sub, listener.calls) == (True, False, 1)
        assert [each["data"] for each in sub["publications"]] == ["meanwhile"]


# Queries


async def test_a_history_is_read_in_pages() -> None:
    gateway = served()
    async with serve(gateway) as url, centrifuge(url) as client:
        for number in range(12):
            await gateway.publish(number, channel="room:1")

        async def read(**asked: Any) -> tuple[list[int], int]:
            answer = await client.call("history", channel="room:1", **asked)
            return [each["data"] for each in answer["publications"]], answer["offset"]

        epoch = (await client.call("history", channel="room:1"))["epoch"]
        assert await read() == await read(limit=0) == ([], 12)
        assert await read(limit=-1) == (list(range(2, 12)), 12)
        assert await read(limit=2) == ([2, 3], 12)
        assert await read(limit=2, since={"offset": 4, "epoch": epoch}) == ([4, 5], 12)
        assert await read(limit=2, since={"offset": 4}) == ([4, 5], 12)
        assert await read(limit=2, since={"offset": 1, "epoch": epoch}) == ([2, 3], 12)  # what is left
        assert await read(limit=3, reverse=True) == ([11, 10, 9], 12)
        assert await read(limit=2, since={"offset": 5, "epoch": epoch}, reverse=True) == ([3, 2], 12)
        for wrong, code in (
            ({"since": {"offset": 1, "epoch": "other"}, "limit": 1}, 112),
            ({"since": {"offset": 1, "epoch": "_"}, "limit": 1}, 112),
            ({"since": {"offset": 1, "epoch": "a b"}, "limit": 1}, 112),
            ({"since": {"offset": 0, "epoch": epoch}, "limit": 1, "reverse": True}, 107),
            ({"since": {"offset": -1, "epoch": epoch}, "limit": 1}, 107),
            ({"limit": "2"}, 107),
        ):
            with pytest.raises(Refused, match=str(code)):
                await client.call("history", channel="room:1", **wrong)
        with pytest.raises(Refused, match="108"):
            await client.call("history", channel="plain:1", limit=1)


async def test_what_is_public_may_be_asked_without_a_subscription_and_nothing_else() -> None:
    async with serve(served(Loading())) as url, centrifuge(url) as client:
        assert await client.call("presence", channel="room:1") == {"presence": {}}
        assert await client.call("presence_stats", channel="room:1") == {"num_clients": 0, "num_users": 0}
        for method, channel, code in (
            ("presence", "plain:1", 103),
            ("presence_stats", "plain:1", 103),
            ("history", "asked:1", 103),
            ("presence", "nowhere", 102),
            ("history", "", 107),
            ("presence", "default", 102),
            ("history", "default", 102),
        ):
            with pytest.raises(Refused, match=str(code)):
                await client.call(method, channel=channel)
        await client.call("subscribe", channel="asked:1")
        assert (await client.call("history", channel="asked:1", limit=-1))["offset"] == 1


async def test_members_have_the_info_that_the_hook_has_set() -> None:
    class Naming:
        async def on_handshake(self, event: HandshakeEvent) -> None:
            event.conn.user_id = "ann"

    async with serve(served(Naming())) as url, centrifuge(url, channels=["room:1"]) as client:
        await client.subscribed("room:1")
        ident = client.connected["client"]
        assert await client.call("presence", channel="room:1") == {
            "presence": {ident: {"user": "ann", "client": ident}}
        }
        await client.call("publish", channel="room:1", data={"a": 1})
        _, publication = await pushes(client, 2)
        assert publication["pub"]["info"] == {"user": "ann", "client": ident}


@pytest.mark.parametrize("command", [{"subscribe": {"channel": "asked:1"}}, {"rpc": {}}, {"send": {"data": 1}},
                                     {"publish": {"channel": "room:1", "data": 1}}])  # fmt: skip
async def test_a_hook_may_close_the_client(command: dict[str, Any]) -> None:
    class Closing:
        async def on_message(self, event: MessageEvent) -> None:
            raise Refused(403, "enough", close=4001)

        on_subscribe = on_request = on_message

    async with serve(served(Closing())) as url, centrifuge(url) as client:
        await client.send_json(command if "send" in command else {"id": 9, **command})
        assert await client.closed() == (4001, "enough")


# The channel of broadcasts


async def test_broadcasts_have_a_channel_that_is_not_a_real_one() -> None:
    gateway = served(centrifuge_channel="news")
    async with serve(gateway) as url, centrifuge(url) as client:
        await gateway.send({"a": 1})
        await gateway.send("text", name="event")
        await gateway.send(b"bytes")  # which JSON does not carry
        await gateway.send("text", user="nobody")
        first, second = await pushes(client, 2)
        assert first == {"channel": "news", "pub": {"data": {"a": 1}}}
        assert second == {"channel": "news", "pub": {"data": "text", "tags": {"name": "event"}}}
        for method, code in (("subscribe", 105), ("publish", 102), ("history", 102), ("presence", 102)):
            with pytest.raises(Refused, match=str(code)):
                await client.call(method, channel="news", **({"data": 1} if method == "publish" else {}))
        assert await client.call("unsubscribe", channel="news") == {}
        await gateway.send("still")
        assert (await pushes(client, 1))[0]["pub"]["data"] == "still"
        assert gateway.metrics.undeliverable == 1


async def test_without_that_channel_broadcasts_are_not_delivered() -> None:
    gateway = served(centrifuge_channel="")
    async with serve(gateway) as url, centrifuge(url, channels=["plain:1"]) as client:
        await client.subscribed("plain:1")
        assert "default" not in client.connected.get("subs", {})
        await gateway.send("unheard")
        (conn,) = gateway.connections
        await conn.send("unheard")
        await gateway.publish("heard", channel="plain:1")
        assert (await pushes(client, 1))[0] == {"channel": "plain:1", "pub": {"data": "heard"}}
        assert gateway.metrics.undeliverable == 2


async def test_a_namespace_that_contains_the_channel_of_broadcasts_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = Gateway(protocols=["centrifuge"], channels={"*": {"public": True}})
    async with gateway.lifespan():
        pass
    assert 'in the channel "default", which [channels."*"] matches' in caplog.text


# The end


async def test_the_hook_of_a_close_has_the_code_that_the_client_was_sent() -> None:
    class Closing(RecordingListener):
        async def on_client_close(self, event: CloseEvent) -> None:
            self.record("closed", (event.code, event.reason))

    gateway = served(listener := Closing())
    async with serve(gateway) as url:
        async with centrifuge(url) as client:
            await gateway.disconnect(list(gateway.connections))
            assert await client.closed() == (3503, "force disconnect")
        await listener.wait_for("closed")
        async with centrifuge(url) as client:
            (conn,) = gateway.connections
            await conn.close(1012, "5")
            assert await client.closed() == (3001, "shutdown")
        await listener.wait_for("closed", 2)
    closes = [value for name, value in listener.events if name == "closed"]
    assert closes == [(3503, "force disconnect"), (3001, "shutdown")]


async def test_a_client_that_asks_for_pings_of_the_websocket_has_no_others() -> None:
    gateway = served(ping_interval=0.2, pong_timeout=5)
    async with serve(gateway) as url:
        path = "/connection/websocket?cf_ws_frame_ping_pong=true"
        async with centrifuge(url) as ordinary, Client(url, path, ping_interval=None) as client:
            await client.send_json({"id": 1, "connect": {}})
            reply = (await client.receive_json())["connect"]
            assert not {"ping", "pong"} & reply.keys()
            assert ordinary.connected["ping"] == 1
            await asyncio.sleep(0.5)  # so that a ping of the protocol would have arrived
            await gateway.send("next")
            assert (await client.receive_json())["push"]["pub"]["data"] == "next"


async def test_a_slow_hook_does_not_make_a_client_stale() -> None:
    class Slow:
        async def on_handshake(self, event: HandshakeEvent) -> None:
            await asyncio.sleep(0.7)  # more than what is left of `handshake_timeout` when `connect` arrives

    async with serve(served(Slow(), handshake_timeout=1)) as url, Client(url, "/connection/websocket") as client:
        await asyncio.sleep(0.5)  # so that only half of `handshake_timeout` is left
        await client.send_json({"id": 1, "connect": {}})
        assert "connect" in await client.receive_json()


async def test_a_client_that_was_refused_and_stays_is_disconnected() -> None:
    gateway = served(Refusing(Refused(403)), handshake_timeout=0.3)
    async with serve(gateway) as url, Client(url, "/connection/websocket") as client:
        await client.send_json({"id": 1, "connect": {}})
        assert (await client.receive_json())["error"]["code"] == 103
        assert await client.closed() == (3502, "stale")


async def test_a_client_that_leaves_while_it_connects_is_not_opened() -> None:
    class Waiting(RecordingListener):
        def __init__(self) -> None:
            super().__init__()
            self.goes_on = asyncio.Event()

        async def on_handshake(self, event: HandshakeEvent) -> None:
            self.record("handshake", event.conn)
            await self.goes_on.wait()

    gateway = served(listener := Waiting())
    async with serve(gateway) as url:
        async with Client(url, "/connection/websocket") as client:
            await client.send('{"id":1,"connect":{}}\n{"id":2,"ping":{}}')
            await listener.wait_for("handshake")
        listener.goes_on.set()
        async with centrifuge(url):
            pass
        await listener.wait_for("on_client_close")
    assert listener.count("on_client_open") == listener.count("on_client_close") == 1

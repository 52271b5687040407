"""The client for tests of applications, in each protocol."""

from typing import Any

import anyio
import jwt
import pytest

from wsgateway import Gateway, HandshakeEvent, Refused, RequestEvent, SubscribeEvent
from wsgateway.testing import SECRET, Client, serve, token

CHANNELS: Any = {"room:*": {"history": 5, "clients": ["subscribe", "publish"]}, "news": {"public": True}}


class Rooms:
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        if event.channel == "room:secret":
            raise Refused(451, "not your room")


async def test_a_client_subscribes_publishes_and_recovers_in_a_few_lines() -> None:
    async with serve(Gateway(Rooms, channels=CHANNELS)) as url:
        async with Client(url, channels=["room:1", "news"]) as ann:
            await ann.subscribed("news")
            at = (await ann.subscribed("room:1"))["at"]
            await ann.send_json({"channel": "room:1", "message": {"n": 1}, "id": 7})
            first = await ann.receive_json()
            assert (first["message"], (await ann.receive_json())["id"]) == ({"n": 1}, 7)
        async with Client(url, "/ws/x?user=bob", channels=["room:1"], since={"room:1": at}) as bob:
            assert (await bob.subscribed("room:1"))["recovered"] is True
            assert await bob.receive_json() == first


async def test_what_arrives_before_the_answer_is_kept_in_order() -> None:
    gateway = Gateway(Rooms, channels=CHANNELS)
    async with serve(gateway) as url, Client(url, channels=[]) as ann:
        for number in range(2):
            await gateway.send(number)
        await ann.send_json({"subscribe": "news"})
        await ann.send_json({"subscribe": "room:1"})
        await ann.subscribed("room:1")
        assert [await ann.receive_json() for _ in range(2)] == [{"message": 0}, {"message": 1}]
        assert (await ann.subscribed("news"))["recovered"] is False


async def test_a_refusal_is_raised_with_its_status() -> None:
    async with serve(Gateway(Rooms, channels=CHANNELS)) as url, Client(url, channels=[]) as ann:
        await ann.send_json({"subscribe": "room:secret"})
        with pytest.raises(Refused, match="not your room") as caught:
            await ann.subscribed("room:secret")
        assert caught.value.status == 451


class Personal(Rooms):
    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.token
        event.channels = [f"room:{event.conn.user}"]


CENTRIFUGE = ["plain", "v1", "centrifuge"]


async def test_a_client_of_centrifuge_subscribes_publishes_and_recovers_in_a_few_lines() -> None:
    async with serve(Gateway(Rooms, channels=CHANNELS, protocols=CENTRIFUGE)) as url:
        async with Client(url, protocol="centrifuge", channels=["room:1", "news"]) as ann:
            assert "recoverable" not in await ann.subscribed("news")
            at = await ann.subscribed("room:1")
            assert await ann.call("publish", channel="room:1", data={"n": 1}) == {}
            push = (await ann.receive_json())["push"]
            assert (push["channel"], push["pub"]) == ("room:1", {"data": {"n": 1}, "offset": 1})
        since = {"room:1": f"{at['epoch']}:0"}
        async with Client(url, protocol="centrifuge", channels=["room:1"], since=since) as bob:
            assert (await bob.subscribed("room:1"))["publications"] == [{"data": {"n": 1}, "offset": 1}]


async def test_a_client_of_centrifuge_sends_its_token_and_has_the_channels_of_the_listener() -> None:
    gateway = Gateway(Personal, channels=CHANNELS, protocols=CENTRIFUGE)
    async with serve(gateway) as url, Client(url, protocol="centrifuge", token="ann") as ann:
        assert {conn.id: conn.user for conn in gateway.connections} == {ann.connected["client"]: "ann"}
        assert (await ann.subscribed("room:ann"))["recoverable"] is True
        await gateway.subscribe("room:2", user="ann")
        assert (await ann.subscribed("room:2"))["epoch"]
        await gateway.publish("hi", channel="room:2")
        assert (await ann.receive_json())["push"]["pub"]["data"] == "hi"


async def test_what_a_client_of_centrifuge_is_refused_is_raised() -> None:
    async with serve(Gateway(Rooms, channels=CHANNELS, protocols=CENTRIFUGE)) as url:
        async with Client(url, protocol="centrifuge", channels=["room:secret"]) as ann:
            with pytest.raises(Refused, match="403 103 permission denied"):
                await ann.subscribed("room:secret")
            with pytest.raises(Refused, match="404 102 unknown channel"):
                await ann.call("subscribe", channel="nowhere")
            assert await ann.call("unsubscribe", channel="nowhere") == {}
            assert await ann.call("subscribe", channel="room:2") == await ann.subscribed("room:2")

    class Closed:
        async def on_handshake(self, event: HandshakeEvent) -> None:
            raise Refused(401)

    async with serve(Gateway(Closed, protocols=CENTRIFUGE)) as url:
        with pytest.raises(Refused, match="401 101 unauthorized"):
            async with Client(url, protocol="centrifuge"):
                pass


async def test_a_client_of_centrifuge_asks_by_name() -> None:
    class Named:
        async def on_request(self, event: RequestEvent) -> None:
            event.reply = [event.name, event.message]

    async with serve(Gateway(Named, protocols=CENTRIFUGE)) as url, Client(url, protocol="centrifuge") as ann:
        assert await ann.call("rpc", method="add", data=[1, 2]) == {"data": ["add", [1, 2]]}


async def test_a_client_of_centrifuge_answers_pings() -> None:
    gateway = Gateway(protocols=CENTRIFUGE, ping_interval=0.05, pong_timeout=0.05)
    async with serve(gateway) as url, Client(url, protocol="centrifuge") as ann:
        ends = anyio.current_time() + 0.5
        while anyio.current_time() < ends:  # several times as long as it takes to be closed for a missing pong
            await gateway.send("hi")
            assert "push" in await ann.receive_json()
            await anyio.sleep(0.01)  # pings are sent by time


@pytest.mark.parametrize("protocol", ["plain", "v1", "centrifuge"])
async def test_a_token_is_sent_as_the_protocol_does_it(protocol: Any) -> None:
    gateway = Gateway(token_secret=[SECRET], protocols=CENTRIFUGE)
    async with serve(gateway) as url, Client(url, protocol=protocol, token=token(sub="ann")):
        assert [conn.user for conn in gateway.connections] == ["ann"]


def test_a_token_is_signed_with_the_secret() -> None:
    assert jwt.decode(token(sub="ann", n=1), SECRET, ["HS256"]) == {"sub": "ann", "n": 1}


async def test_a_plain_client_has_its_channels_in_the_url() -> None:
    gateway = Gateway(Rooms, channels=CHANNELS)
    async with serve(gateway) as url, Client(url, protocol="plain", channels=["news"]) as ann:
        await gateway.publish("hi", channel="news")
        assert await ann.receive() == "hi"


def test_a_protocol_that_does_not_exist_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="use one of plain, v1, centrifuge"):
        Client("http://127.0.0.1:1", protocol="centrifugo")  # type: ignore[arg-type]  # what the test is about

"""The client for tests of applications with channels."""

from typing import Any

import pytest

from wsgateway import Gateway, Refused, SubscribeEvent
from wsgateway.testing import Client, serve

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

"""Channels and clients that are too slow: what is dropped, what never is, and which hooks are called."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.leftovers import assert_nothing_is_left
from tests.pipes import Pipe, joined, tell
from wsgateway import EVERYBODY, Gateway, SubscribeEvent
from wsgateway.protocols.v1 import SUBPROTOCOL
from wsgateway.testing import RecordingListener

CHANNELS: Any = {
    "all:*": {"public": True, "history": 100},
    "last:*": {"public": True, "history": 10, "keep": "last"},
    "oldest:*": {"public": True, "slow_policy": "drop_oldest"},
    "newest:*": {"public": True, "slow_policy": "drop_newest"},
    "close:*": {"public": True, "slow_policy": "disconnect"},
    "room:*": {"presence": True, "clients": ["subscribe", "publish"]},
}
EVERYTHING = 10**9


class Recorder(RecordingListener):
    async def on_subscribe(self, event: SubscribeEvent) -> None: ...

    async def on_unsubscribe(self, event: Any) -> None:
        self.record("on_unsubscribe", (event.channel, event.code))

    async def on_first_subscribe(self, event: Any) -> None:
        self.record("on_first_subscribe", event.channel)

    async def on_last_unsubscribe(self, event: Any) -> None:
        self.record("on_last_unsubscribe", event.channel)


@asynccontextmanager
async def running(listener: object = Recorder, **options: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(listener=listener, channels=CHANNELS, **{"ping_interval": 600, "send_timeout": 600} | options)
    async with gateway.lifespan():
        yield gateway
    assert_nothing_is_left(gateway)


async def client_of(gateway: Gateway, *channels: str) -> Pipe:
    """A client of `wsgateway.v1` that is subscribed to `channels`, and whose socket takes nothing more."""
    pipe = await joined(gateway, limit=EVERYTHING, subprotocol=SUBPROTOCOL)
    for channel in channels:
        tell(pipe.conn, json.dumps({"subscribe": channel}))
    await anyio.sleep(0)  # what was sent in this iteration is written
    pipe.limit = -1
    await pipe.conn.send("full")
    assert pipe.is_paused
    pipe.written.clear()
    return pipe


async def read(pipe: Pipe) -> list[Any]:
    """What the client gets when it reads everything."""
    pipe.limit = EVERYTHING
    pipe.read(EVERYTHING)
    await anyio.sleep(0)  # what was sent in this iteration is written
    return [json.loads(message) for message in pipe.messages()]


async def test_only_the_newest_of_each_key_waits_for_a_slow_client() -> None:
    async with running() as gateway:
        pipe = await client_of(gateway, "last:1", "last:2")
        for number in range(2000):
            await gateway.publish(number, channel="last:1", key="ab"[number % 2])
        await gateway.publish("other", channel="last:2", key="a")
        assert pipe.conn.queued_messages == 3
        told = await read(pipe)
        assert [one["message"] for one in told] == [1998, 1999, "other"]
        assert [one["at"].partition(":")[2] for one in told] == ["1999", "2000", "1"]
        assert pipe.conn.dropped == 0


async def test_what_is_past_its_ttl_is_not_sent() -> None:
    async with running() as gateway:
        pipe = await client_of(gateway, "all:1")
        for number in range(5):
            await gateway.publish(number, channel="all:1", ttl=0.05 if number % 2 else None)
        await anyio.sleep(0.1)  # a ttl is real time
        assert [one["message"] for one in await read(pipe)] == [0, 2, 4]
        history = await gateway.history("all:1")
        assert [one.message for one in history.publications] == [0, 2, 4]
        tell(pipe.conn, json.dumps({"subscribe": "all:1", "since": ":0"}))
        told = (await read(pipe))[3:]
        assert [one.get("message", one.get("recovered")) for one in told] == [True, 0, 2, 4]


@pytest.mark.parametrize(
    ("channel", "messages", "dropped"),
    [("oldest:1", [3, 4], 3), ("newest:1", [0, 1], 3), ("close:1", [], 3)],
)
@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "drop_newest"])
async def test_each_namespace_has_its_slow_policy(channel: str, messages: list[int], dropped: int, policy: str) -> None:
    listener = Recorder()
    async with running(listener, outbox_messages=2, slow_policy=policy) as gateway:
        pipe = await client_of(gateway, channel)
        for number in range(5):
            await gateway.publish(number, channel=channel)
        if channel == "close:1":
            assert not pipe.conn.is_open
            assert {("on_unsubscribe", (channel, 3008)), ("on_last_unsubscribe", channel)} == set(
                listener.events[-3:-1]
            )
            assert listener.events[-1] == ("on_client_close", 3008)
        else:
            assert pipe.conn.dropped == dropped
            assert [one["message"] for one in await read(pipe)] == messages


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_no_answer_is_dropped(policy: str) -> None:
    """Where answers alone fill the outbox, the client is closed instead."""
    async with running(outbox_messages=20, slow_policy=policy) as gateway:
        pipe = await client_of(gateway, "room:1")
        pipe.conn._outbox.buffer()
        for number in range(10):
            tell(pipe.conn, json.dumps({"subscribe": f"all:{number}", "id": number}))
            for _ in range(20):
                await gateway.publish("x", channel="oldest:1")
                await gateway.publish("y", connections=[pipe.conn])
            if not pipe.conn.is_open:
                break
        assert not pipe.conn.is_open  # `y` fills the outbox, and an answer does not fit
        assert gateway.metrics.too_slow == 1
        pipe = await client_of(gateway)
        for number in range(10):
            tell(pipe.conn, json.dumps({"subscribe": f"all:{number}", "id": number}))
        for number in range(50):
            await gateway.publish(number, connections=[pipe.conn])
        told = await read(pipe)
        assert [one["id"] for one in told if "id" in one] == list(range(10))
        assert len(told) == 20


async def test_a_slow_client_whose_subscription_ends_gets_each_hook_once() -> None:
    listener = Recorder()
    async with running(listener, outbox_messages=3) as gateway:
        pipe = await client_of(gateway, "room:1", "room:2")
        for number in range(3):
            await pipe.conn.send(number)
        assert await gateway.unsubscribe("room:1", [pipe.conn]) == 1
        assert not pipe.conn.is_open
        assert await gateway.unsubscribe("room:2", EVERYBODY) == 0
    ended = [value for name, value in listener.events if name == "on_unsubscribe"]
    assert sorted(ended) == [("room:1", 3008), ("room:2", 3008)]
    assert listener.events.index(("on_client_close", 3008)) > listener.events.index(("on_unsubscribe", ended[-1]))
    assert listener.count("on_first_subscribe") == listener.count("on_last_unsubscribe") == 2


async def test_a_slow_client_that_the_answer_does_not_fit_has_no_first_without_a_last() -> None:
    listener = Recorder()
    async with running(listener, outbox_messages=3) as gateway:
        pipe = await client_of(gateway)
        for number in range(3):
            await pipe.conn.send(number)
        assert await gateway.subscribe("room:1", [pipe.conn]) == 0
        assert not pipe.conn.is_open
    names = [name for name, _ in listener.events]
    assert names.count("on_first_subscribe") == names.count("on_last_unsubscribe")
    assert names.count("on_unsubscribe") <= 1
    assert names[-1] == "on_client_close"


async def test_a_recovery_that_is_larger_than_an_outbox_is_none() -> None:
    async with running(outbox_bytes=1000) as gateway:
        at = (await gateway.publish("first", channel="all:1")).at
        for _ in range(10):
            await gateway.publish("x" * 99, channel="all:1")
        pipe = await joined(gateway, subprotocol=SUBPROTOCOL)
        tell(pipe.conn, json.dumps({"subscribe": "all:1", "since": at}))
        told = await read(pipe)
        assert told[0]["recovered"] is True
        assert len(told) == 11
        await gateway.publish("one more" + "x" * 20, channel="all:1")
        tell(pipe.conn, json.dumps({"subscribe": "all:1", "since": at, "last": 2}))
        told = (await read(pipe))[12:]
        assert [one.get("recovered", one.get("message", "")[:3]) for one in told] == [False, "xxx", "one"]


async def test_counts_of_a_user_and_of_channels_are_exact() -> None:
    async with running(outbox_messages=2, slow_policy="drop_newest", drain=0.2) as gateway:
        slow = await client_of(gateway, "newest:1")
        fast = await joined(gateway, subprotocol=SUBPROTOCOL)
        tell(fast.conn, json.dumps({"subscribe": "newest:1"}))
        counts = [tuple(await gateway.send(number, channel="newest:1"))[:3] for number in range(4)]
        assert counts == [(2, 2, 0), (2, 2, 0), (2, 1, 1), (2, 1, 1)]
        assert slow.conn.dropped == 2
        assert len(await gateway_members(gateway)) == 2


async def gateway_members(gateway: Gateway) -> list[Any]:
    return (await gateway.presence("newest:1")).members


async def test_without_history_a_message_is_live_only_and_has_no_position() -> None:
    async with running() as gateway:
        pipe = await joined(gateway, subprotocol=SUBPROTOCOL)
        tell(pipe.conn, json.dumps({"subscribe": "all:1"}))
        first = await gateway.send("kept", channel="all:1")
        sent = await gateway.send("live", channel="all:1", skip_history=True)
        assert (first.is_new, sent.at, sent.recipients) == (True, None, 1)
        history = await gateway.history("all:1")
        assert (history.at, [one.message for one in history.publications]) == (first.at, ["kept"])
        told = await read(pipe)
        assert told[1:] == [
            {"channel": "all:1", "message": "kept", "at": first.at},
            {"channel": "all:1", "message": "live"},
        ]


async def test_a_repeated_idempotency_key_reaches_nobody() -> None:
    async with running() as gateway:
        pipe = await joined(gateway, subprotocol=SUBPROTOCOL)
        tell(pipe.conn, json.dumps({"subscribe": "all:1"}))
        for channel in ("all:1", "all:2"):
            one = await gateway.send("once", channel=channel, idempotency_key="k")
            two = await gateway.send("twice", channel=channel, idempotency_key="k")
            assert (one.is_new, two.is_new, two.at, two.recipients) == (True, False, one.at, 0)
        assert [one.get("message") for one in await read(pipe)] == [None, "once"]


async def test_tags_are_those_of_the_time_of_publishing() -> None:
    async with running() as gateway:
        pipe = await joined(gateway, subprotocol=SUBPROTOCOL)
        tell(pipe.conn, json.dumps({"subscribe": "all:1"}))
        tags: Any = {"a": "b"}
        await gateway.publish("x", channel="all:1", tags=tags, key="k")
        tags["a"] = object()
        (told,) = [one for one in await read(pipe) if "message" in one]
        assert (told["tags"], told["key"]) == ({"a": "b"}, "k")
        assert (await gateway.history("all:1")).publications[0].tags == {"a": "b"}


async def test_members_are_told_only_with_presence() -> None:
    channels: Any = {name: {"public": True, "clients": ["subscribe", "publish"]} for name in ("seen", "hidden")}
    channels["seen"]["presence"] = True
    gateway = Gateway(channels=channels, ping_interval=600)
    async with gateway.lifespan():
        pipe = await joined(gateway, subprotocol=SUBPROTOCOL)
        for name in channels:
            for command in ({"subscribe": name}, {"channel": name, "message": 1}, {"unsubscribe": name}):
                tell(pipe.conn, json.dumps(command))
        told = await read(pipe)
        member = {"id": pipe.conn.id, "user": "", "info": None}
        assert told == [
            {"subscribed": "seen", "recovered": False, "members": []},
            {"channel": "seen", "joined": member},
            {"channel": "seen", "message": 1, "from": member},
            {"unsubscribed": "seen", "code": 2000, "reason": ""},
            {"subscribed": "hidden", "recovered": False},
            {"channel": "hidden", "message": 1},
            {"unsubscribed": "hidden", "code": 2000, "reason": ""},
        ]


async def test_a_new_subscription_has_nothing_of_the_one_before() -> None:
    class Listener:
        async def on_subscribe(self, event: SubscribeEvent) -> None:
            event.info = event.message or None

    async with running(Listener) as gateway:
        other, pipe = [await joined(gateway, subprotocol=SUBPROTOCOL) for _ in range(2)]
        tell(other.conn, json.dumps({"subscribe": "room:1"}))
        await pipe.conn.subscribe("room:1", info={"nick": "A"})
        assert [one.info for one in (await gateway.presence("room:1")).members] == [None, {"nick": "A"}]
        await pipe.conn.unsubscribe("room:1")
        tell(pipe.conn, json.dumps({"subscribe": "room:1"}))
        assert [one.info for one in (await gateway.presence("room:1")).members] == [None, None]
        await pipe.conn.unsubscribe("room:1", 2500)  # the client had begun it, not the application
        assert not gateway._parts.channels.may_return(pipe.conn, "room:1")


async def test_a_client_that_has_left_holds_nothing_although_it_could_return() -> None:
    async with running() as gateway:
        pipe = await joined(gateway, subprotocol=SUBPROTOCOL)
        await pipe.conn.subscribe("room:1")
        await pipe.conn.unsubscribe("room:1", 2500)
        assert gateway._parts.channels.may_return(pipe.conn, "room:1")
        await pipe.conn.close()
        assert not gateway._parts.channels._returning


async def test_only_the_first_and_the_last_of_several_subscribers_are_told() -> None:
    listener = Recorder()
    async with running(listener) as gateway:
        pipes = [await joined(gateway, subprotocol=SUBPROTOCOL) for _ in range(3)]
        for pipe in pipes:
            tell(pipe.conn, json.dumps({"subscribe": "room:1"}))
        tell(pipes[0].conn, json.dumps({"subscribe": "room:1"}))
        assert listener.count("on_first_subscribe") == 1
        for pipe in pipes[:2]:
            tell(pipe.conn, json.dumps({"unsubscribe": "room:1"}))
        assert listener.count("on_last_unsubscribe") == 0
        await pipes[2].conn.close()
        assert listener.count("on_last_unsubscribe") == listener.count("on_first_subscribe") == 1


async def test_a_client_may_not_return_once_the_application_has_ended_its_subscription_again() -> None:
    async with running() as gateway:
        pipe = await joined(gateway, subprotocol=SUBPROTOCOL)
        await pipe.conn.subscribe("room:1")
        await pipe.conn.unsubscribe("room:1", 2500)
        assert gateway._parts.channels.may_return(pipe.conn, "room:1")
        assert not await pipe.conn.unsubscribe("room:1", 2501)
        assert gateway._parts.channels.may_return(pipe.conn, "room:1")
        assert not await pipe.conn.unsubscribe("room:1")
        assert not gateway._parts.channels.may_return(pipe.conn, "room:1")

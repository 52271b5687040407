"""A token as the first object: `?auth=first`. On both transports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.leftovers import assert_nothing_is_left
from tests.servers import OwnServer, PlainUvicorn, Serve
from tests.test_channels import CHANNELS, V1
from wsgateway import Gateway, HandshakeEvent, MessageEvent, Refused, SubscribeEvent
from wsgateway.testing import RecordingListener

pytestmark = pytest.mark.parametrize("server", [OwnServer(), PlainUvicorn()], ids=lambda server: server.name)


class Listener(RecordingListener):
    """Admits the token `secret`, after `gate` if there is one."""

    gate: anyio.Event | None = None
    refusal: Exception = Refused(401, "log in first")

    async def on_handshake(self, event: HandshakeEvent) -> None:
        self.record("on_handshake", event.token)
        if self.gate is not None:
            await self.gate.wait()
        if event.token != "secret":
            raise self.refusal
        event.conn.user = "ann"
        event.channels = ["user:ann"]

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        assert event.conn.user_id == "ann"
        self.record("on_subscribe", event.channel)

    async def on_message(self, event: MessageEvent) -> None:
        self.record("on_message", event.message)
        event.message = None


@asynccontextmanager
async def served(server: Serve, listener: RecordingListener, **options: Any) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(listener=listener, channels=CHANNELS, **options)
    async with server(gateway) as url:
        yield gateway, url
    assert_nothing_is_left(gateway)


async def test_channels_and_positions_wait_for_the_token(server: Serve) -> None:
    listener = Listener()
    async with served(server, listener) as (gateway, url):
        at = (await gateway.publish(0, channel="room:1")).at
        await gateway.publish(1, channel="room:1")
        async with V1(url, "auth=first&channel=room:1&channel=user:ann&channel=rom:1") as client:
            assert len(gateway.connections) == 0
            await gateway.publish("before", channel="user:ann")
            assert listener.events == []
            await client.tell(token="secret", since=[f"room:1@{at}"])
            assert (await client.receive_json())["subscribed"] == "user:ann"
            assert (await client.receive_json())["recovered"] is True
            assert (await client.receive_json())["message"] == 1
            assert (await client.receive_json())["joined"]
            assert (await client.receive_json())["status"] == 404
            assert [value for name, value in listener.events if name == "on_subscribe"] == ["room:1"]
            assert (await client.ask(token="secret"))["status"] == 400
            await gateway.publish("after", user="ann")
            assert (await client.receive_json())["message"] == "after"


async def test_no_token_in_time_is_3502(server: Serve) -> None:
    async with served(server, Listener(), handshake_timeout=0.3) as (_, url), V1(url, "auth=first") as client:
        assert (await client.closed())[0] == 3502


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ('{"message":1}', 3501),
        ('{"subscribe":"room:1"}', 3501),
        ("garbage", 3501),
        ('{"token":5}', 3501),
        (b'{"token":"secret"}', 1003),
        ('{"token":""}', 3500),
        ('{"token":"secret","since":["x"]}', 3500),
    ],
)
async def test_another_first_object(server: Serve, first: str | bytes, code: int) -> None:
    listener = Listener()
    async with served(server, listener) as (_, url), V1(url, "auth=first&channel=room:1") as client:
        await client.send(first)
        assert (await client.closed())[0] == code
    assert listener.count("on_client_open") == listener.count("on_subscribe") == 0
    assert code != 3500 or "secret" in str(first) or listener.events == [("on_handshake", "")]


@pytest.mark.parametrize(
    ("refusal", "code", "reason"),
    [
        (Refused(401, "log in first"), 3500, "log in first"),
        (Refused(403, "ü" * 200), 3500, "ü" * 50),
        (Refused(403, "\ud800"), 3500, "?"),
        (Refused(429), 1013, ""),
        (Refused(503, "later"), 1013, "later"),
        (Refused(401, "mine", close=4001), 4001, "mine"),
        (ZeroDivisionError(), 1013, None),
    ],
)
async def test_a_refusal_closes_the_client_at_once(
    server: Serve, refusal: Exception, code: int, reason: str | None
) -> None:
    listener = Listener()
    listener.refusal = refusal
    async with served(server, listener) as (gateway, url), V1(url, "auth=first") as client:
        await client.tell(token="guess")
        await client.tell(message=1)
        await client.tell(message=2)
        answer = await client.receive_json()
        assert (answer["refused"], answer["status"]) == (None, getattr(refusal, "status", 500))
        with anyio.fail_after(1.5):  # less than it would take until it is aborted
            closed = await client.closed()
            while gateway._running is not None and gateway._running.drain.count:
                await anyio.sleep(0.01)  # the end of a session is not told
        assert closed[0] == code
        assert reason is None or closed[1] == reason
    assert listener.count("on_message") == listener.count("on_client_open") == 0


async def test_messages_wait_for_the_token_and_are_handled_in_order(server: Serve) -> None:
    listener = Listener()
    listener.gate = anyio.Event()
    async with served(server, listener) as (_, url), V1(url, "auth=first&channel=room:1") as client:
        await client.tell(token="secret")
        for number in range(100):
            await client.tell(message=number)
        await listener.wait_for("on_handshake")
        listener.gate.set()
        await listener.wait_for("on_message", 100)
        assert [value for name, value in listener.events if name == "on_message"] == list(range(100))
        names = [name for name, _ in listener.events]
        assert names[:3] == ["on_handshake", "on_client_open", "on_subscribe"]


async def test_a_client_that_disconnects_during_on_handshake(server: Serve) -> None:
    listener = Listener()
    listener.gate = anyio.Event()
    async with served(server, listener) as (gateway, url):
        async with V1(url, "auth=first&channel=room:1") as client:
            await client.tell(token="secret")
            await listener.wait_for("on_handshake")
            client.socket.transport.abort()
        with anyio.fail_after(10):
            while gateway._running is not None and gateway._running.drain.count:
                await anyio.sleep(0.01)  # the end of a session is not told
        listener.gate.set()
    assert listener.events == [("on_handshake", "secret")]


@pytest.mark.parametrize("is_sent", [True, False])
async def test_a_drain_meanwhile(server: Serve, is_sent: bool) -> None:
    listener = Listener()
    listener.gate = anyio.Event()
    async with served(server, listener, drain=5) as (gateway, url), V1(url, "auth=first&channel=room:1") as client:
        if is_sent:
            await client.tell(token="secret")
            await client.tell(message=1)
            await listener.wait_for("on_handshake")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.stop)
            assert (await client.closed())[0] == 1012
            listener.gate.set()
    assert listener.events == [("on_handshake", "secret")] * is_sent

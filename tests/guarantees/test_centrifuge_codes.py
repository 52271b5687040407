"""The codes of the Centrifuge protocol, each with the reason that its libraries show, and none that they parse."""

import json
from collections.abc import Awaitable, Callable

import anyio
import pytest

from tests.guarantees.centrifuge import CentrifugeSocket
from tests.guarantees.client import Closed, Published, may_reconnect
from tests.guarantees.kinds import served
from tests.guarantees.wire import open_websocket
from wsgateway import Connection, Gateway
from wsgateway.listeners.event import HandshakeEvent
from wsgateway.testing import RecordingListener

CLOSES = {
    1012: "shutdown",
    3001: "shutdown",
    3004: "internal server error",
    3005: "connection expired",
    3006: "subscription expired",
    3008: "slow",
    3009: "write error",
    3010: "insufficient state",
    3011: "force reconnect",
    3012: "no pong",
    3013: "too many requests",
    3014: "state invalidated",
    3500: "invalid token",
    3501: "bad request",
    3502: "stale",
    3503: "force disconnect",
    3504: "connection limit",
    3505: "channel limit",
    3507: "permission denied",
    3508: "not available",
    3509: "too many errors",
}


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


async def test_a_close_without_a_usable_reason_has_that_of_its_code() -> None:
    async with served() as (gateway, url):
        for code in [1000, 1001, 1008, 1011, 1013, *CLOSES, 4000, 4321, 4999]:
            for reason in ("", '{"reconnect":true}', "5", " true ", '"text"', "null"):
                async with CentrifugeSocket(url) as client:
                    await client.subscribed()
                    await next(iter(gateway.connections)).close(code, reason)
                    closed = await client.closed()
                    assert (closed.code, closed.reconnects) == (CentrifugeSocket.sent(code), may_reconnect(code))
                    assert closed.reason == CLOSES.get(code, closed.reason)
                    assert closed.reason
                    assert not is_json(closed.reason)


async def test_a_reason_of_the_application_is_kept() -> None:
    async with served() as (gateway, url):
        for reason in ("go away", "{not JSON", "5 minutes", "ü" * 61):
            async with CentrifugeSocket(url) as client:
                await client.subscribed()
                await next(iter(gateway.connections)).close(4001, reason)
                assert await client.closed() == Closed(4001, reason, reconnects=True)


async def stop(gateway: Gateway, conn: Connection) -> None:
    await gateway.stop()


async def restart(gateway: Gateway, conn: Connection) -> None:
    await gateway.restart()


async def disconnect(gateway: Gateway, conn: Connection) -> None:
    await gateway.disconnect(connections=[conn])


async def lose(gateway: Gateway, conn: Connection) -> None:
    gateway._parts.channels.lose(conn, "short")


ENDS: dict[str, tuple[Callable[[Gateway, Connection], Awaitable[None]], int]] = {
    "stop": (stop, 3001),
    "restart": (restart, 3001),
    "disconnect": (disconnect, 3503),
    "a server-side subscription is lost": (lose, 3010),
}


@pytest.mark.parametrize("end", ENDS)
async def test_each_end_of_the_gateway_has_its_code_and_its_reason(end: str) -> None:
    class Live(RecordingListener):
        async def on_handshake(self, event: HandshakeEvent) -> None:
            event.channels = ["short"]

    run, code = ENDS[end]
    listener = Live()
    async with served(listener=listener) as (gateway, url):
        async with CentrifugeSocket(url) as client:
            await client.subscribed()
            await run(gateway, next(iter(gateway.connections)))
            assert await client.closed() == Closed(code, CLOSES[code], may_reconnect(code))
        await listener.wait_for("on_client_close")
        assert ("on_client_close", code) in listener.events


async def test_a_client_that_sends_too_much_is_told_in_the_words_of_the_protocol() -> None:
    async with served(message_rate=0.001, message_burst=5) as (_, url), CentrifugeSocket(url) as client:
        for _ in range(5):
            await client.publish("hi")
        closed = await client.closed()
        assert (closed.code, closed.reason) == (3013, CLOSES[3013])


async def test_a_client_that_is_too_slow_is_told_in_the_words_of_the_protocol() -> None:
    async with served(outbox_messages=5, send_timeout=60) as (gateway, url):
        async with CentrifugeSocket(url, receive_buffer=4096) as client:
            await client.subscribed()
            with anyio.fail_after(30):
                while gateway.connections:
                    await gateway.publish("x" * 20_000, channel="room")
                    await anyio.sleep(0)  # the server writes
            while isinstance(event := await client.next(), Published):
                pass
            assert isinstance(event, Closed)
            assert (event.code, event.reason) in ((3008, CLOSES[3008]), (1006, ""))


async def test_a_client_that_answers_no_ping_is_told_so() -> None:
    async with served(ping_interval=0.05, pong_timeout=0.1) as (_, url):
        socket = await open_websocket(url, "/connection/websocket")
        await socket.send('{"id":1,"connect":{}}')
        with anyio.fail_after(30):
            await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (3012, CLOSES[3012])


async def test_each_end_of_a_subscription_has_its_code_and_its_reason() -> None:
    reasons = {2000: "server unsubscribe", 2500: "insufficient state", 2501: "subscription expired"}
    reasons[2502] = "state invalidated"
    async with served() as (gateway, url):
        for code, reason in reasons.items():
            for own in ("", "by the test"):
                socket = await open_websocket(url, "/connection/websocket")
                await socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"room"}}')
                while b'"id":2' not in await socket.recv(decode=False):
                    pass
                await gateway.unsubscribe("room", list(gateway.connections), code=code, reason=own)
                push = json.loads(await socket.recv())["push"]
                assert push == {"channel": "room", "unsubscribe": {"code": code, "reason": own or reason}}
                await socket.close()

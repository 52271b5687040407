"""How connections and subscriptions end: close codes, the drain, and what each kind of client makes of them."""

from contextlib import AsyncExitStack

from tests.guarantees.client import Client, Closed, Published, Subscribed, Unsubscribed, may_reconnect
from tests.guarantees.kinds import every_kind, every_kind_and_server, every_kind_with_positions, served
from tests.servers import Serve
from wsgateway.testing import RecordingListener

CODES = (1000, 1001, 1008, 1011, 1012, 1013, 3000, 3005, 3499, 3500, 3507, 3999, 4000, 4499, 4500, 4999)


@every_kind
async def test_each_code_arrives_and_says_whether_to_reconnect(kind: type[Client]) -> None:
    listener = RecordingListener()
    async with served(listener=listener) as (gateway, url):
        for count, code in enumerate(CODES, 1):
            async with kind(url) as client:
                await client.subscribed()
                [conn] = gateway.connections
                await conn.close(code, "by the test")
                reason = kind.drained[1] if kind.sent(code) != code else "by the test"
                assert await client.closed() == Closed(kind.sent(code), reason, may_reconnect(code))
            await listener.wait_for("on_client_close", count)
        codes = [code for hook, code in listener.events if hook == "on_client_close"]
        assert codes == list(map(kind.sent, CODES))  # the code that the client was sent


REASONS = ("", "5", "true", '"x"', "null", "{}", "[]", '{"retry_after_ms":1500}', "ü" * 61)


@every_kind
async def test_no_reason_changes_what_a_code_means(kind: type[Client]) -> None:
    async with served() as (gateway, url):
        for reason in REASONS:
            for code in (1012, 3001, 3503, 4000):
                async with kind(url) as client:
                    await client.subscribed()
                    await next(iter(gateway.connections)).close(code, reason)
                    closed = await client.closed()
                    assert (closed.code, closed.reconnects) == (kind.sent(code), may_reconnect(code)), reason


@every_kind
async def test_a_client_that_is_disconnected_does_not_reconnect(kind: type[Client]) -> None:
    async with served() as (gateway, url), kind(url) as client:
        await client.subscribed()
        assert await gateway.disconnect(connections=list(gateway.connections)) == 1
        closed = await client.closed()
        assert (closed.code, closed.reconnects) == (3503, False)


@every_kind_and_server
async def test_a_drain_tells_every_client_to_reconnect_and_when(server: Serve, kind: type[Client]) -> None:
    listener = RecordingListener()
    async with served(server, listener) as (gateway, url), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(kind(url)) for _ in range(20)]
        for client in clients:
            await client.subscribed()
        await gateway.publish("the last", channel="room")
        await gateway.stop()
        waits = set()
        for client in clients:
            assert await client.message() == "the last"
            closed = await client.closed()
            assert (closed.code, closed.reason, closed.reconnects) == kind.drained
            waits.add(closed.retry_ms)
        assert listener.count("on_client_close") == 20
    if kind.is_told_when:
        assert len(waits) > 5
        assert all(wait is not None and 0 <= wait < 5000 for wait in waits)
    else:
        assert waits == {None}  # the library spreads its clients itself


@every_kind_with_positions
async def test_a_position_that_was_lost_makes_the_client_subscribe_again(kind: type[Client]) -> None:
    async with served() as (gateway, url), kind(url) as client:
        assert not await client.subscribed()
        await gateway.publish("before", channel="room")
        assert await client.message() == "before"
        assert await gateway.unsubscribe("room", list(gateway.connections), code=2500) == 1
        assert await client.next() == Unsubscribed(2500)
        await client.start_over()
        assert await client.subscribed() is kind.recovers_when_lost
        await gateway.publish("after", channel="room")
        assert await client.message() == "after"


@every_kind_with_positions
async def test_a_subscription_that_is_over_ends_with_2000_and_the_connection_stays(kind: type[Client]) -> None:
    async with served() as (gateway, url), kind(url) as client:
        await client.subscribed()
        assert await gateway.unsubscribe("room", list(gateway.connections)) == 1
        assert await client.next() == Unsubscribed(2000)
        await gateway.publish("to nobody", channel="room")
        [conn] = gateway.connections
        await gateway.subscribe("room", [conn])
        assert isinstance(await client.next(), Subscribed)
        await gateway.publish("again", channel="room")
        assert isinstance(await client.next(), Published)

"""Clients that are slow, send too much, or too often: what it costs them, and that nobody else notices."""

import anyio

from tests.guarantees.client import Client, Closed, Published, Refused
from tests.guarantees.kinds import every_kind, every_kind_and_server, served
from tests.servers import Serve
from wsgateway.testing import RecordingListener


@every_kind_and_server
async def test_a_client_that_does_not_read_is_closed_with_3008_and_then_gets_what_it_missed(
    server: Serve, kind: type[Client]
) -> None:
    listener, numbers, published = RecordingListener(), [], 0
    async with served(server, listener, outbox_messages=20, outbox_bytes=1 << 25, send_timeout=60) as (gateway, url):
        async with kind(url, receive_buffer=4096) as slow, kind(url) as bystander:
            await slow.subscribed()
            await bystander.subscribed()
            with anyio.fail_after(30):
                while len(gateway.connections) == 2:
                    text = f"{published:05} {'x' * 20_000}"
                    await gateway.publish(text, channel="room")
                    assert await bystander.message() == text
                    published += 1
            await listener.wait_for("on_client_close")
            assert ("on_client_close", 3008) in listener.events
            assert (gateway.metrics.too_slow, gateway.metrics.closes["3008"]) == (1, 1)
            assert gateway.metrics.dropped["disconnect"] > 0
            while isinstance(event := await slow.next(), Published):
                numbers.append(int(event.message[:5]))
            assert isinstance(event, Closed)
            assert event.reconnects
            assert numbers == list(range(len(numbers)))
        if kind.has_positions:
            async with kind(url, at=slow.at) as client:
                assert await client.subscribed()
                numbers += [int((await client.message())[:5]) for _ in range(published - len(numbers))]
                assert numbers == list(range(published))


@every_kind_and_server
async def test_more_messages_than_message_rate_are_too_many(server: Serve, kind: type[Client]) -> None:
    listener = RecordingListener()
    async with served(server, listener, message_rate=0.001, message_burst=10) as (_, url):
        async with kind(url) as client, kind(url) as bystander:
            await client.subscribed()
            await bystander.subscribed()
            for number in range(30):
                await client.publish(str(number))
            while not isinstance(event := await client.next(), Refused | Closed):
                pass
            assert event.code == kind.too_many
            await bystander.publish("still here")
            accepted = [str(number) for number in range(10 - kind.commands)]
            assert [await bystander.message() for _ in range(11 - kind.commands)] == [*accepted, "still here"]


@every_kind
async def test_a_message_that_is_too_large_is_refused(kind: type[Client]) -> None:
    async with served(max_message_size=2000) as (gateway, url), kind(url) as bystander:
        await bystander.subscribed()
        async with kind(url) as client:
            await client.subscribed()
            await client.publish("x" * 1800)
            assert await client.message() == "x" * 1800
            await client.publish("x" * 2001)
            match await client.next():
                case Closed(code, _, reconnects):
                    assert (code, reconnects) == (1009, False)
                case event:
                    assert event == Refused(413)
        await gateway.publish("after", channel="room")
        assert await bystander.message() == "x" * 1800
        assert await bystander.message() == "after"

"""Order: what one sender sends arrives in that order, and what many send arrives in one order at every client."""

from contextlib import AsyncExitStack
from typing import Any

import anyio

from tests.guarantees.client import Client
from tests.guarantees.kinds import KINDS, both_servers, every_kind, served
from tests.servers import Serve

LARGE: Any = {"outbox_bytes": 1 << 26, "outbox_messages": 100_000}
"""Nothing is too much for these outboxes, so that a burst shows the order, and not the slow policy."""


@every_kind
async def test_ten_thousand_messages_arrive_in_order(kind: type[Client]) -> None:
    texts = [str(number) for number in range(10_000)]
    async with served(**LARGE) as (gateway, url), kind(url) as client:
        await client.subscribed()

        async def publish() -> None:
            for number, text in enumerate(texts):
                await gateway.publish(text, channel="room")
                if number % 400 == 0:
                    await anyio.sleep(0)  # some are sent in a burst, others while the client reads

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            assert [await client.message() for _ in texts] == texts


@both_servers
async def test_fifty_parallel_senders_give_one_order_for_all(server: Serve) -> None:
    async with served(server, **LARGE) as (gateway, url), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(kind(url)) for kind in KINDS]
        for client in clients:
            await client.subscribed()

        async def send(sender: int) -> None:
            client = clients[sender % (len(clients) + 1)] if sender % (len(clients) + 1) < len(clients) else None
            for number in range(10):
                if client is None:
                    await gateway.publish(f"{sender}:{number}", channel="room")
                else:
                    await client.publish(f"{sender}:{number}")

        received: dict[str, list[str]] = {}

        async def read(client: Client) -> None:
            received[client.name] = [await client.message() for _ in range(500)]

        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(read, client)
            for sender in range(50):
                tasks.start_soon(send, sender)
    order = received.pop(clients[0].name)
    assert received == dict.fromkeys(received, order)
    for sender in range(50):
        own = [text for text in order if text.startswith(f"{sender}:")]
        assert own == [f"{sender}:{number}" for number in range(10)]

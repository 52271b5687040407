"""wsgateway: a node that a client controls with commands in JSON, answered with JSON, while others only receive.

`publish` publishes with `gateway.publish`, `connections` counts those of this node, `members` and `counts` ask all
nodes for those of a channel, and `watch` counts what the node receives from the broker, by topic.
"""

import asyncio
import json
import time
from collections import Counter
from typing import Any

from wsgateway import HandshakeEvent, MessageEvent

SIZE = 64


class Listener:
    def __init__(self) -> None:
        self.clients = 0
        self.topics: Counter[str] = Counter()

    async def on_handshake(self, event: HandshakeEvent) -> None:
        self.clients += 1
        event.conn.user = f"user {self.clients}"

    async def on_message(self, event: MessageEvent) -> None:
        assert event.conn is not None
        command = json.loads(event.message)
        event.message = await getattr(self, command.pop("do"))(event.gateway, **command)
        event.connections = [event.conn]

    async def publish(
        self, gateway: Any, channel: str, messages: int, in_flight: int, channels: int = 1, pause: float | None = None
    ) -> dict[str, Any]:
        """Publish to as many `channels`, `in_flight` at the same time, each with the time at which it was published.

        A `pause` is made after each, which a publication without history needs, because nothing waits for it.
        """
        numbers = iter(range(messages))
        milliseconds = []

        async def publish_in_turn() -> None:
            for number in numbers:
                began = time.monotonic_ns()
                text = f"T={began:019} {number:09} ".ljust(SIZE, ".")
                await gateway.publish(text, channel=channel.format(number % channels))
                milliseconds.append((time.monotonic_ns() - began) / 1e6)
                if pause is not None:
                    await asyncio.sleep(pause)  # the pace of the publications

        began, used = time.monotonic_ns(), time.process_time()
        await asyncio.gather(*(publish_in_turn() for _ in range(in_flight)))
        milliseconds.sort()
        return {
            "began": began,
            "seconds": (time.monotonic_ns() - began) / 1e9,
            "cpu": time.process_time() - used,
            "p50": milliseconds[len(milliseconds) // 2],
        }

    async def connections(self, gateway: Any) -> dict[str, int]:
        return {"count": len(gateway.connections)}

    async def members(self, gateway: Any, channel: str) -> dict[str, Any]:
        began = time.perf_counter()
        presence = await gateway.presence(channel)
        return {"ms": (time.perf_counter() - began) * 1000, "count": len(presence.members) * presence.complete}

    async def counts(self, gateway: Any, channel: str) -> dict[str, Any]:
        began = time.perf_counter()
        counts = await gateway.presence_counts(channel)
        return {"ms": (time.perf_counter() - began) * 1000, "count": counts.connections * counts.complete}

    async def watch(self, gateway: Any) -> dict[str, int]:
        """Return how many messages of channels have arrived since the first call, by topic."""
        bus = gateway._running.cluster._bus
        if not self.topics:
            received = bus._received

            def count(topic: str, data: bytes) -> None:
                self.topics[topic] += 1
                received(topic, data)

            bus._received = count
            self.topics["watching"] = 1
        return {topic: number for topic, number in self.topics.items() if topic.startswith("wsgateway.ch.")}

"""wsgateway: a message goes to the channel of the client's URL, and from a client without one to everybody.

`Away` has published twenty messages to the channel `kept` before the first client connects, and `AwayFromMany` to each
of the channels `kept:0` to `kept:3`. `Together` and `OneByOne`
subscribe each client to ten of 1,000 channels, so that each channel has ten of 1,000 clients. A message is published to
100 of the channels: in one iteration of the event loop, or in an iteration for each. Ten messages reach all channels.
"""

import asyncio
import random

from wsgateway import EVERYBODY, Event, HandshakeEvent, MessageEvent

CLIENTS = CHANNELS = 1000
CHANNELS_OF_CLIENT = 10
CHANNELS_OF_MESSAGE = 100


class Listener:
    async def on_message(self, event: MessageEvent) -> None:
        if not event.channel:
            event.connections = EVERYBODY


class Away(Listener):
    async def on_start(self, event: Event) -> None:
        for number in range(20):
            await event.gateway.publish(f"{number:064}", channel="kept")


class AwayFromMany(Listener):
    async def on_start(self, event: Event) -> None:
        for channel in range(4):
            for number in range(20):
                await event.gateway.publish(f"{number:064}", channel=f"kept:{channel}")


class Together:
    def __init__(self) -> None:
        shuffled = random.Random(1).sample
        names = [f"room:{number}" for number in range(CHANNELS)]
        self.order = shuffled(names, CHANNELS)  # in which the messages reach the channels
        self.channels: list[list[str]] = [[] for _ in range(CLIENTS)]
        each = CHANNELS // CHANNELS_OF_CLIENT  # a client is in one of these, one of the next, and so on
        for first in range(0, CHANNELS, each):
            for place, client in enumerate(shuffled(range(CLIENTS), CLIENTS)):
                self.channels[client].append(names[first + place % each])
        self.clients = self.messages = 0

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.channels = self.channels[self.clients % CLIENTS]
        self.clients += 1

    async def on_message(self, event: MessageEvent) -> None:
        start = self.messages * CHANNELS_OF_MESSAGE % CHANNELS
        self.messages += 1
        for name in self.order[start : start + CHANNELS_OF_MESSAGE]:
            await event.gateway.publish(event.message, channel=name)
            await self.published()
        event.message = None

    async def published(self) -> None:
        pass


class OneByOne(Together):
    async def published(self) -> None:
        await asyncio.sleep(0)

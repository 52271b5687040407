"""The listener of the scenarios: the user comes from the URL, and the name of a channel decides what its hook does."""

import asyncio

from wsgateway import HandshakeEvent, MessageEvent, Refused, SubscribeEvent, UnsubscribeEvent


class Listener:
    def __init__(self) -> None:
        self.subscribed = self.unsubscribed = 0

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user_id = event.conn.query.get("user", "")

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        if event.channel.startswith("refused:"):
            raise Refused(403, "not yours")
        if event.channel.startswith("raises:"):
            raise RuntimeError("a fault of the application")
        if event.channel.startswith("waits:"):
            await asyncio.sleep(0.05)  # a hook that waits, as for a database
        if event.channel.startswith("slow:"):
            await asyncio.sleep(30)  # longer than `hook_timeout`

    async def on_unsubscribe(self, event: UnsubscribeEvent) -> None:
        self.unsubscribed += 1

    async def on_message(self, event: MessageEvent) -> None:
        pass

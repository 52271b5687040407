"""The listener of `python.toml`: each user has a channel of their own, to which every connection is subscribed."""

from wsgateway import HandshakeEvent


class Personal:
    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.channels = [f"#{event.conn.user}"]

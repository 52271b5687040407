"""Your listener. The gateway calls its hooks. Every hook is optional, and may be `def` or `async def`.

By default, a message goes to every connection. Run it with `wsgateway serve`.
"""

from wsgateway import CloseEvent, MessageEvent, OpenEvent


class Listener:
    """Created once, when the gateway starts, so its attributes last between events."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    async def on_client_open(self, event: OpenEvent) -> None:
        """A connection is open. Send to it, store it, close it."""
        self.names[event.conn.id] = event.conn.query.get("name", "somebody")
        await event.conn.send(f"Welcome, {self.names[event.conn.id]}.")

    async def on_message(self, event: MessageEvent) -> None:
        """A client has sent a message, or `/send` was called (then `event.conn` is None). Nothing is sent yet.

        Change `event.message`, or set its recipients: `event.channel`, `event.to_user`, or `event.connections`.
        """
        if event.conn is not None:
            event.message = f"{self.names[event.conn.id]}: {event.message}"

    async def on_client_close(self, event: CloseEvent) -> None:
        """A connection has ended, with `event.code` and `event.reason`."""
        self.names.pop(event.conn.id, None)

    # async def on_handshake(self, event: HandshakeEvent) -> None:
    #     """A client asks to connect. Refuse the handshake with an HTTP status (import HandshakeEvent and Refused)."""
    #     if "session" not in event.conn.cookies:
    #         raise Refused(401, "log in first")

"""The listener for soak.py: sends a client its own id on request. Messages of /send go to the named recipients."""

from wsgateway import Event


class Listener:
    async def on_message(self, event: Event) -> None:
        if event.conn is not None:
            event.message = event.conn.id
            event.connections = [event.conn]

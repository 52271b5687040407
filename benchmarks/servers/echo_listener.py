"""wsgateway: the listener answers the sender only."""

from wsgateway import Event


class Listener:
    async def on_message(self, event: Event) -> None:
        if event.conn is not None:
            event.connections = [event.conn]

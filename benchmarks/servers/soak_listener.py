"""For soak.py: tells a client its id when it asks. What is posted to /send goes to whom it names."""

from wsgateway import Event


class Listener:
    async def on_message(self, event: Event) -> None:
        if event.conn is not None:
            event.message = event.conn.id
            event.connections = [event.conn]

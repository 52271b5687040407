"""wsgateway: a client that sends `clog` is sent 8 MB, more than its socket takes; everything else is a broadcast."""

from wsgateway import Event

CHUNK = "x" * 1_000_000


class Listener:
    async def on_message(self, event: Event) -> None:
        if event.message == "clog" and event.conn is not None:
            event.connections = []
            for _ in range(8):
                await event.conn.send(CHUNK)

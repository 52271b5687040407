"""wsgateway: names half of the connections as recipients, those that were not opened at `/ws/bystander`.

`Everybody` keeps the same list, and names nobody: the broadcast to compare with.
"""

from wsgateway import Connection, Event


class Everybody:
    def __init__(self) -> None:
        self.named: set[Connection] = set()

    async def on_client_open(self, event: Event) -> None:
        if event.conn is not None and event.conn.path != "/ws/bystander":
            self.named.add(event.conn)

    async def on_client_close(self, event: Event) -> None:
        if event.conn is not None:
            self.named.discard(event.conn)

    async def on_message(self, event: Event) -> None:
        pass


class Half(Everybody):
    async def on_message(self, event: Event) -> None:
        event.connections = list(self.named)

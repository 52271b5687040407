"""Messages to everybody, to one group, or to one person. The page chooses the recipients, the listener sets them."""

import argparse
from collections import defaultdict
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route

from wsgateway import Connection, Event, Gateway, Refused

HERE = Path(__file__).parent
GROUPS = ("red", "green", "blue")
MAX_NAME = 30


class Groups:
    """Clients send `{"to": "person:Ann", "text": "hi"}`; `to` may also be `group:red` or `everybody`.

    A person may have several tabs open, so each has a set of connections, as each group does.
    """

    def __init__(self) -> None:
        self.members: defaultdict[str, set[Connection]] = defaultdict(set)

    async def on_handshake(self, event: Event) -> None:
        assert event.conn is not None
        name = " ".join(event.conn.query.get("name", "").split())
        group = event.conn.query.get("group")
        if not name or len(name) > MAX_NAME or not name.isprintable() or group not in GROUPS:
            raise Refused(400, f"a name of at most {MAX_NAME} printable characters and a group, please", close=3500)
        event.conn.user = name
        event.conn.state.group = group

    async def on_client_open(self, event: Event) -> None:
        conn = event.conn
        assert conn is not None
        self.members[f"person:{conn.user}"].add(conn)
        self.members[f"group:{conn.state.group}"].add(conn)
        await self.tell_who_is_here(event)

    async def on_message(self, event: Event) -> None:
        sender = event.conn
        if sender is None:  # sent by `tell_who_is_here`
            return
        to, text = parse(event.message)
        if to != "everybody":
            event.connections = self.members.get(to, set()) | {sender}  # the sender receives it too
        event.message = {"type": "message", "from": sender.user, "to": to, "text": text}

    async def on_client_close(self, event: Event) -> None:
        conn = event.conn
        assert conn is not None
        for key in (f"person:{conn.user}", f"group:{conn.state.group}"):
            self.members[key].discard(conn)
            if not self.members[key]:
                del self.members[key]
        await self.tell_who_is_here(event)

    async def tell_who_is_here(self, event: Event) -> None:
        people = sorted({conn.user for conn in event.gateway.connections})
        await event.gateway.send({"type": "here", "people": people})


def parse(message: object) -> tuple[str, str]:
    """Return the recipient and the text of a message. Raise `ValueError` if it has another form, so it is not sent."""
    match message:
        case {"to": str(to), "text": str(text)}:
            return to, text
    raise ValueError('a message looks like {"to": "person:Ann", "text": "hi"}')


gateway = Gateway(listener=Groups, id="groups", local_access=True, test_page=False)


async def page(request: Request) -> FileResponse:
    return FileResponse(HERE / "index.html")


app = Starlette(
    routes=[Route("/", page), Mount("/", gateway)],
    lifespan=gateway.lifespan,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=10127)
    port = parser.parse_args().port
    uvicorn.run(app, host="127.0.0.1", port=port, ws="wsgateway.server:WebSocketProtocol")

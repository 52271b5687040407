"""A chat. Every client receives every message, and a notice when a client joins or leaves."""

import argparse
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route

from wsgateway import CloseEvent, Gateway, HandshakeEvent, MessageEvent, OpenEvent, Refused

HERE = Path(__file__).parent
MAX_NAME = 30
MAX_TEXT = 2000


class Chat:
    """Clients send plain text and receive JSON objects, so no client can write a notice."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        name = " ".join(event.conn.query.get("name", "").split()) or "guest"
        if len(name) > MAX_NAME or not name.isprintable():
            raise Refused(400, f"a name has at most {MAX_NAME} characters, all of them printable", close=3500)
        event.conn.user = name

    async def on_client_open(self, event: OpenEvent) -> None:
        await event.gateway.send(f"{event.conn.user} joined")

    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is None:  # from the server: a notice of this class, or a message of POST /send
            event.message = {"type": "notice", "text": event.message, "online": len(event.gateway.connections)}
        elif isinstance(event.message, str) and event.message.strip():
            event.message = {"type": "message", "from": event.conn.user, "text": event.message[:MAX_TEXT]}
        else:
            event.connections = []  # not text, or empty, so it is not sent

    async def on_client_close(self, event: CloseEvent) -> None:
        await event.gateway.send(f"{event.conn.user} left")


gateway = Gateway(listener=Chat, id="chat", local_access=True, test_page=False)


async def page(request: Request) -> FileResponse:
    return FileResponse(HERE / "index.html")


app = Starlette(
    routes=[Route("/", page), Mount("/", gateway)],
    lifespan=gateway.lifespan,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=10125)
    port = parser.parse_args().port
    uvicorn.run(app, host="127.0.0.1", port=port, ws="wsgateway.server:WebSocketProtocol")

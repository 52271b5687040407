"""A chat. Every client receives every message, and a notice when a client joins or leaves."""

import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

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
        await event.conn.send({"you": event.conn.id})  # so the page recognizes its own messages
        await event.gateway.send(f"{event.conn.user} joined")

    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is None:  # from the server: a notice of this class, or a message of POST /live/send
            event.message = {"text": event.message, "time": time.time(), "online": len(event.gateway.connections)}
        elif isinstance(event.message, str) and event.message.strip():
            text = event.message[:MAX_TEXT]
            event.message = {"from": event.conn.user, "id": event.conn.id, "text": text, "time": time.time()}
        else:
            event.connections = []  # not text, or empty, so it is not sent

    async def on_client_close(self, event: CloseEvent) -> None:
        await event.gateway.send(f"{event.conn.user} left")


gateway = Gateway(listener=Chat, id="chat", local_access=True)
app = Starlette(
    routes=[
        Route("/", lambda _: FileResponse(HERE / "index.html")),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/live", gateway),
    ],
    lifespan=gateway.lifespan,
)

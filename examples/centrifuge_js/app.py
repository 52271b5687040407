"""A table at which guests write and roll dice. The page uses the Centrifuge SDK for JavaScript."""

import os
import secrets
import time
from pathlib import Path

import jwt
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from wsgateway import Gateway, MessageEvent, Refused, RequestEvent

HERE = Path(__file__).parent
SECRET = os.environ.get("SECRET") or secrets.token_hex()  # a random one makes every token invalid after a restart
LIFETIME = int(os.environ.get("LIFETIME", "60"))
"""Seconds until a token expires. The SDK gets a new one earlier."""


class Table:
    async def on_message(self, event: MessageEvent) -> None:
        if not isinstance(event.message, str) or not 1 <= len(event.message) <= 500:
            raise Refused(422, "a message is a text of at most 500 characters")
        event.message = {"text": event.message, "time": time.time()}

    async def on_request(self, event: RequestEvent) -> None:
        if event.name != "roll":
            raise Refused(404, "there is no such method")
        dice = [1 + secrets.randbelow(6) for _ in range(2)]
        await event.gateway.publish({"user": event.conn.user, "dice": dice, "time": time.time()}, channel="table:1")
        event.reply = sum(dice)  # for the client that has sent the request


gateway = Gateway(
    listener=Table,
    protocols=["centrifuge"],
    token_secret=[SECRET],
    channels={"table:*": {"public": True, "clients": "subscribe, publish", "history": 100, "presence": True}},
)
app = FastAPI(lifespan=gateway.lifespan)
app.mount("/live", gateway)
app.mount("/shared", StaticFiles(directory=HERE.parent / "shared"))
app.mount("/vendor", StaticFiles(directory=HERE / "vendor"))


@app.get("/")
def page() -> FileResponse:
    return FileResponse(HERE / "index.html")


@app.post("/token")
def token(form: dict[str, str]) -> str:
    """Return a token for a guest. An application issues one for a user that has logged in."""
    name = form.get("name", "").strip()
    if not (1 <= len(name) <= 30 and name.isprintable()):
        raise HTTPException(422, "a name has at most 30 characters, all of them printable")
    return jwt.encode({"sub": name, "exp": int(time.time()) + LIFETIME}, SECRET)

"""Private rooms with a log-in. They show their members, and a page receives what it has missed."""

import secrets
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from starlette.middleware.sessions import SessionMiddleware

from wsgateway import Gateway, HandshakeEvent, Refused, SubscribeEvent

PASSWORDS = {"ann": "wonderland", "bob": "builder", "eve": "apple"}  # an application has hashes, in a database
ROOMS = {"room:tea": {"ann", "bob"}, "room:chess": {"bob", "eve"}}


class Team:
    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.scope["session"].get("user")
        if event.conn.user is None:
            raise Refused(401, "log in first", close=3500)
        event.channels = [f"user:{event.conn.user}"]  # each device of the user

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        if event.conn.user not in ROOMS.get(event.channel, ()):
            raise Refused(403, f"{event.channel} is not yours")


gateway = Gateway(
    listener=Team,
    channels={"room:*": {"history": 99, "clients": "subscribe, publish", "presence": True}, "user:*": {"history": 9}},
)
app = FastAPI(lifespan=gateway.lifespan)
app.add_middleware(SessionMiddleware, secret_key=secrets.token_hex())
app.mount("/live", gateway)


@app.get("/")
def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))


@app.post("/login", status_code=204)
def login(request: Request, form: dict[str, str]) -> None:
    if PASSWORDS.get(form.get("name", "")) != form.get("password", ""):
        raise HTTPException(401, "wrong name or password")
    request.session["user"] = form["name"]


@app.post("/orders/{item}", status_code=204)
def order(request: Request, item: str) -> None:  # a `def` route runs in a thread
    if "user" not in request.session:
        raise HTTPException(401, "log in first")
    gateway.publish_from_thread(f"you have ordered {item}", channel=f"user:{request.session['user']}")

import asyncio
import secrets
import time
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, FastAPI, Form, HTTPException, Request
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.sessions import SessionMiddleware

from wsgateway import Event, Gateway, HandshakeEvent, MessageEvent, Refused, SubscribeEvent

PASSWORDS = {"ann": "wonderland", "bob": "builder", "eve": "apple"}  # an application has hashes, in a database
ROOMS = {"room:tea": {"ann", "bob"}, "room:chess": {"bob", "eve"}}


class Team:
    async def on_start(self, event: Event) -> None:
        self.ticker = asyncio.create_task(count_orders())

    async def on_stop(self, event: Event) -> None:
        self.ticker.cancel()

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.scope["session"].get("user")
        if event.conn.user is None:
            raise Refused(401, "log in first", close=3500)
        event.channels = [f"user:{event.conn.user}"]  # every device of the user

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        if event.conn.user not in ROOMS.get(event.channel, ()):
            raise Refused(403, f"{event.conn.user} is not a member of {event.channel}")

    async def on_message(self, event: MessageEvent) -> None:
        event.skip_history = event.name == "typing"
        if event.conn is not None:  # otherwise your own code has sent it
            event.message = {"text": str(event.message)[:2000], "time": time.time()}


gateway = Gateway(
    listener=Team,
    channels={
        "room:*": {"history": 100, "presence": True, "clients": ["subscribe", "publish"]},
        "user:*": {"history": 20},
        "ticker": {"history": 1, "keep": "last", "public": True},
    },
)
app = FastAPI(lifespan=gateway.lifespan)
app.add_middleware(SessionMiddleware, secret_key=secrets.token_hex())
app.mount("/live", gateway)
app.mount("/shared", StaticFiles(directory=Path(__file__).parents[1] / "shared"))


async def count_orders() -> None:
    for number in range(1, 1_000_000):
        await gateway.publish(number, channel="ticker")
        await asyncio.sleep(2)


@app.post("/login")
def log_in(request: Request, name: Annotated[str, Form()], password: Annotated[str, Form()]) -> RedirectResponse:
    if PASSWORDS.get(name) != password:
        return RedirectResponse("/login.html#wrong", 303)
    request.session["user"] = name
    return RedirectResponse("/", 303)


@app.post("/reports", status_code=204)
def order_report(request: Request, jobs: BackgroundTasks) -> None:
    if "user" not in request.session:
        raise HTTPException(401, "log in first")
    jobs.add_task(make_report, request.session["user"])


def make_report(user: str) -> None:  # FastAPI runs it in a thread
    time.sleep(1)
    gateway.publish_from_thread("Your report is ready", channel=f"user:{user}")


app.mount("/", StaticFiles(directory=Path(__file__).with_name("static"), html=True))

"""A gateway in a FastAPI application. Only logged-in users may connect, and a route pushes to all of them."""

import os
import secrets
import time
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Body, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.sessions import SessionMiddleware

from wsgateway import Gateway, HandshakeEvent, MessageEvent, OpenEvent, Refused

HERE = Path(__file__).parent
PASSWORDS = {"ann": "wonderland", "bob": "builder"}  # an application has hashes, in a database
SECRET_KEY = os.environ.get("SECRET_KEY") or secrets.token_hex()  # a random one ends every session at a restart


class LoggedIn:
    """Browsers send the page's cookies with the WebSocket's handshake."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.scope["session"].get("user")
        if event.conn.user is None:
            raise Refused(401, "log in first", close=3500)  # 3500 to 3999: do not reconnect

    async def on_client_open(self, event: OpenEvent) -> None:
        await event.conn.send({"you": event.conn.user})

    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is not None:
            event.message = {"from": event.conn.user, "text": str(event.message), "time": time.time()}


gateway = Gateway(listener=LoggedIn, id="live")
app = FastAPI(lifespan=gateway.lifespan)
app.add_middleware(SessionMiddleware, secret_key=SECRET_KEY, max_age=8 * 60 * 60)  # with HTTPS: https_only=True
app.mount("/shared", StaticFiles(directory=HERE.parent / "shared"))
app.mount("/live", gateway)  # clients connect to /live/ws


def logged_in(request: Request) -> str:
    if "user" not in request.session:
        raise HTTPException(401, "log in first")
    return str(request.session["user"])


User = Annotated[str, Depends(logged_in)]


@app.get("/")
def page(request: Request) -> FileResponse:
    name = "index.html" if "user" in request.session else "login.html"
    return FileResponse(HERE / name, headers={"cache-control": "no-store"})


@app.post("/login", status_code=204)
def log_in(request: Request, name: Annotated[str, Body()], password: Annotated[str, Body()]) -> None:
    expected = PASSWORDS.get(name, secrets.token_hex())
    if not secrets.compare_digest(password.encode(), expected.encode()):
        raise HTTPException(401, "wrong name or password")
    request.session["user"] = name


@app.post("/logout", status_code=204)
def log_out(request: Request, user: User, after: BackgroundTasks) -> None:
    request.session.clear()
    after.add_task(gateway.disconnect, user=user, reason="logged out")  # every tab, once this one has lost its cookie


@app.post("/orders")
async def order(item: Annotated[str, Body(embed=True)], user: User) -> dict[str, int]:
    """Handle an ordinary request, and notify every connected client."""
    sent = await gateway.send({"from": "shop", "text": f"{user} has ordered {item}", "time": time.time()})
    return {"recipients": sent.recipients}

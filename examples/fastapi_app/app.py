"""A gateway in a FastAPI application. Only logged-in users may connect, and a route pushes to all of them."""

import argparse
import os
import secrets
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Body, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from itsdangerous import BadSignature, URLSafeTimedSerializer

from wsgateway import Gateway, HandshakeEvent, MessageEvent, Refused

HERE = Path(__file__).parent
COOKIE = "session"
MAX_AGE = 8 * 60 * 60
PASSWORDS = {"ann": "wonderland", "bob": "builder"}  # an application has hashes, in a database
serializer = URLSafeTimedSerializer(os.environ.get("SECRET_KEY") or secrets.token_hex(), salt=COOKIE)


def user_of(cookie: str) -> str | None:
    """Return the user of a cookie; None if it was not signed here or is too old."""
    try:
        return str(serializer.loads(cookie, max_age=MAX_AGE))
    except BadSignature:
        return None


class LoggedIn:
    """Browsers send the page's cookies with the WebSocket's handshake."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = user_of(event.conn.cookies.get(COOKIE, ""))
        if event.conn.user is None:
            raise Refused(401, "log in first", close=3500)

    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is not None:
            event.message = {"from": event.conn.user, "text": str(event.message)}


gateway = Gateway(listener=LoggedIn, id="live", local_access=True, test_page=False)
app = FastAPI(lifespan=gateway.lifespan)


def logged_in(request: Request) -> str:
    user = user_of(request.cookies.get(COOKIE, ""))
    if user is None:
        raise HTTPException(401, "log in first")
    return user


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(HERE / "index.html")


@app.post("/login", status_code=204)
async def login(
    request: Request, response: Response, name: Annotated[str, Body()], password: Annotated[str, Body()]
) -> None:
    expected = PASSWORDS.get(name, "")
    if not secrets.compare_digest(password.encode(), expected.encode()) or not expected:
        raise HTTPException(401, "wrong name or password")
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, serializer.dumps(name), max_age=MAX_AGE, httponly=True, samesite="lax", secure=secure)


@app.post("/logout", status_code=204)
async def logout(response: Response, user: Annotated[str, Depends(logged_in)]) -> None:
    response.delete_cookie(COOKIE)
    for conn in [conn for conn in gateway.connections if conn.user == user]:
        await conn.close(3500, "logged out")  # 3500 to 3999: do not reconnect


@app.post("/orders")
async def order(item: Annotated[str, Body(embed=True)], user: Annotated[str, Depends(logged_in)]) -> dict[str, int]:
    """Handle an ordinary request, and notify every connected client."""
    sent = await gateway.send({"from": "shop", "text": f"{user} has ordered {item}"})
    return {"told": sent.recipients}


app.mount("/live", gateway)  # clients connect to /live/ws

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=10128)
    port = parser.parse_args().port
    uvicorn.run(app, host="127.0.0.1", port=port, ws="wsgateway.server:WebSocketProtocol")

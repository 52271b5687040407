"""Temperatures that sensors report. Sensors and watchers use the Centrifuge SDK for Python."""

import os
import secrets
import time

import jwt
from fastapi import FastAPI, HTTPException

from wsgateway import Gateway, Refused, RequestEvent

PASSWORDS = {"kitchen": "kettle", "cellar": "wine"}  # an application has hashes, in a database
SECRET = os.environ.get("SECRET") or secrets.token_hex()  # a random one makes every token invalid after a restart


class Sensors:
    async def on_request(self, event: RequestEvent) -> None:
        """Publish a report of a sensor, and answer when the next one is due."""
        if event.name != "report":
            raise Refused(404, "there is no such method")
        if not event.conn.user_id:
            raise Refused(403, "only a sensor with a token may report")
        if not isinstance(event.message, int | float) or isinstance(event.message, bool):
            raise Refused(422, "a report is a number")
        reading = {"sensor": event.conn.user_id, "celsius": event.message}
        await event.gateway.publish(reading, channel="temperatures", key=event.conn.user_id)
        event.reply = {"seconds": 0.5}


gateway = Gateway(
    listener=Sensors,
    protocols=["centrifuge"],
    token_secret=[SECRET],
    anonymous=True,  # a watcher needs no token
    channels={"temperatures": {"public": True, "history": 100, "keep": "last"}},  # the newest one of each sensor
)
app = FastAPI(lifespan=gateway.lifespan)
app.mount("/live", gateway)


@app.get("/")
async def newest() -> list[object]:
    return [publication.message for publication in (await gateway.history("temperatures")).publications]


@app.post("/token")
def token(form: dict[str, str]) -> str:
    name, password = form.get("name", ""), form.get("password", "")
    if not secrets.compare_digest(PASSWORDS.get(name, secrets.token_hex()).encode(), password.encode()):
        raise HTTPException(401, "wrong name or password")
    return jwt.encode({"sub": name, "exp": int(time.time()) + 60}, SECRET)

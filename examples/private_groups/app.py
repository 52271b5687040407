"""Messages to everybody, to one group, or to one person, with channels. The listener chooses the recipients."""

import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wsgateway import Gateway, HandshakeEvent, MessageEvent, Refused

HERE = Path(__file__).parent
GROUPS = ("red", "green", "blue")
MAX_NAME = 30
LOBBY = "everybody"
RECIPIENTS = {LOBBY, *(f"group:{group}" for group in GROUPS)}


class Groups:
    """Clients send `{"to": "person:Ann", "text": "hi"}`; `to` may also be `group:red` or `everybody`.

    A connection is in the channel of its group and in that of everybody. It is in no other, because the listener has no
    `on_subscribe`. A person may have several tabs open, which share a `user_id`.
    """

    async def on_handshake(self, event: HandshakeEvent) -> None:
        name = " ".join(event.conn.query.get("name", "").split())
        group = event.conn.query.get("group")
        if not name or len(name) > MAX_NAME or not name.isprintable() or group not in GROUPS:
            raise Refused(400, f"a name of at most {MAX_NAME} printable characters and a group, please", close=3500)
        event.conn.user = name  # and so the user_id, which other members see
        event.channels = [LOBBY, f"group:{group}"]

    async def on_message(self, event: MessageEvent) -> None:
        sender = event.conn
        if sender is None:  # from /live/send or the test page: to every connection
            return
        to, text = parse(event.message)
        event.message = {"from": sender.user_id, "to": to, "text": text, "time": time.time()}
        if to.startswith("person:"):
            event.to_user = to.removeprefix("person:")
        else:
            event.channel = to
        if to not in sender.channels and to != f"person:{sender.user_id}":
            await event.gateway.publish(event.message, user=sender.user_id)  # each tab of the sender shows it too


def parse(message: object) -> tuple[str, str]:
    """Return the recipient and the text of a message. Raise `Refused` if it has another form, so it is not sent."""
    match message:
        case {"to": str(to), "text": str(text)} if to in RECIPIENTS or (to.startswith("person:") and to != "person:"):
            return to, text
    raise Refused(422, 'a message looks like {"to": "person:Ann", "text": "hi"}')


gateway = Gateway(
    listener=Groups,
    id="groups",
    local_access=True,
    channels={LOBBY: {"presence": True, "history": 100}, "group:*": {"history": 100}},
)
app = Starlette(
    routes=[
        Route("/", lambda _: FileResponse(HERE / "index.html")),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/live", gateway),
    ],
    lifespan=gateway.lifespan,
)

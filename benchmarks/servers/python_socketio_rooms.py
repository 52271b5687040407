"""python-socketio on uvicorn: every client enters a room, and an event is emitted to the room."""

import socketio

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: object, auth: object) -> None:
    await server.enter_room(sid, "x")


@server.event
async def message(sid: str, text: str) -> None:
    await server.emit("message", text, room="x")

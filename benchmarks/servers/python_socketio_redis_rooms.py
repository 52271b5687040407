"""python-socketio with its Redis manager, on uvicorn: every client enters a room, and an event is emitted to the room.

`BROKER` is Redis' URL.
"""

import os

import socketio

manager = socketio.AsyncRedisManager(os.environ["BROKER"])
server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", client_manager=manager)
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: object, auth: object) -> None:
    await server.enter_room(sid, "x")


@server.event
async def message(sid: str, text: str) -> None:
    await server.emit("message", text, room="x")

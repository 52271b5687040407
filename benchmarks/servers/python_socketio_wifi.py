"""python-socketio with its Redis manager: clients enter rooms and publish to them. `BROKER` is the URL of Redis."""

import os

import socketio

manager = socketio.AsyncRedisManager(os.environ["BROKER"])
server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", client_manager=manager)
app = socketio.ASGIApp(server)


@server.event
async def join(sid: str, room: str) -> str:
    await server.enter_room(sid, room)
    return "ok"


@server.event
async def publish(sid: str, target: list[object]) -> str:
    await server.emit("message", target[1], room=target[0])
    return "ok"

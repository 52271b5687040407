"""python-socketio on uvicorn: an event is emitted to all clients."""

import socketio

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
app = socketio.ASGIApp(server)


@server.event
async def message(sid: str, text: str) -> None:
    await server.emit("message", text)

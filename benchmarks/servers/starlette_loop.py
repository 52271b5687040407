"""Starlette: a set of clients and a loop of `send_text`, as its users write it; `/echo` answers the sender only."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

clients: set[WebSocket] = set()


async def broadcast(websocket: WebSocket) -> None:
    await websocket.accept()
    clients.add(websocket)
    try:
        while True:
            text = await websocket.receive_text()
            for client in list(clients):
                await client.send_text(text)
    except WebSocketDisconnect:
        clients.discard(websocket)


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


async def post(request: Request) -> JSONResponse:
    return JSONResponse({"received": len(await request.json())})


app = Starlette(
    routes=[WebSocketRoute("/", broadcast), WebSocketRoute("/echo", echo), Route("/send", post, methods=["POST"])]
)

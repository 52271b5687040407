"""The library websockets: `broadcast` to all connections."""

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

clients: set[ServerConnection] = set()


async def handler(websocket: ServerConnection) -> None:
    clients.add(websocket)
    try:
        async for message in websocket:
            broadcast(clients, message)
    finally:
        clients.discard(websocket)


async def main() -> None:
    async with serve(handler, "127.0.0.1", int(sys.argv[1]), compression=None, backlog=2048) as server:
        await server.serve_forever()


uvloop.run(main())

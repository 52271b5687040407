"""A server that plays `wsgateway.v1` by a script: the test decides what it answers, and when a connection breaks."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

SECONDS = 20


class Peer:
    """One connection of a browser."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        assert socket.request
        self.query = parse_qsl(urlsplit(socket.request.path).query, keep_blank_values=True)

    async def receive(self) -> dict[str, Any]:
        with anyio.fail_after(SECONDS):
            received = json.loads(await self._socket.recv())
        assert isinstance(received, dict)
        return received

    async def send(self, *objects: dict[str, Any]) -> None:
        for each in objects:
            await self._socket.send(json.dumps(each))

    async def close(self, code: int = 1012, reason: str = "") -> None:
        """Close with a close frame."""
        await self._socket.close(code, reason)

    async def cut(self) -> None:
        """Close the TCP connection without a close frame, after all that was sent."""
        self._socket.transport.close()
        await self._socket.wait_closed()


class ScriptedServer:
    def __init__(self) -> None:
        self.url = ""
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def handle(self, socket: ServerConnection) -> None:
        self._peers.put_nowait(Peer(socket))
        await socket.wait_closed()

    async def accept(self) -> Peer:
        """Wait for the next connection."""
        with anyio.fail_after(SECONDS):
            return await self._peers.get()


@asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedServer]:
    """A scripted server on a free port."""
    server = ScriptedServer()
    subprotocols = [Subprotocol("wsgateway.v1")]
    async with serve(server.handle, "127.0.0.1", 0, subprotocols=subprotocols, compression=None) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        server.url = f"ws://127.0.0.1:{port}/live/ws"
        yield server
        for connection in listening.connections:
            connection.transport.abort()

"""Connections of a gateway whose socket is a `Pipe`: an asyncio transport without a network, of which the test decides
how much it takes and what happens within a write. Everything of the gateway is real."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Any

from websockets.extensions.permessage_deflate import PerMessageDeflate

from wsgateway import Connection, Gateway, Settings
from wsgateway.server.lingering import QuietClose
from wsgateway.server.socket import Socket
from wsgateway.transports.native import NativeTransport
from wsgateway.transports.takeover import EXTENSION, Timers, Wire, WireUser


class Pipe:
    """An asyncio transport. What is written counts as unread until `read`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.unread = 0
        self.written = bytearray()
        self.is_paused = False
        self.is_reading = True
        self.conn: Connection
        self.conn_id = ""
        self.socket: Socket | QuietClose
        self.on_write: Callable[[Pipe], None] = lambda pipe: None
        self.was_aborted = False
        self._is_closing = False

    def write(self, data: bytes) -> None:
        if self._is_closing:
            return
        self.written += data
        self.unread += len(data)
        if self.unread > self.limit and not self.is_paused:
            self.is_paused = True
            self.socket.pause_writing()
        self.on_write(self)

    def read(self, size: int) -> None:
        """The client reads `size` bytes."""
        self.unread = max(0, self.unread - size)
        if self.is_paused and self.unread <= self.limit // 4 and not self._is_closing:
            self.is_paused = False
            self.socket.resume_writing()

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def set_protocol(self, protocol: QuietClose) -> None:
        self.socket = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str) -> None:
        del name

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self.socket.connection_lost, None)

    def abort(self) -> None:
        if not self._is_closing:
            self.was_aborted = True
        self.close()

    def messages(self) -> list[bytes]:
        """The payloads of the messages written so far. Fails where anything follows a close frame."""
        found, at, data = [], 0, bytes(self.written)
        is_closed = False
        while at < len(data):
            assert not is_closed, "a frame follows the close frame"
            first, size, start = data[at], data[at + 1], at + 2
            if size >= 126:
                count = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + count]), start + count
            at = start + size
            payload = data[start:at]
            if first & 0x40:
                payload = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(payload + b"\x00\x00\xff\xff")
            if first & 15 in (1, 2):
                found.append(payload)
            is_closed = first & 15 == 8
        return found


def tell(conn: Connection, message: str) -> None:
    """The client of `conn`, whose socket is a pipe, sends `message`."""
    transport = conn._outbox.transport
    assert isinstance(transport, NativeTransport)
    assert transport.peer.received(message, len(message)), "the inbox is full"


class _Handshake:
    """A `wsgateway.transports.takeover.Takeover` that hands a `Pipe` over."""

    def __init__(self, pipe: Pipe, deflate: PerMessageDeflate | None) -> None:
        self._pipe = pipe
        self._deflate = deflate

    def hold(self, *, compression: bool) -> None: ...

    def release(self) -> None: ...

    def take_over(self, user: WireUser, settings: Settings, timers: Timers) -> Wire:
        socket = Socket(self._pipe, user, settings, timers, connections=set(), deflate=self._deflate)
        assert isinstance(user, NativeTransport)
        self._pipe.conn_id = user._outbox.id
        self._pipe.socket = socket
        return socket


async def joined(
    gateway: Gateway, *, limit: int = 10**9, deflates: bool = False, subprotocol: str = "", query: bytes = b""
) -> Pipe:
    """A connection that has just opened, whose client lets `limit` bytes wait before it is congested."""
    pipe = Pipe(limit)
    deflate = PerMessageDeflate(True, True, 15, 15) if deflates else None
    scope: Any = {
        "type": "websocket",
        "path": "/ws",
        "raw_path": b"/ws",
        "root_path": "",
        "query_string": query,
        "subprotocols": [subprotocol] if subprotocol else [],
        "scheme": "ws",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {EXTENSION: _Handshake(pipe, deflate)},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        assert message["type"] == "websocket.accept", message

    await gateway(scope, receive, send)
    conn = gateway.connections.get(pipe.conn_id)
    assert conn is not None
    pipe.conn = conn
    return pipe

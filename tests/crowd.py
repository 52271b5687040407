"""Many WebSocket clients that only listen, cheaper than a library's: they check that each sender's messages come once
and in order. Messages are texts `sender:number …`."""

import asyncio
import base64
import os
from typing import Any, Self


class Listening(asyncio.Protocol):
    """One client, from its handshake on. Unmasked frames below 64 KiB, which is what a server sends here."""

    def __init__(self, host: str, path: str = "/ws") -> None:
        self._host = host
        self._path = path
        self._data = bytearray()
        self._at_head = True
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last: dict[str, int] = {}
        self.count = 0
        self.mistakes: list[str] = []
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._at_head:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._data.startswith(b"HTTP/1.1 101 "):
                self.opened.set_exception(ConnectionRefusedError(bytes(self._data[:end]).decode("latin-1")))
                self._transport.close()
                return
            del self._data[: end + 4]
            self._at_head = False
            self.opened.set_result(None)
        at = 0
        while len(self._data) - at >= 2:
            size, start = self._data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(self._data[at + 2 : at + 4]), at + 4
            if len(self._data) < start + size:
                break
            self._take(self._data[at] & 15, bytes(self._data[start : start + size]))
            at = start + size
        del self._data[:at]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 1:
            self.count += 1
            sender, _, rest = payload.decode().partition(":")
            number = int(rest.partition(" ")[0])
            if number != self.last.get(sender, 0) + 1:
                self.mistakes.append(f"{sender}: {number} after {self.last.get(sender, 0)}")
            self.last[sender] = number
        elif opcode == 9:
            self.write(0x8A, payload)
        elif opcode == 8:
            self.write(0x88, payload)
            self._end(int.from_bytes(payload[:2]), payload[2:].decode())

    def write(self, first: int, payload: bytes) -> None:
        """One masked frame of fewer than 126 bytes, with a mask of zeros."""
        self._transport.write(bytes([first, 0x80 | len(payload)]) + bytes(4) + payload)

    def send(self, text: str) -> None:
        self.write(0x81, text.encode())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("closed before the handshake was answered"))
        self._end(1006, "")
        self.lost.set_result(None)

    def abort(self) -> None:
        self._transport.abort()

    def _end(self, code: int, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result((code, reason))


class Crowd:
    """Clients that are cut off at the end."""

    def __init__(self) -> None:
        self.clients: list[Listening] = []

    async def join(self, url: str) -> Listening:
        """One more that is connected to the gateway at `url`."""
        host = url.partition("://")[2]
        name, _, port = host.partition(":")
        _, client = await asyncio.get_running_loop().create_connection(lambda: Listening(host), name, int(port))
        self.clients.append(client)
        await client.opened
        return client

    async def join_many(self, url: str, count: int, *, at_once: int = 50) -> list[Listening]:
        """`count` more."""
        found: list[Listening] = []
        while len(found) < count:
            found += await asyncio.gather(*(self.join(url) for _ in range(min(at_once, count - len(found)))))
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.abort()
        for client in self.clients:
            await client.lost

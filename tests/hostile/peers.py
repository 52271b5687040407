"""Clients and callers that keep to nothing: plain sockets, with their frames and requests built by hand."""

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any, Self

import anyio

from tests.raw import masked

TIMEOUT = 15.0
"""Seconds after which a read or a write is a failure of the server."""

ABNORMAL = 1006
"""What a close is called that came without a close frame (RFC 6455 7.1.5)."""


TICK = b"tick "
"""What the bystander's messages begin with, which all clients receive."""


class Peer:
    """A TCP connection of which the test decides everything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.patience = TIMEOUT
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int = 0, source: str = "") -> Self:
        """With a `receive_buffer`, in bytes, it is soon full; `source` is the address that it comes from."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        peer = cls(sock)
        try:
            with anyio.fail_after(TIMEOUT):
                await peer._loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return peer

    async def send(self, data: bytes) -> None:
        with anyio.fail_after(TIMEOUT):
            await self._loop.sock_sendall(self.sock, data)

    async def some(self, size: int = 1 << 16) -> bytes:
        """What has arrived; nothing at the end."""
        if not self._buffer:
            with anyio.fail_after(self.patience):
                return await self._loop.sock_recv(self.sock, size)
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises `EOFError`."""
        while len(self._buffer) < size:
            await self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._more()
        return await self.exactly(self._buffer.index(end) + len(end))

    async def _more(self) -> None:
        with anyio.fail_after(self.patience):
            data = await self._loop.sock_recv(self.sock, 1 << 16)
        if not data:
            raise EOFError
        self._buffer += data

    async def ended(self) -> None:
        """Wait until the server has ended the connection, with a reset or without."""
        try:
            while await self.some():
                pass
        except ConnectionError:
            pass

    async def frame(self) -> tuple[int, bytes]:
        """The first byte and the payload of the next frame (RFC 6455 5.2)."""
        first, size = await self.exactly(2)
        if size > 125:
            size = int.from_bytes(await self.exactly(2 if size == 126 else 8))
        return first, await self.exactly(size)

    async def data(self, *, ticks: bool = False) -> tuple[int, bytes]:
        """The next frame that is a message, the bystander's only with `ticks`. Pings are answered.

        Raises `EOFError` at a close.
        """
        while True:
            first, payload = await self.frame()
            if first == 0x89:
                await self.send(frame(0x8A, payload))
            elif first == 0x88:
                raise EOFError(f"closed with {payload!r}")
            elif first != 0x8A and (ticks or not payload.startswith(TICK)):
                return first, payload

    async def message(self) -> bytes:
        """The payload of the next message that is not the bystander's."""
        return (await self.data())[1]

    async def code(self) -> int:
        """Wait for the close; its code."""
        try:
            while True:
                first, payload = await self.frame()
                if first == 0x88:
                    return int.from_bytes(payload[:2])
        except (EOFError, ConnectionError):
            return ABNORMAL

    def close(self) -> None:
        """End it with a FIN; a reset if something was not read."""
        self.sock.close()

    def reset(self) -> None:
        """End it with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def frame(first: int, payload: bytes = b"") -> bytes:
    """A client's frame; `first` holds its flags and opcode. Masked with zeros, which cost nothing to apply."""
    return masked(first, payload, mask=bytes(4))


CLOSE = frame(0x88, b"\x03\xe8")


@dataclass(frozen=True)
class Answer:
    """The answer that a caller has got."""

    status: int
    head: bytes
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def answer(peer: Peer) -> Answer:
    """The next answer to a request."""
    head = await peer.until(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    body = await peer.exactly(int(length.partition(b":")[2]))
    return Answer(int(head.split()[1]), head, body)

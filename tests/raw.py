"""A WebSocket client without a library: bytes as they are on the wire."""

import asyncio
import json
import socket
from typing import Self

import anyio
import anyio.abc

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Raw:
    """A TCP connection whose reads have a time limit."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def send(self, data: bytes) -> None:
        with anyio.fail_after(30):
            await self.stream.send(data)

    async def receive_some(self) -> bytes:
        """What has arrived; raises `anyio.EndOfStream` at the end."""
        if not self.buffer:
            with anyio.fail_after(30):
                self.buffer = await self.stream.receive()
        data, self.buffer = self.buffer, b""
        return data

    async def receive_all(self) -> bytes:
        """All that arrives until the server closes."""
        received = b""
        with anyio.fail_after(20):
            while True:
                try:
                    received += await self.receive_some()
                except anyio.EndOfStream:
                    return received

    async def receive_exactly(self, size: int) -> bytes:
        with anyio.fail_after(30):
            while len(self.buffer) < size:
                self.buffer += await self.stream.receive()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def receive_until(self, end: bytes) -> bytes:
        with anyio.fail_after(30):
            while end not in self.buffer:
                self.buffer += await self.stream.receive()
        at = self.buffer.index(end) + len(end)
        return await self.receive_exactly(at)


async def connect(url: str, *, buffer: int = 0) -> Raw:
    """Connected; the system keeps about `buffer` bytes that were not read, 0: as many as it likes."""
    host, _, port = url.removeprefix("http://").partition(":")
    if not buffer:
        return Raw(await anyio.connect_tcp(host, int(port)))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return Raw(await anyio.abc.SocketStream.from_socket(sock))


def head(first: str, *headers: str, host: str = "localhost") -> bytes:
    """The head of a request to `host`, whose first line is `first`."""
    return "\r\n".join([first, f"Host: {host}", *headers, "\r\n"]).encode()


def upgrade(*headers: str, path: str = "/ws", host: str = "localhost") -> bytes:
    """A handshake as every client sends it, and `headers`."""
    return head(
        f"GET {path} HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *(header for header in headers if header),
        host=host,
    )


async def handshake(url: str, *headers: str, path: str = "/ws", buffer: int = 0) -> tuple[Raw, bytes]:
    """Upgraded; the connection and the response's head."""
    raw = await connect(url, buffer=buffer)
    await raw.send(upgrade(*headers, path=path, host=url.removeprefix("http://")))
    head = await raw.receive_until(b"\r\n\r\n")
    return raw, head


def post(body: object, *headers: str, path: str = "/send", host: str = "localhost") -> bytes:
    """A `POST` of `body`, as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    return head(*lines, *headers, host=host) + data


def masked(first: int, payload: bytes, *, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """One frame as a client sends it; `first` holds its flags and opcode (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2)
    else:
        length = b"\xff" + size.to_bytes(8)
    if any(mask):
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return bytes([first]) + length + mask + payload

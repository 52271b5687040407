"""What the clients of the suite are connected by: WebSockets, streams, and requests. Knows no protocol."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from wsgateway.client import ClientConnection, Subprotocol, connect, websocket_url


class BrokenError(Exception):
    """The connection has ended without its end."""


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


async def _socket(url: str, receive_buffer: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, _address(url))
    return sock


async def open_websocket(
    url: str, path: str, *, subprotocols: tuple[str, ...] = (), receive_buffer: int = 0
) -> ClientConnection:
    return await connect(
        websocket_url(url) + path,
        sock=await _socket(url, receive_buffer),
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        compression=None,
        max_queue=1 if receive_buffer else None,
        ping_interval=None,
        close_timeout=0.5 if receive_buffer else 10,
    )


class Response:
    """The status of a response, and its body as it arrives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._writer = writer
        self._left = -1

    async def begin(self) -> None:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._left = int(self.headers.get("content-length", 0 if self.status == 204 else -1))

    async def some(self) -> bytes:
        """Return what has arrived, empty bytes at the end. Raise `BrokenError`."""
        try:
            if self.headers.get("transfer-encoding") == "chunked":
                size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
                return (await self._reader.readexactly(size + 2))[:-2]
            data = await self._reader.read(self._left if self._left >= 0 else 65536)
            self._left -= len(data) if self._left >= 0 else 0
        except (asyncio.IncompleteReadError, ConnectionError):
            raise BrokenError from None
        else:
            return data

    async def rest(self) -> bytes:
        body = b""
        while self._left and (data := await self.some()):
            body += data
        return body

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def request(
    method: str,
    url: str,
    path: str,
    body: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    receive_buffer: int = 0,
) -> Response:
    """Send a request; the head of its response has arrived. The body is read by the caller."""
    sock = await _socket(url, receive_buffer)
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 16)
    writer.write(_head(method, url, path, body, headers or {}) + body)
    response = Response(reader, writer)
    try:
        await response.begin()
    except BaseException:
        writer.transport.abort()
        raise
    return response


def _head(method: str, url: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {url.partition('//')[2]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if method == "POST" else []
    return "\r\n".join([*lines, "\r\n"]).encode()


async def post(url: str, path: str, body: bytes, content_type: str) -> tuple[int, bytes]:
    """Return the status and the body of the answer."""
    response = await request("POST", url, path, body, headers={"Content-Type": content_type})
    try:
        return response.status, await response.rest()
    finally:
        response.abort()

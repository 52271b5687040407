"""A TCP proxy in this process that cuts connections, and that can refuse WebSockets as some companies' proxies do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
HEAD = b"\r\n\r\n"


class CuttingProxy:
    """Forwards to the server at `upstream`, a URL, which may change."""

    def __init__(self, upstream: str, *, refuses_websockets: bool) -> None:
        self.upstream = upstream
        self.url = ""
        self.cuts = 0
        self.is_cut = False
        self.websockets = self.streams = self.refused = 0
        self._refuses = refuses_websockets
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Abort all connections, and each new one until `mend`."""
        self.is_cut = True
        self.cuts += 1
        self.abort()

    def mend(self) -> None:
        self.is_cut = False

    def abort(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self.is_cut:
                return
            head = await reader.readuntil(HEAD)
            is_websocket = b"upgrade: websocket" in head.lower()
            self.websockets += is_websocket
            self.streams += b"/stream?" in head.partition(b"\r\n")[0]
            if is_websocket and self._refuses:
                self.refused += 1
                writer.write(FORBIDDEN)
                await writer.drain()
                return
            port = int(self.upstream.rpartition(":")[2])
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            self._writers.add(upstream_writer)
            upstream_writer.write(head)
            try:
                await asyncio.gather(_pipe(reader, upstream_writer), _pipe(upstream_reader, writer))
            finally:
                self._writers.discard(upstream_writer)
                upstream_writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if self.is_cut else writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def cutting_proxy(upstream: str, *, refuses_websockets: bool = False) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(upstream, refuses_websockets=refuses_websockets)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.abort()

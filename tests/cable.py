"""A TCP relay in front of a server, which the test cuts and repairs as if it were a client's network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.ports import free_port


class Cable:
    """Between clients that connect to `url` and the server on `port`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._own_port = free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = f"http://127.0.0.1:{self._own_port}/"

    def connect_to(self, port: int) -> None:
        """Lead to another server from the next connection on."""
        self._port = port

    async def repair(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._own_port)

    async def cut(self) -> None:
        """Abort every connection, and accept no new one."""
        assert self._server
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, to_writer}
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
        self._writers -= {writer, to_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def cable(port: int) -> AsyncIterator[Cable]:
    relay = Cable(port)
    await relay.repair()
    yield relay
    await relay.cut()

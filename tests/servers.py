"""The servers that the ASGI suite runs on, each in this process on a free port."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import anyio
import hypercorn.asyncio
import pytest
import trustme
import uvicorn

from wsgateway import Gateway, Settings, testing
from wsgateway.server.serving import serving


class Serve(Protocol):
    """Serves an ASGI application; yields its URL."""

    name: str

    def __call__(self, app: Any) -> AbstractAsyncContextManager[str]: ...


def free_socket() -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.setblocking(False)
    return listening


class OwnServer:
    name = "wsgateway"

    def __call__(self, app: Any) -> AbstractAsyncContextManager[str]:
        return testing.serve(app)


class OwnServerTls:
    """The gateway's own server, over TLS. Clients trust its certificate through `SSL_CERT_FILE`."""

    name = "wsgateway-tls"

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[str]:
        options = testing.replaced(app.settings if isinstance(app, Gateway) else Settings())
        values = {name: getattr(options, name) for name in options.__slots__}
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            authority = trustme.CA()
            certificate = authority.issue_cert("localhost", "127.0.0.1")
            key, chain, root = (Path(folder) / name for name in ("key.pem", "chain.pem", "root.pem"))
            certificate.private_key_pem.write_to_path(key)
            certificate.cert_chain_pems[0].write_to_path(chain)
            authority.cert_pem.write_to_path(root)
            patch.setenv("SSL_CERT_FILE", str(root))
            settings = Settings(**{**values, "ssl_keyfile": str(key), "ssl_certfile": str(chain)})
            async with serving(app, settings) as url:
                yield url


class PlainUvicorn:
    name = "uvicorn"

    def __init__(self, **options: Any) -> None:
        self._options = options

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[str]:
        config = uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=3, **self._options)
        server = uvicorn.Server(config)
        listening = free_socket()
        listening.listen()
        task = asyncio.create_task(server._serve([listening]))
        with anyio.fail_after(30):
            while not server.started:
                if task.done():
                    task.result()
                await anyio.sleep(0.01)  # uvicorn does not report it
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


class Hypercorn:
    name = "hypercorn"

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[str]:
        config = hypercorn.Config()
        listening = free_socket()
        config.bind = [f"fd://{listening.fileno()}"]
        config.accesslog = config.errorlog = None
        config.graceful_timeout = 3
        stop = asyncio.Event()
        port = listening.getsockname()[1]
        task = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
        with anyio.fail_after(30):
            while True:
                try:
                    await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    if task.done():
                        task.result()
                    await anyio.sleep(0.01)  # hypercorn does not report it
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            stop.set()
            await task
            listening.detach()


SERVERS: tuple[Serve, ...] = (OwnServer(), OwnServerTls(), PlainUvicorn(), Hypercorn())

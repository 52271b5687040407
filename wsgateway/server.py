"""The gateway's own server: the only module that knows uvicorn, and its attributes that nobody promised."""

import asyncio
import functools
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from wsgateway.config import Settings
from wsgateway.exceptions import StartError
from wsgateway.gateway import Gateway
from wsgateway.limits import LINGER
from wsgateway.sockets import Socket
from wsgateway.wire import EXTENSION, Wire, WireUser

logger = logging.getLogger("wsgateway")

GRACEFUL = 5
"""Seconds that HTTP requests have left once the gateway has stopped."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which offers a gateway its sockets, and ends what `transport.close()` cannot: it
    waits for a buffer that never empties when the client has stopped reading. Use it with any application:
    `uvicorn --ws wsgateway.server:WebSocketProtocol`."""

    _abort_timer: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        offer(self.scope, self)
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close" and self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        elif message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # else uvicorn logs an error for each refusal

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._abort_later()

    def handle_close(self, event: Any) -> None:
        super().handle_close(event)
        self._abort_later()

    def shutdown(self) -> None:
        super().shutdown()
        self._abort_later()

    def _abort_later(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(LINGER, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        super().connection_lost(exc)


NEEDED = ("close_timer", "conn", "connections", "loop", "request", "response", "stop_keepalive", "transport")
"""Attributes of uvicorn's protocol that taking a socket over rests on. None of them is documented."""


def offer(scope: Any, protocol: Any) -> None:
    """Offer the socket of uvicorn's `protocol` in `scope`, where that is possible; say once where it is not."""
    missing = [name for name in NEEDED if not hasattr(protocol, name)]
    if not missing:
        scope["extensions"][EXTENSION] = UvicornHandshake(protocol)
    else:
        _warn_once(", ".join(missing))


@functools.cache
def _warn_once(missing: str) -> None:
    logger.warning(
        "uvicorn %s has no %s in its WebSocket protocol: the slower, plain ASGI path is used; install a version of "
        "uvicorn that wsgateway knows, or a newer wsgateway",
        uvicorn.__version__,
        missing,
    )


def offer_plain(scope: Any, send: Any) -> None:
    """`offer`, on uvicorn without `--ws`: where nothing stands between, `send` is a method of its protocol."""
    protocol = getattr(send, "__self__", None)
    if isinstance(protocol, WebSocketsSansIOProtocol) and EXTENSION not in scope.get("extensions", {}):
        offer(scope, protocol)


class UvicornHandshake:
    """Takes a socket over from uvicorn's protocol, which is then forgotten, with all that it keeps for each client.

    Implements `wsgateway.wire.Handshake`.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._deflate: Extension | None = None

    def hold(self, *, compression: bool) -> None:
        protocol = self._protocol
        protocol.transport.pause_reading()
        conn, headers = protocol.conn, protocol.response.headers
        if "Sec-WebSocket-Extensions" in headers:
            del headers["Sec-WebSocket-Extensions"]
        conn.extensions = []
        if compression:
            conn.available_extensions = [_DEFLATE]
            answer, extensions = conn.process_extensions(protocol.request.headers)
            if answer is not None and extensions[0].local_max_window_bits == MAX_WINDOW_BITS:
                headers["Sec-WebSocket-Extensions"] = answer
                self._deflate = extensions[0]

    def release(self) -> None:
        self._protocol.transport.resume_reading()

    def take_over(self, user: WireUser, settings: Settings) -> Wire | None:
        protocol, self._protocol = self._protocol, None
        transport = protocol.transport
        if protocol not in protocol.connections or transport.is_closing():
            return None
        protocol.stop_keepalive()
        protocol.close_timer = protocol.loop.call_later(0, int)  # while there is one, uvicorn does not close
        protocol.connections.discard(protocol)
        taken = Socket(transport, user, settings, connections=protocol.connections, deflate=self._deflate)
        transport.set_protocol(taken)
        transport.resume_reading()
        return taken


MAX_WINDOW_BITS = 15

_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
"""A broadcast is compressed once for all, and no client costs a window while it is idle (RFC 7692 7.1.1)."""


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to its caller and stops the gateway before it closes sockets."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway | None) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._gateway = gateway

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if self._gateway is not None:
            await self._gateway.stop()
        await super().shutdown(sockets)


@asynccontextmanager
async def serving(app: Any, settings: Settings) -> AsyncIterator[str]:
    """Serve `app`, a gateway or an application that mounts one, as `settings` say; its URL.

    A gateway is started once its port is bound, and has failed if it cannot be. Raises `StartError`.
    """
    gateway = app if isinstance(app, Gateway) else None
    try:
        config = _config(app, settings, lifespan="off" if gateway else "on")
        listening = await asyncio.to_thread(bind, settings)  # a host name may have to be looked up
    except StartError as exc:
        if gateway is not None:
            gateway.fail(str(exc))
        raise
    try:
        if gateway is not None:
            gateway.bound_to(url_of(settings, listening), None if settings.uds else settings.host)
            await gateway.start()
    except BaseException:
        unbind(settings, listening)
        raise
    server = Server(config, gateway)
    running = asyncio.create_task(_run(server, listening))
    waiting = asyncio.create_task(server.ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if running.done():
            running.result()
        yield url_of(settings, listening)
    finally:
        server.should_exit = True
        await running
        unbind(settings, listening)


async def _run(server: Server, listening: socket.socket) -> None:
    try:
        await server.serve(sockets=[listening])
    except SystemExit as exc:  # uvicorn's way to say that the application's lifespan failed
        raise StartError("the application's start-up failed, the log has the reason") from exc


def _config(app: Any, settings: Settings, *, lifespan: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        ws=WebSocketProtocol,
        ws_max_size=settings.max_message_size,
        ws_ping_interval=settings.ping_interval,
        ws_ping_timeout=settings.pong_timeout,
        ws_per_message_deflate=False,
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
    )
    try:
        config.load()
    except OSError as exc:
        raise StartError(f"cannot use ssl_keyfile and ssl_certfile: {exc.strerror or exc}") from exc
    return config


def bind(settings: Settings) -> socket.socket:
    """A socket that listens where `settings` say. Raises `StartError` with what to do."""
    if settings.uds:
        return _bind_unix(Path(settings.uds))
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise StartError(f"cannot listen on {where}: {exc.strerror or exc}; is the host right?") from exc
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as exc:
        listening.close()
        advice = "is another server running there? stop it, or choose another port with --port"
        raise StartError(f"cannot listen on {where}: {exc.strerror or exc}; {advice}") from exc
    listening.setblocking(False)
    return listening


def unbind(settings: Settings, listening: socket.socket) -> None:
    """Close what `bind` has opened."""
    listening.close()
    if settings.uds:
        Path(settings.uds).unlink(missing_ok=True)


def _bind_unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()  # left behind by a server that was killed
        listening.bind(str(path))
        listening.listen(2048)
    except OSError as exc:
        listening.close()
        raise StartError(f"cannot listen on {path}: {exc.strerror or exc}; stop who listens there, or set uds") from exc
    listening.setblocking(False)
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def url_of(settings: Settings, listening: socket.socket) -> str:
    """Where `listening` can be reached, with its real port; on a Unix socket `unix:path`."""
    if settings.uds:
        return f"unix:{settings.uds}"
    port = listening.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{port}"

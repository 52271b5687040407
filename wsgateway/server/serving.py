"""The gateway's own server: uvicorn's, bound and run as a gateway wants it."""

import asyncio
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import uvicorn

from wsgateway.config.grace import HANDSHAKE_GRACE, HTTP_GRACE, POOL_GRACE
from wsgateway.config.settings import Settings
from wsgateway.descriptors import most_files
from wsgateway.exceptions import StartError
from wsgateway.gateway.admission import most_clients
from wsgateway.gateway.gateway import Gateway
from wsgateway.limits import ACCEPTS, SPARE_SOCKETS
from wsgateway.logs import Log
from wsgateway.server.binding import BACKLOG, bind, unbind, url_of
from wsgateway.server.http import HttpLimits, HttpProtocol, http_protocol, is_beginning, missing_http, takes_requests
from wsgateway.server.proxy_headers import ForwardedHeaders
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.transports.takeover import EXTENSION


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to its caller and stops the gateway before it closes sockets."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway | None, *, handshake_timeout: float) -> None:
        super().__init__(config)
        self._handshake_timeout = handshake_timeout
        self.ready = asyncio.Event()
        self._gateway = gateway

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.is_ssl:
            await self._startup_tls(sockets or [])
        else:
            await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)  # asyncio has taken its share of a turn, `backlog`, for this one too
        self.ready.set()

    async def _startup_tls(self, sockets: list[socket.socket]) -> None:
        """uvicorn's, which leaves a client a minute for its handshake."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(3)  # as uvicorn does
        config, protocol = self.config, cast(Any, self.config.http_protocol_class)
        self.servers = [
            await asyncio.get_running_loop().create_server(
                lambda: protocol(config=config, server_state=self.server_state, app_state=self.lifespan.state),
                sock=listening,
                ssl=config.ssl,
                ssl_handshake_timeout=self._handshake_timeout,
                backlog=config.backlog,
            )
            for listening in sockets
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if self._gateway is not None and self._gateway.has_running_peers:
            await self._leave_proxies()
        await self._finish_handshakes()
        if self._gateway is not None:
            await self._gateway.stop()
        await super().shutdown(sockets)
        for left in tuple(self.server_state.connections):
            if isinstance(left, HttpProtocol):
                left.transport.abort()  # it does not read what was written before it was closed

    async def _finish_handshakes(self) -> None:
        """Finish the handshakes of connections that were accepted. These clients are then closed with 1012 like all
        others, so a roll refuses none."""
        until = time.monotonic() + HANDSHAKE_GRACE
        await asyncio.sleep(0)  # what was accepted in this turn of the loop
        while time.monotonic() < until and any(map(is_beginning, self.server_state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn's connections send no notification

    async def _leave_proxies(self) -> None:
        """Keep serving until no HTTP connection is left in the pool of a proxy, which then uses the other nodes.

        Every response says `connection: close` from now on. A request that a proxy sends while its idle connection is
        being closed would be lost, and a POST answered with 502, because a proxy must not send it a second time.
        """
        protocol = self.config.http_protocol_class
        if not issubclass(protocol, HttpProtocol):
            return
        protocol.is_leaving = True  # a class of this server's own
        until = time.monotonic() + POOL_GRACE
        await asyncio.sleep(0)  # for what was accepted in this iteration of the event loop
        while time.monotonic() < until and any(map(takes_requests, self.server_state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn's connections notify nobody


@asynccontextmanager
async def serving(
    app: Any, settings: Settings, *, inherited: Sequence[socket.socket] | None = None
) -> AsyncIterator[str]:
    """Serve `app`, a gateway or an application that mounts one, as `settings` say; its URL.

    A gateway is started once its port is bound, and has failed if it cannot be. Raises `StartError`. `inherited` are
    sockets that another process has bound, and unbinds.
    """
    gateway = app if isinstance(app, Gateway) else None
    try:
        config = _config(app, settings, lifespan="off" if gateway else "on")
        listening: Sequence[socket.socket]
        if inherited is None:
            listening = await asyncio.to_thread(bind, settings)  # a host name may have to be looked up
        else:
            listening = inherited
    except StartError as exc:
        if gateway is not None:
            gateway.fail(str(exc))
        raise
    try:
        if gateway is not None:
            gateway.bound_to(url_of(settings, listening), None if settings.uds else settings.host)
            await gateway.start()
    except BaseException:
        _let_go(settings, listening, is_owner=inherited is None)
        raise
    server = Server(config, gateway, handshake_timeout=settings.handshake_timeout)
    running = asyncio.create_task(_run(server, listening))
    waiting = asyncio.create_task(server.ready.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield url_of(settings, listening)
    finally:
        waiting.cancel()
        server.should_exit = True
        try:
            await running
        finally:
            if gateway is not None:
                await gateway.stop()  # as it has, unless the server failed
            _let_go(settings, listening, is_owner=inherited is None)


def _let_go(settings: Settings, listening: Sequence[socket.socket], *, is_owner: bool) -> None:
    if is_owner:
        unbind(settings, listening)
    else:
        for sock in listening:
            sock.close()


async def missing_of_uvicorn() -> tuple[str, ...]:
    """What uvicorn's HTTP protocol lacks, so that requests have no limits."""
    return missing_http(_config(uvicorn.Server, Settings(), lifespan="off"))  # any callable: nothing is served


async def offers_takeover() -> bool:
    """Return whether a server with this uvicorn offers a WebSocket's socket to the gateway, tried on a free port."""
    from wsgateway import client  # a worker does not load it: only `wsgateway doctor` asks

    is_offered = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal is_offered
        await receive()
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            is_offered = EXTENSION in scope["extensions"]
            await send({"type": "websocket.close"})

    async with serving(app, Settings(port=0)) as url:
        await client.handshake(url + "/ws")
    return is_offered


async def _run(server: Server, listening: Sequence[socket.socket]) -> None:
    try:
        await server.serve(sockets=list(listening))
    except SystemExit as exc:  # uvicorn's way to say that the application's lifespan failed
        raise StartError("the application's start-up failed, the log has the reason") from exc


def _config(app: Any, settings: Settings, *, lifespan: Any) -> uvicorn.Config:
    log = app.log if isinstance(app, Gateway) else Log()
    config = uvicorn.Config(
        ForwardedHeaders(app),
        proxy_headers=False,  # uvicorn's own compares addresses as text, and believes nobody on a Unix socket
        ws=WebSocketProtocol,
        ws_max_size=settings.max_message_size,
        ws_ping_interval=settings.ping_interval,
        ws_ping_timeout=settings.pong_timeout,
        ws_per_message_deflate=False,
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=HTTP_GRACE,
        backlog=ACCEPTS,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
    )
    try:
        config.load()
    except OSError as exc:
        raise StartError(f"cannot use ssl_keyfile and ssl_certfile: {exc.strerror or exc}") from exc
    limits = HttpLimits(
        settings.handshake_timeout,
        max_sockets=most_clients(settings) + SPARE_SOCKETS,
        max_file=most_files() - SPARE_SOCKETS,
        log=log,
    )
    if config.ssl is not None:
        config.ssl.sslobject_class = _tls_of(log)
    config.http_protocol_class = http_protocol(limits, config)
    return config


def _tls_of(log: Log) -> type[ssl.SSLObject]:
    """Return a TLS endpoint that logs a client which speaks plain HTTP: asyncio would end it without a word."""

    class LoggedTls(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLError as exc:
                if exc.reason == "HTTP_REQUEST":
                    text = "a client speaks plain HTTP (ws:// or http://) to a port with TLS: use wss:// or https://"
                    log.limited("http tls").warning("closed a connection: %s", text)
                raise

    return LoggedTls

"""The gateway's own server: uvicorn's server, bound to sockets and run for a gateway or another ASGI application."""

import asyncio
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn

from wsgateway.config.grace import HANDSHAKE_GRACE, HTTP_GRACE, POOL_GRACE
from wsgateway.config.settings import Settings
from wsgateway.exceptions import StartError
from wsgateway.gateway.admission import client_limit
from wsgateway.gateway.descriptors import file_limit
from wsgateway.gateway.gateway import Gateway
from wsgateway.logs import Log
from wsgateway.server.binding import BACKLOG, bind, unbind, url_of
from wsgateway.server.guards import GuardedHttp, HttpShared
from wsgateway.server.http import HttpProtocol, http_protocol, is_beginning, missing_http, takes_requests
from wsgateway.server.pacing import HandshakePacer, IdleSockets
from wsgateway.server.proxy_headers import ForwardedHeaders
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.transports.takeover import EXTENSION

ACCEPTS = 4
"""Sockets that asyncio's event loop accepts in one iteration. A socket over the limit is closed some iterations later,
and counts as spare until then."""

SPARE_SOCKETS = 32
"""Sockets beside those of clients: for `/send`, for probes, and for handshakes that are refused."""


class Server(uvicorn.Server):
    """uvicorn's server, which handles no signals and stops the gateway before it closes connections."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway | None, shared: HttpShared) -> None:
        super().__init__(config)
        self._shared = shared
        self._gateway = gateway
        self._is_ready = asyncio.Event()

    @asynccontextmanager
    async def running(self, sockets: list[socket.socket]) -> AsyncIterator[None]:
        """Serve on `sockets` in a task of its own. Raise `StartError` if the start-up of the application failed."""
        task = asyncio.create_task(self.serve(sockets))
        task.add_done_callback(lambda _: self._is_ready.set())
        try:
            await self._is_ready.wait()
            if task.done():
                task.result()
            yield
        finally:
            self.should_exit = True
            await task

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on `sockets` until `should_exit` is set, then stop the gateway, which runs already."""
        self.lifespan = self.config.lifespan_class(self.config)
        try:
            await self.startup(sockets)
            self._is_ready.set()
            await self.main_loop()
        except SystemExit as exc:  # raised by uvicorn if the lifespan has failed
            raise StartError("the application's start-up failed, the log has the reason") from exc
        finally:
            if self.started:
                await self._stop_accepting()
            if self._gateway is not None:
                await self._gateway.stop()
            if self.started:
                await self.shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.is_ssl:
            await self._startup_tls(sockets or [])
        else:
            await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)  # asyncio has set it to `backlog`, its share of an iteration

    async def _startup_tls(self, sockets: list[socket.socket]) -> None:
        """Do the same as uvicorn, except that a client has `handshake_timeout` for its TLS handshake, not a minute."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(3)  # as uvicorn does
        config, protocol = self.config, cast(Any, self.config.http_protocol_class)
        self.servers = [
            await asyncio.get_running_loop().create_server(
                lambda: protocol(config=config, server_state=self.server_state, app_state=self.lifespan.state),
                sock=listening,
                ssl=config.ssl,
                ssl_handshake_timeout=self._shared.request_timeout,
                backlog=config.backlog,
            )
            for listening in sockets
        ]
        self.started = True

    async def _stop_accepting(self) -> None:
        """Accept no more connections, but finish the handshakes of accepted ones.

        Their clients are then closed with 1012 like all others, so a rolling update refuses no client.
        """
        for server in self.servers:
            server.close()
        if self._gateway is not None and self._gateway.inspector.has_running_peers:
            await self._leave_proxies()
        await self._wait_while(is_beginning, HANDSHAKE_GRACE)

    async def _leave_proxies(self) -> None:
        """Keep serving until no HTTP connection is left in the pool of a proxy, which then uses the other nodes.

        Every response has `connection: close` from now on. If a proxy sent a request while its idle connection is being
        closed, the request would be lost. A POST would then be answered with 502, because a proxy must not repeat it.
        """
        self._shared.is_leaving = True
        await self._wait_while(takes_requests, POOL_GRACE)

    async def _wait_while(self, is_busy: Callable[[object], bool], seconds: float) -> None:
        """Wait until no connection `is_busy`, at most `seconds`."""
        until = time.monotonic() + seconds
        await asyncio.sleep(0)  # for what was accepted in this iteration of the event loop
        while time.monotonic() < until and any(map(is_busy, self.server_state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn does not report when a connection becomes idle

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.transport.abort()  # the client does not read the response


@asynccontextmanager
async def serving(
    app: Any, settings: Settings, *, inherited: Sequence[socket.socket] | None = None
) -> AsyncIterator[str]:
    """Serve `app`, a gateway or an application that mounts one, as `settings` require, and yield its URL.

    A gateway is started once its port is bound, and fails if the port cannot be bound. `inherited` are sockets that
    another process has bound. Raise `StartError`.
    """
    gateway = app if isinstance(app, Gateway) else None
    try:
        shared = _shared(settings, Log() if gateway is None else gateway.log)
        config = _config(app, settings, shared, lifespan="off" if gateway else "on")
        # in a thread, because a host name may have to be looked up
        listening = list(await asyncio.to_thread(bind, settings) if inherited is None else inherited)
    except StartError as exc:
        if gateway is not None:
            gateway.fail(str(exc))
        raise
    try:
        if gateway is not None:
            gateway.bound_to(url_of(settings, listening), None if settings.uds else settings.host)
            await gateway.start()
        async with Server(config, gateway, shared).running(listening):
            yield url_of(settings, listening)
    finally:
        unbind(settings, listening)


async def missing_of_uvicorn() -> tuple[str, ...]:
    """Return the attributes that uvicorn's HTTP protocol lacks, so that requests have no limits."""
    # any callable, which is not called
    return missing_http(_config(uvicorn.Server, Settings(), HttpShared(), lifespan="off"))


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


def _shared(settings: Settings, log: Log) -> HttpShared:
    return HttpShared(
        settings.handshake_timeout,
        max_sockets=client_limit(settings) + SPARE_SOCKETS,
        max_file=file_limit() - SPARE_SOCKETS,
        log=log,
        idle=IdleSockets[GuardedHttp](),
        pacer=HandshakePacer(),
    )


def _config(app: Any, settings: Settings, shared: HttpShared, *, lifespan: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        ForwardedHeaders(app),
        proxy_headers=False,  # uvicorn's middleware compares addresses as text, and trusts no Unix socket
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
    if config.ssl is not None:
        config.ssl.sslobject_class = _tls_of(shared.log)
    config.http_protocol_class = http_protocol(shared, config)
    return config


def _tls_of(log: Log) -> type[ssl.SSLObject]:
    """Return a TLS endpoint that logs clients that use plain HTTP. asyncio closes them without a log line."""

    class LoggedTls(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLError as exc:
                if exc.reason == "HTTP_REQUEST":
                    text = "a client uses plain HTTP (ws:// or http://) on a port with TLS: use wss:// or https://"
                    log.limited("http tls").warning("closed a connection: %s", text)
                raise

    return LoggedTls

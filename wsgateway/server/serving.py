"""The gateway's own server: uvicorn's, bound and run as a gateway wants it."""

import asyncio
import errno
import logging
import os
import signal
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import uvicorn

from wsgateway.config.grace import HANDSHAKE_GRACE, HTTP_GRACE, POOL_GRACE
from wsgateway.config.settings import Settings
from wsgateway.exceptions import StartError
from wsgateway.gateway.admission import most_clients, most_files
from wsgateway.gateway.gateway import Gateway
from wsgateway.limits import ACCEPTS, SPARE_SOCKETS
from wsgateway.logs import ThinnedLog, flush_log, logger
from wsgateway.server.http import HttpLimits, HttpProtocol, http_protocol, is_beginning, missing_http, takes_requests
from wsgateway.server.proxy_headers import ForwardedHeaders
from wsgateway.server.websocket import WebSocketProtocol

__all__ = [
    "HttpProtocol",
    "WebSocketProtocol",
    "bind",
    "end_process",
    "loop_factory",
    "serving",
    "stop_at_signals",
    "unbind",
    "url_of",
]

LAST_WORDS = 0.5
"""Seconds that a second signal leaves for what was logged to reach the file."""

BACKLOG = 2048
"""Clients that the system lets wait until they are accepted."""


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


async def _run(server: Server, listening: Sequence[socket.socket]) -> None:
    try:
        await server.serve(sockets=list(listening))
    except SystemExit as exc:  # uvicorn's way to say that the application's lifespan failed
        raise StartError("the application's start-up failed, the log has the reason") from exc


def _config(app: Any, settings: Settings, *, lifespan: Any) -> uvicorn.Config:
    log = app.log if isinstance(app, Gateway) else ThinnedLog({})
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


def _tls_of(log: logging.LoggerAdapter[logging.Logger]) -> type[ssl.SSLObject]:
    """Return a TLS endpoint that logs a client which speaks plain HTTP: asyncio would end it without a word."""

    class LoggedTls(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLError as exc:
                if exc.reason == "HTTP_REQUEST":
                    text = "a client speaks plain HTTP (ws:// or http://) to a port with TLS: use wss:// or https://"
                    log.warning("closed a connection: %s", text, extra={"kind": "http tls"})
                raise

    return LoggedTls


def bind(settings: Settings) -> list[socket.socket]:
    """Return sockets that listen where `settings` say: one for each address that a host name resolves to.

    Raises `StartError` with what to do.
    """
    if settings.uds:
        return [_bind_unix(Path(settings.uds), int(settings.uds_mode, 8))]
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:  # a name that no domain can have
        raise StartError(
            f"cannot listen on {where}: {getattr(exc, 'strerror', None) or exc}; is the host right?"
        ) from exc
    addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    listening: list[socket.socket] = []
    try:
        for family, host in addresses:
            port = listening[0].getsockname()[1] if listening else settings.port  # 0: the one that the first has got
            try:
                listening.append(_bind_tcp(family, host, port, is_only=len(addresses) == 1))
            except OSError as exc:
                if exc.errno not in UNAVAILABLE or ((family, host) == addresses[-1] and not listening):
                    raise
        for sock in listening:
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as exc:
        for sock in listening:
            sock.close()
        advice = "is another server running there? stop it, or choose another port with --port"
        raise StartError(f"cannot listen on {where}: {exc.strerror or exc}; {advice}") from exc
    return listening


UNAVAILABLE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Why one of several addresses of a name is left out: the machine has no IPv6, or no IPv4."""


def _bind_tcp(family: int, host: str, port: int, *, is_only: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # `::` alone takes IPv4 too; beside a socket of IPv4 it must not
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_only else 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def unbind(settings: Settings, listening: Sequence[socket.socket]) -> None:
    """Close what `bind` has opened. The file of another server that has taken over the path meanwhile stays."""
    for sock in listening:
        sock.close()
        if isinstance(sock, UnixSocket):
            path = Path(settings.uds or "")
            with suppress(FileNotFoundError):
                if _file_at(path) == sock.file:
                    path.unlink()


class UnixSocket(socket.socket):
    """Knows which file it was bound to."""

    file = (0, 0)


def _file_at(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _bind_unix(path: Path, mode: int) -> socket.socket:
    listening = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()  # left behind by a server that was killed
        listening.bind(str(path))
        listening.file = _file_at(path)
        path.chmod(mode)  # nobody can connect before it listens
        listening.listen(BACKLOG)
    except OSError as exc:
        listening.close()
        raise StartError(f"cannot listen on {path}: {exc.strerror or exc}; stop the server there, or set uds") from exc
    listening.setblocking(False)
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def url_of(settings: Settings, listening: Sequence[socket.socket]) -> str:
    """Return where `listening` can be reached, with its real port; on a Unix socket `unix:path`."""
    if settings.uds:
        return f"unix:{settings.uds}"
    port = listening[0].getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{port}"


def loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """uvloop's loop where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def stop_at_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGINT or SIGTERM; a second one ends the process now. Call it on the loop of `stop`."""
    loop = asyncio.get_running_loop()
    is_asked = False

    def stopping(*_: object) -> None:
        nonlocal is_asked
        if is_asked:
            flush_log(LAST_WORDS)
            os._exit(1)  # also while a hook blocks the loop, which would not see `stop`
        is_asked = True
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopping)


def end_process(code: int) -> int:
    """`code`, for a process that ends by itself; one in which a hook still runs in a thread is ended here."""
    if any(thread.name.startswith("wsgateway-") for thread in threading.enumerate()):
        logger.warning("a hook still runs in a thread, which is left behind")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)  # Python would wait for the thread
    return code

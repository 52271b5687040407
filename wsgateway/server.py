"""The gateway's own server: the only module that knows uvicorn, and its attributes that nobody promised."""

import asyncio
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
from websockets.frames import Frame

from wsgateway.config import Settings
from wsgateway.exceptions import StartError
from wsgateway.gateway import Gateway
from wsgateway.limits import LINGER
from wsgateway.transports import EXTENSION, WireUser

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  where its C extension could not be built
    from websockets.utils import apply_mask

logger = logging.getLogger("wsgateway")

GRACE = 0.05
"""Seconds to read what waits in a socket whose pong is late: the loop may have been blocked until now."""

QUIET = 0.25
"""Seconds without a byte after which a client that broke the protocol has read why it is closed."""

GRACEFUL = 5
"""Seconds that HTTP requests have left once the gateway has stopped."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also ends what `transport.close()` cannot: it waits for a buffer that
    never empties when the client has stopped reading. Use it with any application:
    `uvicorn --ws wsgateway.server:WebSocketProtocol`."""

    _abort_timer: asyncio.TimerHandle | None = None
    _is_discarding = False
    _user: WireUser | None = None
    _unparsed = 0
    """Bytes given to websockets' parser that have not come back as frames."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.write = transport.write

    async def run_asgi(self) -> None:
        self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]  # uvicorn lists only its own
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close" and self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        elif message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # else uvicorn logs an error for each refusal

    async def receive(self) -> Any:
        was_paused = self.read_paused
        event = await super().receive()
        if was_paused and not self.read_paused and self.pong_timer is not None:
            self.pong_timer.cancel()  # the pong may have waited, unread, all the while
            self._await_pong()
        return event

    def _await_pong(self) -> None:
        self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)

    # What wsgateway.transports calls

    def attach(self, user: WireUser) -> None:
        self._user = user
        if self.disconnected or self.close_sent:
            user.finished()
        elif not self.writable.is_set():
            user.congested()

    def buffered(self) -> int:
        return self.transport.get_write_buffer_size()

    def _finish(self) -> None:
        user, self._user = self._user, None
        if user is not None:
            user.finished()

    def close(self, code: int, reason: str) -> None:
        """Write a close frame past everything that waits, then leave the client time to answer it (RFC 6455 7.1.1).

        It has `LINGER` seconds if it does not read, else as many as uvicorn gives it.
        """
        self._finish()
        if self.close_sent or not self.handshake_complete or self.transport.is_closing():
            self.abort_later()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        seconds = self.close_timeout if self.writable.is_set() else LINGER
        self.close_timer = self.loop.call_later(seconds, self.transport.abort)

    def abort(self) -> None:
        self.transport.abort()

    # What asyncio and uvicorn call

    def data_received(self, data: bytes) -> None:
        """Whole messages go straight to the gateway; what is unusual, and what follows it, to websockets' parser."""
        if self._is_discarding:
            self._close_when_quiet()
            return
        if self._user is not None and not self._unparsed and not self.frames and self.queue.empty():
            data = data[self._taken(data, self._user) :]
            if not data:
                return
        if self.handshake_initiated:
            self._unparsed += len(data)
        super().data_received(data)

    def _taken(self, data: bytes, user: WireUser) -> int:
        """How many bytes of `data` are messages that `user` has taken."""
        taken = 0
        if not self.conn.extensions:
            for message, size, end in whole_messages(data):
                if self._user is None or not user.received(message, size):
                    break
                taken = end
        return taken

    def handle_events(self) -> None:
        for event in self.conn.events:
            if isinstance(event, Frame):
                self._unparsed -= _wire_size(len(event.data))
        super().handle_events()

    def keepalive_timeout(self) -> None:
        if self.read_paused:  # nobody has looked for the pong
            self._await_pong()
        else:
            self.pong_timer = self.loop.call_later(GRACE, self._no_pong)

    def _no_pong(self) -> None:
        self.pong_timer = None
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._user is not None:
            self._user.congested()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._user is not None:
            self._user.writable()

    def handle_close(self, event: Any) -> None:
        self._finish()
        super().handle_close(event)
        self.abort_later()

    def handle_parser_exception(self) -> None:
        """Write the close frame, then read on and discard: unread bytes would reset the connection, and lose it."""
        self._finish()
        assert self.conn.close_sent is not None
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._is_discarding = True
        self._close_when_quiet()
        self.abort_later()

    def _close_when_quiet(self) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(QUIET, self.transport.close)

    def shutdown(self) -> None:
        self._finish()
        super().shutdown()
        self.abort_later()

    def abort_later(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(LINGER, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._finish()
        super().connection_lost(exc)


def whole_messages(data: bytes) -> Iterator[tuple[str | bytes, int, int]]:
    """The whole, unfragmented messages at the beginning of `data`: each, its size, and where its frame ends.

    Stops at the first frame that is anything else: control, fragment, compressed, unmasked, incomplete, of 64 KiB or
    more, no UTF-8 (RFC 6455 5.2). All of these are left to websockets' parser, and so are its errors.
    """
    at, length = 0, len(data)
    while length - at >= 6:
        kind, size, start = data[at], data[at + 1] - 128, at + 6
        if kind not in (0x81, 0x82) or not 0 <= size < 127:
            return
        if size == 126:
            size, start = int.from_bytes(data[at + 2 : at + 4]), at + 8
        at = start + size
        if at > length:
            return
        payload = apply_mask(data[start:at], data[start - 4 : start])
        try:
            yield (payload.decode() if kind == 0x81 else payload), size, at
        except UnicodeDecodeError:
            return


def _wire_size(size: int) -> int:
    """Bytes on the wire of a masked frame with a payload of `size` bytes (RFC 6455 5.2)."""
    return size + (6 if size < 126 else 8 if size < 65536 else 14)


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
        listening = bind(settings)
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

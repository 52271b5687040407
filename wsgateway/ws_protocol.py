"""uvicorn's WebSocket protocol, and what of it that nobody promised the gateway rests on to take an accepted socket
over. Knows nothing of what is served."""

import asyncio
import functools
import logging
import re
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from wsgateway.config import Settings
from wsgateway.limits import LINGER, TLS_BUFFER
from wsgateway.sockets import Socket
from wsgateway.wire import EXTENSION, Wire, WireUser

logger = logging.getLogger("wsgateway")


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which offers a gateway its sockets, and ends what `transport.close()` cannot: it
    waits for a buffer that never empties when the client has stopped reading. Use it with any application:
    `uvicorn --ws wsgateway.server:WebSocketProtocol`."""

    _abort_timer: asyncio.TimerHandle | None = None
    _is_unparsed = False
    """The request came from `wsgateway.http_protocol`, past websockets' parser, which still waits for one."""

    def upgraded(self, http: HttpToolsProtocol, request: Request, raw: list[tuple[bytes, bytes]]) -> None:
        """Take a socket with a request that `http` has parsed, with its headers as they came."""
        self.transport, self.server, self.client = http.transport, http.server, http.client
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.connections.add(self)
        self._is_unparsed = True
        key = usual_key(raw)
        if key is not None and not self.conn.available_extensions:
            # what is unusual or wrong is left to websockets, and so are its answers
            self.conn.accept = lambda request: _switching(key)  # type: ignore[method-assign]  # of this one object
        self.handle_connect(request)

    def data_received(self, data: bytes) -> None:
        if self._is_unparsed:
            self._is_unparsed = False
            self.conn.receive_data(b"GET / HTTP/1.1\r\n\r\n")
            self.conn.events_received()
        super().data_received(data)

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


def usual_key(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The key of a handshake as every client sends it (RFC 6455 4.2.1): each header once, nothing else in them."""
    found = dict(headers)
    key = found.get(b"sec-websocket-key", b"")
    if (
        found.get(b"upgrade", b"").lower() != b"websocket"
        or found.get(b"connection", b"").lower() != b"upgrade"
        or found.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key)
        or sum(name in _ONCE for name, _ in headers) != len(_ONCE)
    ):
        return None
    return key.decode()


_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_ONCE = frozenset({b"upgrade", b"connection", b"sec-websocket-version", b"sec-websocket-key"})


def _switching(key: str) -> Response:
    headers = Headers()
    for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))):
        headers[name] = value
    headers["Date"] = ""  # which uvicorn takes out
    return Response(101, "Switching Protocols", headers)


NEEDED = ("close_timer", "conn", "connections", "loop", "request", "response", "stop_keepalive", "transport")
"""Attributes of uvicorn's protocol that taking a socket over rests on. None of them is documented."""


def offer(scope: Any, protocol: Any) -> None:
    """Offer the socket of uvicorn's `protocol` in `scope`, where that is possible; say once where it is not."""
    missing = [name for name in NEEDED if not hasattr(protocol, name)]
    if not missing:
        scope["extensions"][EXTENSION] = UvicornHandshake(protocol)
    else:
        warn_once(", ".join(missing), "WebSocket", "the slower, plain ASGI path is used")


@functools.cache
def warn_once(missing: str, protocol: str, so: str) -> None:
    """Say what uvicorn's `protocol` lacks, and what is done `so`."""
    logger.warning(
        "uvicorn %s has no %s in its %s protocol: %s; install a version of uvicorn that wsgateway knows, or a newer "
        "wsgateway",
        uvicorn.__version__,
        missing,
        protocol,
        so,
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
        if transport.get_extra_info("ssl_object") is not None:
            transport.set_write_buffer_limits(high=TLS_BUFFER)
        taken = Socket(transport, user, settings, connections=protocol.connections, deflate=self._deflate)
        transport.set_protocol(taken)
        transport.resume_reading()
        return taken


MAX_WINDOW_BITS = 15

_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
"""A broadcast is compressed once for all, and no client costs a window while it is idle (RFC 7692 7.1.1)."""

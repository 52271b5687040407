"""uvicorn's two protocols, and what of them that nobody promised the gateway rests on: taking an accepted socket over,
and guarding a request before it is one. Knows nothing of what is served."""

import asyncio
import functools
import logging
import re
from collections.abc import Sized
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from wsgateway.config import Settings
from wsgateway.limits import BODY_TIMEOUT, LINGER, MAX_HEAD, MAX_PIPELINED, MAX_URL
from wsgateway.sockets import Socket
from wsgateway.wire import EXTENSION, Wire, WireUser

logger = logging.getLogger("wsgateway")

_LATIN_1 = int(version("websockets").partition(".")[0]) >= 17
"""From 17 on, websockets decodes header values as ISO-8859-1, before as ASCII with surrogate escapes."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which offers a gateway its sockets, and ends what `transport.close()` cannot: it
    waits for a buffer that never empties when the client has stopped reading. Use it with any application:
    `uvicorn --ws wsgateway.server:WebSocketProtocol`."""

    _abort_timer: asyncio.TimerHandle | None = None
    _is_unparsed = False
    """The request came from `HttpProtocol`, past websockets' parser, which still waits for one."""

    def upgraded(self, http: "HttpProtocol", request: Request, raw: list[tuple[bytes, bytes]]) -> None:
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
        _warn_once(", ".join(missing), "WebSocket", "the slower, plain ASGI path is used")


@functools.cache
def _warn_once(missing: str, protocol: str, so: str) -> None:
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
        taken = Socket(transport, user, settings, connections=protocol.connections, deflate=self._deflate)
        transport.set_protocol(taken)
        transport.resume_reading()
        return taken


MAX_WINDOW_BITS = 15

_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
"""A broadcast is compressed once for all, and no client costs a window while it is idle (RFC 7692 7.1.1)."""


NEEDED_HTTP = (
    "app_state",
    "config",
    "connections",
    "cycle",
    "data_received",
    "flow",
    "handle_websocket_upgrade",
    "headers",
    "loop",
    "on_headers_complete",
    "on_message_complete",
    "on_url",
    "pipeline",
    "scope",
    "send_400_response",
    "server_state",
    "transport",
    "ws_protocol_class",
)
"""Attributes of uvicorn's HTTP protocol that `HttpProtocol` rests on."""


class PipelineFlow(FlowControl):
    """Reads on only once every request that was read is being answered: uvicorn's does with each answer, and so reads
    whatever comes into memory."""

    def __init__(self, transport: Any, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits for what comes before a request is one, and a shorter way to a WebSocket.

    Slow is 408, too large 431 or 414, too many sockets 503; each is answered, and the socket ended.
    """

    request_timeout = 10.0
    """Seconds until a request's head has to be there."""

    max_sockets = 0
    """Sockets of this server at once; 0: any number."""

    max_file = 0
    """Descriptors below this one are for sockets, the others for what the process opens else; 0: all are."""

    _deadline: asyncio.TimerHandle | None = None
    _unwanted: asyncio.TimerHandle | None = None
    """Ends who goes on with a body that was answered long ago."""

    _refusal = ""
    _head = 0
    _is_body = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = PipelineFlow(transport, self.pipeline)
        if (self.max_sockets and len(self.connections) > self.max_sockets) or (
            self.max_file and transport.get_extra_info("socket").fileno() >= self.max_file  # the lowest one is taken
        ):
            self._refuse(503, "too many connections", b"retry-after: 5\r\n")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        self._body_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
        if self._deadline is None and not self._is_body and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        is_head = self._deadline is not None
        super().data_received(data)
        if is_head and self._deadline is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(431, f"the request's head is larger than {MAX_HEAD} bytes")
        elif self._is_body and self._unwanted is None and self.cycle is not None and self.cycle.response_complete:
            self._unwanted = self.loop.call_later(BODY_TIMEOUT, self.transport.abort)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._give_up(414, f"the address is longer than {MAX_URL} bytes")

    def on_headers_complete(self) -> None:
        self._head_is_here()
        self._is_body = True
        if len(self.pipeline) >= MAX_PIPELINED:
            self._give_up(503, f"more than {MAX_PIPELINED} requests of this connection wait for their answers")
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            self._give_up(431, f"the request's head is larger than {MAX_HEAD} bytes")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_is_here()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the parsed request on, which uvicorn would write out for websockets to parse again."""
        if self.scope["method"] != "GET" or self.scope["http_version"] != "1.1" or not self.url.isascii():
            self._refuse(400, "a WebSocket begins with a GET of HTTP/1.1 and an address in ASCII (RFC 6455 4.1)")
            return
        if any(name == b"sec-websocket-version" and value.strip() != b"13" for name, value in self.headers):
            # RFC 6455 4.2.2 asks for the version that would be right, which websockets leaves out
            self._refuse(400, "the version of a WebSocket is 13", b"sec-websocket-version: 13\r\n")
            return
        if not issubclass(self.ws_protocol_class or object, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        headers = Headers()
        for name, value in self.headers:
            headers[name.decode("latin-1")] = _header_text(value)
        self.connections.discard(self)
        protocol: Any = self.ws_protocol_class(  # type: ignore[misc, call-arg]  # uvicorn declares it as a bare Protocol
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.upgraded(self, Request(self.url.decode("ascii"), headers), self.headers)
        self.transport.set_protocol(protocol)

    def send_400_response(self, msg: str) -> None:
        if not self._refusal:
            super().send_400_response(msg)

    def _await_head(self) -> None:
        self._head = 0
        self._deadline = self.loop.call_later(self.request_timeout, self._too_slow)

    def _head_is_here(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _body_is_here(self) -> None:
        self._is_body = False
        if self._unwanted is not None:
            self._unwanted.cancel()
            self._unwanted = None

    def _too_slow(self) -> None:
        self._refuse(408, f"the request did not arrive within {self.request_timeout:g} s")

    def _give_up(self, status: int, text: str) -> None:
        """Refuse from within the parser, which stops at an exception."""
        self._refuse(status, text)
        raise ValueError(text)

    def _refuse(self, status: int, text: str, header: bytes = b"") -> None:
        self._refusal = text
        self._head_is_here()
        body = text.encode()
        head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n" + header
        self.transport.write(
            STATUS_LINE[status] + head + b"content-length: %d\r\n\r\n" % len(body) + body  # as uvicorn writes a 400
        )
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)


def is_beginning(connection: object) -> bool:
    """Whether it is accepted and has not made its first request, or is in its handshake."""
    if isinstance(connection, HttpProtocol):
        return connection.cycle is None
    return isinstance(connection, WebSocketProtocol) and not connection.handshake_complete


def _header_text(value: bytes) -> str:
    """A header's value as websockets has it, which uvicorn turns into bytes again."""
    return value.decode("latin-1") if _LATIN_1 else value.decode("ascii", "surrogateescape")


def missing_http(config: uvicorn.Config) -> tuple[str, ...]:
    """What `HttpProtocol` needs and uvicorn's HTTP protocol has not. Call it on a loop."""
    found = HttpToolsProtocol(config, ServerState(), {})
    return tuple(name for name in NEEDED_HTTP if not hasattr(found, name))


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What `HttpProtocol` limits, under the names that it has there."""

    request_timeout: float
    max_sockets: int
    max_file: int


def http_protocol(limits: HttpLimits, config: uvicorn.Config) -> type[HttpToolsProtocol]:
    """`HttpProtocol` with `limits`, or uvicorn's own where `HttpProtocol` would not work, with one warning."""
    missing = missing_http(config)
    if missing:
        _warn_once(", ".join(missing), "HTTP", "requests have no time limit and no limit of size")
        return HttpToolsProtocol

    class Limited(HttpProtocol):
        request_timeout, max_sockets, max_file = limits.request_timeout, limits.max_sockets, limits.max_file

    return Limited

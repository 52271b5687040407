"""uvicorn's WebSocket protocol, from which the gateway takes over an accepted socket. It rests on attributes of uvicorn
that are not documented. Knows nothing of what is served."""

import asyncio
import functools
import logging
import re
import socket
import struct
from importlib.metadata import version
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from wsgateway.addresses import PEER, SocketPeer, plain_address
from wsgateway.config.grace import LINGER
from wsgateway.config.settings import Settings
from wsgateway.limits import BODY_TIMEOUT, TLS_BUFFER
from wsgateway.server.parser import FrameCutter
from wsgateway.server.socket import Socket
from wsgateway.transports.peer import MAX_FRAMES
from wsgateway.transports.takeover import EXTENSION, Wire, WireUser

logger = logging.getLogger("wsgateway")

RawHeaders = list[tuple[bytes, bytes]]

HOP_HEADERS = frozenset({b"connection", b"upgrade"})

MAX_EARLY = 64 * 1024
"""Bytes that a client may send behind its handshake before reading pauses until it is accepted."""

_LATIN_1 = int(version("websockets").partition(".")[0]) >= 17
"""From 17 on, websockets decodes header values as ISO-8859-1, before as ASCII with surrogate escapes."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which offers a gateway its sockets, and aborts where `transport.close()` would wait
    for ever, for a buffer that never empties because the client has stopped reading. Use it with any application:
    `uvicorn --ws wsgateway.server:WebSocketProtocol`.

    It parses one frame at a time and stops until the handshake is accepted, while the application has not taken the
    message before, while the client does not read, and after `MAX_FRAMES` in one iteration of the event loop. What was
    received by then waits in `early`, and reading is paused.
    """

    _abort_timer: asyncio.TimerHandle | None = None
    _cutter: FrameCutter | None = None
    _frames = 0
    _is_spent = False  # this client's share of the present iteration
    _is_paused = False
    _is_unparsed = False
    """The request came from `wsgateway.server.http`, past websockets' parser, which still waits for one."""

    peer = SocketPeer("")
    early: bytes | bytearray = b""
    """What the client has sent and must not be parsed yet: behind its handshake, before that was accepted, or later."""

    is_held = False
    """A `UvicornHandshake` takes the socket over once it is accepted."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.client, self.server = plain_addresses(self.client, self.server)
        self.peer = peer_at(transport, self.client)

    def upgraded(self, http: "ParsedRequest", target: str, raw: RawHeaders) -> None:
        """Take a socket with a handshake that `http` has parsed and checked: its target, and its headers."""
        self.transport, self.server, self.client = http.transport, http.server, http.client
        self.peer, self.early = http.peer, http.early
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.connections.add(self)
        self._is_unparsed = True
        key = usual_key(raw)
        if key is not None and not self.conn.available_extensions:
            # what is unusual or wrong is left to websockets, and so are its answers
            self.conn.accept = lambda request: _switching(key)  # type: ignore[method-assign]  # of this one object
        headers = Headers()
        for name, value in raw:
            if name not in HOP_HEADERS:
                headers[name.decode("latin-1")] = _header_text(value)
        headers["Connection"], headers["Upgrade"] = "Upgrade", "websocket"  # in whatever form they came
        self.handle_connect(Request(target, headers))
        if self.response.status_code == 101:
            self.scope["headers"] = raw

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:  # the request, which uvicorn's HTTP protocol has written out again
            super().data_received(data)
            return
        self.early = bytearray(self.early) + data
        self._read_on()

    def _read_on(self) -> None:
        """Parse what was received, as far as it may be parsed now."""
        cutter = self._cutter = self._cutter or FrameCutter()
        while self.early and self._may_parse():
            if self._is_unparsed:
                self._is_unparsed = False
                self.conn.receive_data(b"GET / HTTP/1.1\r\n\r\n")
                self.conn.events_received()
            end = cutter.cut(self.early, 0)
            data, self.early = bytes(self.early[:end]), self.early[end:]
            super().data_received(data)
            if self.close_sent and cutter.is_between_frames:  # it goes on sending past the close frame
                self._abort_later()
            self._count_frame()
        self._pause_or_resume()

    def _count_frame(self) -> None:
        self._frames += 1
        if self._frames == MAX_FRAMES:
            self._frames, self._is_spent = 0, True
            self.loop.call_soon(self._next_iteration)

    def _next_iteration(self) -> None:
        self._is_spent = False
        self._read_on()

    def _may_parse(self) -> bool:
        is_accepted = self.handshake_complete and not self.is_held and not self.transport.is_closing()
        return is_accepted and self.writable.is_set() and not self.read_paused and not self._is_spent

    def _pause_or_resume(self) -> None:
        """Pause reading, also where uvicorn has just resumed it, or resume what was paused here."""
        if self.transport.is_closing():
            return
        most = 0 if self.handshake_complete else MAX_EARLY
        must_pause = len(self.early) > most or self._is_spent or not self.writable.is_set()
        if must_pause:
            self.transport.pause_reading()
        elif self._is_paused and not self.read_paused and not self.is_held:
            self.transport.resume_reading()
        self._is_paused = must_pause

    def handle_ping(self) -> None:
        if self.close_sent or not self.writable.is_set():
            self.conn.data_to_send()  # a pong that nobody reads
        else:
            super().handle_ping()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._pause_or_resume()
        if self.close_sent:
            self._abort_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    async def run_asgi(self) -> None:
        self.scope["extensions"][PEER] = self.peer  # type: ignore[assignment]  # an entry of our own
        offer(self.scope, self)
        await super().run_asgi()
        if self.transport.is_closing() and self in self.connections:
            self._abort_later(LINGER if self.initial_response is None else BODY_TIMEOUT)

    async def receive(self) -> Any:
        message = await super().receive()
        self._read_on()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close" and self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
            if not self.writable.is_set():
                self._abort_later()
        elif message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # else uvicorn logs an error for each refusal
        if message["type"] != "websocket.send":
            self._read_on()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._abort_later()

    def handle_close(self, event: Any) -> None:
        super().handle_close(event)
        self._abort_later()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._abort_later()

    def shutdown(self) -> None:
        super().shutdown()
        self._abort_later()

    def _abort_later(self, seconds: float = LINGER) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(seconds, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        super().connection_lost(exc)


class ParsedRequest(Protocol):
    """What `WebSocketProtocol` takes from the HTTP protocol that has parsed a handshake."""

    transport: asyncio.Transport
    server: tuple[str, int | None] | None
    client: tuple[str, int] | None
    scheme: Any
    peer: SocketPeer
    early: bytes


def plain_addresses(
    client: tuple[str, int] | None, server: tuple[str, int | None] | None
) -> tuple[tuple[str, int] | None, tuple[str, int | None] | None]:
    """Return `client` and `server` of a scope with IPv4-mapped addresses as IPv4 addresses."""
    if client is not None and ":" in client[0]:
        client = plain_address(client[0]), client[1]
    if server is not None and ":" in server[0]:
        server = plain_address(server[0]), server[1]
    return client, server


def peer_at(transport: Any, client: tuple[str, int] | None) -> SocketPeer:
    """Return the other end of `transport`, whose address is `client`: on a Unix socket its user, where the system says
    (`SO_PEERCRED`, Linux)."""
    if client is not None:
        return SocketPeer(client[0])
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != getattr(socket, "AF_UNIX", None):
        return SocketPeer("")  # it was reset already
    if not hasattr(socket, "SO_PEERCRED"):
        return SocketPeer("", is_unix=True)
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return SocketPeer("", uid, is_unix=True)


_CREDENTIALS = struct.Struct("3i")
"""Linux's `struct ucred`: process, user, group."""


def _tokens(headers: RawHeaders, wanted: bytes) -> set[bytes]:
    """Return the elements of a list header, in lower case, over all its lines (RFC 9110 5.6.1)."""
    return {part.strip(b" \t").lower() for name, value in headers if name == wanted for part in value.split(b",")}


def asks_for_websocket(headers: RawHeaders) -> bool:
    """Return whether `headers` are those of a WebSocket handshake (RFC 6455 4.2.1, 3 and 4)."""
    return b"upgrade" in _tokens(headers, b"connection") and b"websocket" in _tokens(headers, b"upgrade")


def handshake_mistake(method: str, http: str, target: bytes, headers: RawHeaders) -> tuple[str, bytes] | None:
    """Return why a request cannot be a handshake, and a header for the answer; None if it can be one."""
    if method != "GET" or http != "1.1" or not target.isascii():
        return "a WebSocket begins with a GET of HTTP/1.1 and an address in ASCII (RFC 6455 4.1)", b""
    if _tokens(headers, b"upgrade") != {b"websocket"}:
        return "a WebSocket handshake asks for no other Upgrade beside websocket (RFC 6455 4.1)", b""
    if any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers):
        return "a WebSocket handshake has no body", b""
    if any(name == b"sec-websocket-version" and value != b"13" for name, value in headers):
        # RFC 6455 4.2.2 asks for the version that would be right, which websockets leaves out
        return "the version of a WebSocket is 13", b"sec-websocket-version: 13\r\n"
    return None


def usual_key(headers: RawHeaders) -> str | None:
    """Return the key of a handshake as every client sends it (RFC 6455 4.2.1), None for one that is to be refused."""
    found = dict(headers)
    key = found.get(b"sec-websocket-key", b"")
    if (
        found.get(b"sec-websocket-version") != b"13"
        or not _KEY.fullmatch(key)
        or sum(name in _ONCE for name, _ in headers) != len(_ONCE)
    ):
        return None
    return key.decode()


def _header_text(value: bytes) -> str:
    """Return a header's value as websockets has it, which uvicorn turns into bytes again."""
    return value.decode("latin-1") if _LATIN_1 else value.decode("ascii", "surrogateescape")


_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_ONCE = frozenset({b"sec-websocket-version", b"sec-websocket-key"})


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
    """Warn once that uvicorn's `protocol` lacks `missing`; `so` names the consequence."""
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

    Implements `wsgateway.transports.takeover.Takeover`.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._deflate: Extension | None = None

    def hold(self, *, compression: bool) -> None:
        protocol = self._protocol
        protocol.is_held = True
        protocol.transport.pause_reading()
        conn, headers = protocol.conn, protocol.response.headers
        if "Sec-WebSocket-Extensions" in headers:
            del headers["Sec-WebSocket-Extensions"]
        conn.extensions = []
        if compression:
            conn.available_extensions = [_DEFLATE]
            try:
                answer, extensions = conn.process_extensions(protocol.request.headers)
            except InvalidHandshake:  # an offer that cannot be parsed is ignored
                return
            if answer is not None and extensions[0].local_max_window_bits == MAX_WINDOW_BITS:
                headers["Sec-WebSocket-Extensions"] = answer
                self._deflate = extensions[0]

    def release(self) -> None:
        self._protocol.is_held = False
        self._protocol.transport.resume_reading()

    def take_over(self, user: WireUser, settings: Settings) -> Wire | None:
        protocol, self._protocol = self._protocol, None
        transport = protocol.transport
        if protocol not in protocol.connections or transport.is_closing():
            protocol.handshake_complete = True  # else uvicorn logs an error
            return None
        protocol.stop_keepalive()
        protocol.close_timer = protocol.loop.call_later(0, int)  # while there is one, uvicorn does not close
        protocol.connections.discard(protocol)
        if transport.get_extra_info("ssl_object") is not None:
            transport.set_write_buffer_limits(high=TLS_BUFFER)
        taken = Socket(transport, user, settings, connections=protocol.connections, deflate=self._deflate)
        transport.set_protocol(taken)
        transport.resume_reading()
        early = getattr(protocol, "early", b"")  # plain uvicorn keeps none
        if early:
            taken.keep(early)
        return taken


MAX_WINDOW_BITS = 15

_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
"""A broadcast is compressed once for all, and no client costs a window while it is idle (RFC 7692 7.1.1)."""

"""uvicorn's HTTP protocol, with guards for what precedes a request. It rests on attributes of uvicorn that are not
documented. Knows nothing of what is served."""

import asyncio
import enum
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, NoReturn

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from wsgateway.addresses import PEER, SocketPeer
from wsgateway.config.grace import LINGER
from wsgateway.limits import BODY_TIMEOUT, MAX_HEAD, MAX_PIPELINED, MAX_URL
from wsgateway.logs import Log
from wsgateway.server.pacing import HandshakePacer, IdleSockets
from wsgateway.server.tcp import acknowledged
from wsgateway.server.websocket import (
    WebSocketProtocol,
    asks_for_websocket,
    handshake_mistake,
    peer_at,
    plain_addresses,
    warn_once,
)

NEEDED_HTTP = (
    "app_state",
    "config",
    "connections",
    "cycle",
    "data_received",
    "_unset_keepalive_if_required",
    "client",
    "eof_received",
    "flow",
    "handle_websocket_upgrade",
    "headers",
    "loop",
    "on_body",
    "on_header",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_response_complete",
    "on_url",
    "parser",
    "pause_writing",
    "pipeline",
    "resume_writing",
    "scope",
    "send_400_response",
    "server",
    "server_state",
    "shutdown",
    "timeout_keep_alive",
    "timeout_keep_alive_handler",
    "timeout_keep_alive_task",
    "transport",
    "ws_protocol_class",
)
"""Attributes of uvicorn's HTTP protocol that `HttpProtocol` rests on."""


class PipelineFlow(FlowControl):
    """Resumes reading only when no request waits. uvicorn resumes after each response, so its pipeline has no bound."""

    def __init__(self, transport: Any, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class LingeringTransport:
    """The transport given to uvicorn's response cycle. Its `close` leaves the client time to read the response, because
    a socket that is closed while the client still sends is reset, and the response may be lost (RFC 9112 9.6)."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: Any, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Upgrade(enum.Enum):
    """What the `Upgrade` header of the request that is being read asks for."""

    NONE = enum.auto()
    WEBSOCKET = enum.auto()
    OTHER = enum.auto()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits for everything that precedes a request, and a shorter way to a WebSocket.

    A slow request is answered with 408, a large one with 431 or 414, one socket too many with 503; each time the socket
    is closed. A request with an `Upgrade` other than websocket is parsed as if it had none, and is the last of its
    connection: llhttp would take its body for the next request. Whenever no request is being read or answered, a
    deadline runs, whatever bytes arrive.
    """

    request_timeout = 10.0
    """Seconds until a request's head has to be there."""

    max_sockets = 0
    """Sockets of this server at once; 0: any number."""

    max_file = 0
    """Descriptors below this one are for sockets, the others for whatever else the process opens; 0: no limit."""

    is_leaving = False
    """Whether this server is about to stop. Every request is then the last of its connection."""

    admission: HandshakePacer | None = None
    """Limits how many handshakes of this server begin at the same time."""

    idle: "IdleSockets[HttpProtocol] | None" = None
    """The sockets of this server that have no request."""

    log: Log = Log()
    """Where refusals are logged."""

    peer = SocketPeer("")
    early = b""
    """What the client sent behind its handshake, before the answer."""

    _deadline: asyncio.TimerHandle | None = None
    _late_body: asyncio.TimerHandle | None = None
    """Aborts a client that still sends the body of a request which was answered long ago."""

    _unread: asyncio.TimerHandle | None = None
    """Aborts a client that does not read the response, because its socket could never be closed."""

    _refusal = ""
    _head = 0
    _trailers = 0
    _overhead = 0
    _has_progress = False
    _is_body = False
    _is_reparsing = False
    _is_last = False
    """Nothing that follows the current request is parsed."""

    _is_lingering = False

    _upgrade = Upgrade.NONE

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.client, self.server = plain_addresses(self.client, self.server)
        self.peer = peer_at(transport, self.client)
        self.flow = PipelineFlow(transport, self.pipeline)
        if self.client is None and not self.peer.is_unix:
            transport.abort()  # the client has reset it, and nobody could say whose request it is
            return
        if self._is_full() and not self._make_room():
            self._refuse(503, "too many connections (max_connections)", b"retry-after: 5\r\n")
            return
        if self.idle is not None:
            self.idle.add(self, self.peer.host)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._end_body()
        self._cancel_abort()
        self._unset_keepalive_if_required()
        if self.idle is not None:
            self.idle.discard(self, self.peer.host)
        super().connection_lost(exc)

    def _is_full(self) -> bool:
        if self.max_sockets and len(self.connections) > self.max_sockets:
            return True
        # the system gives a new file the lowest number that is free
        return bool(self.max_file) and self.transport.get_extra_info("socket").fileno() >= self.max_file

    def _make_room(self) -> bool:
        """Abort a socket of another address that has no request. Return False if there is none."""
        oldest = self.idle.take_oldest(self.peer.host) if self.idle is not None else None
        if oldest is None:
            return False
        text = "all %d sockets are taken (max_connections): closed the oldest one without a request, from %s"
        self.log.limited("evicted").warning(text, len(self.connections), oldest.peer.host)
        oldest.transport.abort()
        return True

    # A response that is not read: `transport.close()` waits for a buffer that never empties

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_within(BODY_TIMEOUT)

    def resume_writing(self) -> None:
        if not self.transport.is_closing() and not self._is_lingering:
            self._cancel_abort()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_within(LINGER)

    def eof_received(self) -> None:
        super().eof_received()
        self._abort_within(BODY_TIMEOUT)

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._abort_within(LINGER)

    def _abort_within(self, seconds: float) -> None:
        """Abort once the client has taken nothing of the response for so long."""
        if self._unread is None:
            self._unread = self.loop.call_later(seconds, self._abort_unless_read, seconds, self._unwritten())

    def _abort_unless_read(self, seconds: float, before: int) -> None:
        self._unread = None
        if self._unwritten() < before:
            self._abort_within(seconds)
        else:
            self.transport.abort()

    def _unwritten(self) -> int:
        """Return a number of bytes that gets smaller as the client takes what waits for it."""
        size: int = self.transport.get_write_buffer_size()
        return size - acknowledged(self.transport.get_extra_info("socket"))

    def _cancel_abort(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._refusal or self._is_last:
            return
        if self._upgrade is Upgrade.WEBSOCKET:  # the handshake waits for its turn
            self.early += data
            return
        if self.cycle is None and not self._head and data.startswith(TLS_RECORD):
            self._drop("a client speaks TLS (wss:// or https://) to a port without TLS: use ws:// or http://")
            return
        was_head, self._has_progress = self._deadline is not None, False
        try:
            self._parse(data)
        except httptools.HttpParserError as exc:
            if not self._refusal and not self._is_last:
                self._refuse(400, f"Invalid HTTP request received: {exc}")
            return
        if self._deadline is not None:
            self._head += len(data) if was_head else 0
            if self._head > MAX_HEAD:
                self._refuse(431, f"the request's head is larger than {MAX_HEAD} bytes")
        elif self._is_body:
            self._overhead = 0 if self._has_progress else self._overhead + len(data)
            if self._overhead > MAX_HEAD:
                self._refuse(431, TOO_MUCH_AROUND_BODY)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            rest = data[exc.args[0] :]
            if self._upgrade is Upgrade.WEBSOCKET:
                self.early = rest
                self.handle_websocket_upgrade()
            else:
                self._parse_without_upgrade(rest)

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the request again, which llhttp ended with its head, with the body that it announces."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        framing = [b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self._is_reparsing = True  # only how the body is framed is of interest, the rest is known
        self.parser.feed_data(b"%b / HTTP/%b\r\nconnection: close\r\n%b\r\n" % (method, version, b"".join(framing)))
        self._is_reparsing = False
        if rest:
            self.parser.feed_data(rest)

    def on_message_begin(self) -> None:
        if self._is_reparsing:
            return
        if self._is_last:
            raise ValueError("the connection ends with the request before")
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self.scope["extensions"] = {PEER: self.peer}  # type: ignore[dict-item]  # an entry of our own
        if self._deadline is None:  # the first head's runs since the socket is there
            self._await_head()

    def on_url(self, url: bytes) -> None:
        if self._is_reparsing:
            return
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._give_up(414, f"the address is longer than {MAX_URL} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_reparsing:
            return
        if self._is_body:  # a trailer, which is of no use to the gateway
            self._trailers += len(name) + len(value) + 4
            if self._trailers > MAX_HEAD:
                self._give_up(431, TOO_MUCH_AROUND_BODY)
            return
        super().on_header(name, value.strip(b" \t"))  # RFC 9112 5.1; llhttp leaves what is behind the value

    def on_headers_complete(self) -> None:
        self._cancel_deadline()
        if not self._is_reparsing:
            self._check_head()
            if self._upgrade is not Upgrade.NONE:
                return
        self._is_body, self._trailers, self._overhead = True, 0, 0
        if self.idle is not None:
            self.idle.discard(self, self.peer.host)
        super().on_headers_complete()
        self.cycle.transport = LingeringTransport(self.transport, self._linger)  # type: ignore[assignment]  # all it uses
        if self.is_leaving or any(name in LAST_HEADERS for name, _ in self.headers):
            self.cycle.keep_alive = False

    def _check_head(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._give_up(503, f"more than {MAX_PIPELINED} requests of this connection wait for their answers")
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            self._give_up(431, f"the request's head is larger than {MAX_HEAD} bytes")
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._give_up(400, "this server is not a proxy, it does not answer CONNECT")
        if not self.url.startswith(b"/") and self.url != b"*":
            self._take_host_of_target()
        if self.parser.should_upgrade():
            self._upgrade = Upgrade.WEBSOCKET if asks_for_websocket(self.headers) else Upgrade.OTHER
            self.scope["method"] = method.decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()

    def _take_host_of_target(self) -> None:
        """Take the path and the host of a target in absolute form, whose host replaces `Host` (RFC 9112 3.2.2)."""
        target = httptools.parse_url(self.url)
        if not target.host or target.schema.lower() not in TARGET_SCHEMES or target.userinfo is not None:
            self._give_up(400, "the request's target is neither a path nor an http or ws address")
        host = b"[%b]" % target.host if b":" in target.host else target.host
        host += b":%d" % target.port if target.port else b""
        self.url = (target.path or b"/") + (b"" if target.query is None else b"?" + target.query)
        self.headers[:] = [(b"host", host), *(header for header in self.headers if header[0] != b"host")]

    def on_chunk_header(self) -> None:
        """Called by the parser: another chunk of the body begins."""
        self._has_progress = True

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade is not Upgrade.NONE and not self._is_body:
            return  # the head was complete, and is parsed again or becomes a WebSocket
        self._end_body()
        super().on_message_complete()
        if not self.cycle.keep_alive:
            self._is_last = True
        elif self.cycle.response_complete:
            self._await_request()

    def on_response_complete(self) -> None:
        if self._is_lingering:  # nor does a request begin that is queued behind this one
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self._await_request()

    def _await_request(self) -> None:
        """Everything is answered: wait for the rest of the body, if there is one, then for another request."""
        self._unset_keepalive_if_required()
        if self.idle is not None:
            self.idle.add(self, self.peer.host)
        if not self._is_body:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif self._late_body is None:
            self._late_body = self.loop.call_later(BODY_TIMEOUT, self.transport.abort)

    # To a WebSocket

    def handle_websocket_upgrade(self) -> None:
        if self.idle is not None:
            self.idle.discard(self, self.peer.host)
        if self.admission is None:
            self._begin_handshake()
        elif not self.admission.ask(self._begin_handshake, self.loop):
            self.transport.pause_reading()

    def _begin_handshake(self) -> None:
        """Hand the parsed request on, which uvicorn would write out for websockets to parse again."""
        if self.transport.is_closing():
            return
        self._cancel_abort()
        self._unset_keepalive_if_required()
        self.transport.resume_reading()  # if it had to wait
        refusal = handshake_mistake(self.scope["method"], self.scope["http_version"], self.url, self.headers)
        if refusal is None and self._is_pending():
            refusal = "a handshake has to wait for the answer to the request before it", b""
        if refusal is not None:
            self._refuse(400, *refusal)
            return
        if not issubclass(self.ws_protocol_class or object, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        protocol: Any = self.ws_protocol_class(  # type: ignore[misc, call-arg]  # uvicorn declares it as a bare Protocol
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.upgraded(self, self.url.decode("ascii"), self.headers)
        self.transport.set_protocol(protocol)

    # Deadlines

    def _await_head(self) -> None:
        self._head = 0
        self._deadline = self.loop.call_later(self.request_timeout, self._too_slow)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_body(self) -> None:
        self._is_body = False
        if self._late_body is not None:
            self._late_body.cancel()
            self._late_body = None

    def _too_slow(self) -> None:
        self._refuse(408, f"the request did not arrive within {self.request_timeout:g} s (handshake_timeout)")

    # Refusing

    def send_400_response(self, msg: str) -> None:
        if not self._refusal:
            self._refuse(400, msg)

    def _is_pending(self) -> bool:
        """Whether a request that was read is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self, status: int, text: str) -> NoReturn:
        """Refuse from within the parser, which stops at an exception."""
        self._refuse(status, text)
        raise ValueError(text)

    def _refuse(self, status: int, text: str, header: bytes = b"") -> None:
        """Answer with `status` and close. Nothing is written while an earlier request has no answer, because it would
        be taken for that answer: the connection ends with the earlier one."""
        self._refusal = text
        self._cancel_deadline()
        line = "refused a request from %s with %d: %s (docs/hardening.md)"
        self.log.limited(f"http {status}").warning(line, self.peer.host or "a Unix socket", status, text)
        if self._is_pending():
            if not self._is_body:
                self.cycle.keep_alive = False
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # its own body is what cannot be read
            self.cycle.message_event.set()
        body = text.encode()
        head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n" + header
        self.transport.write(
            STATUS_LINE[status] + head + b"content-length: %d\r\n\r\n" % len(body) + body  # as uvicorn writes a 400
        )
        self.transport.close()  # at once, however much the client still sends
        self._abort_within(LINGER)

    def _linger(self) -> None:
        """End the response, then discard what the client sends until it closes, for `LINGER` seconds after it has
        taken the response."""
        self._is_last = self._is_lingering = True
        self.pipeline.clear()
        self._cancel_abort()
        if self.idle is not None:
            self.idle.add(self, self.peer.host)
        if self.transport.is_closing() or not self.transport.can_write_eof():  # as under TLS
            self.transport.close()
            self._abort_within(LINGER)
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._unread = self.loop.call_later(LINGER, self._close, self._unwritten())

    def _close(self, before: int) -> None:
        self._unread = None
        left = self._unwritten()
        if left < before:
            self._unread = self.loop.call_later(LINGER, self._close, left)
            return
        self.transport.close()
        self._abort_within(LINGER)

    def _drop(self, text: str) -> None:
        """Close without an answer, which the client could not read."""
        self._refusal = text
        self._cancel_deadline()
        self.log.limited("http tls").warning("closed the connection of %s: %s", self.peer.host, text)
        self.transport.close()


TLS_RECORD = b"\x16\x03"
"""How a client begins that speaks TLS: a record of type handshake (RFC 8446 5.1)."""

TARGET_SCHEMES = frozenset({b"http", b"https", b"ws", b"wss"})

FRAMING_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that say where a body ends (RFC 9112 6)."""

LAST_HEADERS = frozenset({b"upgrade", b"expect"})
"""Headers of a request that ends its connection, because a proxy and this server may disagree on what follows it: bytes
of another protocol, or a body that the client sends only when it is asked to."""

TOO_MUCH_AROUND_BODY = f"the request's trailers or chunk extensions are larger than {MAX_HEAD} bytes"


def is_beginning(connection: object) -> bool:
    """Return whether `connection` has not sent its first request, or is in its handshake."""
    if isinstance(connection, HttpProtocol):
        return connection.cycle is None
    return isinstance(connection, WebSocketProtocol) and not connection.handshake_complete


def takes_requests(connection: object) -> bool:
    """Return whether `connection` is HTTP, and a proxy could send another request on it."""
    if not isinstance(connection, HttpProtocol):
        return False
    return not connection._is_lingering and not connection.transport.is_closing()


def missing_http(config: uvicorn.Config) -> tuple[str, ...]:
    """Return the attributes that `HttpProtocol` needs and uvicorn's protocol does not have. Call it on a loop."""
    found = HttpToolsProtocol(config, ServerState(), {})
    return tuple(name for name in NEEDED_HTTP if not hasattr(found, name))


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What `HttpProtocol` limits, under the names that it has there."""

    request_timeout: float
    max_sockets: int
    max_file: int
    log: Log


def http_protocol(limits: HttpLimits, config: uvicorn.Config) -> type[HttpToolsProtocol]:
    """`HttpProtocol` with `limits`, or uvicorn's own where `HttpProtocol` would not work, with one warning."""
    missing = missing_http(config)
    if missing:
        warn_once(", ".join(missing), "HTTP", "requests have no time limit and no limit of size")
        return HttpToolsProtocol

    class Limited(HttpProtocol):
        request_timeout, max_sockets, max_file = limits.request_timeout, limits.max_sockets, limits.max_file
        log = limits.log
        admission = HandshakePacer()
        idle = IdleSockets[HttpProtocol]()

    return Limited

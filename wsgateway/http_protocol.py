"""uvicorn's HTTP protocol, and what of it that nobody promised the gateway rests on to guard a request before it is
one. Knows nothing of what is served."""

import asyncio
from collections import deque
from collections.abc import Callable, Sized
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request

from wsgateway.limits import BODY_TIMEOUT, HANDSHAKES_PER_TURN, LINGER, MAX_HEAD, MAX_PIPELINED, MAX_URL
from wsgateway.ws_protocol import WebSocketProtocol, warn_once

_LATIN_1 = int(version("websockets").partition(".")[0]) >= 17
"""From 17 on, websockets decodes header values as ISO-8859-1, before as ASCII with surrogate escapes."""

NEEDED_HTTP = (
    "app_state",
    "config",
    "connections",
    "cycle",
    "data_received",
    "eof_received",
    "flow",
    "handle_websocket_upgrade",
    "headers",
    "loop",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_url",
    "pause_writing",
    "pipeline",
    "resume_writing",
    "scope",
    "send_400_response",
    "server_state",
    "shutdown",
    "timeout_keep_alive_handler",
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


class Admission:
    """Begins at most `HANDSHAKES_PER_TURN` in one turn of the loop, so that requests have their turn while thousands
    come back at once."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = 0

    def ask(self, begin: Callable[[], None], loop: asyncio.AbstractEventLoop) -> bool:
        """Call `begin` now, or in a later turn: whether it has been called."""
        if not self._begun:
            loop.call_soon(self._next_turn, loop)
        elif self._begun >= HANDSHAKES_PER_TURN:
            self._waiting.append(begin)
            return False
        self._begun += 1
        begin()
        return True

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = 0
        while self._waiting and self._begun < HANDSHAKES_PER_TURN:
            if not self._begun:
                loop.call_soon(self._next_turn, loop)
            self._begun += 1
            self._waiting.popleft()()


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

    admission: Admission | None = None
    """What all of this server's sockets ask before a handshake begins."""

    _deadline: asyncio.TimerHandle | None = None
    _unwanted: asyncio.TimerHandle | None = None
    """Ends who goes on with a body that was answered long ago."""

    _unread: asyncio.TimerHandle | None = None
    """Ends who reads nothing of an answer, so that its socket takes no more or cannot be closed."""

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
        self._is_read()
        super().connection_lost(exc)

    # An answer that nobody reads: `transport.close()` waits for a buffer that never empties

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_within(BODY_TIMEOUT)

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self._is_read()
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
        if self._unread is None:
            self._unread = self.loop.call_later(seconds, self.transport.abort)

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # Requests

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
        is_head = self._deadline is not None
        super().data_received(data)
        if is_head and self._deadline is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(431, f"the request's head is larger than {MAX_HEAD} bytes")
        elif self._is_body and self._unwanted is None and self.cycle is not None and self.cycle.response_complete:
            self._unwanted = self.loop.call_later(BODY_TIMEOUT, self.transport.abort)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:  # the first head's runs since the socket is there
            self._await_head()

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
        if self.admission is None:
            self._upgrade()
        elif not self.admission.ask(self._upgrade, self.loop):
            self.transport.pause_reading()

    def _upgrade(self) -> None:
        """Hand the parsed request on, which uvicorn would write out for websockets to parse again."""
        if self.transport.is_closing():
            return
        self._is_read()
        self.transport.resume_reading()  # if it had to wait
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
        warn_once(", ".join(missing), "HTTP", "requests have no time limit and no limit of size")
        return HttpToolsProtocol

    class Limited(HttpProtocol):
        request_timeout, max_sockets, max_file = limits.request_timeout, limits.max_sockets, limits.max_file
        admission = Admission()

    return Limited

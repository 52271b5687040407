"""uvicorn's WebSocket protocol, which offers its sockets to a gateway and limits what a client may send.

Relies on undocumented attributes of uvicorn. Knows nothing of the application that is served.
"""

import asyncio
from importlib.metadata import version
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from wsgateway.config.addresses import REMOTE_END, RemoteEnd
from wsgateway.config.grace import LINGER
from wsgateway.limits import BODY_TIMEOUT
from wsgateway.server.guards import GuardedHttp
from wsgateway.server.head import RawHeaders, valid_key
from wsgateway.server.parser import FrameCutter
from wsgateway.server.remote_end import plain_addresses, remote_end_at
from wsgateway.server.takeover import offer
from wsgateway.transports.peer import MAX_FRAMES
from wsgateway.transports.takeover import EXTENSION

HOP_HEADERS = frozenset({b"connection", b"upgrade"})
"""Headers of a handshake that are passed to websockets in one form, because it does not parse every valid one."""

MAX_EARLY = 64 * 1024
"""Bytes that a client may send behind its handshake before reading is paused until the handshake is accepted."""

_LATIN_1 = int(version("websockets").partition(".")[0]) >= 17
"""Whether websockets decodes header values as ISO-8859-1. Before 17 it used ASCII with surrogate escapes."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which offers its sockets to a gateway. Use it with any application:
    `uvicorn --ws wsgateway.server:WebSocketProtocol`.

    Aborts a client that has stopped reading, because `transport.close()` would wait forever for its buffer to empty.

    Parses one frame at a time. Stops until the handshake is accepted, while the application has not received the
    previous message, while the client does not read, and after `MAX_FRAMES` in one event loop iteration. Bytes that
    were received by then wait in `early`, and reading is paused.
    """

    _abort_timer: asyncio.TimerHandle | None = None
    _cutter: FrameCutter | None = None
    _frames = 0
    _is_spent = False  # the client has had its share of this iteration
    _is_paused = False
    _is_unparsed = False
    """Whether websockets' parser still waits for a request, because `wsgateway.server.http` has parsed it."""

    remote_end = RemoteEnd("")
    early: bytes | bytearray = b""
    """Bytes of the client that must not be parsed yet, including those behind its handshake."""

    is_held = False
    """Whether a `UvicornTakeover` is about to take the socket over."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.client, self.server = plain_addresses(self.client, self.server)
        self.remote_end = remote_end_at(transport, self.client)

    def upgraded(self, http: GuardedHttp, target: str, raw: RawHeaders, early: bytes) -> None:
        """Take over the connection of `http`, which has parsed and checked a handshake for `target` with headers `raw`.

        The client has sent `early` behind the handshake.
        """
        self.transport, self.server, self.client = http.transport, http.server, http.client
        self.remote_end, self.early = http.remote_end, early
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.connections.discard(http)
        self.connections.add(self)
        self.transport.set_protocol(self)
        del http.parser  # it refers to `http`, which is then freed without the garbage collector
        self._is_unparsed = True
        key = valid_key(raw)
        if key is not None and not self.conn.available_extensions:
            # websockets answers any other handshake, which may be wrong
            self.conn.accept = lambda request: _switching(key)  # type: ignore[method-assign]  # of this one object
        headers = Headers()
        for name, value in raw:
            if name not in HOP_HEADERS:
                headers[name.decode("latin-1")] = header_text(value)
        headers["Connection"], headers["Upgrade"] = "Upgrade", "websocket"
        self.handle_connect(Request(target, headers))
        if self.response.status_code == 101:
            self.scope["headers"] = raw

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:  # uvicorn's own HTTP protocol has written out the request
            super().data_received(data)
            return
        self.early += data
        self._read_on()

    def _read_on(self) -> None:
        """Parse what was received, as far as that is allowed now."""
        cutter = self._cutter = self._cutter or FrameCutter()
        self.early = bytearray(self.early)  # so that removing a frame does not copy the rest
        while self.early and self._may_parse():
            if self._is_unparsed:
                self._is_unparsed = False
                self.conn.receive_data(b"GET / HTTP/1.1\r\n\r\n")
                self.conn.events_received()
            end = cutter.cut(self.early, 0)
            data = bytes(self.early[:end])
            del self.early[:end]
            super().data_received(data)
            if self.close_sent and cutter.is_between_frames:  # the client still sends after the close frame
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
        """Pause reading, also if uvicorn has just resumed it, or resume it if it was paused here."""
        if self.transport.is_closing():
            return
        max_early = 0 if self.handshake_complete else MAX_EARLY
        must_pause = len(self.early) > max_early or self._is_spent or not self.writable.is_set()
        if must_pause:
            self.transport.pause_reading()
        elif self._is_paused and not self.read_paused and not self.is_held:
            self.transport.resume_reading()
        self._is_paused = must_pause

    def handle_ping(self) -> None:
        if self.close_sent or not self.writable.is_set():
            self.conn.data_to_send()  # discards a pong that the client would not read
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
        self.scope["extensions"][REMOTE_END] = self.remote_end  # type: ignore[assignment]  # an entry of our own
        if EXTENSION not in self.scope["extensions"]:  # a `DirectHandshake` is offered already
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


def header_text(value: bytes) -> str:
    """Return the value of a header as websockets decodes it. uvicorn encodes it again."""
    return value.decode("latin-1") if _LATIN_1 else value.decode("ascii", "surrogateescape")


def _switching(key: str) -> Response:
    headers = Headers()
    for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))):
        headers[name] = value
    headers["Date"] = ""  # uvicorn removes it
    return Response(101, "Switching Protocols", headers)

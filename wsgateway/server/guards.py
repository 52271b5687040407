"""Limits the number of HTTP connections and the time of each, and refuses and closes them.

Owns the phase of a connection and its timers. Relies on undocumented attributes of uvicorn. Does not parse anything,
because `server.http` reports what it has read.
"""

import asyncio
import enum
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any, NoReturn

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from wsgateway.config.addresses import RemoteEnd
from wsgateway.config.grace import LINGER
from wsgateway.limits import BODY_TIMEOUT
from wsgateway.logs import Log
from wsgateway.server.lingering import ProgressTimer
from wsgateway.server.pacing import HandshakePacer, IdleSockets
from wsgateway.server.remote_end import plain_addresses, remote_end_at


class Phase(enum.Enum):
    """The part of a connection that the next bytes of a client belong to."""

    HEAD = enum.auto()
    """The head of a request. `head_timer` runs whenever no bytes are being parsed, for the first request also before
    its first byte."""

    OTHER_UPGRADE = enum.auto()
    """A request whose head asks for an upgrade other than websocket. Its body has not been framed."""

    REFRAMING = enum.auto()
    """The same request, whose framing headers are parsed again without the upgrade."""

    BODY = enum.auto()
    """The body of a request, or its trailers."""

    IDLE = enum.auto()
    """A request that has not begun. The previous one may still be waiting for its response."""

    HANDSHAKE = enum.auto()
    """A WebSocket, whose handshake was read and may be waiting for a later event loop iteration."""

    LAST = enum.auto()
    """Nothing, because the last request of the connection was read."""

    LINGERING = enum.auto()
    """Nothing, because the last response was written, and the client has time to read it."""

    REFUSED = enum.auto()
    """Nothing, because the client was refused."""


DISCARDING = (Phase.LAST, Phase.LINGERING, Phase.REFUSED)
"""Phases in which nothing is parsed."""


@dataclass(slots=True)
class HttpShared:
    """What the HTTP connections of one server share: its limits, its queues, and whether it is about to stop."""

    request_timeout: float = 10.0
    """Seconds in which the head of a request has to arrive."""

    max_sockets: int = 0
    """Sockets of this server at the same time; 0 means any number."""

    max_file: int = 0
    """Descriptors below this number are for sockets, the rest for other files of the process; 0 means no limit."""

    log: Log = field(default_factory=Log)
    """The log for refusals."""

    idle: "IdleSockets[GuardedHttp] | None" = None
    """The sockets of this server that have no request."""

    pacer: HandshakePacer | None = None
    """Limits how many handshakes of this server begin in one event loop iteration."""

    may_be_direct: bool = False
    """Whether uvicorn has what a `DirectHandshake` needs. Only a handshake without it can show that."""

    may_be_stream: bool | None = None
    """Whether uvicorn supports a `UvicornStream`. None until the first request shows that."""

    is_leaving: bool = False
    """Whether this server is about to stop, so every request is the last of its connection."""


class PipelineFlow(FlowControl):
    """Resumes reading only if no request waits, because uvicorn resumes after each response, without a bound."""

    def __init__(self, transport: Any, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a bound for the number of connections and for the time that each may take.

    A slow request is answered with 408, a connection over the limit with 503; then the socket is closed. Whenever no
    request is being read or answered, a timer runs, whatever bytes arrive.
    """

    shared = HttpShared()

    remote_end = RemoteEnd("")

    phase = Phase.HEAD
    """Only methods of this class change it."""

    head_bytes = 0
    """Bytes of the present head that have arrived in earlier reads."""

    head_timer: asyncio.TimerHandle | None = None
    """Refuses a request whose head has not arrived. Runs in the phase HEAD."""

    _late_body_timer: asyncio.TimerHandle | None = None
    """Aborts a client that has not sent the body of a request long after the response."""

    unread_timer: ProgressTimer
    """Aborts a client that does not read the response. `transport.close()` would wait forever for its buffer."""

    _linger_timer: ProgressTimer | None = None
    """Closes the socket once the client has had time to read the last response. Runs in the phase LINGERING."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.unread_timer = ProgressTimer(self.loop, transport, transport.abort)
        self.client, self.server = plain_addresses(self.client, self.server)
        self.remote_end = remote_end_at(transport, self.client)
        if self.client is None and not self.remote_end.is_unix:
            transport.abort()  # the client has reset the connection, so its address is unknown
            return
        if self._is_full() and not self._close_oldest_idle():
            self.refuse(503, "too many connections (max_connections)", b"retry-after: 5\r\n")
            return
        self._join_idle()
        self.await_head()
        self.start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.cancel_head_timer()
        self._cancel_late_body_timer()
        self.unread_timer.cancel()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self._unset_keepalive_if_required()
        self.leave_idle()
        super().connection_lost(exc)

    def _is_full(self) -> bool:
        if self.shared.max_sockets and len(self.connections) > self.shared.max_sockets:
            return True
        # the system gives a new file the lowest number that is free
        return bool(self.shared.max_file) and self.transport.get_extra_info("socket").fileno() >= self.shared.max_file

    def _close_oldest_idle(self) -> bool:
        """Abort a socket of another address that has no request. Return whether one was aborted."""
        idle = self.shared.idle
        oldest = idle.take_oldest(self.remote_end.host) if idle is not None else None
        if oldest is None:
            return False
        text = "all %d sockets are taken (max_connections): closed the oldest one without a request, from %s"
        self.shared.log.limited("evicted").warning(text, len(self.connections), oldest.remote_end.host)
        oldest.transport.abort()
        return True

    def leave(self) -> None:
        """Leave the socket to another protocol. Requests that wait for the present one are discarded."""
        self.cancel_head_timer()
        self._cancel_late_body_timer()
        self.unread_timer.cancel()
        self._unset_keepalive_if_required()
        self.leave_idle()
        self.pipeline.clear()
        self.connections.discard(self)
        del self.parser  # it refers to this object, which is then freed without the garbage collector

    # A response that is not read

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread_timer.start(BODY_TIMEOUT)

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self.unread_timer.cancel()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.unread_timer.start(LINGER)

    def eof_received(self) -> None:
        super().eof_received()
        self.unread_timer.start(BODY_TIMEOUT)

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self.unread_timer.start(LINGER)

    # The phases of a request

    def await_request(self) -> None:
        """Wait for another request, or for the rest of the present one, once every request so far is answered."""
        self._join_idle()
        if self.phase is Phase.BODY:
            self._unset_keepalive_if_required()
            if self._late_body_timer is None:
                self._late_body_timer = self.loop.call_later(BODY_TIMEOUT, self.transport.abort)
        elif self.phase is Phase.HEAD:  # which has its own timer
            self._unset_keepalive_if_required()
        elif self.timeout_keep_alive_task is None:  # else uvicorn has just started it
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def await_head(self) -> None:
        self.phase = Phase.HEAD
        self.head_bytes = 0

    def start_head_timer(self) -> None:
        self.head_timer = self.loop.call_later(self.shared.request_timeout, self._refuse_slow_head)

    def begin_upgrade(self, *, is_websocket: bool) -> None:
        """Note that the head asks for an upgrade."""
        self.phase = Phase.HANDSHAKE if is_websocket else Phase.OTHER_UPGRADE

    def reframe(self) -> None:
        """Note that the framing headers of the present request are parsed again without the upgrade."""
        self.phase = Phase.REFRAMING

    def begin_body(self) -> None:
        """Note that the head was read, so its body follows."""
        self.phase = Phase.BODY

    def end_request(self) -> None:
        """Note that the body was read. Wait for the next request if the response was sent already."""
        self._cancel_late_body_timer()
        self.phase = Phase.IDLE if self.cycle.keep_alive else Phase.LAST
        if self.phase is Phase.IDLE and self.cycle.response_complete:
            self.await_request()

    def limit_flow(self) -> None:
        """Prepare for the first request, which a WebSocket does not need."""
        if self.cycle is None:
            self.flow = PipelineFlow(self.transport, self.pipeline)

    def leave_idle(self) -> None:
        """Note that the connection has a request, or has ended."""
        if self.shared.idle is not None:
            self.shared.idle.discard(self, self.remote_end.host)

    def _join_idle(self) -> None:
        if self.shared.idle is not None:
            self.shared.idle.add(self, self.remote_end.host)

    def cancel_head_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _cancel_late_body_timer(self) -> None:
        if self._late_body_timer is not None:
            self._late_body_timer.cancel()
            self._late_body_timer = None

    def _refuse_slow_head(self) -> None:
        self.refuse(408, f"the request did not arrive within {self.shared.request_timeout:g} s (handshake_timeout)")

    # Refusing

    def send_400_response(self, msg: str) -> None:
        if self.phase is not Phase.REFUSED:
            self.refuse(400, msg)

    def is_pending(self) -> bool:
        """Return whether a request that was read is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def give_up(self, status: int, text: str) -> NoReturn:
        """Refuse from within the parser, which stops at an exception."""
        self.refuse(status, text)
        raise ValueError(text)

    def refuse(self, status: int, text: str, header: bytes = b"") -> None:
        """Answer with `status` and close.

        Nothing is written while an earlier request has no response, because the client would take it for that response.
        The connection then ends with the earlier one.
        """
        is_own_body = self.phase is Phase.BODY
        self.phase = Phase.REFUSED
        self.cancel_head_timer()
        line = "refused a request from %s with %d: %s (docs/how-to/hardening.md)"
        self.shared.log.limited(f"http {status}").warning(line, self.remote_end.host or "a Unix socket", status, text)
        if self.is_pending():
            if not is_own_body:
                self.cycle.keep_alive = False
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # the body that cannot be read belongs to the pending request
            self.cycle.message_event.set()
        body = text.encode()
        headers = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n" + header
        headers += b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + headers + body)
        self.transport.close()  # immediately, however much the client still sends
        self.unread_timer.start(LINGER)

    def drop(self, text: str) -> None:
        """Close without a response, which the client could not read."""
        self.phase = Phase.REFUSED
        self.cancel_head_timer()
        self.shared.log.limited("http tls").warning("closed the connection of %s: %s", self.remote_end.host, text)
        self.transport.close()

    def linger(self) -> None:
        """End the response, then discard what the client sends until it closes the connection.

        The client has `LINGER` seconds from the last time that it has read a part of the response.
        """
        self.phase = Phase.LINGERING
        self.pipeline.clear()
        self.cancel_head_timer()
        self.unread_timer.cancel()
        self._join_idle()
        if self.transport.is_closing() or not self.transport.can_write_eof():  # as under TLS
            self._close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._linger_timer = ProgressTimer(self.loop, self.transport, self._close)
        self._linger_timer.start(LINGER)

    def _close(self) -> None:
        self.transport.close()
        self.unread_timer.cancel()
        self.unread_timer.start(LINGER)

"""Takes over the socket of a stream from uvicorn's HTTP protocol. Relies on undocumented attributes of uvicorn.

Knows neither the application that is served nor what a chunk contains.
"""

import socket
from collections.abc import Callable
from typing import Any

from wsgateway.config.grace import LINGER
from wsgateway.config.settings import Settings
from wsgateway.server.taken import CLOSE_TIMEOUT, TakenSocket
from wsgateway.server.takeover import TLS_BUFFER
from wsgateway.transports.framing import StreamKind
from wsgateway.transports.takeover import Timers, Wire, WireUser

MAX_IGNORED = 1024
"""Bytes that the client of a stream may send on its connection, where they are discarded."""

BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
"""Headers of a request with a body, which uvicorn's protocol has to read."""

_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only


class StreamSocket(TakenSocket):
    """One stream, from the head of its response to the end of its TCP connection.

    Implements `transports.takeover.Wire`. Writes whole chunks, and the heartbeat of its kind, if it has one, every
    `ping_interval` seconds.
    """

    __slots__ = ("_ignored", "_kind")

    is_paused = False
    deflates = False

    def __init__(
        self,
        transport: Any,
        user: WireUser,
        settings: Settings,
        timers: Timers,
        kind: StreamKind,
        *,
        connections: set[Any],
        is_congested: bool,
    ) -> None:
        super().__init__(transport, user, settings, timers, connections=connections)
        self.is_congested = is_congested
        self._kind = kind
        self._ignored = 0
        if kind.heartbeat:
            self._wait(settings.ping_interval)

    # Called by the gateway

    def read_on(self) -> None:
        """Do nothing, because bytes of the client are discarded."""

    def close(self, code: int, reason: str) -> None:
        """Write the end of the stream, after everything that was written before, then close the socket.

        Abort a client that does not read it within `LINGER` seconds, or `CLOSE_TIMEOUT` if it has read so far.
        """
        if self._user is None:
            return
        self._finish(code, reason)
        if not self._transport.is_closing():
            self._transport.write(self._kind.end(code, reason))
        self._transport.close()
        self._abort_within(LINGER if self.is_congested else CLOSE_TIMEOUT)

    # Called by the timers

    def stop_pings(self) -> None:
        self._timers.discard(self)

    def due(self) -> None:
        """Write a heartbeat. Called by the timers."""
        if not self.is_congested:  # else `send_timeout` applies
            self.write(self._kind.heartbeat)
        if self._user is not None:
            self._wait(self._settings.ping_interval)

    # Called by asyncio

    def data_received(self, data: bytes) -> None:
        self._ignored += len(data)
        if self._ignored > MAX_IGNORED:
            self._transport.abort()

    def eof_received(self) -> None:
        """End the stream, because a client that sends no more is taken for one that has disconnected."""
        self._finish(1006, "")
        self._abort_within(LINGER)  # asyncio closes the socket, but waits until its buffer is empty

    # The end

    def _finish(self, code: int, reason: str) -> None:
        """Write nothing more, except the end of the stream."""
        user, self._user = self._user, None
        if user is not None:
            self._timers.discard(self)
            user.finished(code, reason)


class UvicornStream:
    """Takes the socket of one request over from uvicorn's protocol, which is then discarded.

    Implements `wsgateway.transports.takeover.StreamTakeover`.
    """

    __slots__ = ("_cycle", "_http", "server_stops")

    def __init__(self, http: Any, cycle: Any) -> None:
        """`cycle` is the state of the request in uvicorn's protocol `http`."""
        self._http = http
        self._cycle = cycle
        self.server_stops: Callable[[], None] | None = None

    def watch(self, server_stops: Callable[[], None]) -> None:
        self.server_stops = server_stops

    def take_over(self, user: WireUser, settings: Settings, timers: Timers, kind: StreamKind) -> Wire | None:
        http, cycle = self._http, self._cycle
        if not (cycle.response_started and cycle.chunked_encoding) or cycle.response_complete or cycle.disconnected:
            return None
        if http.transport.is_closing() or not _may_be_taken(cycle):
            return None
        self._http = self._cycle = None
        cycle.disconnected = True  # so that uvicorn expects nothing more of the application
        cycle.message_event.set()  # a middleware may wait for the client
        cycle.transport.flush()
        transport, connections, is_congested = http.transport, http.connections, http.flow.write_paused
        cycle.transport = None  # it refers to `http`, which is then freed without the garbage collector
        http.leave()
        if transport.get_extra_info("ssl_object") is not None:
            transport.set_write_buffer_limits(high=TLS_BUFFER)
        _limit_silence(transport, settings.ping_interval + settings.pong_timeout)
        stream = StreamSocket(
            transport, user, settings, timers, kind, connections=connections, is_congested=is_congested
        )
        transport.set_protocol(stream)
        transport.resume_reading()
        return stream


def _may_be_taken(cycle: Any) -> bool:
    """Return whether the request allows a response in chunks, and uvicorn's protocol has no body to read.

    The application reads the body of a POST before the response. It ignores that of a GET.
    """
    scope = cycle.scope
    if scope["http_version"] != "1.1":
        return False
    return not (
        cycle.more_body if scope["method"] == "POST" else any(name in BODY_HEADERS for name, _ in scope["headers"])
    )


def _limit_silence(transport: Any, seconds: float) -> None:
    """Make the operating system close the connection if written bytes are not acknowledged within `seconds`."""
    sock = transport.get_extra_info("socket")
    if _USER_TIMEOUT is None or sock is None:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(seconds * 1000))
    except OSError:  # a Unix socket, or a client that has disconnected
        pass

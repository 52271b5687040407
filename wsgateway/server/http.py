"""uvicorn's HTTP protocol, with limits for reading a request, and a shorter way to a WebSocket.

Relies on undocumented attributes of uvicorn. Knows nothing of the application that is served.
"""

from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from wsgateway.config.addresses import REMOTE_END
from wsgateway.server.attributes import NEEDED_HTTP, NEEDED_STREAM, missing_of, warn_once
from wsgateway.server.direct import DirectHandshake, can_be_direct
from wsgateway.server.guards import DISCARDING, GuardedHttp, HttpShared, Phase
from wsgateway.server.head import (
    MAX_HEAD,
    MAX_URL,
    asks_for_websocket,
    ends_connection,
    framing_head,
    handshake_mistake,
    may_ask_for_stream,
    size_of,
    split_target,
    usual_key,
)
from wsgateway.server.lingering import ResponseTransport
from wsgateway.server.stream import UvicornStream
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.transports.takeover import STREAM_EXTENSION

MAX_PIPELINED = 1000
"""Requests of one connection that wait for the response to the previous one."""

TLS_RECORD = b"\x16\x03"
"""The first bytes of a client that uses TLS: a record of type handshake (RFC 8446 5.1)."""

TOO_MUCH_AROUND_BODY = f"the request's trailers or chunk extensions are larger than {MAX_HEAD} bytes"


class HttpProtocol(GuardedHttp):
    """uvicorn's HTTP protocol, with limits for everything that the application does not see of a request.

    A large request is answered with 431 or 414, and its socket is closed. A request with an `Upgrade` other than
    websocket is parsed as if it had none, because llhttp would take its body for the next request. Such a request is
    the last of its connection.
    """

    early = b""
    """Bytes that the client has sent behind its handshake."""

    _responses: ResponseTransport | None = None
    """The transport of every response, which the first request makes."""

    _usual_key: str | None = None
    """The key of a handshake in the usual form."""

    _trailer_bytes = 0
    _overhead_bytes = 0
    """Bytes around the content of a body since its last progress."""

    _has_progress = False
    """Whether the last read contains content of a body, or begins a chunk."""

    # Reading

    def data_received(self, data: bytes) -> None:
        phase_before = self.phase
        for start in range(0, len(data), MAX_HEAD):  # so that at most `MAX_HEAD` bytes of a head are not counted
            self._read(data[start : start + MAX_HEAD])
        if self.phase is Phase.HANDSHAKE and phase_before is not Phase.HANDSHAKE:
            self.handle_websocket_upgrade()

    def _read(self, data: bytes) -> None:
        if self.phase in DISCARDING:
            return
        if self.phase is Phase.HANDSHAKE:
            self.early += data
            return
        if self.cycle is None and not self.head_bytes and data.startswith(TLS_RECORD):
            self.drop("a client uses TLS (wss:// or https://) on a port without TLS: use ws:// or http://")
            return
        self._has_progress = False
        try:
            self._parse(data)
        except httptools.HttpParserError as exc:
            if self.phase not in DISCARDING:
                self.refuse(400, f"Invalid HTTP request received: {exc}")
            return
        if self.phase is Phase.HEAD:
            if self.head_timer is None:  # the head begins within `data`, and most end within it, so they need no timer
                self.start_head_timer()
            else:
                self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD:
                self.refuse(431, f"the request's head is larger than {MAX_HEAD} bytes")
        elif self.phase is Phase.BODY:
            self._overhead_bytes = 0 if self._has_progress else self._overhead_bytes + len(data)
            if self._overhead_bytes > MAX_HEAD:
                self.refuse(431, TOO_MUCH_AROUND_BODY)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            rest = data[exc.args[0] :]
            if self.phase is Phase.HANDSHAKE:
                self.early = rest
            else:
                self._parse_without_upgrade(rest)

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the request again with the body that it announces, because llhttp has ended it with its head."""
        head = framing_head(self.parser.get_method(), self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.reframe()
        self.parser.feed_data(head)
        if rest:
            self.parser.feed_data(rest)

    def on_message_begin(self) -> None:
        if self.phase is Phase.REFRAMING:
            return
        if self.phase in DISCARDING:
            raise ValueError("the connection ends with the request before")
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self.scope["extensions"] = {REMOTE_END: self.remote_end}  # type: ignore[dict-item]  # an entry of our own
        if self.phase is not Phase.HEAD:  # the timer of the first head runs already
            self.await_head()

    def on_url(self, url: bytes) -> None:
        if self.phase is Phase.REFRAMING:
            return
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self.give_up(414, f"the address is longer than {MAX_URL} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase is Phase.HEAD:
            super().on_header(name, value.strip(b" \t"))  # RFC 9112 5.1; llhttp leaves the whitespace behind a value
        elif self.phase is Phase.BODY:  # a trailer, which the gateway does not use
            self._trailer_bytes += len(name) + len(value) + 4
            if self._trailer_bytes > MAX_HEAD:
                self.give_up(431, TOO_MUCH_AROUND_BODY)

    def on_headers_complete(self) -> None:
        self.cancel_head_timer()
        if self.phase is not Phase.REFRAMING:
            self._check_head()
            if self.parser.should_upgrade():
                method, version = self.parser.get_method(), self.parser.get_http_version()
                self._usual_key = usual_key(method, version, self.url, self.headers)
                self.begin_upgrade(is_websocket=self._usual_key is not None or asks_for_websocket(self.headers))
                self.scope["method"], self.scope["http_version"] = method.decode("ascii"), version
                return
        self.leave_idle()
        self.limit_flow()
        super().on_headers_complete()
        self.begin_body()
        self._trailer_bytes = self._overhead_bytes = 0
        if self._responses is None:
            self._responses = ResponseTransport(self.transport, self.loop, self.linger)
        self.cycle.transport = self._responses  # type: ignore[assignment]  # all that a cycle uses of a transport
        if self.shared.is_leaving or ends_connection(self.headers):
            self.cycle.keep_alive = False
        if may_ask_for_stream(self.scope["method"], self.scope["path"]) and self._may_be_stream():
            self.scope["extensions"][STREAM_EXTENSION] = UvicornStream(self, self.cycle)  # type: ignore[assignment]  # an entry of our own

    def _may_be_stream(self) -> bool:
        """Return whether uvicorn has what taking over the socket of a stream needs, or warn once."""
        shared = self.shared
        if shared.may_be_stream is None:
            missing = missing_of(self.cycle, NEEDED_STREAM)
            shared.may_be_stream = not missing
            if missing:
                warn_once(", ".join(missing), "HTTP", "the slower, plain ASGI path is used for streams")
        return shared.may_be_stream

    def _check_head(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self.give_up(503, f"more than {MAX_PIPELINED} requests of this connection wait for their responses")
        if size_of(self.headers) > MAX_HEAD:
            self.give_up(431, f"the request's head is larger than {MAX_HEAD} bytes")
        if self.parser.get_method() == b"CONNECT":
            self.give_up(400, "this server is not a proxy, it does not answer CONNECT")
        if not self.url.startswith(b"/") and self.url != b"*":
            target = split_target(self.url)
            if target is None:
                self.give_up(400, "the request's target is neither a path nor an http or ws address")
            host, self.url = target
            self.headers[:] = [(b"host", host), *(header for header in self.headers if header[0] != b"host")]

    def on_chunk_header(self) -> None:
        """Note that another chunk of the body begins. Called by the parser."""
        self._has_progress = True

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.phase is not Phase.BODY:
            return  # a head that asks for an upgrade is a whole message for llhttp
        super().on_message_complete()
        self.end_request()

    def on_response_complete(self) -> None:
        if self._responses is not None:
            self._responses.flush()  # a response to HEAD has no body
        if self.phase is Phase.LINGERING:  # a request that is queued behind this one does not begin either
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self.await_request()

    # To a WebSocket or a stream

    def leave(self) -> None:
        super().leave()
        self._responses = None  # it refers to this object

    def shutdown(self) -> None:
        offer = None if self.cycle is None else self.cycle.scope["extensions"].get(STREAM_EXTENSION)
        if isinstance(offer, UvicornStream) and offer.server_stops is not None and self.is_pending():
            offer.server_stops()  # the stream continues over ASGI
        super().shutdown()

    def handle_websocket_upgrade(self) -> None:
        self.leave_idle()
        pacer = self.shared.pacer
        if pacer is None:
            self._begin_handshake()
        elif not pacer.ask(self._begin_handshake, self.loop):
            self.transport.pause_reading()

    def _begin_handshake(self) -> None:
        """Pass the parsed request on, which uvicorn would serialize for websockets to parse again."""
        if self.transport.is_closing():
            return
        self.unread_timer.cancel()
        self._unset_keepalive_if_required()
        self.transport.resume_reading()  # if it had to wait
        mistake = None
        if self._usual_key is None:
            mistake = handshake_mistake(self.scope["method"], self.scope["http_version"], self.url, self.headers)
        if mistake is None and self.is_pending():
            mistake = "a handshake has to wait for the response to the previous request", b""
        if mistake is not None:
            self.refuse(400, *mistake)
            return
        if not issubclass(self.ws_protocol_class or object, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        if self._usual_key is not None and self._may_be_direct():
            DirectHandshake(self, self._usual_key, self.early).begin()
            return
        protocol: Any = self.ws_protocol_class(  # type: ignore[misc, call-arg]  # uvicorn declares it as a bare Protocol
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.upgraded(self, self.url.decode("ascii"), self.headers, self.early)
        if not self.shared.may_be_direct and self.ws_protocol_class is WebSocketProtocol:
            self.shared.may_be_direct = can_be_direct(self, protocol)

    def _may_be_direct(self) -> bool:
        """Return whether uvicorn's WebSocket protocol is not needed to answer a usual handshake."""
        is_ours = self.ws_protocol_class is WebSocketProtocol and not self.config.ws_per_message_deflate
        return is_ours and self.shared.may_be_direct


def is_beginning(connection: object) -> bool:
    """Return whether `connection` has not sent its first request, or is in its handshake."""
    if isinstance(connection, HttpProtocol):
        return connection.cycle is None
    return isinstance(connection, WebSocketProtocol) and not connection.handshake_complete


def takes_requests(connection: object) -> bool:
    """Return whether `connection` is HTTP and a proxy could send another request on it."""
    if not isinstance(connection, HttpProtocol):
        return False
    return connection.phase is not Phase.LINGERING and not connection.transport.is_closing()


def missing_http(config: uvicorn.Config) -> tuple[str, ...]:
    """Return the attributes that `HttpProtocol` needs and uvicorn's protocol lacks. Call it in an event loop."""
    return missing_of(HttpToolsProtocol(config, ServerState(), {}), NEEDED_HTTP)


def http_protocol(shared: HttpShared, config: uvicorn.Config) -> type[HttpToolsProtocol]:
    """Return `HttpProtocol` with `shared`, or uvicorn's own with one warning if `HttpProtocol` would not work."""
    missing = missing_http(config)
    if missing:
        warn_once(", ".join(missing), "HTTP", "requests have no limits of time and size")
        return HttpToolsProtocol
    return type("SharingHttpProtocol", (HttpProtocol,), {"shared": shared})

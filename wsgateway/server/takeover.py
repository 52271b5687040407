"""Takes over an accepted WebSocket from uvicorn's protocol. Relies on undocumented attributes of uvicorn.

Knows nothing of the application that is served.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidHandshake
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from wsgateway.config.settings import Settings
from wsgateway.server.attributes import NEEDED_WEBSOCKET, missing_of, warn_once
from wsgateway.server.socket import Socket
from wsgateway.transports.takeover import EXTENSION, Timers, Wire, WireUser

TLS_BUFFER = 64 * 1024
"""Bytes from which on a TLS client is congested, as is any other client. Python's own limit is 512 KiB."""

MAX_WINDOW_BITS = 15
"""The window of the one compressed form of a message, in powers of two (RFC 7692 7.1.2)."""

_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
"""Keeps no context between messages, so a broadcast is compressed once for all clients, and an idle client costs no
window (RFC 7692 7.1.1)."""


def offer(scope: Any, protocol: Any) -> None:
    """Offer the socket of uvicorn's `protocol` in `scope`, or warn once if uvicorn lacks an attribute for it."""
    missing = missing_of(protocol, NEEDED_WEBSOCKET)
    if not missing:
        scope["extensions"][EXTENSION] = UvicornTakeover(protocol)
    else:
        warn_once(", ".join(missing), "WebSocket", "the slower, plain ASGI path is used")


def offer_plain(scope: Any, send: Any) -> None:
    """Do the same as `offer` on uvicorn without `--ws`, if `send` is a method of its protocol, not of a middleware."""
    protocol = getattr(send, "__self__", None)
    if isinstance(protocol, WebSocketsSansIOProtocol) and EXTENSION not in scope.get("extensions", {}):
        offer(scope, protocol)


def take_socket(
    transport: Any,
    user: WireUser,
    settings: Settings,
    timers: Timers,
    *,
    connections: set[Any],
    early: bytes | bytearray,
    deflate: Extension | None = None,
) -> Socket:
    """Take the accepted socket of `transport`, whose client has sent `early` already."""
    if transport.get_extra_info("ssl_object") is not None:
        transport.set_write_buffer_limits(high=TLS_BUFFER)
    socket = Socket(transport, user, settings, timers, connections=connections, deflate=deflate)
    transport.set_protocol(socket)
    if early:
        socket.keep(early)
    return socket


class UvicornTakeover:
    """Takes a socket over from uvicorn's protocol, which is then discarded with all that it keeps for a client.

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

    def take_over(self, user: WireUser, settings: Settings, timers: Timers) -> Wire | None:
        protocol, self._protocol = self._protocol, None
        transport = protocol.transport
        if protocol not in protocol.connections or transport.is_closing():
            protocol.handshake_complete = True  # else uvicorn logs an error
            return None
        protocol.stop_keepalive()
        protocol.close_timer = protocol.loop.call_later(0, int)  # while it is set, uvicorn does not close the socket
        protocol.connections.discard(protocol)
        protocol.conn.parser = None  # it refers to `conn`, which is then freed without the garbage collector
        transport.resume_reading()
        early = getattr(protocol, "early", b"")  # uvicorn's own protocol does not have it
        return take_socket(
            transport, user, settings, timers, connections=protocol.connections, early=early, deflate=self._deflate
        )

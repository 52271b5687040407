"""Admits clients: capacity, rules, and refusals, before a protocol takes over. Knows no frames and no messages."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from secrets import token_hex
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from wsgateway.auth.rules import Rules
from wsgateway.cluster.envelopes import NODE_ID
from wsgateway.config.settings import Settings
from wsgateway.exceptions import Refusal, Refused
from wsgateway.gateway.clients import (
    LINES_STREAM,
    PLAIN_SOCKET,
    V1_SOCKET,
    CentrifugeClients,
    ClientProtocol,
    StreamProtocol,
)
from wsgateway.gateway.descriptors import UNLIMITED, file_limit
from wsgateway.gateway.drain import Drain
from wsgateway.gateway.http.paths import sender_of
from wsgateway.gateway.http.problems import deny, problem, report_refusal
from wsgateway.gateway.signals import StopWatch
from wsgateway.gateway.wheel import Wheel
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection, new_id
from wsgateway.hub.hub import Hub
from wsgateway.hub.loops import Home
from wsgateway.hub.outbox import Outbox
from wsgateway.hub.unawaited import is_development
from wsgateway.hub.watched import WatchedConnection
from wsgateway.limits import RateLimits
from wsgateway.listeners.dispatcher import Dispatcher
from wsgateway.listeners.event import EventGateway
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics
from wsgateway.protocols.centrifuge.session import FRAME_PINGS, CentrifugeSession
from wsgateway.protocols.identity import Identity
from wsgateway.protocols.lines import LinesSession
from wsgateway.protocols.session import STOPPING, Session, SessionParts
from wsgateway.protocols.sse import SseSession
from wsgateway.protocols.v1 import SUBPROTOCOL
from wsgateway.transports.asgi import AsgiTransport
from wsgateway.transports.native import NativeTransport
from wsgateway.transports.peer import ClientTransport
from wsgateway.transports.posted import Posted, PostedStreams
from wsgateway.transports.stream import AsgiStream, NativeStream, StreamContext, stream_transport
from wsgateway.transports.takeover import EXTENSION, Takeover

SPARE_DESCRIPTORS = 64
"""Open files that are not left to clients if `max_connections` is not set."""

CROWDED = 0.8
"""Fraction of `max_connections` from which a warning is logged."""


CENTRIFUGE_PATH = "/connection/websocket"

NO_PLAIN = Refusal(
    400, "protocol", f"plain clients are not served here: offer the subprotocol {SUBPROTOCOL} (protocols)"
)


def client_limit(settings: Settings) -> int:
    """Return how many clients this process can have: `max_connections`, or fewer if it may not open enough files."""
    return min(settings.max_connections or UNLIMITED, max(1, file_limit() - SPARE_DESCRIPTORS))


class Admission:
    """Admits or refuses the clients of one running gateway, and creates their sessions."""

    def __init__(
        self,
        *,
        gateway: EventGateway,
        hub: Hub,
        channels: Channels,
        dispatcher: Dispatcher,
        drain: Drain,
        rules: Rules,
        settings: Settings,
        metrics: Metrics,
        log: GatewayLog,
        wheel: Wheel,
        identity: Identity,
        node: str,
    ) -> None:
        """`node` is the id of this node, empty without a broker."""
        self._channels = channels
        self._parts = SessionParts(
            gateway, hub, channels, dispatcher, settings, wheel, identity, self._remove, self._report
        )
        self._drain = drain
        self._rules = rules
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._wheel = wheel
        self._node = node
        self._home = Home()
        self._connection: Callable[..., Connection] = Connection
        if is_development(verbose=settings.verbose):
            self._connection = partial(WatchedConnection, log=log)
        self._server_stops = drain.begin_with_server
        self._stream_parts = replace(self._parts, ended=self._remove_stream)
        self._streams = StreamContext(
            settings, wheel, log, self._server_stops, watching=StopWatch(self._server_stops).watching
        )
        self.sessions: dict[str, SseSession | LinesSession | CentrifugeSession] = {}
        """The sessions of streams, by their secrets."""

        self.centrifuge = CentrifugeClients(settings, log) if "centrifuge" in settings.protocols else None
        self.posted = PostedStreams(node or token_hex(NODE_ID // 2))
        self._by_address: Counter[str] = Counter()
        self._client_limit = client_limit(settings)
        if settings.max_connections > self._client_limit:
            text = "max_connections is %d, and %d open files are enough for %d clients: raise the limit (ulimit -n)"
            log.warning(text, settings.max_connections, file_limit(), self._client_limit)
        self._is_crowded = False
        self._connects = RateLimits(settings.connect_rate, settings.connect_burst)

    async def admit(self, scope: Scope, receive: Receive, send: Send, *, path: str) -> None:
        """Admit one client, or refuse its handshake. On plain ASGI, return when the connection has ended."""
        protocol = self._protocol_of(scope, path)
        transport = self._transport(scope, receive, send, protocol)
        outbox = Outbox(new_id(self._node), transport, protocol.wire_format, self._settings, self._metrics)
        conn = self._connection(
            scope, path=path, outbox=outbox, home=self._home, channels=self._channels, protocol=protocol.name
        )
        session = protocol.session(conn, outbox, transport, self._parts)
        await receive()
        refusal = self._enter(session)
        try:
            refusal = refusal or self._rules.check_host(scope) or self._rules.check_origin(scope)
            if refusal is None and protocol.name not in self._settings.protocols:
                refusal = NO_PLAIN
            if refusal is not None:
                raise Refused.of(refusal)
            await protocol.connect(session, transport, scope)
        except Refused as exc:
            self._report(scope, exc, conn)
            await self._refuse(scope, send, exc, conn, transport)
        finally:
            if not session.is_accepted:
                self._remove(session)

    async def admit_stream(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        path: str,
        protocol: StreamProtocol,
        headers: list[tuple[bytes, bytes]],
        frame: str | bytes | None = None,
    ) -> None:
        """Admit the client of a stream, or answer with a problem document. `headers` are part of either.

        `frame` is what the request contains of a client that posts frames, None for any other. The rules for its origin
        have been checked. On plain ASGI, return when the connection has ended.
        """
        kind = protocol.kind
        transport = stream_transport(scope, receive, send, kind=kind, headers=headers, context=self._streams)
        outbox = Outbox(new_id(self._node), transport, kind.wire_format, self._settings, self._metrics)
        conn = self._connection(
            scope, path=path, outbox=outbox, home=self._home, channels=self._channels, protocol=protocol.name
        )
        session = protocol.session(conn, outbox, transport, self._stream_parts)
        session.secret = new_id(self._node)
        refusal = self._enter(session)
        self.sessions[session.secret] = session
        if isinstance(session, CentrifugeSession):
            self._expect_frames(session, transport, frame or "")
        try:
            if refusal is not None:
                raise Refused.of(refusal)
            await protocol.connect(session, transport, scope)
        except Refused as exc:
            self._report(scope, exc, conn)
            if exc.close is not None and protocol is LINES_STREAM:
                await transport.accept_and_close(None, exc.close, exc.reason)
            else:  # also with `close`, because an EventSource ends with a status, and reconnects otherwise
                await _answer(scope, receive, send, exc.refusal, headers)
        finally:
            if not session.is_accepted:
                self._remove_stream(session)

    def _expect_frames(
        self, session: CentrifugeSession, transport: AsgiStream | NativeStream, first: str | bytes
    ) -> None:
        """Pass the frames that the client of `session` posts to it, beginning with `first` once the stream begins."""
        session.node = self.posted.node
        posted = self.posted.by_secret[session.secret] = Posted(session)
        posted.hold(first, len(first if isinstance(first, bytes) else first.encode()))
        transport.resumed = posted.resume

    def _enter(self, session: Session) -> Refusal | None:
        """Count the client of `session`, until `_remove`. Return why it cannot be admitted now, or None."""
        address = session.conn.address
        refusal = self._check_capacity(address)
        self._drain.add(session)
        self._by_address[address] += 1
        return refusal

    def _protocol_of(self, scope: Scope, path: str) -> ClientProtocol:
        if path == CENTRIFUGE_PATH and self.centrifuge is not None:
            return self.centrifuge.protocol_of(scope)
        if "v1" in self._settings.protocols and SUBPROTOCOL in scope.get("subprotocols", ()):
            return V1_SOCKET
        return PLAIN_SOCKET

    def _transport(self, scope: Scope, receive: Receive, send: Send, protocol: ClientProtocol) -> ClientTransport:
        takeover = cast(
            "Takeover | None", scope.get("extensions", {}).get(EXTENSION)
        )  # only `wsgateway.server` offers it
        if takeover is None:
            return AsgiTransport(receive, send, settings=self._settings, log=self._log)
        return NativeTransport(
            takeover,
            send,
            settings=self._settings,
            timers=self._wheel,
            server_stops=self._server_stops,
            deflated=protocol.deflated,
            has_pings=protocol.has_pings or FRAME_PINGS in scope.get("query_string", b""),
        )

    def _check_capacity(self, address: str) -> Refusal | None:
        """Return why the client cannot be admitted now, or None."""
        if self._drain.is_begun:  # the handshake began before the drain
            return STOPPING
        count, settings = self._drain.count, self._settings
        if count >= self._client_limit * CROWDED and not self._is_crowded:
            self._is_crowded = True
            self._log.warning("%d of at most %d clients are connected (max_connections)", count, self._client_limit)
        elif count < self._client_limit * CROWDED * 0.9:
            self._is_crowded = False
        if count >= self._client_limit:
            return Refusal(
                503, "capacity", f"{self._client_limit} clients are connected, try again later (max_connections)"
            )
        if address and 0 < settings.max_connections_per_address <= self._by_address[address]:
            return Refusal(429, "per_address", "too many clients from this address (max_connections_per_address)")
        if not self._connects.allows(address, time.monotonic()):
            return Refusal(429, "connect_rate", "too many connects from this address, try again later (connect_rate)")
        return None

    def _report(self, scope: Mapping[str, Any], refused: Refused, conn: Connection) -> None:
        """Count and log a refused handshake."""
        refusal = refused.refusal
        if refusal.kind != "handshake":
            report_refusal(scope, refusal, "a handshake", key="handshake", metrics=self._metrics, log=self._log)
        else:  # by the listener
            self._metrics.refusals[refusal.kind] += 1
            log = self._log.limited(f"on_handshake {refused.status}")
            log.warning("on_handshake refused %s: %s", sender_of(scope), refused, extra={"conn": conn.id})

    async def _refuse(
        self, scope: Scope, send: Send, refused: Refused, conn: Connection, transport: ClientTransport
    ) -> None:
        with suppress(OSError):  # the client has disconnected
            if refused.close is not None:
                # a browser that offered subprotocols reports 1006 unless one of them is chosen
                chosen = next(iter(conn.subprotocols), None)
                await transport.accept_and_close(chosen, refused.close, refused.reason)
            else:
                transport.release()
                await deny(scope, send, refused.status, refused.reason, refused.refusal.headers)

    def _remove_stream(self, session: Session) -> None:
        assert isinstance(session, (SseSession, LinesSession, CentrifugeSession))
        self.sessions.pop(session.secret, None)
        posted = self.posted.by_secret.pop(session.secret, None)
        if posted is not None:
            posted.end()
        self._remove(session)

    def _remove(self, session: Session) -> None:
        if not self._drain.remove(session):
            return
        address = session.conn.address
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


async def _answer(
    scope: Scope, receive: Receive, send: Send, refusal: Refusal, headers: list[tuple[bytes, bytes]]
) -> None:
    """Answer the request for a stream with `refusal` and `headers`."""
    response = problem(refusal)
    response.raw_headers += headers
    if refusal.status in (429, 503):
        response.raw_headers.append((b"retry-after", b"5"))
    await response(scope, receive, send)


async def refuse(
    scope: Scope, receive: Receive, send: Send, refusal: Refusal, *, metrics: Metrics, log: GatewayLog
) -> None:
    """Refuse a handshake that reaches no `Admission`."""
    report_refusal(scope, refusal, "a handshake", key="handshake", metrics=metrics, log=log)
    await receive()
    with suppress(OSError):  # the client has disconnected
        await deny(scope, send, refusal.status, str(refusal))

"""Every WebSocket of a gateway from its handshake to its end: limits and refusals."""

import time
from collections import Counter
from typing import cast

from starlette.types import Receive, Scope, Send

from wsgateway.auth.rules import Rules
from wsgateway.config.settings import Settings
from wsgateway.descriptors import UNLIMITED, most_files
from wsgateway.exceptions import Refusal, Refused
from wsgateway.gateway.drain import Drain
from wsgateway.gateway.http.paths import sender_of
from wsgateway.limits import CROWDED, SPARE_DESCRIPTORS, Rates
from wsgateway.transports.asgi import AsgiTransport
from wsgateway.transports.native import NativeTransport, Parts
from wsgateway.transports.takeover import EXTENSION, Takeover


def most_clients(settings: Settings) -> int:
    """`max_connections`, or as many files as this process may have open, less some, where that is fewer."""
    return min(settings.max_connections or UNLIMITED, max(1, most_files() - SPARE_DESCRIPTORS))


class Admission:
    """The WebSocket connections of one running gateway."""

    def __init__(self, parts: Parts, rules: Rules, drain: Drain) -> None:
        self._parts = parts
        self._rules = rules
        self._drain = drain
        self._by_address: Counter[str] = Counter()
        self._most = most_clients(parts.settings)
        if parts.settings.max_connections > self._most:
            text = "max_connections is %d, and %d open files are enough for %d clients: raise the limit (ulimit -n)"
            parts.log.warning(text, parts.settings.max_connections, most_files(), self._most)
        self._is_crowded = False
        self._connects = Rates(parts.settings.connect_rate, parts.settings.connect_burst)

    async def serve(self, scope: Scope, receive: Receive, send: Send, *, path: str) -> None:
        """Take one client through its handshake; on plain ASGI, to its end."""
        transport: AsgiTransport | NativeTransport
        handshake = cast("Takeover | None", scope.get("extensions", {}).get(EXTENSION))  # wsgateway.server's only
        if handshake is None:
            transport = AsgiTransport(self._parts, scope, path=path)
        else:
            transport = NativeTransport(
                self._parts, scope, handshake, path=path, ended=self._gone, shutdown=self._drain.begin_with_server
            )
        await receive()
        refusal = self._full(transport.conn.address)
        self._drain.add(transport)
        self._by_address[transport.conn.address] += 1
        handed_over = False
        try:
            subprotocol = await self._admitted(transport, scope, refusal)
            if isinstance(transport, NativeTransport):
                handed_over = True
                await transport.run(subprotocol, send)
            else:
                await transport.run(subprotocol, receive, send)
        except Refused as exc:
            await self._turn_away(scope, send, exc, transport)
        finally:
            if not handed_over:
                self._gone(transport)

    def _full(self, address: str) -> Refusal | None:
        """Why no more clients can be taken, if so."""
        if self._drain.is_begun:  # it has come while the gateway still ran
            return _STOPPING
        count, settings = len(self._drain.transports), self._parts.settings
        if count >= self._most * CROWDED and not self._is_crowded:
            self._is_crowded = True
            self._parts.log.warning("%d of at most %d clients are connected (max_connections)", count, self._most)
        elif count < self._most * CROWDED * 0.9:
            self._is_crowded = False
        if count >= self._most:
            return Refusal(503, "capacity", f"{self._most} clients are connected, come back later (max_connections)")
        if address and 0 < settings.max_connections_per_address <= self._by_address[address]:
            return Refusal(429, "per_address", "too many clients from this address (max_connections_per_address)")
        if not self._connects.allows(address, time.monotonic()):
            return Refusal(429, "connect_rate", "too many connects from this address, come back later (connect_rate)")
        return None

    async def _admitted(
        self, transport: "AsgiTransport | NativeTransport", scope: Scope, refusal: Refusal | None
    ) -> str | None:
        refusal = refusal or self._rules.check_host(scope) or self._rules.check_origin(scope)
        if refusal is not None:
            raise self._refused(scope, refusal)
        try:
            subprotocol = await self._parts.events.handshake(transport.conn, transport.lane)
        except Refused as exc:
            self._parts.metrics.refusals["handshake"] += 1
            log = self._parts.log.limited(f"on_handshake {exc.status}")
            log.warning("on_handshake refused %s: %s", sender_of(scope), exc, extra={"conn": transport.conn.id})
            raise
        if transport.conn.closing is not None:
            raise self._refused(scope, _STOPPING)
        return subprotocol

    def _refused(self, scope: Scope, refusal: Refusal) -> Refused:
        """Log and count `refusal`, and return what ends the handshake."""
        self._parts.metrics.refusals[refusal.kind] += 1
        log = self._parts.log.limited(f"handshake {refusal.kind}")
        log.warning("refused a handshake from %s: %s", sender_of(scope), refusal)
        return Refused(refusal.status, str(refusal))

    async def _turn_away(
        self, scope: Scope, send: Send, refused: Refused, transport: "AsgiTransport | NativeTransport"
    ) -> None:
        try:
            if refused.close is not None:
                # a browser that offered subprotocols reports 1006 unless one of them is chosen
                chosen = next(iter(transport.conn.subprotocols), None)
                if isinstance(transport, NativeTransport):
                    await transport.turn_away(chosen, refused.close, refused.reason, send)
                    return
                await send({"type": "websocket.accept", "subprotocol": chosen})
                await send({"type": "websocket.close", "code": refused.close, "reason": refused.reason})
                return
            if isinstance(transport, NativeTransport):
                transport.release()
            await deny(scope, send, refused.status, refused.reason)
        except OSError:  # it has gone
            pass

    def _gone(self, transport: "AsgiTransport | NativeTransport") -> None:
        if transport not in self._drain.transports:
            return
        self._drain.remove(transport)
        address = transport.conn.address
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


_STOPPING = Refusal(503, "stopping", "the gateway is shutting down, come back later", "not-running")


async def deny(scope: Scope, send: Send, status: int, detail: str) -> None:
    """Answer a handshake with `status` (ASGI's `websocket.http.response`), or with an empty 403 where it can't."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    body = detail.encode(errors="replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if status in (429, 503):
        headers.append((b"retry-after", b"5"))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})

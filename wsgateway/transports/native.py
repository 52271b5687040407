"""The private protocol between the gateway and its own server, and the transport that speaks it: no task, no queue.
The server offers it under an entry of `scope["extensions"]`. Knows no server."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.types import Scope, Send

from wsgateway.closing import TOO_MANY
from wsgateway.config.settings import Settings
from wsgateway.hub.connection import Connection, Transport, WatchedConnection
from wsgateway.hub.hub import Hub
from wsgateway.hub.loops import Home
from wsgateway.hub.unawaited import is_development
from wsgateway.limits import MAX_FRAMES, Bucket
from wsgateway.listeners.dispatcher import Dispatcher
from wsgateway.listeners.inbox import Inbox
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics
from wsgateway.transports.stall import Stall
from wsgateway.transports.takeover import Takeover, Wire


@dataclass(frozen=True, slots=True)
class Parts:
    """What transports need of a running gateway."""

    hub: Hub
    events: Dispatcher
    settings: Settings
    metrics: Metrics
    log: GatewayLog
    node: str = ""
    """The id of this process among those of the gateway; empty without a broker."""
    home: Home = field(default_factory=Home)

    def connection(self, scope: Scope, *, path: str, transport: Transport) -> Connection:
        """Return a new connection, which `transport` carries."""
        made: Callable[..., Connection] = Connection
        if is_development(verbose=self.settings.verbose):
            made = partial(WatchedConnection, log=self.log)
        return made(
            scope,
            path=path,
            settings=self.settings,
            metrics=self.metrics,
            transport=transport,
            home=self.home,
            node=self.node,
        )

    def rate(self) -> Bucket | None:
        """What bounds the messages of one client, if anything does."""
        rate, burst = self.settings.message_rate, self.settings.message_burst
        return Bucket(rate, burst or rate, time.monotonic()) if rate else None


class TurnedAway:
    """The `WireUser` of a client that is closed before it was let in: nothing of what it sends is looked at."""

    def received(self, message: str | bytes, size: int) -> bool:
        return True

    def counted(self, *, is_fragment: bool = False) -> None: ...

    def congested(self) -> None: ...

    def writable(self) -> None: ...

    def shutdown(self) -> None: ...

    def finished(self, code: int, reason: str) -> None: ...


class NativeTransport:
    """One WebSocket on the gateway's own server: frames go straight to the socket, through the outbox only while it
    is congested, and messages straight to the hooks. While nothing happens, nothing of it runs or waits."""

    __slots__ = (
        "_ended",
        "_handshake",
        "_parts",
        "_rate",
        "_shutdown",
        "_stall",
        "_unwritten",
        "_wire",
        "conn",
        "lane",
    )

    name = "websocket"

    def __init__(
        self,
        parts: Parts,
        scope: Scope,
        handshake: Takeover,
        *,
        path: str,
        ended: "Callable[[NativeTransport], None]",
        shutdown: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._handshake: Takeover | None = handshake
        self._ended = ended
        self._shutdown = shutdown
        self._wire: Wire | None = None
        self._unwritten = 0
        self._stall: Stall | None = None
        self._rate = parts.rate()
        self.conn = parts.connection(scope, path=path, transport=self)
        self.lane = Inbox(parts.events)
        handshake.hold(compression=parts.settings.compression)

    async def run(self, subprotocol: str | None, send: Send) -> None:
        """Accept. Returns at once, the connection lives on."""
        handshake, self._handshake = self._handshake, None
        assert handshake is not None
        try:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        except OSError:
            pass  # it vanished before it was accepted
        self._wire = wire = handshake.take_over(self, self._parts.settings)
        if wire is None:
            self._ended(self)
            return
        self._parts.hub.join(self.conn)
        self._parts.events.opened(self.conn, self.lane)
        self.wake()

    def release(self) -> None:
        """It is turned away over ASGI."""
        if self._handshake is not None:
            self._handshake.release()

    async def turn_away(self, subprotocol: str | None, code: int, reason: str, send: Send) -> None:
        """Accept and close at once. The client never becomes a connection of the gateway."""
        handshake, self._handshake = self._handshake, None
        assert handshake is not None
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        wire = handshake.take_over(TurnedAway(), self._parts.settings)
        if wire is not None:
            wire.close(code, reason)

    def abort(self) -> None:
        """End the connection now."""
        if self._wire is not None:
            self._wire.abort()

    # What the connection calls

    def wake(self) -> None:
        wire = self._wire
        if wire is None:
            return  # what on_handshake sends waits until the connection is accepted
        if not wire.is_congested:
            self.writable()
        elif self.conn.closing is not None and not self.conn.queued_messages:
            wire.close(*self.conn.closing)  # what waited was dropped: the close goes past what the socket does not take

    # What the wire calls

    def received(self, message: str | bytes, size: int) -> bool:
        if self.lane.is_full:
            assert self._wire is not None
            self.lane.when_room(self._wire.read_on)
            return False
        if self._rate is not None:
            self.counted()
        if self.conn.closing is None:
            self._parts.events.received(self.conn, self.lane, message, size)
        return True

    def counted(self, *, is_fragment: bool = False) -> None:
        # a message of too many fragments is to be closed with 1008, which says more than 3013
        overdraft = MAX_FRAMES if is_fragment else 0
        if self._rate is not None and not self._rate.allows(time.monotonic(), overdraft=overdraft):
            self.conn.close_nowait(TOO_MANY, "too many messages")

    def congested(self) -> None:
        self._parts.hub.slow(self.conn)
        wire = self._wire
        if wire is None or not wire.is_congested:  # what was written to it last may have called anything
            return
        self._unwritten = wire.unwritten()
        if self._stall is None:
            self._stall = Stall(self._parts.settings.send_timeout, self._time_left, self.conn.close_slow)
        self._stall.watch()

    def writable(self) -> None:
        """Write what the outbox holds, then the close, or join the fast set."""
        wire, metrics = self._wire, self._parts.metrics
        while wire is not None and not wire.is_congested:
            frame = self.conn.next_frame()
            if frame is not None:
                metrics.messages_out += 1
                metrics.bytes_out += len(frame.payload)
                wire.write(frame.deflated if wire.deflates else frame.wire)  # which may call `congested`
                wire = self._wire
            elif self.conn.closing is not None:
                wire.close(*self.conn.closing)
                break
            else:
                self._parts.hub.fast(self.conn, wire.write, deflates=wire.deflates)
                break

    def shutdown(self) -> None:
        self._shutdown()

    def finished(self, code: int, reason: str) -> None:
        self._wire = None
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._parts.hub.leave(self.conn)
        self._parts.events.closed(self.conn, self.lane, *self.conn.ended(code, reason))
        self._ended(self)

    def _time_left(self) -> float | None:
        if self._wire is None or not self._wire.is_congested:
            return None
        before, self._unwritten = self._unwritten, self._wire.unwritten()
        return self._parts.settings.send_timeout if self._unwritten < before else 0

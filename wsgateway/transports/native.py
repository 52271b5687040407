"""The transport on the gateway's own server, which hands over the accepted socket. Needs neither a task nor a queue.

Knows no server.
"""

from collections.abc import Callable

from starlette.types import Send

from wsgateway.config.settings import Settings
from wsgateway.hub.outbox import Outbox
from wsgateway.messages import Message, WireFormat
from wsgateway.transports.framing import DEFLATED
from wsgateway.transports.peer import Peer
from wsgateway.transports.stall import Stall
from wsgateway.transports.takeover import Takeover, Timers, Wire


class RefusedClient:
    """The `WireUser` and `Peer` of a client that is closed instead of admitted. Ignores what the client sends."""

    @property
    def peer(self) -> Peer:
        return self

    def received(self, message: str | bytes, size: int) -> bool:
        return True

    def counted(self, *, is_fragment: bool = False) -> None: ...

    def congested(self) -> None: ...

    def writable(self) -> None: ...

    def shutdown(self) -> None: ...

    def finished(self, code: int, reason: str) -> None: ...


class WireTransport:
    """What every transport on the gateway's own server does once it has the socket.

    Messages are written directly to the socket, or through the outbox while the socket is congested. An idle connection
    costs no task and no timer of this class.
    """

    __slots__ = ("_outbox", "_server_stops", "_settings", "_stall", "_unwritten", "_wire", "peer")

    _outbox: Outbox
    peer: Peer

    def __init__(self, settings: Settings, server_stops: Callable[[], None]) -> None:
        """`server_stops` is called when the server is about to stop."""
        self._settings = settings
        self._server_stops = server_stops
        self._wire: Wire | None = None
        self._unwritten = 0
        self._stall: Stall | None = None

    def attach(self, peer: Peer, outbox: Outbox) -> None:
        self.peer, self._outbox = peer, outbox

    # Called by the gateway

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def resume(self) -> None:
        if self._wire is not None:
            self._wire.read_on()

    # Called by the connection

    def wake(self) -> None:
        wire = self._wire
        if wire is None:
            return  # what `on_handshake` sends waits until the handshake is accepted
        if not wire.is_congested:
            self.writable()
        elif self._outbox.closing is not None and not self._outbox.messages:
            wire.close(*self._outbox.closing)  # the outbox was dropped, so the close follows what was written

    # Called by the wire

    def congested(self) -> None:
        self._outbox.buffer()
        wire = self._wire
        if wire is None or not wire.is_congested:  # the last write to it may have changed that
            return
        self._unwritten = wire.unwritten()
        if self._stall is None:
            self._stall = Stall(self._settings.send_timeout, self._time_left, self._outbox.close_too_slow)
        self._stall.watch()

    def writable(self) -> None:
        """Write the outbox, then the close, or have messages written directly."""
        wire, outbox = self._wire, self._outbox
        while wire is not None and not wire.is_congested:
            message = outbox.take()
            if message is not None:
                wire.write(self._encoded(message))  # which may call `congested`
                wire = self._wire
            elif outbox.closing is not None:
                wire.close(*outbox.closing)
                break
            elif self._may_not_be_fast() or outbox.direct(wire.write):
                break
            else:
                wire = self._wire

    def shutdown(self) -> None:
        self._server_stops()

    def finished(self, code: int, reason: str) -> None:
        self._wire = None
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        peer = self.peer
        del self.peer, self._outbox  # they refer to this object, and are then freed without the garbage collector
        peer.finished(code, reason)

    def _encoded(self, message: Message) -> bytes:
        return message.encoded(self._outbox.wire_format)

    def _may_not_be_fast(self) -> bool:
        """Return whether every message passes through the outbox, because this client receives bytes of its own."""
        return False

    def _time_left(self) -> float | None:
        if self._wire is None or not self._wire.is_congested:
            return None
        before, self._unwritten = self._unwritten, self._wire.unwritten()
        return self._settings.send_timeout if self._unwritten < before else 0


class NativeTransport(WireTransport):
    """One WebSocket on the gateway's own server. What the client sends goes directly to the peer."""

    __slots__ = ("_deflated", "_has_pings", "_takeover", "_timers")

    name = "websocket"

    def __init__(
        self,
        takeover: Takeover,
        send: Send,
        *,
        settings: Settings,
        timers: Timers,
        server_stops: Callable[[], None],
        deflated: WireFormat = DEFLATED,
        has_pings: bool = True,
    ) -> None:
        """`server_stops` is called when the server is about to stop. `deflated` is the format for compression.

        `has_pings` is whether the server sends WebSocket pings.
        """
        super().__init__(settings, server_stops)
        self._takeover: tuple[Takeover, Send] | None = (takeover, send)
        self._timers = timers
        self._deflated = deflated
        self._has_pings = has_pings
        takeover.hold(compression=settings.compression)

    # From the handshake to the end

    async def accept(self, subprotocol: str | None) -> bool:
        takeover, send = self._use_takeover()
        try:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        except OSError:
            pass  # the client has disconnected, which `take_over` notices
        wire = self._wire = takeover.take_over(self, self._settings, self._timers)
        if wire is None:
            return False
        if not self._has_pings:
            wire.stop_pings()
        if wire.deflates:
            self._outbox.wire_format = self._deflated
        return True

    async def run(self) -> None:
        """Write what `on_handshake` has sent. Return immediately, while the connection stays open."""
        self.wake()

    async def accept_and_close(self, subprotocol: str | None, code: int, reason: str) -> None:
        takeover, send = self._use_takeover()
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        wire = takeover.take_over(RefusedClient(), self._settings, self._timers)
        if wire is not None:
            wire.close(code, reason)

    def release(self) -> None:
        takeover, _ = self._use_takeover()
        takeover.release()

    def _use_takeover(self) -> tuple[Takeover, Send]:
        """Return the takeover and `send`, and forget both, because `send` keeps the server's own protocol in memory."""
        takeover, self._takeover = self._takeover, None
        assert takeover is not None
        return takeover

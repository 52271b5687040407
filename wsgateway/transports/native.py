"""The transport on the gateway's own server, which hands an accepted socket over: no task, no queue.

Knows no server.
"""

from collections.abc import Callable

from starlette.types import Send

from wsgateway.config.settings import Settings
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.transports.peer import Peer
from wsgateway.transports.stall import Stall
from wsgateway.transports.takeover import Takeover, Wire


class TurnedAway:
    """The `WireUser` and the `Peer` of a client that is closed before it was let in, whatever it sends."""

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


class NativeTransport:
    """One WebSocket on the gateway's own server: messages go straight to the socket, through the outbox only while it
    is congested, and what the client sends goes straight to the peer. While nothing happens, nothing of it runs."""

    __slots__ = (
        "_conn",
        "_handshake",
        "_hub",
        "_server_stops",
        "_settings",
        "_stall",
        "_unwritten",
        "_wire",
        "peer",
    )

    name = "websocket"

    _conn: Connection
    peer: Peer

    def __init__(
        self, handshake: Takeover, send: Send, *, hub: Hub, settings: Settings, server_stops: Callable[[], None]
    ) -> None:
        """`server_stops` is called when the server is about to stop."""
        self._handshake: tuple[Takeover, Send] | None = (handshake, send)
        self._hub = hub
        self._settings = settings
        self._server_stops = server_stops
        self._wire: Wire | None = None
        self._unwritten = 0
        self._stall: Stall | None = None
        handshake.hold(compression=settings.compression)

    def attach(self, peer: Peer, conn: Connection) -> None:
        self.peer, self._conn = peer, conn

    # From the handshake to the end

    async def accept(self, subprotocol: str | None) -> bool:
        handshake, send = self._take_handshake()
        try:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        except OSError:
            pass  # it vanished before it was accepted
        self._wire = handshake.take_over(self, self._settings)
        return self._wire is not None

    async def run(self) -> None:
        """Write what `on_handshake` has sent. Returns immediately, the connection lives on."""
        self.wake()

    async def turn_away(self, subprotocol: str | None, code: int, reason: str) -> None:
        handshake, send = self._take_handshake()
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        wire = handshake.take_over(TurnedAway(), self._settings)
        if wire is not None:
            wire.close(code, reason)

    def release(self) -> None:
        handshake, _ = self._take_handshake()
        handshake.release()

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def resume(self) -> None:
        if self._wire is not None:
            self._wire.read_on()

    def _take_handshake(self) -> tuple[Takeover, Send]:
        """Return the handshake and forget it, because `send` keeps the server's own protocol in memory."""
        handshake, self._handshake = self._handshake, None
        assert handshake is not None
        return handshake

    # What the connection calls

    def wake(self) -> None:
        wire = self._wire
        if wire is None:
            return  # what on_handshake sends waits until the connection is accepted
        if not wire.is_congested:
            self.writable()
        elif self._conn.closing is not None and not self._conn.queued_messages:
            wire.close(*self._conn.closing)  # what waited was dropped: the close goes past what the socket did not take

    # What the wire calls

    def congested(self) -> None:
        self._hub.slow(self._conn)
        wire = self._wire
        if wire is None or not wire.is_congested:  # what was written to it last may have called anything
            return
        self._unwritten = wire.unwritten()
        if self._stall is None:
            self._stall = Stall(self._settings.send_timeout, self._time_left, self._conn.close_slow)
        self._stall.watch()

    def writable(self) -> None:
        """Write what the outbox holds, then the close, or join the fast set."""
        wire, conn = self._wire, self._conn
        while wire is not None and not wire.is_congested:
            message = conn.next_frame()
            if message is not None:
                wire.write(message.deflated if wire.deflates else message.wire)  # which may call `congested`
                wire = self._wire
            elif conn.closing is not None:
                wire.close(*conn.closing)
                break
            else:
                self._hub.fast(conn, wire.write, deflates=wire.deflates)
                break

    def shutdown(self) -> None:
        self._server_stops()

    def finished(self, code: int, reason: str) -> None:
        self._wire = None
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self.peer.finished(code, reason)

    def _time_left(self) -> float | None:
        if self._wire is None or not self._wire.is_congested:
            return None
        before, self._unwritten = self._unwritten, self._wire.unwritten()
        return self._settings.send_timeout if self._unwritten < before else 0

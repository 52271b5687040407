"""The private interface between the gateway and its own server, which offers it in `scope["extensions"]`.

Knows no server.
"""

from collections.abc import Callable
from typing import Protocol

from wsgateway.config.settings import Settings
from wsgateway.transports.framing import StreamKind
from wsgateway.transports.peer import Peer

EXTENSION = "wsgateway.wire"
"""The entry in `scope["extensions"]` under which `wsgateway.server` offers a `Takeover`."""


STREAM_EXTENSION = "wsgateway.stream"
"""The entry in `scope["extensions"]` under which `wsgateway.server` offers a `StreamTakeover`."""


class Takeover(Protocol):
    """One handshake that the server has not answered yet, and its socket."""

    def hold(self, *, compression: bool) -> None:
        """Read nothing more before `take_over`. Negotiate compression if `compression` and the client offers it."""

    def release(self) -> None:
        """Read on, because the handshake is refused over ASGI."""

    def take_over(self, user: "WireUser", settings: Settings, timers: "Timers") -> "Wire | None":
        """Take over the socket from ASGI, after the accept. Return None if the client has disconnected already."""


class StreamTakeover(Protocol):
    """One request whose response may be a stream, and its socket.

    This is a Protocol although only `server.stream` implements it, because this room must not import the server.
    """

    def take_over(self, user: "WireUser", settings: Settings, timers: "Timers", kind: StreamKind) -> "Wire | None":
        """Take over the socket from ASGI, after `http.response.start`.

        Return None if the stream has to continue over ASGI: the client has disconnected, a middleware holds the head
        back, or the request does not allow chunks.
        """

    def watch(self, server_stops: Callable[[], None]) -> None:
        """Call `server_stops` when the server is about to stop, because the stream continues over ASGI."""


class Timed(Protocol):
    """An entry of `Timers`."""

    slot: "set[Timed] | None"
    """Used by `Timers` only. None at first."""

    def due(self) -> None:
        """Handle that the time has come. The entry is then no longer among the timers."""


class Timers(Protocol):
    """What is due at which time, on the event loop of one gateway.

    Only `gateway.wheel` implements it, which this room must not import.
    """

    def add(self, entry: Timed, due: float) -> None:
        """Call `entry` at `due`, or a little later, in the time of the event loop. It must not be among the timers."""

    def discard(self, entry: Timed) -> None:
        """Do not call `entry`. Do nothing if it is not among the timers."""


class Wire(Protocol):
    """An accepted socket. Its methods never wait."""

    write: Callable[[bytes], None]
    """Write whole frames, after everything that was written before."""

    is_congested: bool
    """Whether the socket accepts no more, so what is written now waits in memory."""

    is_paused: bool
    """Whether nothing is read from the client, because its inbox is full or it does not read."""

    deflates: bool
    """Whether the client accepts compressed messages."""

    def unwritten(self) -> int:
        """Return a number of bytes that becomes smaller whenever the client receives some of what waits for it."""

    def read_on(self) -> None:
        """Pass on messages again, after `Peer.received` has returned False."""

    def stop_pings(self) -> None:
        """Send no pings, because the protocol of the client has pings of its own."""

    def close(self, code: int, reason: str) -> None:
        """Write a close frame or the end of a stream, after everything that was written before.

        Abort if the client does not answer.
        """

    def abort(self) -> None:
        """Close the socket now, and discard its buffer."""


class WireUser(Protocol):
    """Receives the events of a `Wire`. Called on the event loop, also from within `Wire.write`."""

    @property
    def peer(self) -> Peer:
        """The `Wire` calls `received` and `counted` of this peer directly; the user itself calls `finished`."""

    def congested(self) -> None:
        """Handle that the socket accepts no more."""

    def writable(self) -> None:
        """Handle that the socket accepts more again."""

    def shutdown(self) -> None:
        """Handle that the server is about to stop."""

    def finished(self, code: int, reason: str) -> None:
        """Handle the end, as soon as a close frame is received or written, or the socket is closed. Called once."""

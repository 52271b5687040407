"""The private protocol between the gateway and its own server, which offers it in `scope["extensions"]`.

Knows no server.
"""

from collections.abc import Callable
from typing import Protocol

from wsgateway.config.settings import Settings
from wsgateway.transports.peer import Peer

EXTENSION = "wsgateway.wire"
"""The entry in `scope["extensions"]` under which `wsgateway.server` offers a `Takeover`."""


class Takeover(Protocol):
    """One handshake that the server has not answered yet."""

    def hold(self, *, compression: bool) -> None:
        """Read nothing more before `take_over`, and say in the answer whether messages may be compressed."""

    def release(self) -> None:
        """It is refused, over ASGI: read on."""

    def take_over(self, user: "WireUser", settings: Settings) -> "Wire | None":
        """Once it is accepted: the socket, which ASGI knows no more. None where it has gone already."""


class Wire(Protocol):
    """An accepted socket. None of it waits."""

    write: Callable[[bytes], None]
    """Write whole frames, after all that was written before."""

    is_congested: bool
    """The socket takes no more; what is written now waits in memory."""

    deflates: bool
    """The client takes compressed messages."""

    def unwritten(self) -> int:
        """A number of bytes that gets smaller as the client takes what waits for it."""

    def read_on(self) -> None:
        """Hand on messages again, after `WireUser.received` has said no."""

    def close(self, code: int, reason: str) -> None:
        """Write a close frame past everything that waits for the client, and abort if it does not answer."""

    def abort(self) -> None:
        """End the socket now, whatever its buffer holds."""


class WireUser(Protocol):
    """What a `Wire` tells. Called on the loop, also from within `Wire.write`."""

    @property
    def peer(self) -> Peer:
        """Who takes what the client sends, without a detour: `Peer.finished` alone comes from the user."""

    def congested(self) -> None:
        """The socket takes no more."""

    def writable(self) -> None:
        """It takes some again."""

    def shutdown(self) -> None:
        """The server wants to end."""

    def finished(self, code: int, reason: str) -> None:
        """A close frame went either way, or the socket is gone: nothing may be written any more. Called once."""

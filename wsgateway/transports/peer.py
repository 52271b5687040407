"""What stands between a transport and the rest of a gateway: all that a transport may call, and all that it offers.

Knows neither sockets nor what a message means.
"""

from typing import Protocol

from wsgateway.hub.connection import Connection, Transport

MAX_FRAMES = 64
"""Frames of one client that are handled in one iteration of the event loop, so that the others are served in between.
A frame may be as short as 6 bytes, and a read as long as 256 KB."""


class Peer(Protocol):
    """One client, as its transport knows it.

    `protocols.session.Session` implements it, which a transport may not import.
    """

    def received(self, message: str | bytes, size: int) -> bool:
        """Take a message of `size` bytes. False: not now, `ClientTransport.resume` will be called."""

    def counted(self, *, is_fragment: bool = False) -> None:
        """Count a control frame or a fragment as one message of the client."""

    def finished(self, code: int, reason: str) -> None:
        """The connection has ended, as the client closed it. Called exactly once for each that was accepted."""


class ClientTransport(Transport, Protocol):
    """What carries one client's bytes, from its handshake to its end."""

    def attach(self, peer: Peer, conn: Connection) -> None:
        """Hand what arrives to `peer`, write what `conn` sends. Called once, before anything else."""

    async def accept(self, subprotocol: str | None) -> bool:
        """Accept the handshake. Return False if the client has disconnected already."""

    async def run(self) -> None:
        """Read and write, after `accept`. May return before the connection has ended."""

    def resume(self) -> None:
        """Read on, after `Peer.received` has returned False."""

    async def turn_away(self, subprotocol: str | None, code: int, reason: str) -> None:
        """Accept the handshake and close immediately. Nothing that the client sends is looked at."""

    def release(self) -> None:
        """Leave the handshake to an HTTP answer over ASGI."""

    def abort(self) -> None:
        """End the connection now, whatever waits to be written. Does nothing before `accept`."""

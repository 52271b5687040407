"""The two sides of a client: `Peer` is all that a transport may call, `ClientTransport` all that it offers.

Knows neither sockets nor what a message means.
"""

from typing import Protocol

from wsgateway.hub.outbox import Outbox, Transport

MAX_FRAMES = 64
"""Frames of one client that are handled in one event loop iteration, so other clients are served in between.

A frame may be as short as 6 bytes, and a read as long as 256 KB.
"""


class Peer(Protocol):
    """The part of the gateway that a transport knows. `protocols.session.Session` implements it."""

    def received(self, message: str | bytes, size: int) -> bool:
        """Handle a message of `size` bytes. Return False if it must be offered again after `ClientTransport.resume`."""

    def counted(self, *, is_fragment: bool = False) -> None:
        """Count a control frame or a fragment as one message of the client."""

    def finished(self, code: int, reason: str) -> None:
        """Handle the end of the connection, with the code and reason that the client gave.

        Called exactly once for each connection that was accepted.
        """


class ClientTransport(Transport, Protocol):
    """Carries the bytes of one client, from the handshake to the end."""

    def attach(self, peer: Peer, outbox: Outbox) -> None:
        """Pass messages of the client to `peer`, and write those of `outbox`. Called once, before any other method."""

    async def accept(self, subprotocol: str | None) -> bool:
        """Accept the handshake. Return False if the client has disconnected already."""

    async def run(self) -> None:
        """Read and write, after `accept`. May return while the connection is still open."""

    def resume(self) -> None:
        """Read on, after `Peer.received` has returned False."""

    async def accept_and_close(self, subprotocol: str | None, code: int, reason: str) -> None:
        """Accept the handshake and close immediately. Ignore what the client sends."""

    def release(self) -> None:
        """Leave the handshake to ASGI, because it is answered with an HTTP status."""

    def abort(self) -> None:
        """Close the socket now, and discard what waits to be written. Do nothing before `accept`."""

"""The other end of a connection: its address, or on a Unix socket its user."""

import socket
import struct
from typing import Any

from wsgateway.config.addresses import RemoteEnd, plain_address

_CREDENTIALS = struct.Struct("3i")
"""Linux's `struct ucred`: process, user, group."""


def plain_addresses(
    client: tuple[str, int] | None, server: tuple[str, int | None] | None
) -> tuple[tuple[str, int] | None, tuple[str, int | None] | None]:
    """Return `client` and `server` of a scope with IPv4-mapped addresses as IPv4 addresses."""
    if client is not None and ":" in client[0]:
        client = plain_address(client[0]), client[1]
    if server is not None and ":" in server[0]:
        server = plain_address(server[0]), server[1]
    return client, server


def remote_end_at(transport: Any, client: tuple[str, int] | None) -> RemoteEnd:
    """Return the other end of `transport`, whose address is `client`.

    On a Unix socket, the client has no address. Its user is known where the system has `SO_PEERCRED` (Linux).
    """
    if client is not None:
        return RemoteEnd(client[0])
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != getattr(socket, "AF_UNIX", None):
        return RemoteEnd("")  # the client has already reset the connection
    if not hasattr(socket, "SO_PEERCRED"):
        return RemoteEnd("", is_unix=True)
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return RemoteEnd("", uid, is_unix=True)

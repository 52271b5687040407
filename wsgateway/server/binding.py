"""Listening sockets: bound, unbound, and named. Knows nothing of the application that is served on them."""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wsgateway.config.addresses import is_loopback, url_host
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ListenError, StartError

BACKLOG = 2048
"""Clients that wait in the system's queue until they are accepted."""

UNAVAILABLE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors for which one of several addresses of a name is left out, because the machine has no IPv6 or no IPv4."""


def bind(settings: Settings) -> list[socket.socket]:
    """Return sockets that listen as `settings` require, one for each address that a host name resolves to.

    Raise `StartError` with advice.
    """
    if settings.uds:
        return [_bind_unix(Path(settings.uds), int(settings.uds_mode, 8))]
    where = f"{settings.host}:{settings.port}"
    try:
        resolved = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:  # not the name of any domain
        raise StartError(
            f"cannot listen on {where}: {getattr(exc, 'strerror', None) or exc}; is the host right?"
        ) from exc
    addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in resolved))
    listening: list[socket.socket] = []
    try:
        for family, host in addresses:
            # if the port is 0 in the settings, all have the port that the system chose for the first
            port = listening[0].getsockname()[1] if listening else settings.port
            try:
                listening.append(_bind_tcp(family, host, port, is_only=len(addresses) == 1))
            except OSError as exc:
                if exc.errno not in UNAVAILABLE or ((family, host) == addresses[-1] and not listening):
                    raise
        for sock in listening:
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as exc:
        for sock in listening:
            sock.close()
        raise ListenError(where, exc.strerror or str(exc)) from exc
    return listening


def _bind_tcp(family: int, host: str, port: int, *, is_only: bool) -> socket.socket:
    # asyncio sets TCP_NODELAY only on a socket that names its protocol; else a message could wait 40 ms for an ACK
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # `::` alone accepts IPv4 too, but must not beside a socket of IPv4
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_only else 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def unbind(settings: Settings, listening: Sequence[socket.socket]) -> None:
    """Close `listening`. Delete the file of a Unix socket of `bind`, unless another server has replaced it meanwhile.

    Sockets that another process has bound are only closed.
    """
    for sock in listening:
        sock.close()
        if isinstance(sock, UnixSocket):
            path = Path(settings.uds or "")
            with suppress(FileNotFoundError):
                if _file_at(path) == sock.file:
                    path.unlink()


class UnixSocket(socket.socket):
    """A Unix socket, and the file that it was bound to."""

    file = (0, 0)
    """Device and inode."""


def _file_at(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _bind_unix(path: Path, mode: int) -> socket.socket:
    listening = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _is_served(path):
            path.unlink()  # left behind by a server that was killed
        listening.bind(str(path))
        listening.file = _file_at(path)
        path.chmod(mode)  # no client can connect before it listens
        listening.listen(BACKLOG)
    except OSError as exc:
        listening.close()
        raise StartError(f"cannot listen on {path}: {exc.strerror or exc}; stop the server there, or set uds") from exc
    listening.setblocking(False)
    return listening


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def network_url(settings: Settings, url: str) -> str | None:
    """Return the URL at which other machines reach a server at `url`; None if they cannot, or have no address for it.

    Asks the system for the address of this machine that its default route uses. Sends nothing, and asks no name server.
    """
    if settings.uds or is_loopback(settings.host):
        return None
    host, port = settings.host, url.rpartition(":")[2]
    if host in ("0.0.0.0", "::"):
        families = [socket.AF_INET] if host == "0.0.0.0" else [socket.AF_INET, socket.AF_INET6]
        host = next(filter(None, map(_own_address, families)), "")
    return f"{url.partition(':')[0]}://{url_host(host)}:{port}" if host and not is_loopback(host) else None


_SOMEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""An address that no machine has, by family (RFC 5737, RFC 3849)."""


def _own_address(family: socket.AddressFamily) -> str:
    """Return the address that this machine has on its default route; empty without one."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_SOMEWHERE[family], 9))  # of UDP: only chooses the route
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def url_of(settings: Settings, listening: Sequence[socket.socket]) -> str:
    """Return the URL of `listening` for this machine, with its real port; `unix:path` for a Unix socket."""
    if settings.uds:
        return f"unix:{settings.uds}"
    port = listening[0].getsockname()[1]
    return f"{'https' if settings.ssl_certfile else 'http'}://{url_host(settings.host)}:{port}"

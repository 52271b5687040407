"""Listening sockets: bound, unbound, and named. Knows nothing of what is served on them."""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wsgateway.addresses import url_host
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ListenError, StartError

BACKLOG = 2048
"""Clients that the system lets wait until they are accepted."""


def bind(settings: Settings) -> list[socket.socket]:
    """Return sockets that listen where `settings` say: one for each address that a host name resolves to.

    Raises `StartError` with what to do.
    """
    if settings.uds:
        return [_bind_unix(Path(settings.uds), int(settings.uds_mode, 8))]
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:  # a name that no domain can have
        raise StartError(
            f"cannot listen on {where}: {getattr(exc, 'strerror', None) or exc}; is the host right?"
        ) from exc
    addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    listening: list[socket.socket] = []
    try:
        for family, host in addresses:
            port = listening[0].getsockname()[1] if listening else settings.port  # 0: the one that the first has got
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


UNAVAILABLE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Why one of several addresses of a name is left out: the machine has no IPv6, or no IPv4."""


def _bind_tcp(family: int, host: str, port: int, *, is_only: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # `::` alone takes IPv4 too; beside a socket of IPv4 it must not
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_only else 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def unbind(settings: Settings, listening: Sequence[socket.socket]) -> None:
    """Close what `bind` has opened. The file of another server that has taken over the path meanwhile stays."""
    for sock in listening:
        sock.close()
        if isinstance(sock, UnixSocket):
            path = Path(settings.uds or "")
            with suppress(FileNotFoundError):
                if _file_at(path) == sock.file:
                    path.unlink()


class UnixSocket(socket.socket):
    """Knows which file it was bound to."""

    file = (0, 0)


def _file_at(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _bind_unix(path: Path, mode: int) -> socket.socket:
    listening = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()  # left behind by a server that was killed
        listening.bind(str(path))
        listening.file = _file_at(path)
        path.chmod(mode)  # nobody can connect before it listens
        listening.listen(BACKLOG)
    except OSError as exc:
        listening.close()
        raise StartError(f"cannot listen on {path}: {exc.strerror or exc}; stop the server there, or set uds") from exc
    listening.setblocking(False)
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def url_of(settings: Settings, listening: Sequence[socket.socket]) -> str:
    """Return where `listening` can be reached, with its real port; on a Unix socket `unix:path`."""
    if settings.uds:
        return f"unix:{settings.uds}"
    port = listening[0].getsockname()[1]
    return f"{'https' if settings.ssl_certfile else 'http'}://{url_host(settings.host)}:{port}"

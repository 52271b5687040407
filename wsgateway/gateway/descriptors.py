"""The limit on open files and sockets of this process. Windows has no such limit."""

from contextlib import suppress

try:
    import resource
except ImportError:  # pragma: no cover  Windows
    resource = None  # type: ignore[assignment]  # a module or nothing

UNLIMITED = 10**9
"""Stands for a limit that is not set."""


def file_limit() -> int:
    """Return how many files and sockets this process may have open now, the soft limit."""
    return _limits()[0]


def hard_file_limit() -> int:
    """Return how many files and sockets this process may ask for, the hard limit."""
    return _limits()[1]


def raise_file_limit() -> None:
    """Raise the soft limit to the hard one."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _limits() -> tuple[int, int]:
    if resource is None:  # pragma: no cover  Windows
        return UNLIMITED, UNLIMITED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    return UNLIMITED if soft == infinite else soft, UNLIMITED if hard == infinite else hard

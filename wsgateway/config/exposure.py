"""Finds out whether a process serves other machines, from its environment and from the command line of its server.

Also returns the user of the process. Does not decide what follows from that.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from wsgateway.config.addresses import is_loopback

ALLOW_IPS = "FORWARDED_ALLOW_IPS"
"""The variable that names trusted proxies, as in uvicorn: addresses, networks, or `*`."""

_SERVERS = frozenset({"uvicorn", "gunicorn", "hypercorn", "daphne", "granian", "fastapi"})
_SHORT_OPTIONS = {"-b": "bind", "-w": "workers"}


def outside_of_environment(environ: Mapping[str, str]) -> str | None:
    """Return which variable shows that a proxy is in front, as a clause; None if no variable does."""
    return f"{ALLOW_IPS} is set" if environ.get(ALLOW_IPS, "").strip() else None


def outside_of_command(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return what shows that a server started with `argv` serves other machines, as a clause; None if nothing does.

    uvicorn also reads each option from a variable, such as `UVICORN_HOST`.
    """
    program = {part.lower().removesuffix(".exe") for part in PurePath(argv[0] if argv else "").parts[-2:]}
    if not program & _SERVERS:
        return None
    if "fastapi" in program and "run" in argv and not any(name == "host" for name, _ in _options(argv[1:])):
        return "fastapi run serves every address"
    for name, value in _options(argv[1:]):
        if name in ("host", "bind") and not _is_inside(value):
            return f"the server's --{name} is {value}"
        if name == "forwarded-allow-ips":
            return "the server's --forwarded-allow-ips is set"
    if environ.get(f"UVICORN_{ALLOW_IPS}", "").strip():
        return f"UVICORN_{ALLOW_IPS} is set"
    host = environ.get("UVICORN_HOST", "").strip()
    return None if not host or is_loopback(host) else f"UVICORN_HOST is {host}"


def outside_of_process() -> str | None:
    """Return what shows that this process serves other machines, if it runs a server other than wsgateway's."""
    return outside_of_environment(os.environ) or outside_of_command(sys.argv, os.environ)


def worker_count(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Return the number of workers in `argv` or `WEB_CONCURRENCY`, 1 if neither gives one.

    uvicorn and gunicorn hand their command line on to their workers, and read `WEB_CONCURRENCY`.
    """
    counts = [value for name, value in _options(argv) if name == "workers"]
    count = counts[-1] if counts else environ.get("WEB_CONCURRENCY", "")
    return int(count) if count.isascii() and count.isdecimal() and len(count) < 6 else 1


def own_uid() -> int | None:
    """Return the user of this process; None on Windows, which has no user ids."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if word in _SHORT_OPTIONS:
            yield _SHORT_OPTIONS[word], following
        elif name.startswith("--"):
            yield name[2:], value if equals else following


def _is_inside(address: str) -> bool:
    """Return whether a server bound to `address` serves only this host. It may have a port, or be a Unix socket."""
    if address.startswith(("unix:", "fd:")):
        return True
    host, _, port = address.rpartition(":")
    return is_loopback(address) or (port.isdecimal() and is_loopback(host))

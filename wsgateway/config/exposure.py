"""What a process can know of where it runs: whether its environment or its server's command line speaks of clients
outside this machine, and whose process it is."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from wsgateway.addresses import is_loopback

FORWARDED = "FORWARDED_ALLOW_IPS"
"""uvicorn's variable, which names the proxies whose forwarded headers are believed."""

_SERVERS = frozenset({"uvicorn", "gunicorn", "hypercorn", "daphne", "granian", "fastapi"})


def outside_of_environment(environ: Mapping[str, str]) -> str | None:
    """Return which variable says that a proxy stands in front, in a sentence; None if none does."""
    return f"{FORWARDED} is set" if environ.get(FORWARDED, "").strip() else None


def outside_of_command(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return what says that the ASGI server started with `argv` serves others than this machine, as far as that tells.

    uvicorn also reads each option from a variable, `UVICORN_HOST`.
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
    if environ.get("UVICORN_FORWARDED_ALLOW_IPS", "").strip():
        return "UVICORN_FORWARDED_ALLOW_IPS is set"
    host = environ.get("UVICORN_HOST", "").strip()
    return None if not host or is_loopback(host) else f"UVICORN_HOST is {host}"


def outside_of_process() -> str | None:
    """The same of this process, for an application that somebody else's server serves."""
    return outside_of_environment(os.environ) or outside_of_command(sys.argv, os.environ)


def own_uid() -> int | None:
    """Return the user of this process, None where the system has no users of that kind (Windows)."""
    return os.geteuid() if hasattr(os, "geteuid") else None


_SHORT = {"-b": "bind"}


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if word in _SHORT:
            yield _SHORT[word], following
        elif name.startswith("--"):
            yield name[2:], value if equals else following


def _is_inside(where: str) -> bool:
    """Whether a server that binds to `where`, an address with or without a port, or a socket, is for this machine."""
    if where.startswith(("unix:", "fd:", "fd://")):
        return True
    host, _, port = where.rpartition(":")
    return is_loopback(where) or (port.isdecimal() and is_loopback(host))

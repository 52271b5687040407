"""The command `wsgateway doctor`: looks at what is installed, at this machine, the settings and a proxy in front, and
prints what `findings` thinks of it."""

import argparse
import asyncio
import os
import platform
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wsgateway import client
from wsgateway.addresses import is_loopback
from wsgateway.admin.passwords import Passwords
from wsgateway.cli import checks
from wsgateway.cli.checks import Finding, Severity
from wsgateway.cli.terminal import to_json
from wsgateway.cluster.brokers import Open, opener
from wsgateway.config.exposure import outside_of_environment
from wsgateway.config.settings import Settings, serves_outside
from wsgateway.config.sources import Loaded
from wsgateway.exceptions import BrokerError, ConfigError, ListenerError, SendError
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog, escape_controls, mask_url
from wsgateway.server.serving import missing_of_uvicorn, serving
from wsgateway.supervisor.store import Described, Store
from wsgateway.transports.takeover import EXTENSION

try:
    import resource
except ImportError:  # pragma: no cover  Windows has no such limit
    resource = None  # type: ignore[assignment]  # a module or nothing

KUBERNETES_SECONDS = 30.0
"""`terminationGracePeriodSeconds` where nobody has set it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's own options, beside the settings."""
    parser.add_argument("--url", help="where clients reach the gateway, through the proxy: https://example.com/live")
    parser.add_argument("--proxy-timeout", type=float, metavar="SECONDS", help="the proxy cuts who is silent so long")
    parser.add_argument("--stop-timeout", type=float, metavar="SECONDS", help="whoever stops it kills it after so long")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(store: Store, options: argparse.Namespace) -> int:
    """Print all findings, the worst first; 1 if one is serious."""
    found = sorted(_all(store, options), key=lambda finding: list(Severity).index(finding.level))
    is_serious = any(finding.level is Severity.SERIOUS for finding in found)
    if options.json:
        print(to_json([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            print("\n".join(escape_controls(line) for line in str(finding).splitlines()))
        print(f"{len(found)} finding{'' if len(found) == 1 else 's'}" if found else "nothing found")
    return 1 if is_serious else 0


def _all(store: Store, options: argparse.Namespace) -> Iterator[Finding]:
    yield from _installed()
    try:
        described = store.read()
    except ConfigError as exc:
        for mistake in exc.mistakes:
            yield checks.serious(mistake, "correct it; `wsgateway serve --help` names every setting")
        return
    yield from _machine(described, options)
    yield from _admin(store, described)
    several = len(described.gateways) > 1
    for loaded in described.gateways.values():
        settings = loaded.settings
        before = f"[{settings.id}] " if several else ""
        for finding in (
            *_gateway(loaded),
            *_broker(settings),
            *checks.check_proxy_timeout(settings, options.proxy_timeout),
        ):
            yield Finding(finding.level, before + finding.what, finding.advice)
    for text in described.warnings:
        yield checks.warning(text, "correct or remove it")
    if options.url and not options.url.lower().startswith(("http://", "https://")):
        text = f"--url {mask_url(options.url)!r} is no address"
        yield checks.serious(text, "write it as browsers show it: https://example.com")
    elif options.url:
        keys = [key for loaded in described.gateways.values() for key in loaded.settings.api_key]
        try:
            answers = asyncio.run(probe(options.url.rstrip("/"), api_key=next(iter(keys), None)))
        except ValueError as exc:
            yield checks.serious(f"--url: {exc}", "write it as browsers show it: https://example.com")
        else:
            yield from checks.check_probe(answers)


# What is installed


def _installed() -> Iterator[Finding]:
    packages = {name: _version(name) for name in (*checks.LEAST, "uvloop")}
    has_uvloop_here = sys.platform != "win32" and platform.python_implementation() == "CPython"
    yield from checks.check_versions(packages, python=sys.version_info[:3], has_uvloop_here=has_uvloop_here)
    yield from checks.check_paths(
        version=packages["uvicorn"] or "",
        has_fast_path=asyncio.run(_has_fast_path()),
        missing_http=asyncio.run(missing_of_uvicorn()),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


async def _has_fast_path() -> bool:
    """Whether a client of a server on a free port is offered the gateway's own path to the socket."""
    offered = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal offered
        await receive()
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            offered = EXTENSION in scope["extensions"]
            await send({"type": "websocket.close"})

    async with serving(app, Settings(port=0)) as url:
        await client.handshake(url + "/ws")
    return offered


# The machine


def _machine(described: Described, options: argparse.Namespace) -> Iterator[Finding]:
    hard = None
    if resource is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        hard = None if hard == resource.RLIM_INFINITY else hard
    seconds, source, assumed = _stop_timeout(options.stop_timeout)
    for loaded in described.gateways.values():
        settings = loaded.settings
        yield from checks.check_files(settings, hard=hard)
        yield from checks.check_drain(settings, stop_timeout=seconds, source=source, assumed=assumed)
        # `workers` of wsgateway serve have a broker of their own; these are uvicorn's and gunicorn's
        yield from checks.check_workers(os.environ.get("WEB_CONCURRENCY", ""), broker=settings.broker)


def _broker(settings: Settings) -> Iterator[Finding]:
    """Whether the broker's URL can be used, its driver is installed, and it answers."""
    url = settings.broker or ("ipc://" if settings.workers > 1 else None)
    if url is None:
        return
    try:
        open_link = opener(url)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            yield checks.serious(mistake, "the gateway does not start so: docs/processes.md#which-broker")
        return
    if url.startswith("ipc://"):
        return  # there is no server, the first process makes its sockets
    try:
        asyncio.run(_open_once(open_link))
    except (BrokerError, TimeoutError) as exc:
        reason = str(exc) or f"no answer within {BROKER_SECONDS:g} s"
        text = f"the broker {mask_url(url)} cannot be reached: {reason.rstrip('.')}"
        yield checks.serious(text, "does it run, is the URL right? each process goes on alone until it answers")


BROKER_SECONDS = 5.0
"""How long the broker may take to answer."""


async def _open_once(open_link: Open) -> None:
    async with asyncio.timeout(BROKER_SECONDS):
        link = await open_link(["wsgateway.doctor"])
        await link.aclose()


def _stop_timeout(said: float | None) -> tuple[float | None, str, bool]:
    """Seconds until whoever stops the process kills it, who that is, and whether it is only assumed."""
    if said is not None:
        return said, "--stop-timeout", False
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return KUBERNETES_SECONDS, "Kubernetes, by default,", True
    unit = _systemd_unit()
    seconds = _systemd_seconds(unit) if unit else None
    return seconds, f"systemd ({unit})", False


def _systemd_unit() -> str | None:
    """The unit in whose group this process, or an installed `wsgateway.service`, runs."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("/")[2]
    except OSError:
        return None
    return group if group.endswith(".service") and "INVOCATION_ID" in os.environ else "wsgateway.service"


def _systemd_seconds(unit: str) -> float | None:
    """`TimeoutStopSec` of `unit`, None where there is no systemd or no such unit."""
    argv = ["systemctl", "show", unit, "--property=LoadState,TimeoutStopUSec"]
    try:
        shown = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return systemd_seconds(shown)


def systemd_seconds(shown: str) -> float | None:
    """What `systemctl show` says, as `TimeoutStopUSec=1min 30s`, in seconds; None for a unit that is not there."""
    fields = dict(line.partition("=")[::2] for line in shown.splitlines())
    if fields.get("LoadState") != "loaded":
        return None
    seconds = 0.0
    for part in fields.get("TimeoutStopUSec", "").split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not number.replace(".", "", 1).isdecimal() or part[len(number) :] not in _UNITS:
            return None  # infinity, too
        seconds += float(number) * _UNITS[part[len(number) :]]
    return seconds or None


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


# The settings


def _admin(store: Store, described: Described) -> Iterator[Finding]:
    admin = described.admin
    passwords = Passwords()
    passwords.use(admin, store.path.parent)
    outside = serves_outside(admin) or outside_of_environment(os.environ)
    yield from checks.check_admin(admin, has_password=passwords.is_set(), outside=outside)


def _gateway(loaded: Loaded) -> Iterator[Finding]:
    settings = loaded.settings
    outside = serves_outside(settings) or outside_of_environment(os.environ)
    is_written = loaded.sources["local_access"].partition(",")[0] != "default"
    yield from checks.check_access(settings, outside=outside, is_written=is_written)
    yield from checks.check_memory(settings)
    yield from _listener(settings)
    yield from _log_file(settings.log_file)
    if settings.ssl_certfile and settings.ssl_keyfile:
        yield from _certificate(settings.ssl_certfile, settings.ssl_keyfile)


def _listener(settings: Settings) -> Iterator[Finding]:
    try:
        Hooks(settings.listener, settings, GatewayLog(settings.id)).close()
    except ListenerError as exc:
        yield checks.serious(str(exc), "mend the listener, or name another one")


def _log_file(name: str | None) -> Iterator[Finding]:
    if not name:
        return
    path = Path(name)
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        text = f"log_file {name} cannot be written"
        yield checks.serious(text, "let the user of the process write there, or name another file in log_file")
    elif path.is_file() and path.stat().st_mode & stat.S_IROTH:
        text = f"log_file {name} can be read by every user of this host, and holds addresses and paths"
        yield checks.warning(text, f"chmod o= {name}; new files get 640, less the umask")


def _certificate(certfile: str, keyfile: str) -> Iterator[Finding]:
    ends, problem = None, ""
    try:
        ends = certificate_ends(certfile, keyfile)
    except OSError as exc:  # SSLError is one
        problem = getattr(exc, "verify_message", None) or exc.strerror or str(exc)
    yield from checks.check_certificate(certfile, ends=ends, now=time.time(), problem=problem)


def certificate_ends(certfile: str, keyfile: str) -> float | None:
    """When the certificate ends, in seconds since the epoch, read by shaking hands with ourselves in memory.

    Raises `OSError` if the files cannot be read, do not belong together, or are not valid now.
    """
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    here.load_cert_chain(certfile, keyfile)
    there.check_hostname = False
    there.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trusted for what it is, whoever has signed it
    there.load_verify_locations(certfile)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server, visitor = here.wrap_bio(up, down, server_side=True), there.wrap_bio(down, up)
    for _ in range(4):  # flights of a handshake, and one to spare
        for side in (visitor, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    found = visitor.getpeercert() or {}
    ends = found.get("notAfter")
    return ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None


# The proxy


async def probe(url: str, *, api_key: str | None = None) -> checks.Probe:
    """What answers at `url`, asked as a page and its visitor would. Raises `ValueError` for what is not an HTTP URL."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    path = f"/ws/doctor-{os.urandom(6).hex()}"
    ready, detail = await _status(url + "/ready")
    upgrade = without_origin = 0
    address: str | None = None
    if 300 <= ready <= 399:
        return checks.Probe(mask_url(url), ready, 0, detail)
    try:
        upgrade, detail = await client.handshake(url + path, origin=origin)
        if upgrade != 101:
            without_origin, _ = await client.handshake(url + path)
        elif api_key and not is_loopback(parts.hostname or ""):
            address = await address_of(url, path, api_key)
    except OSError as exc:
        detail = detail or str(exc)
    strangers = await asyncio.to_thread(opened_to_strangers, url, api_key) if ready else ""
    return checks.Probe(
        mask_url(url),
        ready,
        upgrade,
        detail[:300],
        without_origin=without_origin,
        address=address,
        strangers=strangers,
    )


def opened_to_strangers(url: str, api_key: str | None) -> str:
    """Return what makes a caller through `url` a local one, empty if nothing does.

    Only a local caller may ask for `/info` without a key, and with one the answer says whether it would be. A stranger
    may ask for any name: a proxy that passes it on has to be asked for `localhost`, and one that puts another in its
    place for one that is not local, so that an address of this host is told from what stands in front of it.
    """
    parts = urlsplit(url)
    names = [STRANGER] if is_loopback(parts.hostname or "") else [parts.netloc.rpartition("@")[2], "localhost"]
    for name in names:
        if _asked_as(url, name, None) is not None:
            return f"asked for the host {name!r} it shows /info without a key"
        shown = _asked_as(url, name, api_key) if api_key else None
        if shown is not None and shown["local"] is True:
            return f"asked for the host {name!r}; only the api_key keeps strangers out"
    return ""


STRANGER = "wsgateway-doctor.invalid"
"""A host name that nobody has (RFC 2606)."""


def _asked_as(url: str, host: str, api_key: str | None) -> dict[str, Any] | None:
    """Return how a gateway sees a request for its `/info` under the name `host`; None if it does not answer that."""
    try:
        shown = client.request("GET", f"{url}/info?limit=1", token=api_key, host=host)
    except (OSError, ValueError, SendError):
        return None
    caller = shown.get("caller") if isinstance(shown, dict) else None
    return caller if isinstance(caller, dict) and "local" in caller else None


async def _status(url: str) -> tuple[int, str]:
    try:
        await asyncio.to_thread(client.request, "GET", url)
    except SendError as exc:
        return exc.status, str(exc.problem.get("detail", "")) if 300 <= exc.status <= 399 else ""
    except OSError as exc:
        return 0, str(exc)
    return 200, ""


async def address_of(url: str, path: str, api_key: str) -> str | None:
    """The address that the gateway has of a client which connects at `path` through the proxy."""
    async with client.connect(client.websocket_url(url) + path):
        try:
            total = (await _info(url, api_key, 0))["total"]
            page = (await _info(url, api_key, max(0, total - PAGE)))["connections"]  # the newest are the last
        except (OSError, ValueError, LookupError, TypeError, SendError):
            return None  # another key, another server, or the proxy keeps it to itself
    return next((str(conn["address"]) for conn in page if conn["path"] == path), None)


PAGE = 100
"""Connections in a page of `/info`."""


async def _info(url: str, api_key: str, offset: int) -> Any:
    return await asyncio.to_thread(client.request, "GET", f"{url}/info?offset={offset}&limit={PAGE}", token=api_key)

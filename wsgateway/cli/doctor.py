"""The command `wsgateway doctor`: examines the installed packages, this machine, the settings, and a proxy in front.

Prints the findings of `checks`.
"""

import asyncio
import os
import platform
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wsgateway.admin.passwords import Passwords
from wsgateway.cli import checks
from wsgateway.cli.checks import Finding, Severity
from wsgateway.cli.probe import probe
from wsgateway.cli.terminal import to_json
from wsgateway.cluster.brokers import Open, opener
from wsgateway.cluster.history.faults import Facts
from wsgateway.cluster.routing import TopicNames
from wsgateway.config.channels import NATS, histories_in
from wsgateway.config.exposure import outside_of_environment
from wsgateway.config.settings import Settings, serves_outside
from wsgateway.config.sources import Layer, Loaded
from wsgateway.exceptions import BrokerError, ConfigError, ListenerError, StartError
from wsgateway.gateway.descriptors import hard_file_limit
from wsgateway.gateway.keys import read_keys, warnings_of
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog
from wsgateway.server.serving import missing_of_uvicorn, offers_takeover
from wsgateway.supervisor.store import Described, Store
from wsgateway.text import escape_controls, mask_url

KUBERNETES_SECONDS = 30.0
"""Seconds: the default of `terminationGracePeriodSeconds`."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The facts about the proxy in front and the service manager, from the command line."""

    url: str | None
    """URL at which clients reach the gateway, through the proxy."""
    proxy_timeout: float | None
    """Seconds of silence after which the proxy cuts a connection."""
    stop_timeout: float | None
    """Seconds after SIGTERM at which the process is killed."""


def run(store: Store, surroundings: Surroundings, *, as_json: bool) -> int:
    """Print all findings, the worst first, and return the exit code: 1 if one is serious."""
    findings = sorted(_find_all(store, surroundings), key=lambda finding: list(Severity).index(finding.severity))
    is_serious = any(finding.severity is Severity.SERIOUS for finding in findings)
    if as_json:
        print(to_json([_fields_of(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print("\n".join(escape_controls(line) for line in str(finding).splitlines()))
        print(_summary(findings))
    return 1 if is_serious else 0


def _summary(findings: Sequence[Finding]) -> str:
    """Return the last line of the output. A hint is not a problem."""
    hints = sum(finding.severity is Severity.HINT for finding in findings)
    problems = len(findings) - hints
    text = f"{problems or 'no'} problem{'' if problems == 1 else 's'} found"
    return f"{text}, {hints} hint{'' if hints == 1 else 's'}" if hints else text


def _tokens(settings: Settings) -> Iterator[Finding]:
    """Find what is wrong with the keys of tokens, except those of a key set."""
    for text in warnings_of(settings):
        what, _, advice = text.partition(": ")
        yield checks.warning(what, advice)
    if settings.checks_tokens:
        try:
            read_keys(settings)
        except StartError as exc:
            what, _, advice = str(exc).rpartition(": ")
            yield checks.serious(what or advice, advice)


def _fields_of(finding: Finding) -> dict[str, str]:
    return {"level": finding.severity, "what": finding.what, "advice": finding.advice}


def _find_all(store: Store, surroundings: Surroundings) -> Iterator[Finding]:
    yield from _installed()
    try:
        described = store.read()
    except ConfigError as exc:
        for mistake in exc.mistakes:
            yield checks.serious(mistake, "fix it; `wsgateway serve --help` lists every setting")
        return
    yield from _machine(described, surroundings)
    yield from _admin(store, described)
    has_several = len(described.gateways) > 1
    for loaded in described.gateways.values():
        settings = loaded.settings
        prefix = f"[{settings.id}] " if has_several else ""
        for finding in (
            *_gateway(loaded),
            *_broker(settings),
            *checks.check_proxy_timeout(settings, surroundings.proxy_timeout),
        ):
            yield Finding(finding.severity, prefix + finding.what, finding.advice)
    for text in described.warnings:
        yield checks.warning(text, "fix or remove it")
    if surroundings.url and not surroundings.url.lower().startswith(("http://", "https://")):
        text = f"--url {mask_url(surroundings.url)!r} is not a URL"
        yield checks.serious(text, "write it as browsers show it: https://example.com")
    elif surroundings.url:
        keys = [key for loaded in described.gateways.values() for key in loaded.settings.api_key]
        try:
            answers = asyncio.run(probe(surroundings.url.rstrip("/"), api_key=next(iter(keys), None)))
        except ValueError as exc:
            yield checks.serious(f"--url: {exc}", "write it as browsers show it: https://example.com")
        else:
            yield from checks.check_probe(answers)


# The installed packages


def _installed() -> Iterator[Finding]:
    packages = {name: _version(name) for name in (*checks.OLDEST, "uvloop")}
    has_uvloop_here = sys.platform != "win32" and platform.python_implementation() == "CPython"
    yield from checks.check_versions(packages, python=sys.version_info[:3], has_uvloop_here=has_uvloop_here)
    yield from checks.check_paths(
        version=packages["uvicorn"] or "",
        has_fast_path=asyncio.run(offers_takeover()),
        missing_http=asyncio.run(missing_of_uvicorn()),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# The machine


def _machine(described: Described, surroundings: Surroundings) -> Iterator[Finding]:
    seconds, source, is_assumed = _stop_timeout(surroundings.stop_timeout)
    for loaded in described.gateways.values():
        settings = loaded.settings
        yield from checks.check_files(settings, most_files=hard_file_limit())
        yield from checks.check_drain(settings, stop_timeout=seconds, source=source, is_assumed=is_assumed)
        # the workers of `wsgateway serve` have a broker of their own; WEB_CONCURRENCY is read by uvicorn and gunicorn
        yield from checks.check_workers(os.environ.get("WEB_CONCURRENCY", ""), settings)


BROKER_SECONDS = 5.0
"""Seconds the broker may take to answer."""


def _broker(settings: Settings) -> Iterator[Finding]:
    """Check that the broker's URL is valid, that its driver is installed, and that the broker answers."""
    url = settings.broker or ("ipc://" if settings.workers > 1 else None)
    if url is None:
        return
    try:
        open_link = opener(url)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            yield checks.serious(
                mistake, "the gateway does not start with it, see docs/how-to/processes.md#which-broker"
            )
        return
    if url.startswith("ipc://"):
        return  # it has no server, because the first process creates the sockets
    try:
        asyncio.run(_open_once(open_link))
    except (BrokerError, TimeoutError) as exc:
        reason = str(exc) or f"no answer within {BROKER_SECONDS:g} s"
        text = f"the broker {mask_url(url)} cannot be reached: {reason.rstrip('.')}"
        yield checks.serious(text, "is it running, and is the URL right? until it answers, each process works alone")
    else:
        yield from _history(settings, url)


def _history(settings: Settings, url: str) -> Iterator[Finding]:
    """Check the Redis server that keeps the histories, if there are any."""
    histories = histories_in(settings.channels)
    if not histories or url.partition("://")[0].lower() in NATS:
        return
    from wsgateway.cluster.history.examination import examine  # redis-py is optional

    try:
        facts = asyncio.run(_examine_once(examine(url, gateway=TopicNames(settings.id).gateway)))
    except (BrokerError, TimeoutError) as exc:
        yield checks.serious(f"the history in {mask_url(url)} cannot be examined: {exc or 'no answer'}", "try again")
    else:
        yield from checks.check_history(histories, mask_url(url), facts)


async def _examine_once(examination: Awaitable[Facts]) -> Facts:
    async with asyncio.timeout(BROKER_SECONDS):
        return await examination


async def _open_once(open_link: Open) -> None:
    async with asyncio.timeout(BROKER_SECONDS):
        link = await open_link(["wsgateway.doctor"])
        await link.aclose()


def _stop_timeout(given: float | None) -> tuple[float | None, str, bool]:
    """Return the seconds from SIGTERM to SIGKILL, the sender of the signals, and whether the number is only assumed."""
    if given is not None:
        return given, "--stop-timeout", False
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return KUBERNETES_SECONDS, "Kubernetes, by default,", True
    unit = _systemd_unit()
    seconds = _systemd_seconds(unit) if unit else None
    return seconds, f"systemd ({unit})", False


def _systemd_unit() -> str | None:
    """Return the systemd unit of this process, otherwise the default name of an installed unit."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("/")[2]
    except OSError:
        return None
    return group if group.endswith(".service") and "INVOCATION_ID" in os.environ else "wsgateway.service"


def _systemd_seconds(unit: str) -> float | None:
    """Return `TimeoutStopSec` of `unit`, None without systemd or such a unit."""
    argv = ["systemctl", "show", unit, "--property=LoadState,TimeoutStopUSec"]
    try:
        shown = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return systemd_seconds(shown)


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def systemd_seconds(shown: str) -> float | None:
    """Return `TimeoutStopUSec`, such as `1min 30s`, from the output of `systemctl show`; None for an unknown unit."""
    fields = dict(line.partition("=")[::2] for line in shown.splitlines())
    if fields.get("LoadState") != "loaded":
        return None
    seconds = 0.0
    for part in fields.get("TimeoutStopUSec", "").split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not number.replace(".", "", 1).isdecimal() or part[len(number) :] not in _UNITS:
            return None  # also for infinity
        seconds += float(number) * _UNITS[part[len(number) :]]
    return seconds or None


# The settings


def _admin(store: Store, described: Described) -> Iterator[Finding]:
    admin = described.admin
    passwords = Passwords(admin, store.path.parent)
    outside = serves_outside(admin) or outside_of_environment(os.environ)
    yield from checks.check_admin(admin, has_password=passwords.is_set(), outside=outside)


def _gateway(loaded: Loaded) -> Iterator[Finding]:
    settings = loaded.settings
    outside = serves_outside(settings) or outside_of_environment(os.environ)
    is_written = loaded.sources["local_access"].layer is not Layer.DEFAULT
    yield from checks.check_access(settings, outside=outside, is_written=is_written)
    yield from _tokens(settings)
    yield from checks.check_memory(settings)
    yield from _listener(settings)
    yield from _log_file(settings.log_file)
    if settings.ssl_certfile and settings.ssl_keyfile:
        yield from _certificate(settings.ssl_certfile, settings.ssl_keyfile)


def _listener(settings: Settings) -> Iterator[Finding]:
    try:
        Hooks(settings.listener, settings, GatewayLog(settings.id)).close()
    except ListenerError as exc:
        yield checks.serious(str(exc), "fix the listener, or name another one")


def _log_file(name: str | None) -> Iterator[Finding]:
    if not name:
        return
    path = Path(name)
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        text = f"log_file {name} cannot be written"
        yield checks.serious(text, "let the process write there, or set log_file to another file")
    elif path.is_file() and path.stat().st_mode & stat.S_IROTH:
        text = f"log_file {name} can be read by every user of this host, and it contains addresses and paths"
        yield checks.warning(text, f"chmod o= {name}; new files have mode 640, less the umask")


def _certificate(certfile: str, keyfile: str) -> Iterator[Finding]:
    ends, problem = None, ""
    try:
        ends = certificate_ends(certfile, keyfile)
    except OSError as exc:  # SSLError is one
        problem = getattr(exc, "verify_message", None) or exc.strerror or str(exc)
    yield from checks.check_certificate(certfile, ends=ends, now=time.time(), problem=problem)


def certificate_ends(certfile: str, keyfile: str) -> float | None:
    """Return when the certificate expires, in seconds since the epoch, by a TLS handshake in memory.

    Raise `OSError` if the files cannot be read, do not belong together, or are not valid now.
    """
    server_context, client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server_context.load_cert_chain(certfile, keyfile)
    client_context.check_hostname = False
    # trusts the certificate itself, regardless of its signer
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(certfile)
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(received, sent, server_side=True)
    client = client_context.wrap_bio(sent, received)
    for _ in range(4):  # the flights of a handshake, and a spare one
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    ends = (client.getpeercert() or {}).get("notAfter")
    return ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None

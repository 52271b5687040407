"""Checks what `wsgateway doctor` has measured, and returns findings with advice. No I/O."""

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wsgateway.cluster.history.faults import Facts
from wsgateway.config.addresses import is_loopback
from wsgateway.config.channels import histories_in
from wsgateway.config.grace import seconds_to_stop
from wsgateway.config.settings import AdminSettings, Settings
from wsgateway.gateway.admission import SPARE_DESCRIPTORS


class Severity(enum.StrEnum):
    """The severity of a finding. A serious finding makes the command fail."""

    SERIOUS = "serious"
    WARNING = "warning"
    HINT = "hint"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and the advice for it, a sentence each. Neither contains a secret."""

    severity: Severity
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}\n  {self.advice}"


def serious(what: str, advice: str) -> Finding:
    return Finding(Severity.SERIOUS, what, advice)


def warning(what: str, advice: str) -> Finding:
    return Finding(Severity.WARNING, what, advice)


def hint(what: str, advice: str) -> Finding:
    return Finding(Severity.HINT, what, advice)


# The installed packages

Version = tuple[int, ...]


def parse_version(version: str) -> Version:
    """Return a version such as `0.52.1` as numbers that can be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


OLDEST = {"uvicorn": (0, 52, 1), "websockets": (15, 0), "starlette": (0, 46), "httptools": (0, 6, 3)}
"""The oldest versions that the gateway is tested with, by package."""


def check_versions(versions: Mapping[str, str | None], *, python: Version, has_uvloop_here: bool) -> Iterator[Finding]:
    """Check `versions` by package, None for a missing one. `has_uvloop_here` is whether uvloop supports this system."""
    for name, oldest in OLDEST.items():
        version = versions.get(name)
        required = ".".join(map(str, oldest))
        if version is None:
            yield serious(f"{name} is not installed", f"pip install '{name}>={required}'")
        elif name == "uvicorn" and (0, 50) <= parse_version(version) < (0, 52, 1):
            text = f"uvicorn {version} does not slow a sender down when a client reads slowly, so memory grows"
            yield serious(text, "pip install 'uvicorn>=0.52.1,<1'")
        elif parse_version(version) < oldest:
            yield serious(f"{name} {version} is older than the gateway is tested with", f"install {required} or newer")
    uvicorn = versions.get("uvicorn")
    if uvicorn is not None and parse_version(uvicorn) >= (1,):
        yield warning(f"uvicorn {uvicorn} is newer than the gateway is tested with", "install a version below 1")
    if python < (3, 11):
        yield serious(f"Python {'.'.join(map(str, python))} is too old", "install 3.11 or newer")
    if versions.get("uvloop") is None and has_uvloop_here:
        yield hint(
            "uvloop is not installed, and asyncio's own event loop is slower", "pip install 'wsgateway[standard]'"
        )


def check_paths(*, version: str, has_fast_path: bool, missing_http: tuple[str, ...]) -> Iterator[Finding]:
    """Check that uvicorn `version` has the attributes that the native protocol and the HTTP limits require."""
    advice = "install a version of uvicorn that wsgateway knows, or a newer wsgateway"
    if not has_fast_path:
        text = f"uvicorn {version} does not let the gateway take over sockets, so the slower plain ASGI path is used"
        yield warning(text, advice)
    if missing_http:
        text = f"uvicorn {version} has no {', '.join(missing_http)}, so slow or huge requests are not limited"
        yield serious(text, advice)


# The machine


def check_files(settings: Settings, *, most_files: int) -> Iterator[Finding]:
    """Check `most_files`, the open files that the process may ask for. `serve` raises its limit to that number."""
    most_clients = max(1, most_files - SPARE_DESCRIPTORS)
    advice = "raise the limit: LimitNOFILE={0} in the systemd unit, or ulimit -n {0}; "
    advice += f"{SPARE_DESCRIPTORS} of them are kept for other files"
    if settings.max_connections > most_clients:
        required = settings.max_connections + SPARE_DESCRIPTORS
        text = f"max_connections is {settings.max_connections}, but "
        text += f"{most_files} open files are enough for {most_clients} clients"
        yield warning(text, advice.format(required))
    elif not settings.max_connections and most_files < 4096:
        yield hint(f"{most_files} open files are enough for {most_clients} clients", advice.format(100_000))


def check_memory(settings: Settings) -> Iterator[Finding]:
    if settings.compression:
        text = "compression is on: every message costs CPU, and a message to one client is compressed for it alone"
        yield hint(text, "leave it on for long texts over slow networks, otherwise turn it off")


def check_drain(settings: Settings, *, stop_timeout: float | None, source: str, is_assumed: bool) -> Iterator[Finding]:
    """Check `stop_timeout`, the seconds after SIGTERM at which `source` kills the process; None if it is unknown."""
    needed = seconds_to_stop(settings)
    if stop_timeout is None or stop_timeout >= needed:
        return
    text = f"a stop may take {needed:g} s (drain, on_stop, and hooks that linger), but {source} kills after "
    text += f"{stop_timeout:g} s: clients are cut off, and their on_client_close is not called"
    drain = max(0.0, stop_timeout - (needed - settings.drain))
    advice = f"allow {needed:g} s or more, or set drain to {drain:g} or less"
    if is_assumed:
        yield warning(text, advice + "; pass the real time as --stop-timeout")
    elif stop_timeout > settings.drain:
        yield warning(text, advice)
    else:
        yield serious(text, advice)


def check_workers(workers: str, settings: Settings) -> Iterator[Finding]:
    """Check `workers`, the text of WEB_CONCURRENCY, which may be nonsense. A broker joins processes if it is set."""
    if not workers.strip().isdecimal() or int(workers) < 2:
        return
    if settings.broker:
        return
    histories = histories_in(settings.channels)
    if histories:
        text = f"{workers.strip()} workers without a broker: {histories} would be kept by each alone, so none starts"
        yield serious(text, "run one process, or set a broker, or set history = 0")
    else:
        text = f"{workers.strip()} workers without a broker: a message reaches only the clients of one worker"
        yield serious(text, "run one process, or set a broker")


# The history

OLDEST_REDIS = (5, 0)
"""The oldest Redis that runs the scripts of a history. Valkey calls itself 7.2 or later."""

LIMIT_ADVICE = "set maxmemory in redis.conf to less than the machine has"


def check_history(histories: str, server: str, facts: Facts) -> Iterator[Finding]:
    """Check the Redis server that keeps `histories`, the subject of a sentence."""
    if facts.is_cluster:
        text = f"{server} is part of a Redis Cluster, so {histories} cannot be kept there"
        yield serious(text, "use a server without cluster mode, and redis-sentinel:// for a failover")
    elif facts.fault:
        yield serious(f"{histories} cannot be kept in {server}", facts.fault)
    if not facts.version:
        text = f"the memory of {server} cannot be checked, because the user may not run INFO"
        yield hint(text, "add +info to its ACL, or check maxmemory and maxmemory-policy yourself")
        return
    if parse_version(facts.version) < OLDEST_REDIS:
        yield serious(f"{server} runs Redis {facts.version}, which cannot keep a history", "install Redis 5 or later")
    if facts.max_memory == "0":
        yield hint(f"the memory of {server} has no limit, so histories may fill the machine", LIMIT_ADVICE)
    elif facts.policy not in ("noeviction", "volatile-ttl"):
        text = (
            f"maxmemory-policy of {server} is {facts.policy}, so when it is full, it drops positions, or values that "
        )
        text += "have no time limit, before old records, and clients start over that have missed nothing"
        advice = "set maxmemory-policy to volatile-ttl, which drops the oldest histories first, or to noeviction, with "
        yield warning(text, advice + "which publishing fails when it is full")


# Access

NEW_KEY = "python -c 'import secrets; print(secrets.token_urlsafe(24))' makes a key; set it as WSGATEWAY_API_KEY"

SHORT_KEY = 20
"""Characters of a key that cannot be guessed: 16 random bytes have 22 in Base64."""


def check_access(settings: Settings, *, outside: str | None = None, is_written: bool = False) -> Iterator[Finding]:
    """Check the origins, hosts, and keys of one gateway.

    `outside` is the reason why the gateway seems to serve other machines, or None. `is_written` is whether
    `local_access` was set explicitly.
    """
    if settings.local_access and is_written and not settings.api_key:
        yield _about_local_access(
            "/send, /api, /metrics and /info answer", outside, "set an api_key, or remove local_access"
        )
    is_public = settings.uds is None and not is_loopback(settings.host)
    if "*" in settings.allowed_origins:
        text = "allowed_origins is *: the page of any site may connect with its visitors' cookies"
        yield serious(text, 'name the origins of your pages: allowed_origins = ["https://example.com"]')
    if "null" in settings.allowed_origins:
        text = "allowed_origins contains null, which any page can send from a sandboxed frame"
        yield serious(text, "remove it, and serve the page from an origin of its own")
    if any(len(key) < SHORT_KEY for key in settings.api_key):
        yield serious(f"an api_key has fewer than {SHORT_KEY} characters, so it can be guessed", NEW_KEY)
    if is_public and not settings.allowed_hosts:
        text = f"{settings.host} can be reached from other machines, and allowed_hosts is not set: a page whose host "
        text += "name was rebound to your address counts as the same origin"
        yield warning(text, 'name your hosts: allowed_hosts = ["example.com"]')
    if is_public and not settings.api_key:
        text = f"{settings.host} can be reached from other machines, and api_key is not set: /send "
        text += "answers local callers only" if settings.local_access else "refuses every caller"
        yield warning(text, NEW_KEY)
    if is_public and not settings.ssl_certfile:
        text = f"{settings.host} can be reached from other machines without TLS: "
        text += "keys and messages can be read in transit"
        yield hint(text, "put a proxy with TLS in front, or set ssl_keyfile and ssl_certfile")


def _about_local_access(opens: str, outside: str | None, advice: str) -> Finding:
    text = f"local_access is true: {opens} every user of this host without a key, and every client of a proxy on "
    text += "this host that adds no forwarded header"
    if outside is None:
        return hint(text, advice)
    return warning(f"{text}, although {outside}", advice)


def check_admin(admin: AdminSettings, *, has_password: bool, outside: str | None = None) -> Iterator[Finding]:
    """Check the admin interface. `outside` is the reason why it seems to serve other machines, or None."""
    if not admin.enabled:
        return
    tokens = (*admin.token, *admin.read_token)
    if any(len(token) < SHORT_KEY for token in tokens):
        text = f"a token of [admin] has fewer than {SHORT_KEY} characters, so it can be guessed"
        yield serious(text, NEW_KEY.replace("API_KEY", "ADMIN_TOKEN"))
    if admin.local_access and not tokens and not has_password:
        advice = "set [admin] token or a password (wsgateway password), or remove local_access"
        yield _about_local_access("the panel and REST admit", outside, advice)
    if is_loopback(admin.host):
        return
    if not tokens and not has_password:
        text = f"the admin interface is on {admin.host} and has neither token nor password: it "
        text += "answers local callers only" if admin.local_access else "refuses every caller"
        yield warning(text, "bind it to 127.0.0.1, or set [admin] token")
    else:
        text = f"the admin interface is on {admin.host} without TLS: its password can be read in transit"
        yield warning(text, "bind it to 127.0.0.1 and put a proxy with TLS in front")


DAY = 86400.0
"""Seconds."""


def check_certificate(name: str, *, ends: float | None, now: float, problem: str = "") -> Iterator[Finding]:
    """Check a certificate. `ends` and `now` are seconds since the epoch; `problem` is why the files cannot be used."""
    if problem:
        text = f"ssl_certfile {name} cannot be used: {problem}"
        yield serious(
            text,
            "ssl_certfile is a chain in PEM format, ssl_keyfile its key; the process must be able to read both",
        )
    elif ends is not None and ends <= now + 14 * DAY:
        text = f"the certificate {name} expires in {max(0, int((ends - now) / DAY))} days"
        yield warning(text, "renew it and restart the gateway")


# The proxy in front


@dataclass(frozen=True, slots=True)
class Probe:
    """The answers of a proxy. A status of 0 means that it did not answer."""

    url: str
    ready: int
    """Status of `GET /ready`."""
    upgrade: int
    """Status of a WebSocket handshake that a page of the same origin makes."""
    detail: str = ""
    """The reason in the refusal of the handshake, or in the network error."""
    without_origin: int = 0
    """Status of the same handshake without an `Origin`."""
    address: str | None = None
    """The client's address as the gateway knows it; None if it could not be requested."""
    strangers: str = ""
    """A request of a stranger that counts as local, in words; empty if no tested request does."""
    holds_streams_back: bool = False
    """Whether a stream (`GET /sse`) is accepted, but its first bytes do not arrive."""


def check_probe(probe: Probe) -> Iterator[Finding]:
    """Check the answers of a proxy."""
    reason = f": {probe.detail}" if probe.detail else ""
    if probe.ready == 0 and probe.upgrade == 0:
        advice = "is the address right, and is the gateway running?"
        if "certificate" in reason.lower():
            advice = "if the certificate is of your own authority, name the file of the authority in SSL_CERT_FILE"
        yield serious(f"no server answers at {probe.url}{reason}", advice)
        return
    if 300 <= probe.ready <= 399:
        text = f"{probe.url} answers with a redirect ({probe.ready}){reason}"
        yield serious(
            text, "give the clients and doctor the URL of the redirect, because not every client follows a redirect"
        )
        return
    if probe.ready != 200:
        text = f"GET {probe.url}/ready is {probe.ready}, not 200"
        yield serious(text, "start the gateway, and let the proxy forward every path below that URL")
    if probe.upgrade != 101:
        yield _not_upgraded(probe, reason)
    if probe.holds_streams_back:
        text = f"the proxy holds streams back: nothing of GET {probe.url}/sse has arrived within 3 s"
        yield serious(text, "turn its buffering off for streams (nginx: proxy_buffering off; docs/how-to/proxies.md)")
    advice = "set api_key and local_access = false, let the proxy set X-Forwarded-For, and name the proxy in "
    advice += "uvicorn's FORWARDED_ALLOW_IPS (docs/troubleshooting.md#not-local)"
    if probe.strangers:
        text = f"strangers are local: to the gateway, a caller through {probe.url} seems to be on its own host: "
        yield serious(text + probe.strangers, advice)
    elif probe.address is not None and is_loopback(probe.address):
        text = "strangers are local: to the gateway, every client of the proxy seems to be on its own host, "
        yield serious(text + "because its address does not arrive", advice)


def _not_upgraded(probe: Probe, reason: str) -> Finding:
    if probe.upgrade == 403 and probe.without_origin == 101:
        text = f"a page at {probe.url} would be refused for its origin{reason}"
        advice = "let the proxy forward Host and set X-Forwarded-Proto, or add the origin to allowed_origins"
        return serious(text, advice)
    if probe.upgrade in (200, 400, 404, 426):
        text = f"the proxy does not forward the upgrade to a WebSocket: a handshake is {probe.upgrade}{reason}"
        advice = (
            "use HTTP/1.1 to the gateway, with Upgrade and Connection (docs/how-to/proxies.md#configure-another-proxy)"
        )
        return serious(text, advice)
    return serious(f"a WebSocket handshake at {probe.url}/ws is {probe.upgrade}{reason}", "check the proxy's log")


def check_proxy_timeout(settings: Settings, proxy_timeout: float | None) -> Iterator[Finding]:
    """Check `proxy_timeout`, the seconds of silence after which the proxy cuts a connection; None if it is unknown."""
    if proxy_timeout is not None and proxy_timeout <= settings.ping_interval:
        text = (
            f"the proxy cuts a client off after {proxy_timeout:g} s, but pings are {settings.ping_interval:g} s apart"
        )
        advice = f"raise that timeout (nginx: proxy_read_timeout), or set ping_interval below {proxy_timeout:g}"
        yield serious(text, advice)

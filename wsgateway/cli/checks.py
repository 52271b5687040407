"""What `wsgateway doctor` thinks of what it has found out: facts in, findings with advice out. No I/O."""

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wsgateway.addresses import is_loopback
from wsgateway.config.grace import seconds_to_stop
from wsgateway.config.settings import AdminSettings, Settings
from wsgateway.gateway.admission import SPARE_DESCRIPTORS


class Severity(enum.StrEnum):
    """How bad a finding is. One that is serious makes the command fail."""

    SERIOUS = "serious"
    WARNING = "warning"
    HINT = "hint"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and what to do about it. A sentence each, without secrets."""

    level: Severity
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}\n  {self.advice}"


def serious(what: str, advice: str) -> Finding:
    return Finding(Severity.SERIOUS, what, advice)


def warning(what: str, advice: str) -> Finding:
    return Finding(Severity.WARNING, what, advice)


def hint(what: str, advice: str) -> Finding:
    return Finding(Severity.HINT, what, advice)


# What is installed

Version = tuple[int, ...]


def parsed(version: str) -> Version:
    """`0.52.1` as numbers that can be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


LEAST = {"uvicorn": (0, 52, 1), "websockets": (15, 0), "starlette": (0, 46), "httptools": (0, 6, 3)}
"""The oldest versions that the gateway is tested with."""


def check_versions(versions: Mapping[str, str | None], *, python: Version, has_uvloop_here: bool) -> Iterator[Finding]:
    """`versions` of packages, None for one that is missing. `has_uvloop_here`: there is a uvloop for this system."""
    for name, least in LEAST.items():
        version = versions.get(name)
        wanted = ".".join(map(str, least))
        if version is None:
            yield serious(f"{name} is not installed", f"pip install '{name}>={wanted}'")
        elif name == "uvicorn" and (0, 50) <= parsed(version) < (0, 52, 1):
            text = f"uvicorn {version} does not hold back who sends to a client that reads slowly: memory grows"
            yield serious(text, "pip install 'uvicorn>=0.52.1,<1'")
        elif parsed(version) < least:
            yield serious(f"{name} {version} is older than what the gateway is tested with", f"take {wanted} or newer")
    uvicorn = versions.get("uvicorn")
    if uvicorn is not None and parsed(uvicorn) >= (1,):
        yield warning(f"uvicorn {uvicorn} is newer than what the gateway is tested with", "take one below 1")
    if python < (3, 11):
        yield serious(f"Python {'.'.join(map(str, python))} is too old", "take 3.11 or newer")
    if versions.get("uvloop") is None and has_uvloop_here:
        yield hint("uvloop is not installed: asyncio's own loop is slower", "pip install 'wsgateway[standard]'")


def check_paths(*, version: str, has_fast_path: bool, missing_http: tuple[str, ...]) -> Iterator[Finding]:
    """Whether uvicorn `version` has what the gateway's own path to the socket and its limits rest on."""
    advice = "take a version of uvicorn that wsgateway knows, or a newer wsgateway"
    if not has_fast_path:
        text = f"uvicorn {version} lacks what the gateway's own path to the socket rests on: the slower one is taken"
        yield warning(text, advice)
    if missing_http:
        text = f"uvicorn {version} has no {', '.join(missing_http)}: requests that are slow or huge have no limit"
        yield serious(text, advice)


# The machine


def check_files(settings: Settings, *, most_files: int) -> Iterator[Finding]:
    """`most_files`: open files that the process may ask for. `serve` takes them all."""
    most = max(1, most_files - SPARE_DESCRIPTORS)
    advice = f"raise the limit: LimitNOFILE={{}} in the systemd unit, or ulimit -n {{}}; {SPARE_DESCRIPTORS} are spare"
    if settings.max_connections > most:
        wanted = settings.max_connections + SPARE_DESCRIPTORS
        text = (
            f"max_connections is {settings.max_connections}, and {most_files} open files are enough for {most} clients"
        )
        yield warning(text, advice.format(wanted, wanted))
    elif not settings.max_connections and most_files < 4096:
        yield hint(f"{most_files} open files are enough for {most} clients", advice.format(100_000, 100_000))


def check_memory(settings: Settings) -> Iterator[Finding]:
    if settings.compression:
        text = "compression is on: each message costs CPU, and one to a single client is compressed for it alone"
        yield hint(text, "leave it on for long texts on slow lines, else turn it off")


def check_drain(settings: Settings, *, stop_timeout: float | None, source: str, assumed: bool) -> Iterator[Finding]:
    """`stop_timeout`: seconds after SIGTERM at which the process is killed, as `source` says; None: nobody knows."""
    needed = seconds_to_stop(settings)
    if stop_timeout is None or stop_timeout >= needed:
        return
    text = f"a stop may take {needed:g} s (drain, on_stop and what lingers), {source} kills after {stop_timeout:g} s: "
    text += "clients are cut off, and their on_client_close is not called"
    drain = max(0.0, stop_timeout - (needed - settings.drain))
    advice = f"give it {needed:g} s or more, or set drain to {drain:g} or less"
    if assumed:
        yield warning(text, advice + "; --stop-timeout says what it really is")
    elif stop_timeout > settings.drain:
        yield warning(text, advice)
    else:
        yield serious(text, advice)


def check_workers(workers: str, *, broker: object) -> Iterator[Finding]:
    """`workers`: what WEB_CONCURRENCY says, perhaps nonsense. `broker`: what joins processes, if any."""
    if workers.strip().isdecimal() and int(workers) > 1 and not broker:
        text = f"{workers.strip()} workers without a broker: a message reaches the clients of one of them only"
        yield serious(text, "run one process, or set a broker")


# Who is let in

SHORT_KEY = 20
"""Characters of a key that nobody guesses: 16 random bytes in Base64 are 22."""


def check_access(settings: Settings, *, outside: str | None = None, is_written: bool = False) -> Iterator[Finding]:
    """Origins, hosts and keys of one gateway.

    `outside` is what says that it serves others than this machine; `is_written` whether `local_access` was set by
    somebody.
    """
    if settings.local_access and is_written and not settings.api_key:
        yield _local_access("/send, /metrics and /info answer", outside, "set an api_key, or take local_access out")
    is_public = settings.uds is None and not is_loopback(settings.host)
    if "*" in settings.allowed_origins:
        text = "allowed_origins is *: the page of any site may connect with its visitors' cookies"
        yield serious(text, 'name the origins of your pages: allowed_origins = ["https://example.com"]')
    if "null" in settings.allowed_origins:
        text = "allowed_origins has null, which any page can send from a sandboxed frame"
        yield serious(text, "take it out, and serve the page from an origin of its own")
    if any(len(key) < SHORT_KEY for key in settings.api_key):
        yield serious(f"an api_key has fewer than {SHORT_KEY} characters, it can be guessed", NEW_KEY)
    if is_public and not settings.allowed_hosts:
        text = f"{settings.host} can be reached from elsewhere, and allowed_hosts is not set: a page whose name was "
        text += "rebound to your address is of the same origin"
        yield warning(text, 'name your hosts: allowed_hosts = ["example.com"]')
    if is_public and not settings.api_key:
        text = f"{settings.host} can be reached from elsewhere, and no api_key is set: /send answers "
        text += "local callers only" if settings.local_access else "nobody"
        yield warning(text, NEW_KEY)
    if is_public and not settings.ssl_certfile:
        text = f"{settings.host} can be reached from elsewhere without TLS: keys and messages can be read on the way"
        yield hint(text, "put a proxy with TLS in front, or set ssl_keyfile and ssl_certfile")


def _local_access(opens: str, outside: str | None, advice: str) -> Finding:
    text = f"local_access is true: {opens} every user of this host without a key, and everybody on the other side of "
    text += "a proxy on this host that adds no forwarded header"
    if outside is None:
        return hint(text, advice)
    return warning(f"{text}, although {outside}", advice)


NEW_KEY = """python -c 'import secrets; print(secrets.token_urlsafe(24))' makes a key; set it as WSGATEWAY_API_KEY"""


def check_admin(admin: AdminSettings, *, has_password: bool, outside: str | None = None) -> Iterator[Finding]:
    """The interface that steers the gateways. `outside` is what says that it serves others than this machine."""
    if not admin.enabled:
        return
    tokens = (*admin.token, *admin.read_token)
    if any(len(token) < SHORT_KEY for token in tokens):
        text = f"a token of [admin] has fewer than {SHORT_KEY} characters, it can be guessed"
        yield serious(text, NEW_KEY.replace("API_KEY", "ADMIN_TOKEN"))
    if admin.local_access and not tokens and not has_password:
        advice = "set [admin] token or a password (wsgateway password), or take local_access out"
        yield _local_access("the panel and REST let in", outside, advice)
    if is_loopback(admin.host):
        return
    if not tokens and not has_password:
        text = f"the admin interface is on {admin.host}, and has neither token nor password: "
        text += "local callers only" if admin.local_access else "nobody is let in"
        yield warning(text, "bind it to 127.0.0.1, or set [admin] token")
    else:
        text = f"the admin interface is on {admin.host} without TLS: its password can be read on the way"
        yield warning(text, "bind it to 127.0.0.1, and put a proxy with TLS in front")


DAY = 86400.0


def check_certificate(name: str, *, ends: float | None, now: float, problem: str = "") -> Iterator[Finding]:
    """`ends` and `now` are seconds since the epoch; `problem` is why the files cannot be used, if so."""
    if problem:
        text = f"ssl_certfile {name} cannot be used: {problem}"
        yield serious(text, "ssl_certfile is a chain in PEM, ssl_keyfile its key; the user of the process reads both")
    elif ends is not None and ends <= now + 14 * DAY:
        text = f"the certificate {name} ends in {max(0, int((ends - now) / DAY))} days"
        yield warning(text, "renew it, and restart the gateway")


# What stands in front


@dataclass(frozen=True, slots=True)
class Probe:
    """What a proxy has answered. `status` of 0 and `detail`: nobody did."""

    url: str
    ready: int
    """Status of `GET /ready`."""
    upgrade: int
    """Status of a WebSocket handshake from a page of the same origin."""
    detail: str = ""
    """What the handshake's refusal said."""
    without_origin: int = 0
    """Status of the same without an `Origin`."""
    address: str | None = None
    """The client's address as the gateway has it; None where nobody could be asked."""
    strangers: str = ""
    """What a stranger has to ask for to be a local caller of the gateway; empty if nothing that was tried does."""


def check_probe(probe: Probe) -> Iterator[Finding]:
    """What the answers say about the proxy."""
    said = f": {probe.detail}" if probe.detail else ""
    if probe.ready == 0 and probe.upgrade == 0:
        yield serious(f"nobody answers at {probe.url}{said}", "is the address right, does the gateway run?")
        return
    if 300 <= probe.ready <= 399:
        text = f"{probe.url} answers with a redirect ({probe.ready}){said}"
        yield serious(text, "give clients, and doctor, the URL that it points to: not all clients follow a redirect")
        return
    if probe.ready != 200:
        text = f"GET {probe.url}/ready is {probe.ready}, not 200"
        yield serious(text, "start the gateway, and let the proxy pass on everything below that path")
    if probe.upgrade != 101:
        yield _not_upgraded(probe, said)
    advice = "set api_key and local_access = false, let the proxy set X-Forwarded-For, and uvicorn's "
    advice += "FORWARDED_ALLOW_IPS name the proxy (docs/troubleshooting.md#not-local)"
    if probe.strangers:
        text = f"strangers are local: the gateway takes a caller through {probe.url} for one on its own host, "
        yield serious(text + probe.strangers, advice)
    elif probe.address is not None and is_loopback(probe.address):
        text = "strangers are local: the gateway takes every client of the proxy for one on its own host, "
        yield serious(text + "its address does not arrive", advice)


def _not_upgraded(probe: Probe, said: str) -> Finding:
    if probe.upgrade == 403 and probe.without_origin == 101:
        text = f"a page at {probe.url} would be refused for its origin{said}"
        advice = "let the proxy pass on Host and set X-Forwarded-Proto, or add the origin to allowed_origins"
        return serious(text, advice)
    if probe.upgrade in (200, 400, 404, 426):
        text = f"the proxy does not pass the upgrade to a WebSocket on: a handshake is {probe.upgrade}{said}"
        advice = "HTTP/1.1 to the gateway, with Upgrade and Connection (docs/deployment.md#behind-a-proxy)"
        return serious(text, advice)
    return serious(f"a WebSocket handshake at {probe.url}/ws is {probe.upgrade}{said}", "look into the proxy's log")


def check_proxy_timeout(settings: Settings, proxy_timeout: float | None) -> Iterator[Finding]:
    """`proxy_timeout`: seconds without a byte after which the proxy cuts a connection, None: nobody has said."""
    if proxy_timeout is not None and proxy_timeout <= settings.ping_interval:
        text = f"the proxy cuts a client off after {proxy_timeout:g} s, a ping comes every {settings.ping_interval:g} s"
        advice = f"raise it (nginx: proxy_read_timeout), or set ping_interval below {proxy_timeout:g}"
        yield serious(text, advice)

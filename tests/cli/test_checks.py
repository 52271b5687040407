"""What is found from facts: each finding with its advice, and none where all is right."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from wsgateway import Settings
from wsgateway.cli import checks
from wsgateway.cli.checks import Finding, Probe, Severity
from wsgateway.cluster.history.faults import Facts
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.settings import AdminSettings
from wsgateway.gateway.descriptors import UNLIMITED

SERIOUS, WARNING, HINT = Severity
KEY = "k" * 22
GOOD = {"uvicorn": "0.54.0", "websockets": "17.4", "starlette": "1.10.0", "httptools": "0.9.0", "uvloop": "0.23.0"}


def versions(python: tuple[int, ...] = (3, 13, 1), **changed: str | None) -> list[Finding]:
    return list(checks.check_versions({**GOOD, **changed}, python=python, has_uvloop_here=True))


def paths(**changed: Any) -> list[Finding]:
    facts: dict[str, Any] = {"version": "0.54.0", "has_fast_path": True, "missing_http": (), **changed}
    return list(checks.check_paths(**facts))


def access(*, outside: str | None = None, is_written: bool = False, **options: Any) -> list[Finding]:
    return list(checks.check_access(Settings(**options), outside=outside, is_written=is_written))


def public(**options: Any) -> list[Finding]:
    good = {"host": "0.0.0.0", "api_key": KEY, "allowed_hosts": "example.com", "ssl_certfile": "c", "ssl_keyfile": "k"}
    return access(**{**good, **options})


def files(most_files: int, **options: Any) -> list[Finding]:
    return list(checks.check_files(Settings(**options), most_files=most_files))


def drain(stop_timeout: float | None, *, assumed: bool = False) -> list[Finding]:
    settings = Settings(drain=30)
    return list(checks.check_drain(settings, stop_timeout=stop_timeout, source="systemd", is_assumed=assumed))


def admin(*, has_password: bool = False, outside: str | None = None, **options: Any) -> list[Finding]:
    return list(checks.check_admin(AdminSettings(**options), has_password=has_password, outside=outside))


def certificate(**facts: Any) -> list[Finding]:
    return list(checks.check_certificate("c.pem", **{"ends": None, "now": 1e9, **facts}))


def proxied(**facts: Any) -> list[Finding]:
    return list(checks.check_probe(Probe(**{"url": "https://example.com", "ready": 200, "upgrade": 101, **facts})))


def proxy_timeout(seconds: float | None) -> list[Finding]:
    return list(checks.check_proxy_timeout(Settings(ping_interval=25), seconds))


def stored(**facts: Any) -> Iterable[Finding]:
    values: dict[str, Any] = {
        "fault": "",
        "version": "7.2.4",
        "max_memory": "1000",
        "policy": "volatile-ttl",
        "is_cluster": False,
    }
    return checks.check_history("the history of *", "redis://host", Facts(**(values | facts)))


HISTORY = Settings(channels={"room:*": ChannelSettings(history=1)})

FINDINGS: dict[str, tuple[Callable[[], Iterable[Finding]], Severity, str]] = {
    "no back-pressure": (lambda: versions(uvicorn="0.50.0"), SERIOUS, "memory grows"),
    "nor there": (lambda: versions(uvicorn="0.52.0"), SERIOUS, "memory grows"),
    "old uvicorn": (lambda: versions(uvicorn="0.49.1"), SERIOUS, "uvicorn 0.49.1 is older"),
    "new uvicorn": (lambda: versions(uvicorn="1.0.0"), WARNING, "uvicorn 1.0.0 is newer"),
    "old websockets": (lambda: versions(websockets="14.1"), SERIOUS, "websockets 14.1 is older"),
    "old starlette": (lambda: versions(starlette="0.45.3"), SERIOUS, "starlette 0.45.3 is older"),
    "no httptools": (lambda: versions(httptools=None), SERIOUS, "httptools is not installed"),
    "no uvloop": (lambda: versions(uvloop=None), HINT, "uvloop is not installed"),
    "old Python": (lambda: versions(python=(3, 10, 2)), SERIOUS, "Python 3.10.2 is too old"),
    "no fast path": (lambda: paths(has_fast_path=False), WARNING, "the slower plain ASGI path is used"),
    "no limits": (lambda: paths(missing_http=("cycle",)), SERIOUS, "has no cycle"),
    "too few files": (lambda: files(1024, max_connections=2000), WARNING, "1024 open files are enough for 960 clients"),
    "few files": (lambda: files(1024), HINT, "1024 open files are enough for 960 clients"),
    "compression": (lambda: checks.check_memory(Settings(compression=True)), HINT, "compression is on"),
    "killed early": (lambda: drain(30), SERIOUS, "systemd kills after 30 s"),
    "killed by default": (lambda: drain(30, assumed=True), WARNING, "a stop may take 49.5 s"),
    "workers": (lambda: checks.check_workers(" 4 ", Settings()), SERIOUS, "4 workers without a broker"),
    "workers and history": (lambda: checks.check_workers("4", HISTORY), SERIOUS, "would be kept by each alone"),
    "history refused": (lambda: stored(fault="the server is a replica"), SERIOUS, "cannot be kept in redis://host"),
    "history in a cluster": (lambda: stored(is_cluster=True), SERIOUS, "is part of a Redis Cluster"),
    "history in old Redis": (lambda: stored(version="4.0.9"), SERIOUS, "runs Redis 4.0.9"),
    "history, no INFO": (lambda: stored(version=""), HINT, "may not run INFO"),
    "history without limit": (lambda: stored(max_memory="0"), HINT, "has no limit"),
    "history evicted": (
        lambda: stored(policy="allkeys-lru"),
        WARNING,
        "maxmemory-policy of redis://host is allkeys-lru",
    ),
    "any origin": (lambda: access(allowed_origins="*"), SERIOUS, "the page of any site may connect"),
    "null origin": (lambda: access(allowed_origins="null"), SERIOUS, "sandboxed frame"),
    "short key": (lambda: access(api_key=[KEY, "secret"]), SERIOUS, "can be guessed"),
    "no hosts": (lambda: public(allowed_hosts=()), WARNING, "allowed_hosts is not set"),
    "no key": (lambda: public(api_key=()), WARNING, "/send refuses every caller"),
    "no TLS": (lambda: public(ssl_certfile=None, ssl_keyfile=None), HINT, "without TLS"),
    "short token": (lambda: admin(token="short"), SERIOUS, "a token of [admin]"),
    "open admin": (lambda: admin(host="0.0.0.0"), WARNING, "neither token nor password"),
    "admin in clear": (lambda: admin(host="0.0.0.0", token=KEY), WARNING, "without TLS"),
    "admin in clear, too": (lambda: admin(host="0.0.0.0", has_password=True), WARNING, "without TLS"),
    "no certificate": (lambda: certificate(problem="No such file"), SERIOUS, "cannot be used: No such file"),
    "certificate ends": (lambda: certificate(ends=1e9 + 9.5 * 86400), WARNING, "expires in 9 days"),
    "nobody": (lambda: proxied(ready=0, upgrade=0, detail="refused"), SERIOUS, "no server answers at"),
    "not ready": (lambda: proxied(ready=503), SERIOUS, "/ready is 503"),
    "no upgrade": (lambda: proxied(upgrade=426), SERIOUS, "does not forward the upgrade"),
    "foreign origin": (lambda: proxied(upgrade=403, without_origin=101), SERIOUS, "refused for its origin"),
    "bad gateway": (lambda: proxied(upgrade=502, detail="oops"), SERIOUS, "is 502: oops"),
    "no address": (lambda: proxied(address="127.0.0.1"), SERIOUS, "strangers are local"),
    "mapped address": (lambda: proxied(address="::ffff:127.0.0.1"), SERIOUS, "because its address does not arrive"),
    "open": (lambda: proxied(strangers="it shows /info", address="127.0.0.1"), SERIOUS, "it shows /info"),
    "written": (lambda: access(api_key=[], local_access=True, is_written=True), HINT, "every user of this host"),
    "written outside": (
        lambda: access(api_key=[], local_access=True, is_written=True, outside="host is x"),
        WARNING,
        "although host is x",
    ),
    "open admin, written": (lambda: admin(local_access=True), HINT, "the panel and REST admit every user"),
    "open admin outside": (
        lambda: admin(local_access=True, outside="allowed_hosts is set"),
        WARNING,
        "although allowed_hosts is set",
    ),
    "cut off": (lambda: proxy_timeout(20), SERIOUS, "cuts a client off after 20 s"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_one_finding_with_its_advice(name: str) -> None:
    find, severity, text = FINDINGS[name]
    (found,) = find()
    assert (found.severity, bool(found.advice)) == (severity, True)
    assert text in found.what
    assert KEY not in str(found)
    assert "secret" not in found.what


@pytest.mark.parametrize(
    "find",
    [
        versions,
        paths,
        access,
        public,
        admin,
        certificate,
        proxied,
        lambda: files(UNLIMITED, max_connections=10**6),
        lambda: files(100_000, max_connections=50_000),
        lambda: drain(None),
        lambda: drain(50),
        lambda: admin(host="0.0.0.0", enabled=False),
        lambda: certificate(ends=1e9 + 30 * 86400),
        lambda: checks.check_workers("4", Settings(broker="redis://")),
        lambda: checks.check_workers("4", Settings(channels=HISTORY.channels, broker="redis://")),
        lambda: checks.check_workers("1", HISTORY),
        lambda: checks.check_workers("many", HISTORY),
        lambda: stored(policy="noeviction"),
        lambda: stored(policy="volatile-ttl"),
        lambda: checks.check_memory(Settings()),
        lambda: proxied(address="203.0.113.7"),
        lambda: access(api_key=KEY, local_access=True, is_written=True, outside="x"),
        lambda: access(api_key=[], local_access=True),
        lambda: admin(local_access=True, has_password=True, outside="x"),
        lambda: admin(local_access=True, token=KEY, outside="x"),
        lambda: proxy_timeout(60),
        lambda: proxy_timeout(None),
    ],
)
def test_what_is_right_is_no_finding(find: Callable[[], Iterable[Finding]]) -> None:
    assert list(find()) == []

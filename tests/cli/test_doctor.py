"""What the doctor finds: each finding from facts, then the command on this machine."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.processes import run
from tests.servers import OwnServer, PlainUvicorn
from tests.services import redis
from wsgateway import Gateway, Settings
from wsgateway.cli import checks
from wsgateway.cli.checks import Finding, Probe, Severity
from wsgateway.cli.doctor import address_of, certificate_ends, opened_to_strangers, probe, systemd_seconds
from wsgateway.config.settings import AdminSettings

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


def files(hard: int | None, **options: Any) -> list[Finding]:
    return list(checks.check_files(Settings(**options), hard=hard))


def drain(stop_timeout: float | None, *, assumed: bool = False) -> list[Finding]:
    settings = Settings(drain=30)
    return list(checks.check_drain(settings, stop_timeout=stop_timeout, source="systemd", assumed=assumed))


def admin(*, has_password: bool = False, outside: str | None = None, **options: Any) -> list[Finding]:
    return list(checks.check_admin(AdminSettings(**options), has_password=has_password, outside=outside))


def certificate(**facts: Any) -> list[Finding]:
    return list(checks.check_certificate("c.pem", **{"ends": None, "now": 1e9, **facts}))


def proxied(**facts: Any) -> list[Finding]:
    return list(checks.check_probe(Probe(**{"url": "https://example.com", "ready": 200, "upgrade": 101, **facts})))


def proxy_timeout(seconds: float | None) -> list[Finding]:
    return list(checks.check_proxy_timeout(Settings(ping_interval=25), seconds))


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
    "no fast path": (lambda: paths(has_fast_path=False), WARNING, "the slower one is taken"),
    "no limits": (lambda: paths(missing_http=("cycle",)), SERIOUS, "has no cycle"),
    "too few files": (lambda: files(1024, max_connections=2000), WARNING, "1024 open files are enough for 960 clients"),
    "few files": (lambda: files(1024), HINT, "1024 open files are enough for 960 clients"),
    "compression": (lambda: checks.check_memory(Settings(compression=True)), HINT, "compression is on"),
    "killed early": (lambda: drain(30), SERIOUS, "systemd kills after 30 s"),
    "killed by default": (lambda: drain(30, assumed=True), WARNING, "a stop may take 49.5 s"),
    "workers": (lambda: checks.check_workers(" 4 ", broker=None), SERIOUS, "4 workers without a broker"),
    "any origin": (lambda: access(allowed_origins="*"), SERIOUS, "the page of any site may connect"),
    "null origin": (lambda: access(allowed_origins="null"), SERIOUS, "sandboxed frame"),
    "short key": (lambda: access(api_key=[KEY, "secret"]), SERIOUS, "can be guessed"),
    "no hosts": (lambda: public(allowed_hosts=()), WARNING, "allowed_hosts is not set"),
    "no key": (lambda: public(api_key=()), WARNING, "/send answers nobody"),
    "no TLS": (lambda: public(ssl_certfile=None, ssl_keyfile=None), HINT, "without TLS"),
    "short token": (lambda: admin(token="short"), SERIOUS, "a token of [admin]"),
    "open admin": (lambda: admin(host="0.0.0.0"), WARNING, "neither token nor password"),
    "admin in clear": (lambda: admin(host="0.0.0.0", token=KEY), WARNING, "without TLS"),
    "admin in clear, too": (lambda: admin(host="0.0.0.0", has_password=True), WARNING, "without TLS"),
    "no certificate": (lambda: certificate(problem="No such file"), SERIOUS, "cannot be used: No such file"),
    "certificate ends": (lambda: certificate(ends=1e9 + 9.5 * 86400), WARNING, "ends in 9 days"),
    "nobody": (lambda: proxied(ready=0, upgrade=0, detail="refused"), SERIOUS, "nobody answers at"),
    "not ready": (lambda: proxied(ready=503), SERIOUS, "/ready is 503"),
    "no upgrade": (lambda: proxied(upgrade=426), SERIOUS, "does not pass the upgrade"),
    "foreign origin": (lambda: proxied(upgrade=403, without_origin=101), SERIOUS, "refused for its origin"),
    "bad gateway": (lambda: proxied(upgrade=502, detail="oops"), SERIOUS, "is 502: oops"),
    "no address": (lambda: proxied(address="127.0.0.1"), SERIOUS, "strangers are local"),
    "mapped address": (lambda: proxied(address="::ffff:127.0.0.1"), SERIOUS, "its address does not arrive"),
    "open": (lambda: proxied(strangers="it shows /info", address="127.0.0.1"), SERIOUS, "it shows /info"),
    "written": (lambda: access(api_key=[], local_access=True, is_written=True), HINT, "every user of this host"),
    "written outside": (
        lambda: access(api_key=[], local_access=True, is_written=True, outside="host is x"),
        WARNING,
        "although host is x",
    ),
    "open admin, written": (lambda: admin(local_access=True), HINT, "the panel and REST let in every user"),
    "open admin outside": (
        lambda: admin(local_access=True, outside="allowed_hosts is set"),
        WARNING,
        "although allowed_hosts is set",
    ),
    "cut off": (lambda: proxy_timeout(20), SERIOUS, "cuts a client off after 20 s"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_one_finding_with_its_advice(name: str) -> None:
    find, level, text = FINDINGS[name]
    (found,) = find()
    assert (found.level, bool(found.advice)) == (level, True)
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
        lambda: files(None, max_connections=10**6),
        lambda: files(100_000, max_connections=50_000),
        lambda: drain(None),
        lambda: drain(50),
        lambda: admin(host="0.0.0.0", enabled=False),
        lambda: certificate(ends=1e9 + 30 * 86400),
        lambda: checks.check_workers("4", broker="redis://"),
        lambda: checks.check_workers("1", broker=None),
        lambda: checks.check_workers("many", broker=None),
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


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [
        ("LoadState=loaded\nTimeoutStopUSec=1min 30s\n", 90),
        ("TimeoutStopUSec=40s\nLoadState=loaded\n", 40),
        ("LoadState=loaded\nTimeoutStopUSec=500ms\n", 0.5),
        ("LoadState=loaded\nTimeoutStopUSec=infinity\n", None),
        ("LoadState=not-found\nTimeoutStopUSec=1min 30s\n", None),
        ("", None),
    ],
)
def test_what_systemd_says(shown: str, seconds: float | None) -> None:
    assert systemd_seconds(shown) == seconds


def certificate_files(folder: Path, ends: datetime) -> tuple[str, str]:
    begins = ends - timedelta(days=90)
    found = trustme.CA().issue_cert("localhost", not_before=begins, not_after=ends)
    found.private_key_pem.write_to_path(folder / "key.pem")
    for place, pem in enumerate(found.cert_chain_pems):
        pem.write_to_path(folder / "cert.pem", append=bool(place))
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_when_a_certificate_ends(tmp_path: Path) -> None:
    ends = (datetime.now(UTC) + timedelta(days=5)).replace(microsecond=0)
    assert certificate_ends(*certificate_files(tmp_path, ends)) == ends.timestamp()


def test_a_certificate_that_has_ended_or_another_key_is_told(tmp_path: Path) -> None:
    cert, key = certificate_files(tmp_path, datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(OSError, match="expired"):
        certificate_ends(cert, key)
    other = tmp_path / "other"
    other.mkdir()
    _, wrong = certificate_files(other, datetime.now(UTC) + timedelta(days=5))
    with pytest.raises(OSError, match=r"(?i)key.values.mismatch"):
        certificate_ends(cert, wrong)
    with pytest.raises(OSError, match="No such file"):
        certificate_ends(str(tmp_path / "none.pem"), key)


# The proxy


@asynccontextmanager
async def proxy(target: str, change: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """Passes on to `target` what it is sent, the head of each connection's first request changed by `change`."""
    host, _, port = target.removeprefix("http://").partition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        there, back = await asyncio.open_connection(host, int(port))
        back.write(change(head))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


CHANGES: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "a good one": (lambda head: head, []),
    "no upgrade": (
        lambda head: re.sub(rb"(?im)^(upgrade|connection):.*\r\n", b"", head),
        ["does not pass the upgrade to a WebSocket on: a handshake is 400"],
    ),
    "another host": (
        lambda head: re.sub(rb"(?im)^host:.*\r\n", b"Host: inside:80\r\n", head),
        ["would be refused for its origin: pages from 'http://127.0.0.1:"],
    ),
    "another scheme": (
        lambda head: head.replace(b"\r\n", b"\r\nX-Forwarded-Proto: https\r\n", 1),
        ["would be refused for its origin"],
    ),
    "another path": (
        lambda head: head.replace(b" /", b" /elsewhere/", 1),
        ["/ready is 404, not 200", "a handshake is 404: there is no WebSocket at /elsewhere/ws"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_proxy_in_front(name: str) -> None:
    change, texts = CHANGES[name]
    gateway = Gateway(allowed_origins="https://other.example")  # else every loopback origin may
    async with OwnServer()(gateway) as url, proxy(url, change) as front:
        found = list(checks.check_probe(await probe(front)))
    assert len(found) == len(texts)
    for finding, text in zip(found, texts, strict=True):
        assert text in finding.what


def forwarded(head: bytes) -> bytes:
    return head.replace(b"\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n", 1)


def renamed(head: bytes) -> bytes:
    """As a proxy does that asks by the address which it knows."""
    return re.sub(rb"(?im)^host:.*\r\n", b"Host: 127.0.0.1:10125\r\n", head)


@pytest.mark.parametrize("api_key", ["", KEY])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda head: head, False),
        (forwarded, False),
        (lambda head: forwarded(renamed(head)), False),
        (lambda head: renamed(head).replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (renamed, True),
    ],
    ids=["passes all on", "says so", "says so and renames", "HTTP/1.0", "says nothing and renames"],
)
async def test_strangers_who_are_local_are_serious(change: Callable[[bytes], bytes], told: bool, api_key: str) -> None:
    async with (
        OwnServer()(Gateway(local_access=True, api_key=[api_key] if api_key else [])) as url,
        proxy(url, change) as front,
    ):
        found = list(checks.check_probe(await probe(front, api_key=api_key or None)))
    local = [finding for finding in found if "strangers are local" in finding.what]
    assert [finding.level for finding in local] == [SERIOUS] * told
    assert KEY not in str(found)


async def test_a_page_that_answers_everything_is_no_gateway() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b'{"caller": "x"}'})

    async with PlainUvicorn(ws="none")(page) as url:
        assert await asyncio.to_thread(opened_to_strangers, url, KEY) == ""
    assert opened_to_strangers("http://127.0.0.1:1", None) == ""


async def test_nobody_behind_the_address() -> None:
    (found,) = checks.check_probe(await probe("http://127.0.0.1:1"))
    assert "nobody answers" in found.what


async def test_the_address_that_arrives_is_asked_for_with_the_key() -> None:
    forwarded = b"\r\nX-Forwarded-For: 203.0.113.9\r\n"
    async with OwnServer()(Gateway(api_key=KEY)) as url:
        assert await address_of(url, "/ws/doctor", KEY) == "127.0.0.1"
        assert await address_of(url, "/ws/doctor", "wrong") is None
        async with proxy(url, lambda head: head.replace(b"\r\n", forwarded, 1)) as front:
            assert await address_of(front, "/ws/doctor", KEY) == "203.0.113.9"


# The command


def test_on_a_sound_installation_it_finds_nothing_serious(tmp_path: Path) -> None:
    done = run("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_a_written_local_access_is_explained(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(
        'local_access = true\n[gateways.a]\n[gateways.b]\nallowed_origins = "https://a.example"\n'
        '[admin]\nallowed_hosts = "a.example"\nlocal_access = true\n'
    )
    told = run("doctor", cwd=tmp_path).stdout
    assert "hint: [a] local_access is true" in told
    assert "warning: [b] local_access is true" in told
    assert "although allowed_origins is set" in told
    assert "warning: local_access is true: the panel and REST" in told


def test_what_is_on_or_off_by_default_is_none(tmp_path: Path) -> None:
    for more in ((), ("--allowed-hosts", "a.example"), ("--no-local-access",)):
        assert "local_access" not in run("doctor", *more, cwd=tmp_path).stdout


def test_it_prints_the_worst_first_and_fails_if_it_is_serious(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(
        'compression = true\n[gateways.a]\nlistener = "nowhere"\nlog_file = "no/such/folder.log"\n'
        '[gateways.b]\nssl_certfile = "c.pem"\nssl_keyfile = "k.pem"\nallowed_origins = "*"\n'
    )
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "WEB_CONCURRENCY": "3", "WSGATEWAY_PROT": "1"}
    done = run("doctor", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 1
    found = [(finding["level"], finding["what"]) for finding in json.loads(done.stdout)]
    levels = [level for level, _ in found]
    assert levels == sorted(levels, key=["serious", "warning", "hint"].index)
    told = "\n".join(text for _, text in found)
    for text in (
        "[a] listener 'nowhere': there is no module",
        "[a] log_file no/such/folder.log cannot be written",
        "[b] ssl_certfile c.pem cannot be used: No such file",
        "[b] allowed_origins is *",
        "3 workers without a broker",
        "Kubernetes, by default, kills after 30 s",
        "WSGATEWAY_PROT is no setting",
        "[a] compression is on",
    ):
        assert text in told
    assert run("doctor", "--stop-timeout", "60", cwd=tmp_path, env=env).stdout.count("kills after") == 0


def test_an_address_without_a_scheme_is_a_finding_among_the_others(tmp_path: Path) -> None:
    done = run("doctor", "--url", "example.com", "--stop-timeout", "5", cwd=tmp_path)
    assert done.returncode == 1
    assert "serious: --url 'example.com' is no address" in done.stdout
    assert "kills after 5 s" in done.stdout


def test_every_mistake_in_the_settings_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text("prot = 1\ndrain = -1\n")
    done = run("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "serious: prot (wsgateway.toml): there is no such setting, did you mean port?" in done.stdout
    assert "drain (wsgateway.toml)" in done.stdout
    assert done.stdout.endswith("2 findings\n")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://x", "serious: broker: 'http://x' is none of ipc://"),
        ("redis://127.0.0.1:1", "serious: the broker redis://127.0.0.1:1 cannot be reached"),
        ("nats://127.0.0.1:1", "serious: the broker nats://127.0.0.1:1 cannot be reached"),
    ],
)
def test_a_broker_that_is_not_there_is_a_finding(url: str, said: str, tmp_path: Path) -> None:
    done = run("doctor", "--broker", url, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stdout


def test_a_broker_that_answers_is_none(tmp_path: Path) -> None:
    with redis() as service:
        assert "broker" not in run("doctor", "--broker", service.url, cwd=tmp_path).stdout

"""Callers without a key: only those on the same host, and only while no setting shows clients on other hosts."""

import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus

from tests.panels import admin, visitor
from tests.ports import free_port
from tests.processes import environment, run, serving
from tests.proxies import bare_nginx
from tests.raw import connect
from wsgateway import Gateway, Settings
from wsgateway.admin import Panel
from wsgateway.admin.api import Api
from wsgateway.admin.credentials import Credentials
from wsgateway.admin.passwords import hash_password
from wsgateway.config.sources import Loaded, load
from wsgateway.server.serving import serving as serving_gateway
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client, serve

SERVED = {"local_access": True}
FOR_WEBSOCKETS = ("proxy_set_header Upgrade $http_upgrade;", 'proxy_set_header Connection "upgrade";')
"""As nginx.org describes it, and nothing else."""


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)


def loaded(environ: dict[str, str] | None = None, flags: dict[str, str | bool] | None = None, text: str = "") -> Loaded:
    if text:
        Path("wsgateway.toml").write_text(text)
    return load(defaults=SERVED, environ=environ or {}, flags=flags or {})


async def statuses(url: str) -> list[int]:
    """Of everything that takes a key, without one."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
        sent = await http.post("/send", json={"message": "x"})
        return [sent.status_code, *[(await http.get(path)).status_code for path in ("/info", "/metrics")]]


OPEN, CLOSED = [200, 200, 200], [403, 403, 403]


# What is in effect


@pytest.mark.parametrize("text", ["", "port = 1\n", 'host = "localhost"\n', 'host = "127.0.0.5"\n', 'uds = "s"\n'])
def test_with_nothing_of_the_outside_it_is_on(text: str) -> None:
    found = loaded(text=text)
    assert (found.settings.local_access, found.sources["local_access"]) == (True, "default")


@pytest.mark.parametrize(
    ("environ", "flags", "text"),
    [
        ({}, {}, 'allowed_origins = ["https://a.example"]\n'),
        ({}, {}, 'allowed_hosts = ["localhost"]\n'),
        ({}, {}, 'host = "0.0.0.0"\n'),
        ({}, {}, 'host = "::"\n'),
        ({}, {}, 'host = "here.example"\n'),
        ({}, {}, '[gateways.a]\nallowed_origins = "*"\n'),
        ({"WSGATEWAY_HOST": "0.0.0.0"}, {}, ""),
        ({"WSGATEWAY_ALLOWED_ORIGINS": "https://a.example"}, {}, ""),
        ({"FORWARDED_ALLOW_IPS": "127.0.0.1"}, {}, ""),
        ({}, {"host": "192.0.2.1"}, ""),
        ({}, {"allowed_hosts": "a.example"}, ""),
    ],
)
def test_what_speaks_of_the_outside_turns_it_off_unless_it_is_written(
    environ: dict[str, str], flags: dict[str, str | bool], text: str
) -> None:
    found = loaded(environ, flags, text)
    assert not found.settings.local_access
    assert found.sources["local_access"].startswith("default, because ")
    for more in ({"environ": {"WSGATEWAY_LOCAL_ACCESS": "true"}}, {"flags": {"local_access": True}}):
        found = loaded({**environ, **more.get("environ", {})}, {**flags, **more.get("flags", {})}, text)  # type: ignore[dict-item]  # either is a part
        assert found.settings.local_access
        assert not found.sources["local_access"].startswith("default")
    assert loaded(environ, flags, "local_access = true\n" + text).settings.local_access
    assert not loaded(environ, flags, "local_access = false\n" + text).settings.local_access


def test_written_false_is_off() -> None:
    assert not loaded(text="local_access = false\n").settings.local_access


def test_each_gateway_of_a_file_is_decided_for_itself(tmp_path: Path) -> None:
    Path("x.toml").write_text('[gateways.a]\nallowed_origins = "https://a.example"\n[gateways.b]\n')
    store = Store("x.toml", defaults=SERVED)
    found = store.read().gateways
    assert [found[name].settings.local_access for name in "ab"] == [False, True]
    assert store.new_settings().local_access
    Path("x.toml").write_text('allowed_hosts = ["a.example"]\n[gateways.a]\nlocal_access = true\n[gateways.b]\n')
    found = store.read().gateways
    assert [found[name].settings.local_access for name in "ab"] == [True, False]
    assert not store.new_settings().local_access


def test_check_shows_what_is_in_effect_and_why(tmp_path: Path) -> None:
    lines = run("check", "--allowed-origins", "https://a.example", cwd=tmp_path).stdout.splitlines()
    assert "local_access = false  # default, because allowed_origins is set" in lines
    lines = run("check", "--allowed-origins", "https://a.example", "--local-access", cwd=tmp_path).stdout.splitlines()
    assert "local_access = true  # --local-access" in lines
    assert "local_access = true  # default" in run("check", cwd=tmp_path).stdout.splitlines()


# Served


@asynccontextmanager
async def managed(text: str) -> AsyncIterator[tuple[Supervisor, httpx.AsyncClient]]:
    """The gateways of `text` as `wsgateway serve` has them, and their REST interface."""
    Path("wsgateway.toml").write_text(text)
    async with Supervisor(Store("wsgateway.toml", defaults=SERVED)) as supervisor:
        async with serving_gateway(
            Api(supervisor, Credentials(supervisor, bound_host="127.0.0.1")), Settings(port=0)
        ) as url:
            async with httpx.AsyncClient(base_url=url, timeout=90) as http:
                yield supervisor, http
                supervisor.end_streams()


async def test_a_change_over_rest_that_speaks_of_the_outside_turns_it_off() -> None:
    async with managed("[gateways.chat]\nport = 0\n") as (supervisor, http):

        async def patched(**changes: object) -> list[int]:
            answer = await http.patch("/api/gateways/chat?wait=60", json=changes)
            assert answer.status_code == 200, answer.text
            return await statuses(supervisor.find("chat").url)

        assert await statuses(supervisor.find("chat").url) == OPEN
        assert await patched(allowed_origins=["https://a.example"]) == CLOSED
        assert await patched(local_access=True) == OPEN
        assert await patched(local_access=None) == CLOSED
        assert await patched(allowed_origins=None) == OPEN
        assert await patched(local_access=False) == CLOSED


async def test_a_change_in_the_panel_does_it_too(tmp_path: Path) -> None:
    async with admin(tmp_path, "[gateways.chat]\nport = 0\nlocal_access = true\n") as (supervisor, url):
        async with visitor(url) as somebody:
            form = {"port": "0", "local_access": "true"}
            await somebody.submit("/gateways/chat/settings", {**form, "allowed_hosts": "a.example"})
            assert supervisor.find("chat").settings.local_access  # it is written
    Path("wsgateway.toml").write_text("[gateways.chat]\nport = 0\n")
    store = Store("wsgateway.toml", defaults=SERVED)
    assert store.put("chat", {"allowed_hosts": ["a.example"]}).gateways["chat"].settings.local_access is False


async def test_a_created_gateway_is_decided_for_itself() -> None:
    async with managed("[gateways.chat]\nport = 0\n") as (supervisor, http):
        for name, more, expected in (("open", {}, OPEN), ("shut", {"allowed_hosts": ["127.0.0.1"]}, CLOSED)):
            answer = await http.post("/api/gateways?wait=60", json={"id": name, "port": 0, **more})
            assert answer.status_code == 201
            assert await statuses(supervisor.find(name).url) == expected


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        (["--workers", "2"], {}, OPEN),
        (["--workers", "2", "--allowed-hosts", "127.0.0.1"], {}, CLOSED),
        (["--workers", "2"], {"FORWARDED_ALLOW_IPS": "127.0.0.1"}, CLOSED),
        (["--allowed-origins", "https://a.example", "--local-access"], {}, OPEN),
    ],
)
async def test_the_workers_of_a_gateway_decide_as_one(
    arguments: list[str], env: dict[str, str], expected: list[int], tmp_path: Path
) -> None:
    with serving("--no-admin-enabled", *arguments, cwd=tmp_path, env=env) as served:
        assert await statuses(served.url) == expected
        served.terminate()


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        ([], {}, OPEN),
        (["--forwarded-allow-ips", "127.0.0.1"], {}, CLOSED),
        ([], {"FORWARDED_ALLOW_IPS": "127.0.0.1"}, CLOSED),
        ([], {"WSGATEWAY_ALLOWED_ORIGINS": "https://a.example"}, CLOSED),
        (["--forwarded-allow-ips", "127.0.0.1"], {"WSGATEWAY_LOCAL_ACCESS": "true"}, OPEN),
    ],
)
async def test_the_application_for_uvicorn_follows_its_command_line_too(
    arguments: list[str], env: dict[str, str], expected: list[int], tmp_path: Path
) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "wsgateway.app:app", "--port", str(port), *arguments]
    with subprocess.Popen(argv, cwd=tmp_path, env=environment(env), stderr=subprocess.DEVNULL) as process:
        try:
            with anyio.fail_after(60):
                while True:
                    try:
                        assert await statuses(f"http://127.0.0.1:{port}") == expected
                        break
                    except httpx.ConnectError:
                        await anyio.sleep(0.05)  # another process begins to listen
        finally:
            process.kill()


async def test_a_gateway_made_in_code_is_as_it_is_written() -> None:
    for options, expected in (
        ({}, CLOSED),
        ({"local_access": True}, OPEN),
        ({"local_access": True, "allowed_origins": "https://a.example"}, OPEN),
    ):
        async with serve(Gateway(**options)) as url:
            assert await statuses(url) == expected


async def test_with_a_key_every_caller_needs_it() -> None:
    async with serve(Gateway(local_access=True, api_key="k")) as url:
        assert await statuses(url) == [401, 401, 401]


@pytest.mark.parametrize("with_key", [False, True])
async def test_no_page_holds_a_key(with_key: bool) -> None:
    key = "a-key-that-no-page-holds"
    gateway = Gateway(local_access=True, api_key=key if with_key else ())
    async with serve(gateway) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        for path in ("/", "/pages/test.js", "/pages/test.css", "/ready", "/health"):
            answer = await http.get(path)
            assert key not in answer.text + str(answer.headers)
        assert ('"push_allowed": false' in (await http.get("/")).text) is with_key


# What is said at the start


@pytest.mark.parametrize(
    ("options", "level", "text"),
    [
        ({"local_access": True}, logging.INFO, "answer local callers only (local_access)"),
        ({"local_access": True, "allowed_hosts": "a.example"}, logging.WARNING, "although allowed_hosts is set"),
        ({"allowed_hosts": "a.example"}, logging.INFO, "refuse every caller, because allowed_hosts is set"),
    ],
)
async def test_a_line_at_the_start_says_what_it_means(
    options: dict[str, object], level: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsgateway")
    async with serve(Gateway(**options)):  # type: ignore[arg-type]  # each is one of its options
        lines = [record for record in caplog.records if "/send, /api, /metrics and /info" in record.getMessage()]
    (line,) = lines
    assert (line.levelno, text in line.getMessage()) == (level, True)


async def test_with_a_key_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsgateway")
    async with serve(Gateway(local_access=True, api_key="k")):
        assert "/send, /api, /metrics and /info" not in caplog.text


# Strangers behind proxies


@asynccontextmanager
async def open_on_this_host() -> AsyncIterator[str]:
    """A gateway and a panel, both open to callers on this host."""
    gateway = Gateway(local_access=True)
    app = Starlette(routes=[Mount("/panel", Panel([gateway])), Mount("/", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url:
        yield url


@pytest.mark.parametrize(
    "lines",
    [FOR_WEBSOCKETS, (), ("proxy_set_header Connection $http_connection;",)],
    ids=["for WebSockets", "nothing set", "the client's own"],
)
async def test_a_stranger_behind_nginx_is_not_local(lines: tuple[str, ...], tmp_path: Path) -> None:
    async with open_on_this_host() as url:
        assert await statuses(url) == OPEN
        with bare_nginx(url, tmp_path / "nginx", *lines) as front:
            for more in ("", "Upgrade: h2c\r\n", "Upgrade: x\r\n"):
                for path in ("/info", "/metrics", "/panel/"):
                    async with await connect(front) as stranger:
                        head = f"GET {path} HTTP/1.1\r\nHost: public.example\r\nConnection: close\r\n{more}\r\n"
                        await stranger.send(head.encode())
                        assert (await stranger.receive_some()).startswith(b"HTTP/1.1 403 ")


async def test_a_stranger_behind_nginx_does_not_watch_the_panel(tmp_path: Path) -> None:
    async with open_on_this_host() as url:
        async with Client(url, "/panel/live") as somebody:
            assert "gateways" in await somebody.receive_json()
        with bare_nginx(url, tmp_path / "nginx", *FOR_WEBSOCKETS) as front:
            with pytest.raises(InvalidStatus, match="403"):
                async with Client(front, "/panel/live"):
                    pass
            async with Client(front) as ann:  # who is let in there, on_handshake decides
                await ann.send("hi")
                assert await ann.receive() == "hi"


# On a Unix socket


AS_NOBODY = """
import http.client, os, socket, sys

class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])

connection = Unix("localhost")
os.setuid(65534)
connection.request("GET", "/info")
print(connection.getresponse().status)
"""


async def over_unix(path: Path, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as http:
        return (await http.get("http://localhost/info", headers=headers)).status_code


@pytest.mark.skipif(sys.platform != "linux", reason="the user at the other end is asked for as Linux has it")
async def test_on_a_unix_socket_the_user_takes_the_place_of_the_address() -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        path = Path(folder) / "socket"
        gateway = Gateway(local_access=True, uds=str(path), uds_mode="666")
        async with serving_gateway(gateway, gateway.settings):
            assert await over_unix(path, {}) == 200
            for headers in (
                {"x-forwarded-for": "127.0.0.1"},
                {"connection": "close"},
                {"host": "public.example"},
                {"origin": "https://public.example"},
            ):
                assert await over_unix(path, headers) == 403
            if os.getuid() == 0:  # only root can be another user
                done = await anyio.run_process([sys.executable, "-c", AS_NOBODY, str(path)])
                assert done.stdout == b"403\n"


# A mounted panel


@pytest.mark.parametrize(
    ("gateway", "panel", "expected"),
    [
        ({}, {}, 200),
        ({}, {"local_access": False}, 403),
        ({}, {"allowed_origins": ["https://a.example"]}, 403),
        ({"allowed_hosts": ["a.example"]}, {}, 403),
        ({"allowed_origins": ["https://a.example"]}, {}, 403),
        ({"allowed_origins": ["https://a.example"]}, {"local_access": True}, 200),
        ({}, {"allowed_origins": ["https://a.example"], "local_access": True}, 200),
    ],
)
async def test_a_mounted_panel_follows_the_same_rule(
    gateway: dict[str, object], panel: dict[str, object], expected: int
) -> None:
    made = Panel([Gateway(**gateway)], **panel)  # type: ignore[arg-type]  # options of theirs
    async with (
        serve(Starlette(routes=[Mount("/panel", made)])) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        shown = await http.get("/panel/")
        assert shown.status_code == expected
        if expected == 403:
            assert "local_access" in shown.text


async def test_a_mounted_panel_heeds_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1")
    for options, expected in (({}, 403), ({"local_access": True}, 200), ({"guard": lambda _: 2}, 200)):
        panel = Panel([Gateway()], **options)
        async with (
            serve(Starlette(routes=[Mount("/panel", panel)])) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):
            assert (await http.get("/panel/")).status_code == expected


def test_a_panel_says_what_is_open(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsgateway")
    Panel([Gateway()])
    Panel([Gateway()], password_hash=hash_password("correct horse"), allowed_origins=["https://a.example"])
    assert "panel:" not in caplog.text
    Panel([Gateway()], allowed_origins=["https://a.example"], local_access=True)
    assert caplog.records[-1].levelno == logging.WARNING
    assert "local_access is true although allowed_origins is set" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 200),
        ("local_access = false", 403),
        ('allowed_hosts = ["127.0.0.1"]', 403),
        ('allowed_origins = ["https://a.example"]', 403),
        ('allowed_hosts = ["127.0.0.1"]\nlocal_access = true', 200),
    ],
)
async def test_the_admin_interface_follows_the_same_rule(text: str, expected: int, tmp_path: Path) -> None:
    async with admin(tmp_path, f"[gateways.chat]\nport = 0\n[admin]\n{text}\n") as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            for path in ("/", "/api/gateways"):
                assert (await http.get(path)).status_code == expected


@pytest.mark.parametrize("text", ["", "local_access = true\n"])
def test_an_empty_token_does_not_open_the_admin_interface(text: str) -> None:
    Path("wsgateway.toml").write_text(f"[admin]\n{text}")
    found = Store("wsgateway.toml", environ={"WSGATEWAY_ADMIN_TOKEN": ""}).read().admin
    assert found.local_access is bool(text)


async def test_a_flag_opens_the_admin_interface(tmp_path: Path) -> None:
    port = str(free_port())
    for more, expected in ((["--admin-local-access"], 200), ([], 403)):
        arguments = ["--admin-port", port, "--admin-allowed-hosts", "127.0.0.1", *more]
        with serving(*arguments, cwd=tmp_path) as served:
            with anyio.fail_after(60):
                while True:
                    try:
                        async with httpx.AsyncClient(timeout=30) as http:
                            answer = await http.get(f"http://127.0.0.1:{port}/api/gateways")
                        break
                    except httpx.ConnectError:
                        await anyio.sleep(0.05)  # another process begins to listen
            assert answer.status_code == expected
            served.terminate()
            assert ("local_access is true although allowed_hosts is set" in served.stderr) is bool(more)

"""What is in `deploy/` works: the proxies in front of real gateways, the unit, the image and the composition as far as
they can be tried without systemd and Docker."""

import configparser
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import click
import httpx
import pytest
import uvicorn
import yaml
from websockets.exceptions import InvalidStatus

from tests.emulated import CONNECT, KINDS
from tests.processes import Served, serving
from tests.proxies import DEPLOY, NAME, PROXIES, Proxy, Site, caddy, haproxy, newest_caddy, nginx, substituted, traefik
from tests.services import Process, needed, redis
from wsgateway import Settings
from wsgateway.cli.main import command_line
from wsgateway.config.grace import seconds_to_stop
from wsgateway.config.settings import ENV, SPECS
from wsgateway.testing import Client

ROOT = DEPLOY.parent
KEY = "the-key"
LONGEST_STOP = seconds_to_stop(Settings())
"""Seconds that a process with the default settings may take to end."""

LISTENER = """
class Listener:
    async def on_client_open(self, event):
        cookie = event.conn.headers.get("cookie", "")
        await event.conn.send({"id": event.conn.id, "address": event.conn.address, "cookie": len(cookie)})
"""


@contextmanager
def gateway(folder: Path, *arguments: str, **variables: str) -> Iterator[Served]:
    """`wsgateway serve arguments`, which pings often and greets."""
    folder.mkdir(exist_ok=True)
    (folder / "chat.py").write_text(LISTENER)
    env = {"WSGATEWAY_LISTENER": "chat.py:Listener", "WSGATEWAY_ADMIN_PORT": "0", "WSGATEWAY_PING_INTERVAL": "0.2"}
    env["WSGATEWAY_PROTOCOLS"] = "plain,v1,sse,centrifuge"
    with serving(*arguments, cwd=folder, env={**env, **variables}) as served:
        yield served


def address(served: Served) -> str:
    return served.url.removeprefix("http://")


@contextmanager
def gateways(kind: str, folder: Path) -> Iterator[list[Served]]:
    """Two processes that serve one gateway: the workers of one server, or two servers with Redis between them."""
    with ExitStack() as stack:
        if kind == "ipc":
            started = [stack.enter_context(gateway(folder / "a", "--workers", "2", WSGATEWAY_API_KEY=KEY))]
        else:
            variables = {"WSGATEWAY_BROKER": stack.enter_context(redis()).url, "WSGATEWAY_API_KEY": KEY}
            started = [stack.enter_context(gateway(folder / name, **variables)) for name in ("a", "b")]
        yield started
        for served in started:
            if served.process.poll() is None:
                assert served.terminate() == 0
            assert "Traceback" not in served.stderr


@pytest.fixture(scope="module", autouse=True)
def no_other_proxy() -> Iterator[None]:
    """The public name is looked for here only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        yield


@pytest.fixture(
    scope="module",
    params=[(nginx, "ipc"), (nginx, "redis"), (caddy, "ipc"), (haproxy, "ipc"), (traefik, "ipc")],
    ids=["nginx, workers", "nginx, redis", "caddy, workers", "haproxy, workers", "traefik, workers"],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A proxy before two processes."""
    proxy, kind = request.param
    folder = tmp_path_factory.mktemp("site")
    with gateways(kind, folder) as started:
        upstreams = [address(served) for served in started]
        with proxy(upstreams, folder) as found:
            yield found


async def send(site: Site, message: object) -> dict[str, Any]:
    answer = await site.request("POST", "/send", key=KEY, json={"message": message})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def both_count(site: Site) -> None:
    """Wait until two processes, no more, count what is sent."""
    with anyio.fail_after(60):
        while (sent := await send(site, "is anybody there?"))["nodes"] != 2 or not sent["complete"]:
            await anyio.sleep(0.02)  # other processes meet


# Through the proxies


async def test_what_is_posted_reaches_the_clients_of_both_processes(site: Site) -> None:
    await both_count(site)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(site.client()) for _ in range(12)]
        nodes = {(await client.receive_json())["id"].partition(".")[0] for client in clients}
        assert 1 <= len(nodes) <= 2
        sent = await send(site, {"price": 42})
        assert (sent["queued"], sent["dropped"], sent["nodes"], sent["complete"]) == (12, 0, 2, True)
        assert [await client.receive_json() for client in clients] == [{"price": 42}] * 12
        await clients[0].send("from one of them")
        assert [await client.receive() for client in clients] == ["from one of them"] * 12


async def test_streams_flow_through_without_a_buffer(site: Site) -> None:
    await both_count(site)
    async with site.stream("/sse") as events, site.stream("/stream") as lines:
        assert (await events.next()).type == "open"
        assert "open" in await lines.object()
        greeting = json.loads((await events.next()).data)
        assert (await lines.object())["message"]["address"] == greeting["address"] == "127.0.0.1"
        for number in range(5):
            await send(site, {"number": number})
            assert json.loads((await events.next()).data) == {"number": number}
            assert await lines.object() == {"message": {"number": number}}
        while events.parser.comments < 3:
            events.parser.feed(await events._chunk())  # heartbeats
    with anyio.fail_after(20):
        while (await site.request("GET", "/info", key=KEY)).json()["total"]:
            await anyio.sleep(0.05)  # until the proxy has closed the streams to the gateway


@pytest.mark.parametrize("kind", KINDS)
async def test_streams_with_posted_commands_flow_through_without_a_buffer(site: Site, kind: str) -> None:
    await both_count(site)
    path = "/connection/http_stream" if kind == "lines" else "/connection/sse"
    if kind == "get":
        path += f"?cf_connect={quote(CONNECT)}"
    pings: list[str] = []
    async with site.stream(path, "" if kind == "get" else CONNECT) as stream:

        async def reply() -> Any:
            while (content := (await stream.line()).strip("\r")) in ("", "{}", "data: {}"):
                pings.append(content)
            return json.loads(content.removeprefix("data: "))

        result = (await reply())["connect"]
        assert (await reply())["push"]["pub"]["data"]["id"] == result["client"]
        for ident in range(2, 8):  # each on a connection of its own, so that both processes get some
            commands = f'{{}}\n{{"id":{ident},"rpc":{{}}}}'  # the first one answers a ping
            body = {"session": result["session"], "node": result["node"], "data": commands}
            assert (await site.request("POST", "/emulation", json=body)).status_code == 204
            assert (await reply())["id"] == ident
        while not any(pings):  # else one has arrived already, which the client has not answered
            pings.append((await stream.line()).strip("\r"))
    with anyio.fail_after(30):
        while (await site.request("GET", "/info", key=KEY)).json()["total"]:
            await anyio.sleep(0.05)  # until the proxy has closed the stream to the gateway


async def test_a_page_of_the_public_name_may_connect(site: Site) -> None:
    async with site.client(origin=site.origin) as ann:
        assert (await ann.receive_json())["id"]


@pytest.mark.parametrize("origin", ["https://evil.example", "https://example.com", "http://example.com:{port}"])
async def test_a_page_of_another_origin_is_refused(site: Site, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with site.client(origin=origin.format(port=site.port)):
            pass
    assert refused.value.response.status_code == 403
    assert b"allowed_origins" in (refused.value.response.body or b"")


async def test_the_address_is_the_clients_whatever_it_claims(site: Site) -> None:
    claimed = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http"}
    async with site.client(local_addr=("127.0.0.2", 0), additional_headers=claimed, origin=site.origin) as ann:
        assert (await ann.receive_json())["address"].startswith("127.0.0.2")


async def test_a_cookie_of_16_kilobytes_passes(site: Site) -> None:
    async with site.client(additional_headers={"Cookie": "c" * 16_384}) as ann:
        assert (await ann.receive_json())["cookie"] == 16_384


async def test_a_large_message_passes_and_the_gateway_refuses_one_that_is_too_large(site: Site) -> None:
    limit = Settings().max_send_size
    async with site.client() as ann:
        await ann.receive_json()
        assert (await send(site, "m" * (limit - 100)))["queued"] == 1
        assert len(await ann.receive()) == limit - 100
    answer = await site.request("POST", "/send", key=KEY, json={"message": "m" * limit})
    assert answer.status_code == 413
    assert "max_send_size" in answer.json()["detail"]


async def test_of_many_calls_each_is_answered_whole(site: Site) -> None:
    headers = {"host": f"{NAME}:{site.port}", "authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(verify=site.trust, trust_env=False, headers=headers) as http:

        async def call() -> None:
            url = f"https://127.0.0.1:{site.port}/send"
            answer = await http.post(url, json={"message": "hi"}, extensions={"sni_hostname": NAME})
            assert answer.json()["dropped"] == 0

        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(30):
                    tasks.start_soon(call)


@pytest.mark.parametrize("key", [None, "another"])
async def test_send_wants_the_key(site: Site, key: str | None) -> None:
    answer = await site.request("POST", "/send", key=key, json={"message": "hi"})
    assert answer.status_code == 401


async def test_the_probes_pass(site: Site) -> None:
    for path in ("/health", "/ready"):
        assert (await site.request("GET", path)).status_code == 200


@pytest.mark.parametrize("proxy", PROXIES)
async def test_who_comes_through_a_proxy_is_not_local(proxy: Proxy, tmp_path: Path) -> None:
    with gateway(tmp_path / "a") as served, proxy([address(served)], tmp_path) as site:
        answer = await site.request("POST", "/send", json={"message": "hi"})
    assert answer.status_code == 403
    assert "a proxy has forwarded this one" in answer.json()["detail"]


async def silent(client: Client, seconds: float) -> None:
    """See that nothing comes for so long, and that the connection stays."""
    with anyio.move_on_after(seconds):
        raise AssertionError(f"received {await client.socket.recv()!r}")


async def test_pings_keep_nginx_from_ending_a_silent_connection(tmp_path: Path) -> None:
    with gateway(tmp_path / "a", WSGATEWAY_API_KEY=KEY) as served:
        with nginx([address(served)], tmp_path, changes={"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}) as site:
            async with site.client() as ann:
                await ann.receive_json()
                await silent(ann, 2.5)
                await send(site, "still there")
                assert await ann.receive() == "still there"


async def test_without_pings_in_time_nginx_would_end_it(tmp_path: Path) -> None:
    with gateway(tmp_path / "a", WSGATEWAY_PING_INTERVAL="25") as served:
        with nginx([address(served)], tmp_path, changes={"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}) as site:
            async with site.client() as ann:
                await ann.receive_json()
                assert (await ann.closed())[0] == 1006


def test_the_timeout_of_nginx_is_above_the_pings() -> None:
    found = re.findall(r"^\s*proxy_read_timeout (\d+)s;", (DEPLOY / "nginx.conf").read_text(), re.MULTILINE)
    assert [int(seconds) > Settings().ping_interval + Settings().pong_timeout for seconds in found] == [True]


@pytest.mark.parametrize(("name", "word"), [("nginx.conf", "keepalive_timeout"), ("Caddyfile", "keepalive")])
def test_an_idle_connection_to_the_gateway_is_let_go_before_the_gateway_does(name: str, word: str) -> None:
    found = re.findall(rf"^\s*{word} (\d+)s;?$", (DEPLOY / name).read_text(), re.MULTILINE)
    assert [int(seconds) < uvicorn.Config("").timeout_keep_alive for seconds in found] == [True]


async def test_nginx_sends_http_to_https(tmp_path: Path) -> None:
    with nginx(["127.0.0.1:9"], tmp_path) as site:
        stream = await anyio.connect_tcp("127.0.0.1", site.plain_port)
        async with stream:
            await stream.send(b"GET /page?a=b HTTP/1.0\r\nHost: example.com\r\n\r\n")
            with anyio.fail_after(10):
                head = await stream.receive()
    assert b"301 Moved" in head
    assert b"Location: https://example.com/page?a=b\r\n" in head


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_roll_tells_clients_to_come_back_and_they_can(proxy: Proxy, tmp_path: Path) -> None:
    with gateways("ipc", tmp_path) as (served,), proxy([address(served)], tmp_path) as site:
        await both_count(site)
        async with site.client() as ann:
            before = (await ann.receive_json())["id"].partition(".")[0]
            served.process.send_signal(signal.SIGUSR2)
            with anyio.fail_after(120):  # two workers start and two stop
                await ann.socket.wait_closed()
            code, reason = await ann.closed()
            assert code == 1012
            assert json.loads(reason or "")["reconnect"] is True
        async with site.client() as again:
            assert (await again.receive_json())["id"].partition(".")[0] != before
        await both_count(site)


@asynccontextmanager
async def posting(proxy: Proxy, kind: str, folder: Path) -> AsyncIterator[tuple[list[Served], list[int]]]:
    """Two processes behind `proxy`, to which four callers post all the time; the statuses of the responses."""
    statuses: list[int] = []
    is_over = anyio.Event()
    with gateways(kind, folder) as started, proxy([address(served) for served in started], folder) as site:
        await both_count(site)
        headers = {"host": f"{NAME}:{site.port}", "authorization": f"Bearer {KEY}"}

        async def call() -> None:
            async with httpx.AsyncClient(verify=site.trust, trust_env=False, headers=headers, timeout=30) as http:
                while not is_over.is_set():
                    url = f"https://127.0.0.1:{site.port}/send"
                    answer = await http.post(url, json={"message": "hi"}, extensions={"sni_hostname": NAME})
                    statuses.append(answer.status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(call)
            await answered(statuses, 20)
            yield started, statuses
            await answered(statuses, 20)
            is_over.set()


async def answered(statuses: list[int], count: int) -> None:
    """Wait for so many more responses."""
    wanted = len(statuses) + count
    with anyio.fail_after(60):
        while len(statuses) < wanted:
            await anyio.sleep(0.01)  # a list that another task fills


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_roll_answers_every_call(proxy: Proxy, tmp_path: Path) -> None:
    async with posting(proxy, "ipc", tmp_path) as ((served,), statuses):
        served.process.send_signal(signal.SIGUSR2)
        with anyio.fail_after(120):
            while len(replaced := re.findall(r"replaces worker (\d+)", served.stderr)) < 2:
                await anyio.sleep(0.02)  # another process writes it
            while any(Path(f"/proc/{pid}").exists() for pid in replaced):
                await anyio.sleep(0.02)  # the end of processes that are not children of this one
    assert set(statuses) == {200}


@pytest.mark.parametrize("proxy", [nginx, newest_caddy, haproxy])
async def test_the_end_of_one_of_two_servers_is_answered_by_the_other(proxy: Proxy, tmp_path: Path) -> None:
    async with posting(proxy, "redis", tmp_path) as (started, statuses):
        assert await anyio.to_thread.run_sync(started[0].terminate) == 0
    assert set(statuses) == {200}


@pytest.mark.parametrize("proxy", PROXIES)
async def test_when_one_server_ends_its_clients_come_back_to_the_other(proxy: Proxy, tmp_path: Path) -> None:
    with gateways("redis", tmp_path) as started, proxy([address(served) for served in started], tmp_path) as site:
        await both_count(site)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(site.client()) for _ in range(8)]
            nodes = [(await client.receive_json())["id"].partition(".")[0] for client in clients]
            ended = (await site.request("GET", "/info", key=KEY)).json()["nodes"]
            ended = next(node["id"] for node in ended if node["pid"] == started[0].process.pid)
            assert await anyio.to_thread.run_sync(started[0].terminate) == 0
            for client, node in zip(clients, nodes, strict=True):
                if node == ended:
                    assert (await client.closed())[0] == 1012
            again = [await stack.enter_async_context(site.client()) for _ in range(4)]
            assert {(await client.receive_json())["id"].partition(".")[0] for client in again}.isdisjoint({ended})
            if proxy is caddy:  # before 2.11.2 it cannot send a POST elsewhere until it knows
                with anyio.fail_after(60):
                    while "HTTP request failed" not in (tmp_path / "proxy.txt").read_text():
                        await anyio.sleep(0.1)  # another process writes it
            assert (await send(site, "all here"))["queued"] == 4 + sum(node != ended for node in nodes)


# The unit


def unit() -> configparser.ConfigParser:
    """`wsgateway.service`; of what is there several times the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.read(DEPLOY / "wsgateway.service")
    return parser


def arguments_are_known(command: list[str]) -> bool:
    """Whether the command line takes `command`, whose first word is the program."""
    assert Path(command[0]).name == "wsgateway"
    with command_line.make_context("wsgateway", command[1:]) as ctx:
        try:
            name, found, words = command_line.resolve_command(ctx, command[1:])
            assert found
            found.make_context(name, words, parent=ctx)
        except click.UsageError:
            return False
    return True


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    file = tmp_path / "wsgateway.service"
    file.write_text(substituted("wsgateway.service", {"/opt/wsgateway/bin/wsgateway": "/bin/true"}))
    done = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_gives_a_stop_the_time_that_it_may_take_and_tells_the_parent_only() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > LONGEST_STOP
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    assert int(service["LimitNOFILE"]) >= 65536


def test_the_unit_runs_a_command_that_there_is_as_nobody_special() -> None:
    service = unit()["Service"]
    assert arguments_are_known(shlex.split(service["ExecStart"]))
    assert service["User"] not in ("", "root")
    assert {service[name] for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome")} == {"yes"}
    assert service["ProtectSystem"] == "strict"
    variable, _, path = service["Environment"].partition("=")
    assert variable == ENV + "API_KEY_FILE"
    assert path == "/run/credentials/wsgateway.service/" + service["LoadCredential"].partition(":")[0]


async def test_a_reload_of_the_unit_takes_new_settings_over_and_touches_nothing_else(tmp_path: Path) -> None:
    settings = tmp_path / "wsgateway.toml"
    settings.write_text("[admin]\nport = 0\n[gateways.chat]\nport = 0\n[gateways.prices]\nport = 0\n")
    with serving(cwd=tmp_path, command=[sys.executable, "-m", "wsgateway", "serve"]) as served:
        command = unit()["Service"]["ExecReload"].replace("$MAINPID", str(served.process.pid))
        async with Client(served.url) as ann:
            settings.write_text(settings.read_text() + "verbose = true\n")
            subprocess.run(shlex.split(command), check=True)
            with anyio.fail_after(60):
                while "1 gateways were changed" not in served.stderr:
                    await anyio.sleep(0.02)  # another process writes it
            await ann.send("hi")
            assert await ann.receive() == "hi"
        assert served.terminate() == 0


# The image


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, each with what it is given."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def given(instruction: str) -> str:
    (found,) = (text for name, text in instructions() if name == instruction)
    return found


def test_the_image_runs_serve_as_a_user_other_than_root_and_stops_by_a_signal() -> None:
    command = json.loads(given("CMD"))
    assert command == ["wsgateway", "serve", "--host", "0.0.0.0"]
    assert arguments_are_known(command)
    assert given("STOPSIGNAL") == "SIGTERM"
    order = [name for name, _ in instructions()]
    assert given("USER") not in ("root", "0")
    assert order.index("USER") > max(place for place, name in enumerate(order) if name == "RUN")
    assert given("EXPOSE") == str(Settings().port)


def test_the_image_copies_what_there_is_and_installs_extras_that_there_are() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    for sources in (text.split()[:-1] for name, text in instructions() if name == "COPY"):
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= {entry.removeprefix("!") for entry in ignored}
    (install,) = (text for name, text in instructions() if name == "RUN" and "pip install" in text)
    found = re.search(r'"/src\[(.*)\]"', install)
    assert found
    assert {"standard", "ipc", "redis"} <= set(found[1].split(",")) <= project["optional-dependencies"].keys()


def variables_are_settings(variables: dict[str, str]) -> None:
    for name in variables:
        if name.startswith(ENV):
            setting = name.removeprefix(ENV).lower()
            assert setting == "api_key_file" or setting in SPECS


async def test_the_image_knows_whether_it_is_healthy(tmp_path: Path) -> None:
    check = given("HEALTHCHECK").partition("CMD ")[2]
    variables = dict(word.split("=") for word in shlex.split(given("ENV")))
    variables_are_settings(variables)
    command = [sys.executable, *json.loads(check)[1:]]
    assert json.loads(check)[0] == "python"
    with serving("--admin-port", "0", cwd=tmp_path, env=variables) as served:
        healthy = [word.replace("10125", address(served).rpartition(":")[2]) for word in command]
        assert healthy != command
        subprocess.run(healthy, check=True, timeout=20)
        assert served.terminate() == 0
    assert subprocess.run(healthy, check=False, capture_output=True, timeout=20).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["stderr.txt"]  # nothing is written where it runs


# The composition


def composition() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_composition_runs_two_gateways_that_share_a_broker_and_a_key() -> None:
    found = composition()
    gateway = found["services"]["gateway"]
    variables = gateway["environment"]
    variables_are_settings(variables)
    assert gateway["deploy"]["replicas"] == 2
    assert variables["WSGATEWAY_BROKER"].removeprefix("redis://").partition(":")[0] in found["services"]
    (secret,) = gateway["secrets"]
    assert variables["WSGATEWAY_API_KEY_FILE"] == f"/run/secrets/{secret}"
    assert found["secrets"][secret]["file"] == "./api_key"
    assert "deploy/api_key" in (ROOT / ".gitignore").read_text().split()
    assert (DEPLOY / gateway["build"]["context"] / gateway["build"]["dockerfile"]).exists()


def test_the_composition_starts_the_gateway_with_what_it_knows() -> None:
    assert arguments_are_known(composition()["services"]["gateway"]["command"])


def test_the_composition_gives_a_stop_the_time_that_it_may_take() -> None:
    assert float(composition()["services"]["gateway"]["stop_grace_period"].removesuffix("s")) > LONGEST_STOP


def test_the_composition_publishes_the_proxy_only_which_is_believed() -> None:
    services, networks = composition()["services"], composition()["networks"]
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    shared = set(services["caddy"]["networks"]) & set(services["gateway"]["networks"])
    (network,) = shared
    subnet = networks[network]["ipam"]["config"][0]["subnet"]
    assert services["gateway"]["environment"]["FORWARDED_ALLOW_IPS"] == subnet
    assert not set(services["caddy"]["networks"]) & set(services["redis"]["networks"])
    assert networks["back"]["internal"]


@pytest.mark.parametrize(("believed", "address"), [("127.0.0.0/24", "203.0.113.7"), ("10.125.0.0/24", "127.0.0.2")])
async def test_the_variable_of_the_composition_says_which_proxies_are_believed(
    believed: str, address: str, tmp_path: Path
) -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}  # the last one is what the proxy has seen
    with gateway(tmp_path / "a", FORWARDED_ALLOW_IPS=believed) as served:
        async with Client(served.url, local_addr=("127.0.0.2", 0), additional_headers=forwarded) as ann:
            assert (await ann.receive_json())["address"].startswith(address)


def test_the_composition_waits_for_what_it_needs_and_knows_how_it_is() -> None:
    services = composition()["services"]
    for service in services.values():
        for needed_one, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[needed_one] or "HEALTHCHECK" in dict(instructions())
    variables = services["caddy"]["environment"]
    assert {f"{{${name}:" in (DEPLOY / "Caddyfile").read_text() for name in variables} == {True}
    assert variables["GATEWAY_UPSTREAMS"] == f"gateway:{Settings().port}"


def test_the_composition_starts_redis_with_what_it_knows() -> None:
    program, *options = composition()["services"]["redis"]["command"]
    service = Process("redis", needed(program), "--port", "{port}", *options)
    service.start()
    try:
        assert b"PONG" in service.command("PING")
    finally:
        service.kill()


def test_the_composition_starts_caddy_with_what_it_knows(tmp_path: Path) -> None:
    services = composition()["services"]
    variables = {**services["caddy"]["environment"], "GATEWAY_SITE": "localhost"}
    command = [needed("caddy"), "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), **variables},
    )  # fmt: skip
    assert "Valid configuration" in done.stdout + done.stderr


# The Makefile


def test_make_installs_what_the_tests_need() -> None:
    found = re.search(r"^PROGRAMS = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    asked = re.findall(r'needed\("([\w-]+)"\)', "".join(path.read_text() for path in (ROOT / "tests").glob("*.py")))
    assert set(asked) <= set(found[1].split())
    assert "chromium" in found[1].split()

"""A gateway in many processes: workers on one port, over every broker."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.crowd import Crowd, Listening
from tests.ports import free_port
from tests.processes import COMMAND, Served, environment, run, serving
from tests.services import BROKERS, broker, redis
from wsgateway import Gateway, testing
from wsgateway.client import asend
from wsgateway.exceptions import SendError
from wsgateway.publisher import Publisher

CLIENTS = int(os.environ.get("CLIENTS", "60"))
MESSAGES = int(os.environ.get("MESSAGES", "400"))
"""How many each of four senders sends to them all. `CLIENTS=1000 MESSAGES=2500` is the large form of the test."""


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with broker(request.param, tmp_path / "ipc") as service:
        yield service.url


class Server:
    """`wsgateway serve --workers 2` and its admin interface."""

    def __init__(self, served: Served, admin: str) -> None:
        self.served = served
        self.url = served.url
        self.admin = admin

    async def ask(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        async with httpx.AsyncClient(base_url=self.admin, timeout=70) as http:
            answer = await http.request(method, f"/api{path}", json=body, params=query)
            answer.raise_for_status()
            return answer.json()

    def lines_of_workers(self) -> set[int]:
        """The processes whose lines are in the log."""
        return set(map(int, re.findall(r"^\S+Z INFO +pid (\d+) \[default\] started on", self.served.stderr, re.M)))

    async def workers(self) -> list[dict[str, Any]]:
        """The nodes that run."""
        found = await self.ask("GET", "/gateways/default/nodes")
        return [node for node in found["nodes"] if node["state"] == "running"]

    async def has_workers(self, count: int, *, without: int = 0) -> list[dict[str, Any]]:
        """Wait until so many run, none of them the process `without`."""
        with anyio.fail_after(30):
            while True:
                nodes = await self.workers()
                if len(nodes) == count and without not in [node["pid"] for node in nodes]:
                    return nodes
                await anyio.sleep(0.02)  # it is told to nobody

    async def owners(self) -> dict[str, int]:
        """Connections of each process that has some, by its id."""
        return {node["id"]: node["connections"] for node in await self.workers() if node["connections"]}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def starting(*arguments: str, workers: int = 2) -> Server:
            port = free_port()
            served = stack.enter_context(
                serving("--workers", str(workers), "--admin-port", str(port), *arguments, cwd=tmp_path)
            )
            return Server(served, f"http://127.0.0.1:{port}")

        yield starting


@pytest.fixture
async def people() -> AsyncIterator[Crowd]:
    async with Crowd() as crowd:
        yield crowd


async def spread(people: Crowd, server: Server, count: int) -> list[Listening]:
    """Clients, of which each of two workers has some."""
    await server.has_workers(2)
    clients = await people.join_many(server.url, count)
    with anyio.fail_after(30):
        while len(await server.owners()) < 2:
            clients += await people.join_many(server.url, 10)
    return clients


async def all_have(clients: list[Listening], count: int) -> None:
    with anyio.fail_after(60):
        while min(client.count for client in clients) < count:
            await anyio.sleep(0.01)  # what a client has read is told to nobody


async def test_every_client_has_every_message_once_and_in_order(start: Any, people: Crowd, url: str) -> None:
    server = start("--broker", url)
    await server.has_workers(2)
    clients = await spread(people, server, CLIENTS)
    senders = clients[:4]
    for number in range(1, MESSAGES + 1):
        for place, sender in enumerate(senders):
            sender.send(f"{place}:{number}")
        if number % 50 == 0:
            await all_have(clients, number * len(senders))
    for number in range(1, 51):
        sent = await asend(server.url + "/send", f"post:{number}")
        assert (sent.recipients, sent.queued, sent.nodes, sent.complete) == (len(clients), len(clients), 2, True)
    await all_have(clients, MESSAGES * len(senders) + 50)
    assert [client.mistakes for client in clients if client.mistakes] == []
    assert all(client.last == {**dict.fromkeys("0123", MESSAGES), "post": 50} for client in clients)


async def test_a_channel_is_shown_by_all_processes_and_reached_from_each(start: Any, tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text('[channels."room:*"]\npublic = true\npresence = true\n')
    server = start()
    await server.has_workers(2)
    async with AsyncExitStack() as stack:
        with anyio.fail_after(30):
            while len(await server.owners()) < 2:
                client = await stack.enter_async_context(testing.Client(server.url, channels=["room:1"]))
                await client.subscribed("room:1")
        count = sum((await server.owners()).values())
        base = "/gateways/default/channels"
        (listed,) = (await server.ask("GET", base))["channels"]
        assert (listed["name"], listed["subscribers"], listed["at"]) == ("room:1", count, None)
        presence = await server.ask("GET", f"{base}/room:1/presence", limit=1)
        assert (presence["total"], len(presence["members"]), presence["complete"]) == (count, 1, True)
        sent = await asend(server.url + "/send", "x", channel="room:1")
        assert (sent.recipients, sent.complete) == (count, True)
        answer = await server.ask("POST", "/gateways/default/send", {"message": "x", "channel": "room:1"})
        assert (answer["recipients"], answer["complete"]) == (count, True)
        ended = await server.ask("POST", f"{base}/room:1/unsubscribe", {"all": True})
        assert ended == {"unsubscribed": count, "complete": True}
        assert (await server.ask("GET", base))["channels"] == []


async def test_recipients_may_be_named_anywhere_and_closed_from_anywhere(start: Any, people: Crowd) -> None:
    server = start()
    clients = await spread(people, server, 20)
    found = await server.ask("GET", "/gateways/default/connections", limit=1000)
    assert found["total"] == len(clients)
    ids = [connection["id"] for connection in found["connections"]]
    some = [ids[0], ids[-1], ids[0], "unknown", ids[0][:8] + ".unknown"]
    assert some[0][:8] != some[1][:8]
    sent = await asend(server.url + "/send", "a:1", connections=some)
    assert (sent.recipients, sent.queued, sent.complete) == (2, 2, True)
    with anyio.fail_after(5):
        while sum(client.count for client in clients) < 2:
            await anyio.sleep(0.01)  # what a client has read is told to nobody
    page = await server.ask("GET", "/gateways/default/connections", offset=5, limit=10)
    assert [connection["id"] for connection in page["connections"]] == ids[5:15]
    assert (await server.ask("GET", "/gateways/default/connections", search=ids[-1]))["total"] == 1
    shown = await server.ask("GET", f"/gateways/default/connections/{ids[-1]}")
    assert shown["path"] == "/ws"
    assert (await server.ask("POST", "/gateways/default/connections/close", {"connections": some}))["closed"] == 2
    assert (await server.ask("POST", "/gateways/default/send", {"message": "b:1"}))["recipients"] == len(clients) - 2
    assert (await server.ask("GET", "/gateways/default"))["connections"] == len(clients) - 2
    closed = await server.ask("POST", "/gateways/default/connections/close", {"all": True, "code": 4000})
    assert closed["closed"] == len(clients) - 2
    codes = [(await client.closed)[0] for client in clients]
    assert sorted(codes) == [1000] * 2 + [4000] * (len(clients) - 2)


async def test_info_and_metrics_show_every_process(start: Any, people: Crowd) -> None:
    server = start()
    clients = await spread(people, server, 20)
    async with httpx.AsyncClient(base_url=server.url) as http:
        info = (await http.get("/info")).json()
        assert info["total"] == len(clients)
        assert len(info["nodes"]) == 2
        text = (await http.get("/metrics")).text
    counts = re.findall(
        r'^wsgateway_connections\{gateway="default",node="(\w{8})",protocol="plain".*\} (\d+)\.0$', text, re.MULTILINE
    )
    assert {node for node, _ in counts} == {node["id"] for node in info["nodes"]}
    assert sum(int(count) for _, count in counts) == len(clients)
    assert run("nodes", "default", "--admin-url", server.admin, cwd=Path.cwd()).stdout.count("running") == 2


async def test_the_panel_shows_all_processes_and_replaces_them(start: Any, people: Crowd) -> None:
    server = start("--drain", "1")
    clients = await spread(people, server, 20)
    before = await server.workers()
    async with httpx.AsyncClient(base_url=server.admin, follow_redirects=True, timeout=30) as http:
        page = (await http.get("/gateways/default/connections")).text
        assert f"1 to {len(clients)} of {len(clients)}" in page
        page = (await http.get("/gateways/default")).text
        assert all(node["id"] in page for node in before)
        found = await server.ask("GET", "/gateways/default/connections")
        one = found["connections"][-1]["id"]
        shown = (await http.get(f"/gateways/default/connections/{one}")).text
        assert f"The connection belongs to the process <code>{one[:8]}</code>" in shown
        csrf = re.search(r'name="csrf" value="([^"]+)"', page)
        assert csrf
        answer = await http.post("/gateways/default", data={"csrf": csrf[1], "action": "roll"})
        assert answer.status_code == 200, answer.text
        with anyio.fail_after(30):
            while {node["pid"] for node in before} & {node["pid"] for node in await server.workers()}:
                await anyio.sleep(0.05)  # it is told to nobody


async def test_one_that_is_killed_is_replaced_and_the_others_lose_nothing(start: Any, people: Crowd) -> None:
    server = start()
    clients = await spread(people, server, 40)
    nodes = await server.workers()
    victim, survivor = nodes[0], nodes[1]
    stop = asyncio.Event()

    async def send_on() -> int:
        number = 0
        sender = next(client for client in clients if owner[client] == survivor["id"])
        while not stop.is_set():
            number += 1
            sender.send(f"a:{number}")
            await asyncio.sleep(0.002)  # the load
        return number

    owner: dict[Listening, str] = {}
    for client in clients:  # each tells who it is by what it alone receives
        client.send("who:1")
    found = await server.ask("GET", "/gateways/default/connections", limit=1000)
    for connection in found["connections"]:
        await asend(server.url + "/send", "me:1", connections=[connection["id"]])
        with anyio.fail_after(5):
            while True:
                got = [client for client in clients if client.last.get("me") and client not in owner]
                if got:
                    owner[got[0]] = connection["id"][:8]
                    break
                await anyio.sleep(0.002)  # what a client has read is told to nobody
    for client in clients:
        client.mistakes.clear()
        client.last.clear()
    sending = asyncio.create_task(send_on())
    os.kill(victim["pid"], signal.SIGKILL)
    await server.has_workers(2, without=victim["pid"])
    stop.set()
    sent = await sending
    survivors = [client for client in clients if owner[client] == survivor["id"]]
    with anyio.fail_after(10):
        while any(client.last.get("a") != sent for client in survivors):
            await anyio.sleep(0.01)  # what a client has read is told to nobody
    assert all(not client.mistakes and not client.closed.done() for client in survivors)
    assert (await server.ask("GET", "/gateways/default"))["connections"] == len(survivors)
    lost = await server.ask("GET", "/gateways/default/nodes")
    assert [node["id"] for node in lost["nodes"] if node["state"] == "lost"] == [victim["id"]]
    assert "was killed by SIGKILL" in server.served.stderr


@pytest.mark.parametrize("how", ["command", "signal"])
async def test_a_roll_replaces_each_and_all_clients_come_back(start: Any, people: Crowd, how: str) -> None:
    server = start("--drain", "1")
    before = await server.has_workers(2)
    clients = await people.join_many(server.url, CLIENTS)
    back: list[Listening] = []

    async def stay(client: Listening) -> None:
        while True:
            code, reason = await client.closed
            assert code == 1012
            told = json.loads(reason)
            assert told["reconnect"] is True
            await asyncio.sleep(told["retry_after_ms"] / 1000)  # as it was told
            client = await people.join(server.url)
            back.append(client)

    staying = [asyncio.create_task(stay(client)) for client in clients]
    if how == "command":
        done = await asyncio.to_thread(run, "roll", "default", "--admin-url", server.admin, cwd=Path.cwd())
        assert done.stdout == "gateway [default] is running: 2 of 2 workers replaced\n"
        assert done.returncode == 0
        assert set(done.stderr.splitlines()) <= {f"roll: {count} of 2 workers replaced" for count in (1, 2)}
        assert server.lines_of_workers() == {node["pid"] for node in before + await server.workers()}
    else:
        server.served.process.send_signal(signal.SIGUSR2)
    with anyio.fail_after(60):
        while {node["pid"] for node in before} & {node["pid"] for node in await server.workers()}:
            await anyio.sleep(0.05)  # it is told to nobody
        while (await server.ask("GET", "/gateways/default"))["connections"] < len(clients):
            for task in staying:
                assert not task.done(), task.exception()
            await anyio.sleep(0.05)  # another process is asked
    assert len(await server.has_workers(2)) == 2
    for task in staying:
        task.cancel()
    await asyncio.wait(staying)


async def test_a_drain_closes_the_clients_of_all_and_a_start_brings_them_back(start: Any, people: Crowd) -> None:
    server = start("--drain", "1")
    clients = await spread(people, server, 20)
    done = await asyncio.to_thread(run, "drain", "--admin-url", server.admin, cwd=Path.cwd())
    assert (done.returncode, done.stdout) == (0, f"{len(clients)} connections closed\n")
    assert {(await client.closed)[0] for client in clients} == {1012}
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/ready")).status_code == 503
    assert (await server.ask("POST", "/gateways/default/start", wait=30))["state"] == "running"
    await server.has_workers(2)


async def test_a_roll_goes_on_when_a_worker_dies_in_it(start: Any) -> None:
    server = start("--drain", "1")
    before = await server.has_workers(2)
    rolling = asyncio.create_task(
        asyncio.to_thread(run, "roll", "default", "--admin-url", server.admin, cwd=Path.cwd())
    )
    for node in before:
        os.kill(node["pid"], signal.SIGKILL)
    assert (await rolling).returncode == 0
    nodes = await server.has_workers(2)
    assert not {node["pid"] for node in before} & {node["pid"] for node in nodes}


async def test_a_drain_waits_for_its_own_workers_only(start: Any, tmp_path: Path) -> None:
    with redis() as broker_of_both:
        server = start("--broker", broker_of_both.url, "--drain", "1")
        async with testing.serve(Gateway(broker=broker_of_both.url)), Publisher(broker_of_both.url) as publisher:
            await server.has_workers(3)
            done = await asyncio.to_thread(run, "drain", "--admin-url", server.admin, cwd=Path.cwd())
            assert done.returncode == 0
            assert (await publisher.asend("x")).nodes == 1
            assert await asyncio.to_thread(server.served.terminate) == 0


async def test_a_message_from_the_panel_is_any_json(start: Any) -> None:
    server = start()
    await server.has_workers(2)
    path = "/gateways/default/send"
    assert (await server.ask("POST", path, {"message": "a:1 " + "x" * 1000}))["complete"]
    async with testing.Client(server.url) as ann:
        for message in ({"n": 10**30}, [None, 1.5], "text", 0, False):
            assert (await server.ask("POST", path, {"message": message}))["complete"]
            received = await ann.receive()
            assert received == message if isinstance(message, str) else json.loads(received) == message
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            await server.ask("POST", path, {"message": None})


def test_a_crash_loop_is_given_up_with_3(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import os, threading\n"
        "class Listener:\n"
        "    def on_start(self, event):\n"
        "        threading.Timer(0.3, os._exit, [7]).start()\n"
    )
    done = run(
        "serve", "--port", "0", "--admin-port", "0", "--workers", "2", "--listener", "bad.py:Listener", cwd=tmp_path
    )
    assert done.returncode == 3
    assert "workers died one after the other" in done.stderr
    assert "ended with 7" in done.stderr


async def test_one_that_was_given_up_frees_its_port_and_can_be_started_again(start: Any, tmp_path: Path) -> None:
    listener = tmp_path / "mended.py"
    listener.write_text("import os\nclass Listener:\n    def on_message(self, event):\n        os._exit(7)\n")
    (tmp_path / "wsgateway.toml").write_text(
        f'[gateways.default]\nworkers = 2\nport = {free_port()}\nlistener = "mended.py:Listener"\n'
        "[gateways.other]\nport = 0\n"
    )
    port = free_port()
    with serving(cwd=tmp_path, command=[*COMMAND, "serve", "--admin-port", str(port)]) as served:
        server = Server(served, f"http://127.0.0.1:{port}")
        with anyio.fail_after(60):
            while (await server.ask("GET", "/gateways/default"))["state"] == "running":
                with contextlib.suppress(OSError, SendError):
                    await asend(server.url + "/send", "die")
                await anyio.sleep(0.02)  # until another serves
        found = await server.ask("GET", "/gateways/default")
        assert found["state"] == "failed"
        assert "died one after the other" in found["failure"]
        listener.write_text("class Listener:\n    def on_stop(self, event): ...\n")
        found = await server.ask("POST", "/gateways/default/start", wait=30)
        assert found["state"] == "running"
        assert (await asend(server.url + "/send", "hi")).nodes == 2


def test_a_listener_that_cannot_be_loaded_is_reported_once_with_3(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nowhere\n")
    done = run("serve", "--port", "0", "--admin-port", "0", "--workers", "2", "--listener", "bad.py", cwd=tmp_path)
    assert done.returncode == 3
    assert "No module named 'nowhere'" in done.stderr


async def test_workers_end_when_their_parent_is_killed(start: Any, people: Crowd) -> None:
    server = start("--drain", "1")
    pids = [node["pid"] for node in await server.has_workers(2)]
    server.served.process.kill()
    with anyio.fail_after(20):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await anyio.sleep(0.02)  # they are nobody's children now


async def test_sigterm_ends_all_with_0_and_closes_every_client(start: Any, people: Crowd) -> None:
    server = start()
    pids = [node["pid"] for node in await server.has_workers(2)]
    clients = await spread(people, server, 20)
    assert await asyncio.to_thread(server.served.terminate) == 0
    assert {(await client.closed)[0] for client in clients} == {1012}
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


# A broker that fails, and one process


async def test_without_its_broker_a_gateway_goes_on_alone_and_is_not_ready() -> None:
    with redis() as server:
        gateway = Gateway(broker=server.url, local_access=True)
        async with testing.serve(gateway) as url, testing.Client(url) as ann, httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/ready")).status_code == 200
            server.kill()
            with anyio.fail_after(15):
                while (answer := await http.get("/ready")).status_code == 200:
                    await anyio.sleep(0.01)  # it is told to nobody
            assert answer.status_code == 503
            assert "its broker is unavailable" in answer.json()["detail"]
            sent = await asend(url + "/send", "alone")
            assert (sent.recipients, sent.nodes, sent.complete) == (1, 1, False)
            assert await ann.receive() == "alone"
            server.start()
            with anyio.fail_after(15):
                while (await http.get("/ready")).status_code != 200:
                    await anyio.sleep(0.01)  # it is told to nobody
            assert (await asend(url + "/send", "again")).complete
            assert await ann.receive() == "again"


async def test_a_gateway_starts_without_its_broker() -> None:
    async with testing.serve(Gateway(broker="redis://127.0.0.1:1", local_access=True)) as url:
        async with testing.Client(url) as ann, httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/ready")).status_code == 503
            assert (await asend(url + "/send", "alone")).complete is False
            assert await ann.receive() == "alone"


# Somebody else's workers

APPLICATION = """
from starlette.applications import Starlette
from starlette.routing import Mount
from wsgateway import Gateway

gateway = Gateway(local_access=True{options})
app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
"""


async def test_workers_of_uvicorn_do_not_start_with_a_history(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(APPLICATION.format(options=', channels={"room:*": {"history": 1}}'))
    output = tmp_path / "out.txt"
    with output.open("w") as file:
        command = [sys.executable, "-m", "uvicorn", "chat:app", "--port", str(free_port()), "--workers", "2"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=environment(), stdout=file, stderr=file
        )
    try:
        with anyio.fail_after(30):
            while "2 worker processes alone, so set broker to ipc:// or redis://" not in output.read_text():
                await anyio.sleep(0.05)  # uvicorn tells nobody else
        assert 'the history of "room:*" would be kept by each of' in output.read_text()
        assert "Application startup complete" not in output.read_text()
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize(("options", "warned"), [("", True), (', broker="ipc://"', False)])
async def test_workers_of_uvicorn(tmp_path: Path, options: str, warned: bool) -> None:
    (tmp_path / "chat.py").write_text(APPLICATION.format(options=options))
    port = free_port()
    output = tmp_path / "out.txt"
    with output.open("w") as file:
        command = [sys.executable, "-m", "uvicorn", "chat:app", "--port", str(port), "--workers", "2"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=environment({"PYTHONWARNINGS": "default"}), stdout=file, stderr=file
        )
    try:
        with anyio.fail_after(30):
            while output.read_text().count("Application startup complete") < 2:
                await anyio.sleep(0.05)  # uvicorn tells nobody else
        text = output.read_text()
        assert ("2 worker processes and no broker" in text) is warned
        if not warned:
            sent = await asend(f"http://127.0.0.1:{port}/live/send", "hi")
            assert (sent.nodes, sent.complete) == (2, True)
    finally:
        process.terminate()
        await process.wait()

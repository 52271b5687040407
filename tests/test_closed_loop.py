"""Gateways whose event loop was closed, as in a suite that makes an application for each test, or calls `asyncio.run`
for each task."""

import asyncio
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.processes import environment
from wsgateway import Event, Gateway, GatewayNotFound, GatewayNotRunning, Sent, send_gateway_message

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it prefers httpx2, which is another matter
    from starlette.testclient import TestClient


async def ready(gateway: Gateway) -> tuple[int, str]:
    """Status and body of `GET /ready`."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/ready", "raw_path": b"/ready", "query_string": b""}
    await gateway({**scope, "headers": [], "client": ("127.0.0.1", 1), "scheme": "http"}, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()


async def start_and_send(gateway: Gateway) -> Sent:
    """Send, and leave while the gateway runs."""
    await gateway.start()
    return await gateway.send("x")


async def connect(gateway: Gateway) -> None:
    """Connect a client, and leave while it is connected."""
    opened = asyncio.Event()

    async def receive() -> Any:
        if opened.is_set():
            await asyncio.Event().wait()
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        opened.set()

    scope = {"type": "websocket", "path": "/ws", "headers": []}
    task = asyncio.create_task(gateway(scope, receive, send))
    async with asyncio.timeout(10):
        while not gateway.connections:
            await asyncio.sleep(0)  # one iteration; nothing reports a connection
    kept.append(task)


kept: list[object] = []
"""What an application factory or a cache may keep alive."""


@pytest.fixture(autouse=True)
def nothing_kept() -> Any:
    kept.clear()
    yield
    kept.clear()


def test_each_run_may_have_an_application_of_its_own() -> None:
    for _ in range(5):
        gateway = Gateway(id="per-run")
        kept.append(gateway)
        assert asyncio.run(ready(gateway)) == (200, '{"id":"per-run","state":"running"}')
        assert gateway.state == "stopped"


def test_a_gateway_may_be_used_again_on_a_new_loop() -> None:
    gateway = Gateway(id="again")
    for _ in range(3):
        assert asyncio.run(ready(gateway))[0] == 200
        assert asyncio.run(start_and_send(gateway)) == Sent(0, 0, 0)


@pytest.mark.parametrize("use", ["start", "restart", "stop", "lifespan"])
def test_what_was_running_on_a_closed_loop_is_stopped_and_may_be_started(use: str) -> None:
    async def lifespan() -> None:
        async with gateway.lifespan():
            assert gateway.state == "running"

    gateway = Gateway(id="again")
    asyncio.run(gateway.start())
    assert gateway.state == "stopped"
    asyncio.run(lifespan() if use == "lifespan" else getattr(gateway, use)())
    assert asyncio.run(ready(gateway))[0] == 200


def test_its_connections_are_forgotten() -> None:
    gateway = Gateway(id="crowded")

    async def crowd() -> None:
        await gateway.start()
        await connect(gateway)
        kept.extend(gateway.connections)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(crowd())
    assert len(gateway.connections) == 1
    for task in asyncio.all_tasks(loop):  # as a crash leaves it; only the test's own task is spared a complaint
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's
    loop.close()
    view = gateway.connections
    assert (len(view), gateway.state) == (0, "stopped")
    assert not kept[-1].is_open  # type: ignore[attr-defined]  # it is a connection
    asyncio.run(start_and_send(gateway))
    assert len(view) == 0


def test_it_is_not_found_and_its_id_is_not_listed() -> None:
    lost = Gateway(id="lost")

    async def look() -> None:
        async with Gateway(id="here").lifespan():
            with pytest.raises(GatewayNotFound, match=r"\[lost\], available are \[here\]"):
                await send_gateway_message("lost", {"message": "x"})

    asyncio.run(lost.start())
    asyncio.run(look())
    with pytest.raises(GatewayNotRunning):
        lost.send_from_thread("x")


def test_a_gateway_that_still_runs_keeps_its_id() -> None:
    first, second = Gateway(id="taken"), Gateway(id="taken")
    with asyncio.Runner() as runner:
        runner.run(first.start())
        status, body = asyncio.run(ready(second))
        assert status == 503
        assert "another gateway with id [taken] is running" in body
        runner.run(first.stop())


def test_it_is_logged_what_did_not_run(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(id="left")
    asyncio.run(gateway.start())
    asyncio.run(gateway.start())
    assert sum("its event loop was closed" in line for line in caplog.messages) == 1
    asyncio.run(gateway.stop())


def test_a_new_loop_gets_a_new_listener_and_its_hooks_run_there() -> None:
    loops: list[tuple[str, object]] = []

    class Listener:
        async def on_start(self, event: Event) -> None:
            loops.append(("on_start", asyncio.get_running_loop()))

        async def on_message(self, event: Event) -> None:
            loops.append(("on_message", asyncio.get_running_loop()))

    gateway = Gateway(listener=Listener)
    for number in range(2):
        asyncio.run(start_and_send(gateway))
        (_, started), (_, called) = loops[-2:]
        assert started is called
        assert len(loops) == 2 * number + 2
    assert loops[0][1] is not loops[2][1]


def test_its_threads_end() -> None:
    class Listener:
        def on_message(self, event: Event) -> None:
            pass

    before = set(threading.enumerate())
    gateway = Gateway(listener=Listener, id="threads")
    asyncio.run(start_and_send(gateway))
    assert set(threading.enumerate()) - before
    until = time.monotonic() + 20
    while set(threading.enumerate()) - before:
        assert time.monotonic() < until, set(threading.enumerate()) - before
        time.sleep(0.01)  # a thread that ends reports nothing
    kept.append(gateway)


# Starlette's TestClient, which has a loop for each request, or with `with` one for all


def application(**options: Any) -> Starlette:
    gateway = Gateway(local_access=True, **options)
    return Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)


def client_of(app: Starlette) -> TestClient:
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))


def chat(client: TestClient) -> None:
    """Two clients and a push."""
    with client.websocket_connect("/live/ws") as ann, client.websocket_connect("/live/ws") as bob:
        ann.send_text("hi")
        assert (ann.receive_text(), bob.receive_text()) == ("hi", "hi")
        answer = client.post("/live/send", json={"message": "pushed"})
        assert (answer.status_code, answer.json()["queued"]) == (200, 2)
        assert (ann.receive_text(), bob.receive_text()) == ("pushed", "pushed")
        bob.send_text("bye")
        assert (ann.receive_text(), bob.receive_text()) == ("bye", "bye")


def without_with(app: Starlette) -> None:
    client = client_of(app)
    assert client.get("/live/ready").status_code == 200
    chat(client)
    assert client.get("/live/info").json()["total"] == 0


def with_with(app: Starlette) -> None:
    with client_of(app) as client:
        assert client.get("/live/ready").status_code == 200
        chat(client)


@pytest.mark.parametrize("order", [[without_with] * 3, [with_with] * 3, [with_with, without_with, with_with]])
def test_each_test_may_have_an_application_of_its_own(order: list[Callable[[Starlette], None]]) -> None:
    for use in order:
        app = application()
        kept.append(app)
        use(app)


@pytest.mark.parametrize("order", [[without_with] * 3, [with_with] * 3, [with_with, without_with, with_with]])
def test_all_tests_may_share_one_application(order: list[Callable[[Starlette], None]]) -> None:
    app = application()
    for use in order:
        use(app)


def test_hooks_of_clients_on_several_loops_run_on_one() -> None:
    loops: set[object] = set()

    class Listener:
        async def on_client_open(self, event: Event) -> None:
            loops.add(asyncio.get_running_loop())
            await asyncio.gather(*(conn.send("somebody came") for conn in event.gateway.connections))

    client = client_of(application(listener=Listener))
    with client.websocket_connect("/live/ws") as ann:
        assert ann.receive_text() == "somebody came"
        with client.websocket_connect("/live/ws") as bob:
            assert (ann.receive_text(), bob.receive_text()) == ("somebody came", "somebody came")
    assert len(loops) == 1


SCRIPT = """
import asyncio, logging
from wsgateway import Gateway

logging.getLogger("wsgateway").addHandler(logging.NullHandler())  # or it says that there is none

class Listener:
    async def on_start(self, event): pass
    def on_message(self, event): pass

async def main(gateway):
    await gateway.start()
    await gateway.send("x")

kept = [Gateway(Listener, id=str(number % 2), broker=broker) for number in range(4) for broker in (None, "ipc://{folder}")]
for gateway in kept:
    asyncio.run(main(gateway))
for gateway in kept:
    asyncio.run(main(gateway))
"""


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    code = SCRIPT.replace("{folder}", str(tmp_path / "ipc"))
    argv = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=120)
    busy = "Executing "  # what development mode says on a busy machine
    lines = [line for line in done.stderr.splitlines() if not line.startswith(busy)]
    assert (done.returncode, lines) == (0, [])

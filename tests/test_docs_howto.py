"""The How-to pages are true: each sample runs as written, against the application of its page."""

import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from playwright.async_api import Browser
from starlette.responses import Response

from tests.processes import environment
from tests.samples import ROOT, run_sample, samples
from tests.services import redis
from tests.test_docs_browser import Tab
from wsgateway.gateway.registry import registry
from wsgateway.testing import Client, serve

HOWTO = "docs/how-to/"
SESSION = HOWTO + "session-login.md"
USERS = HOWTO + "users.md"
PUSH = HOWTO + "push.md"
KEY = "secret"


def block(page: str, language: str, beginning: str) -> str:
    """Return the block of code in `language` that begins with `beginning`."""
    found = re.search(rf"^```{language}\n({re.escape(beginning)}.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.M)
    assert found, beginning
    return found[1]


async def shell(command: str, folder: Path, url: str, **variables: str) -> str:
    """Run `command`, with the address of the page replaced by `url`. Return what it prints."""
    code = command.replace("http://127.0.0.1:8000", url).replace("curl ", "curl -sS ")
    run = await anyio.run_process(["sh", "-ec", code], cwd=folder, env={**os.environ, **variables}, stderr=sys.stderr)
    return run.stdout.decode()


@asynccontextmanager
async def page_beside(browser: Browser, app: Any, script: str) -> AsyncIterator[tuple[Tab, str]]:
    """Serve `app` with an empty page, and run `script` there. Yield the page, and the URL."""
    empty = '<!doctype html><link rel=icon href="data:,"><body>'
    app.add_route("/", lambda request: Response(empty, media_type="text/html"))
    async with serve(app) as url, await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(url + "/")
        tab = Tab(page)
        await tab.run(script)
        yield tab, url


# session-login.md


@pytest.fixture
def secret_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "of the test")


async def test_a_page_that_has_logged_in_connects_with_its_session(
    browser: Browser, secret_key: None, tmp_path: Path
) -> None:
    module = run_sample(SESSION, "shop.py")
    async with page_beside(browser, module.app, samples(SESSION, "js")["login"]) as (tab, url):
        await tab.shows("received ann: hi")
        commands = block(SESSION, "sh", "curl -c jar")
        assert await shell(commands, tmp_path, url) == '{"recipients":1}'
        await shell("curl -b jar -X POST http://127.0.0.1:8000/logout", tmp_path, url)
        await tab.shows("closed 3503 logged out")
        assert await shell(commands.splitlines()[1].replace("-b jar", ""), tmp_path, url) == '{"detail":"log in first"}'
        async with Client(url, "/live/ws", additional_headers={"origin": url}) as nobody:
            assert await nobody.closed() == (3500, "log in first")
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/live/sse")).status_code == 401


# users.md


@asynccontextmanager
async def nodes(page: str, name: str, broker: str, count: int = 2) -> AsyncIterator[list[tuple[Any, str]]]:
    """Serve the application of a sample as several nodes. Yield the module and the URL of each."""
    async with AsyncExitStack() as stack:
        served = []
        for _ in range(count):
            module = run_sample(page, name, {"ipc://": broker})
            served.append((module, await stack.enter_async_context(serve(module.app))))
            registry.remove(module.gateway)  # which refuses a second one, because a process is one node
        with anyio.fail_after(20):
            while any(len(module.gateway.cluster.nodes.alive()) < count - 1 for module, _ in served):
                await anyio.sleep(0.01)  # nothing reports a new peer
        yield served


async def test_a_user_is_reached_on_all_devices_in_all_processes(tmp_path: Path) -> None:
    broker = f"ipc://{tmp_path}/ipc"
    async with nodes(USERS, "notes.py", broker) as [(_, url), (_, other)]:
        async with Client(url, "/live/ws?user=ann") as phone, Client(other, "/live/ws?user=ann") as laptop:
            commands = block(USERS, "sh", "curl -X POST")
            assert await shell(commands, tmp_path, url) == '{"recipients":2}{"users":1,"connections":2}'
            assert [await device.receive_json() for device in (phone, laptop)] == [{"note": "hi"}] * 2
            async with httpx.AsyncClient(base_url=other) as http:
                assert (await http.get("/online")).json() == ["ann"]
            remind = run_sample(USERS, "remind.py")
            for call, to in ((remind.over_http, f"{url}/live/send"), (remind.over_the_broker, broker)):
                assert await anyio.to_thread.run_sync(call, to, "ann") == 2
                assert [await device.receive_json() for device in (phone, laptop)] == [{"note": "tea is ready"}] * 2


async def test_a_device_that_was_offline_receives_what_was_published_for_its_user() -> None:
    module = run_sample(USERS, "orders.py")
    async with serve(module.gateway) as url:
        await module.gateway.publish("earlier", channel="user:ann")
        at = (await module.gateway.history("user:ann", limit=0)).at
        await module.shipped("ann", 7)
        async with Client(url, channels=[]) as ann:
            (connection,) = module.gateway.connections
            await connection.subscribe("user:ann", since=at)
            assert (await ann.subscribed("user:ann"))["recovered"] is True
            assert (await ann.receive_json())["message"] == {"order": 7}


# push.md


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis() as service:
        yield service.url


async def test_a_push_from_everywhere_arrives(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGATEWAY_API_KEY", KEY)
    monkeypatch.setenv("BROKER", redis_url)
    module = run_sample(PUSH, "shop.py")
    async with serve(module.app) as url, Client(url, "/live/ws", channels=["orders"]) as client:
        await client.subscribed("orders")
        await http_routes(url, client)
        line = await shell(block(PUSH, "sh", "curl --fail"), tmp_path, url, WSGATEWAY_API_KEY=KEY)
        assert line.startswith('{"id":"default","recipients":1,"queued":1,"dropped":0,')
        assert (await client.receive_json())["message"] == {"report": "nightly"}
        for name in ("tasks.py", "jobs.py"):
            code = samples(PUSH, "python")[name].replace("http://127.0.0.1:8000", url)
            (tmp_path / name).write_text(code.replace("redis://127.0.0.1:6379", redis_url))
        variables = {"WSGATEWAY_API_KEY": KEY, "PYTHONWARNINGS": "ignore"}  # celery's own are not ours to fix
        async with anyio.create_task_group() as tasks:
            for command in (CELERY, RQ):
                argv = [sys.executable, "-c", command, redis_url]
                run = partial(anyio.run_process, argv, cwd=tmp_path, env=environment(variables), stderr=sys.stderr)
                tasks.start_soon(run)
        assert [(await client.receive_json())["message"] for _ in range(2)] == [{"shipped": 7}] * 2


CELERY = """
from celery.contrib.testing.worker import start_worker
import tasks

tasks.app.conf.result_backend = tasks.app.conf.broker_url
with start_worker(tasks.app, pool="solo", perform_ping_check=False):
    assert tasks.ship.delay(7).get(timeout=20) == 1
    tasks.ship.delay(7).get(timeout=20)
"""

RQ = """
import sys
from redis import Redis
from rq import Queue, Worker

connection = Redis.from_url(sys.argv[1])
job = Queue(connection=connection).enqueue("jobs.ship", 7)
Worker(["default"], connection=connection).work(burst=True)
assert job.return_value() == 1
"""


async def http_routes(url: str, client: Client) -> None:
    """Push with each route of the application of push.md."""
    async with httpx.AsyncClient(base_url=url) as http:
        for route, message in (("orders/7", {"order": 7}), ("invoices/8", {"invoice": 8})):
            assert (await http.post(f"/{route}")).json() == {"recipients": 1}
            assert (await client.receive_json())["message"] == message
        await http.post("/watch")
        received = [(await client.receive_json())["message"] for _ in range(2)]
        assert received == [{"temperature": 20.5}, {"temperature": 21.0}]
        refused = await http.post("/live/send", json={"message": "x"})
        assert refused.status_code == 401

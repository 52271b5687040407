"""The How-to pages are true: each sample runs as written, against the application of its page."""

import importlib
import json
import logging
import os
import re
import subprocess
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
from anyio.streams.text import TextReceiveStream
from playwright.async_api import Browser, expect
from redis import Redis
from rq import Queue
from starlette.responses import Response
from websockets.exceptions import InvalidStatus

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
RECONNECTING = HOWTO + "reconnecting.md"
JOBS = HOWTO + "background-jobs.md"
VALIDATION = HOWTO + "validation.md"
LOGGING = HOWTO + "logging.md"
TESTING = HOWTO + "testing.md"
DJANGO_PAGE = HOWTO + "django.md"
FASTAPI_PAGE = HOWTO + "fastapi.md"
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
            assert await shell(block(USERS, "sh", "curl -X POST http://127.0.0.1:8000/logout"), tmp_path, url) == "2"
            assert [await device.closed() for device in (phone, laptop)] == [(3503, "logged out")] * 2


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
        tasks = run_sample(PUSH, "tasks.py", {"http://127.0.0.1:8000": url})
        tasks.app.conf.task_always_eager = True  # in this process
        for _ in range(2):
            await anyio.to_thread.run_sync(lambda: tasks.ship.delay(7).get())
        assert await anyio.to_thread.run_sync(work_off, tmp_path, redis_url) == 1
        assert [(await client.receive_json())["message"] for _ in range(2)] == [{"shipped": 7}, {"shipped": 8}]


def work_off(folder: Path, redis_url: str) -> object:
    """Run a job with RQ. Return its result."""
    code = samples(PUSH, "python")["jobs.py"].replace("redis://127.0.0.1:6379", redis_url)
    (folder / "jobs.py").write_text(code)
    with Redis.from_url(redis_url) as connection, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return Queue(connection=connection, is_async=False).enqueue("jobs.ship", 8).return_value()


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


# reconnecting.md


async def test_a_page_recovers_what_was_published_while_it_was_away(browser: Browser, tmp_path: Path) -> None:
    module = run_sample(RECONNECTING, "news.py")
    scripts = samples(RECONNECTING, "js")
    async with page_beside(browser, module.app, scripts["news"]) as (tab, url):
        await tab.shows("recovered false")
        await shell(block(RECONNECTING, "sh", "curl -X POST"), tmp_path, url)
        await tab.shows("recovered true")
        await expect(tab.page.locator("body")).to_have_text("one two")
        await tab.page.goto(url + "/")  # as a new page
        await tab.run(scripts["plain"])
        await expect(tab.page.locator("body")).to_have_text("one two")
        await shell(block(RECONNECTING, "sh", "curl -X POST"), tmp_path, url)
        await expect(tab.page.locator("body")).to_have_text("one two one two")


# background-jobs.md


async def test_a_ticker_runs_from_the_start_to_the_stop() -> None:
    module = run_sample(JOBS, "ticker.py")
    async with serve(module.app) as url, Client(url, "/live/ws", channels=["ticks"]) as client:
        await client.subscribed("ticks")
        assert (await client.receive_json())["message"]["tick"] >= 1
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/visits")).json() == 1
    assert module.ticker.task.cancelled()


async def test_a_task_of_the_lifespan_publishes() -> None:
    module = run_sample(JOBS, "lifespan.py")
    async with serve(module.app) as url, Client(url, "/live/ws", channels=["ticks"]) as client:
        await client.subscribed("ticks")
        assert (await client.receive_json())["message"] == "tick"


async def test_a_thread_runs_code_on_the_event_loop() -> None:
    module = run_sample(JOBS, "sensor.py")
    async with serve(module.gateway), anyio.create_task_group() as tasks:
        with anyio.fail_after(20):
            while len((await module.gateway.history("sensor")).publications) < 2:
                await anyio.sleep(0.01)  # the thread
        tasks.cancel_scope.cancel()


# validation.md


@pytest.mark.parametrize(
    ("name", "listener", "refused", "moved"),
    [
        ("chat.py", "Chat", "move.x: Input should be less than 8", {"moved": [1, 2]}),
        ("board.py", "Board", "Expected `int` <= 7 - at `$.x`", {"type": "move", "x": 1, "y": 2}),
    ],
)
async def test_messages_are_validated(name: str, listener: str, refused: str, moved: Any) -> None:
    assert refused in (ROOT / VALIDATION).read_text()
    gateway = run_sample(VALIDATION, name).gateway
    async with serve(gateway) as url, Client(url) as plain, Client(url, channels=[]) as v1:
        await v1.send_json({"message": {"type": "move", "x": 9, "y": 2}, "id": 1})
        answer = await v1.receive_json()
        assert (answer["status"], answer["reason"]) == (422, refused)
        for sender in (plain, v1):
            move = {"type": "move", "x": 1, "y": 2}
            await sender.send(json.dumps(move if sender is plain else {"message": move}))
            assert await plain.receive_json() == moved
            assert (await v1.receive_json())["message"] == moved
        await plain.send("no JSON")
        await plain.send(json.dumps({"type": "say", "text": "hi"}))
        assert await plain.receive_json() == {"type": "say", "text": "hi"}


# logging.md


async def test_the_log_of_an_application_as_written(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(samples(LOGGING, "python")["run.py"].replace('app", log', 'app", port=0, log'))
    (tmp_path / "chat.py").write_text(APPLICATION)
    assert "json.dumps(run.log_config())" in (ROOT / LOGGING).read_text()
    assert json.loads(json.dumps(run_sample(LOGGING, "run.py").log_config()))["loggers"]["wsgateway"]
    async with await anyio.open_process([sys.executable, "run.py"], cwd=tmp_path, env=environment()) as process:
        lines = Lines(process.stderr)
        await lines.wait_for("INFO:     [default] started")
        url = (await lines.wait_for("Uvicorn running on")).split()[4]
        async with Client(url, "/live/ws?token=secret"):
            assert "/live/ws?…" in await lines.wait_for('"WebSocket /live')
        process.terminate()


APPLICATION = """
from fastapi import FastAPI
from wsgateway import Gateway

gateway = Gateway()
app = FastAPI(lifespan=gateway.lifespan)
app.mount("/live", gateway)
"""


class Lines:
    """The lines that a process prints."""

    def __init__(self, stream: Any) -> None:
        self._stream = TextReceiveStream(stream)
        self._text = ""

    async def wait_for(self, part: str) -> str:
        """Return the next line that contains `part`."""
        with anyio.fail_after(20):
            while True:
                line, newline, self._text = self._text.partition("\n")
                if newline and part in line:
                    return line
                if not newline:
                    self._text = line + await self._stream.receive()


def test_the_filter_of_the_page_masks() -> None:
    run_sample(LOGGING, "masked.py")
    logger = logging.getLogger("uvicorn.error")
    record = logger.makeRecord("uvicorn.error", logging.INFO, "", 1, "%s", ("/ws?token=secret",), None)
    logger.filter(record)
    assert record.getMessage() == "/ws?…"


# testing.md


def test_the_tests_of_an_application_pass(tmp_path: Path) -> None:
    written = samples(TESTING, "python")
    for name, code in written.items():
        (tmp_path / name).write_text(code)
    for_asyncio = written["test_chat.py"].replace("pytest.mark.anyio", "pytest.mark.asyncio")
    for_asyncio = for_asyncio.replace("@pytest.fixture\nasync", "@pytest_asyncio.fixture\nasync")
    (tmp_path / "test_with_asyncio.py").write_text("import pytest_asyncio\n" + for_asyncio)
    plugins = ("-p", "anyio", "-p", "asyncio", "-p", "no:cacheprovider")  # those of schemathesis take seconds
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "."]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment({"PYTHONWARNINGS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


# django.md


def test_a_django_project_as_written(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", "."], cwd=tmp_path, check=True)
    settings = block(DJANGO_PAGE, "py", "# at the end of shop/settings.py")
    run = subprocess.run(
        [sys.executable, "-c", DJANGO],
        cwd=tmp_path,
        env=environment({"PYTHONPATH": str(ROOT)}),
        input=json.dumps(samples(DJANGO_PAGE, "python") | {"shop/settings.py": settings}),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


DJANGO = """
import json, os, sys
from pathlib import Path
import anyio, httpx
from django.core.management import call_command
from wsgateway.testing import Client, serve

for name, code in json.load(sys.stdin).items():
    with open(name, "a" if name.endswith("settings.py") else "w") as file:
        file.write(code)
sys.path.insert(0, ".")
with open("shop/settings.py", "a") as file:
    file.write('PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]')  # fast
from shop.asgi import application, gateway
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client as Browser
from shop.models import Room
from shop.notify import deactivate, notify, remove

call_command("makemigrations", "shop", verbosity=0)
call_command("migrate", verbosity=0)
os.environ["DJANGO_SUPERUSER_PASSWORD"] = "wonderland"
call_command("createsuperuser", interactive=False, username="ann", email="ann@example.com", verbosity=0)
kitchen = Room.objects.create(name="kitchen")
kitchen.members.add(1)
browser = Browser()
browser.force_login(User.objects.get())
browser.logout()  # in a process without a server

async def main():
    async with (
        serve(application) as url,
        httpx.AsyncClient(base_url=url) as http,
        httpx.AsyncClient(base_url=url) as phone,
    ):
        settings.GATEWAY_URL = url + "/live"
        cookies = []
        for device in (http, phone):
            await device.get("/admin/login/")
            form = {"username": "ann", "password": "wonderland", "csrfmiddlewaretoken": device.cookies["csrftoken"]}
            assert (await device.post("/admin/login/", data=form)).status_code == 302
            cookies.append({"cookie": "sessionid=" + device.cookies["sessionid"]})
            device.headers["x-csrftoken"] = device.cookies["csrftoken"]
        async with (
            Client(url, "/live/ws", additional_headers=cookies[0]) as ann,
            Client(url, "/live/ws", additional_headers=cookies[1]) as other,
        ):
            await ann.send("hi")
            assert await ann.receive() == await other.receive() == "ann: hi"
            assert (await http.get("/orders/7/")).status_code == 405
            assert (await http.post("/orders/7/")).status_code == 204
            assert await ann.receive_json() == await other.receive_json() == {"order": 7}
            assert (await http.post("/payments/8/")).json() == {"recipients": 2}
            assert await ann.receive_json() == await other.receive_json() == {"paid": 8}
            assert [conn.user_id for conn in gateway.connections] == ["1", "1"]
            assert all(conn.expires_at for conn in gateway.connections)
            await http.post("/admin/logout/")
            assert await ann.closed() == (3503, "logged out")
            async with Client(url, "/live/ws", additional_headers=cookies[1], channels=["room:kitchen"]) as member:
                await member.subscribed("room:kitchen")
                await sync_to_async(remove)(kitchen, 1)
                while "unsubscribed" not in (frame := await member.receive_json()):
                    pass
                assert frame["unsubscribed"] == "room:kitchen"
                await sync_to_async(notify)(1, "still there")
                assert await other.receive() == "still there"
            await sync_to_async(deactivate)(1)
            assert (await other.closed())[0] == 3503
        async with Client(url, "/live/ws", additional_headers={"origin": url}) as nobody:
            assert await nobody.closed() == (3500, "log in first")

anyio.run(main)
call_command("test", verbosity=0)
"""


# fastapi.md


@pytest.fixture
def shop(tmp_path: Path, secret_key: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The application of the page, whose front end may be on another host, too."""
    (tmp_path / "shop").mkdir()
    for name, code in samples(FASTAPI_PAGE, "python").items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ORIGINS", "https://shop.example.com")
    yield importlib.import_module("shop.main").app
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


async def test_a_fastapi_application_in_several_files(shop: Any) -> None:
    async with serve(shop) as url, httpx.AsyncClient(base_url=url) as http, httpx.AsyncClient(base_url=url) as bob:
        assert (await http.get("/api/me")).status_code == 401
        for client, name, password in ((http, "ann", "wonderland"), (bob, "bob", "builder")):
            assert (await client.post("/api/login", json={"name": name, "password": password})).status_code == 204
        assert (await http.get("/api/me")).json() == "ann"
        assert [(await client.get("/panel/")).status_code for client in (http, bob)] == [200, 403]
        headers = {"cookie": f"session={http.cookies['session']}"}
        elsewhere = headers | {"origin": "https://shop.example.com"}
        connect = partial(Client, url, "/live/ws")
        async with connect(additional_headers=headers) as phone, connect(additional_headers=elsewhere) as laptop:
            devices = (phone, laptop)
            forwarded = {"origin": "http://localhost:5173", "host": "localhost:5173"}  # by Vite
            async with http.stream("GET", "/live/sse", headers=forwarded) as stream:
                assert stream.status_code == 200
            await http.post("/api/orders/7")
            assert [await device.receive_json() for device in devices] == [{"order": 7}] * 2
            await http.post("/api/logout")
            assert {await device.closed() for device in devices} == {(3503, "logged out")}
        with pytest.raises(InvalidStatus, match="HTTP 403"):
            await connect(additional_headers=headers | {"origin": "http://localhost:5173"}).__aenter__()

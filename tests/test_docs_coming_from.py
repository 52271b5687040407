"""The pages for users of other systems are true: both halves of each pair run as copied, and do the same.

One test runs both halves, with the page of the sample in Chromium and the library that it loads. What cannot be had
here is said at the test.
"""

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import httpx
import pytest
import socketio
from playwright.async_api import Browser, Page, Route, expect
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tests.ports import free_port
from tests.processes import environment, serving
from tests.samples import ROOT, run_sample, samples
from tests.sdk.servers import MODULES, node
from wsgateway.testing import serve

PAGES = "docs/coming-from"
SOCKETIO = f"{PAGES}/python-socketio.md"
FASTAPI = f"{PAGES}/fastapi.md"
DJANGO = f"{PAGES}/django-channels.md"
CENTRIFUGO = f"{PAGES}/centrifugo.md"
PUSHER = f"{PAGES}/pusher.md"
LUCEE = f"{PAGES}/lucee.md"

LIBRARIES = {
    "https://unpkg.com/socket.io-client@4.8.4/": MODULES / "socket.io-client",
    "https://unpkg.com/centrifuge@5.8.0/": MODULES / "centrifuge",
}
"""What the samples load from elsewhere, and where npm has put it."""


PATIENCE = 20_000
"""Milliseconds to wait for what a page shows. A busy machine starts browsers and servers slowly."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M)


def copied(page: str, folder: Path) -> Path:
    """Copy the samples of `page` to files in `folder`, as a reader does."""
    for name, code in samples(page, "python").items():
        (folder / name).write_text(code)
    for html in blocks(page, "html"):
        name, _, text = html.removeprefix("<!-- ").partition(" -->\n")
        (folder / name).write_text(text)
    return folder


@asynccontextmanager
async def uvicorn(app: str, folder: Path, port: int = 0) -> AsyncIterator[str]:
    """Run `uvicorn app` in `folder`, by default on a free port, and yield its URL. No error may be in its output."""
    argv = [sys.executable, "-m", "uvicorn", app, "--port", str(port)]
    text = ""
    listens = anyio.Event()

    async def read(output: anyio.abc.ByteReceiveStream) -> None:
        nonlocal text
        async for chunk in output:
            text += chunk.decode()
            if re.search(r"running on \S+ ", text):
                listens.set()
        listens.set()  # it has ended

    try:
        async with (
            await anyio.open_process(argv, cwd=folder, env=environment(), stderr=subprocess.STDOUT) as process,
            anyio.create_task_group() as tasks,
        ):
            assert process.stdout
            tasks.start_soon(read, process.stdout)
            try:
                with anyio.fail_after(20):
                    await listens.wait()
                assert process.returncode is None, "it has ended before it listened"
                yield "".join(re.findall(r"running on (\S+)", text))
            finally:
                if process.returncode is None:
                    process.terminate()
    finally:
        print(text)  # pytest shows it when the test fails
    assert "Traceback" not in text, text
    assert "ERROR" not in text, text


@asynccontextmanager
async def served(
    page: str, app: str, folder: Path, wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app
) -> AsyncIterator[str]:
    """Serve the sample `app` of `page` in this process, with `folder` as the working folder. Yield its URL."""
    with contextlib.chdir(copied(page, folder)):
        async with serve(wrap(run_sample(page, f"{app}.py").app)) as url:
            yield url


@asynccontextmanager
async def visitors(browser: Browser, count: int = 2) -> AsyncIterator[list[Page]]:
    """Pages that share no cookies, and find the libraries of the samples on this machine."""
    async with contextlib.AsyncExitStack() as stack:
        pages = []
        for _ in range(count):
            context = await stack.enter_async_context(await browser.new_context())
            for address in LIBRARIES:
                await context.route(f"{address}**", from_npm)
            pages.append(await context.new_page())
        yield pages


async def from_npm(route: Route) -> None:
    for address, folder in LIBRARIES.items():
        if route.request.url.startswith(address):
            await route.fulfill(path=folder / route.request.url.removeprefix(address))


async def lines(page: Page, *texts: str) -> None:
    await expect(page.locator("li")).to_have_text(list(texts), timeout=PATIENCE)


async def write(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def chat(browser: Browser, url: str) -> None:
    """What both halves of each pair do: ann and bob chat in a private room, and the backend pushes to it."""
    async with visitors(browser) as (ann, bob):
        await ann.goto(f"{url}/")
        await lines(ann, "log in first")
        await ann.goto(f"{url}/?name=ann")
        await bob.goto(f"{url}/?name=eve")
        await lines(bob, "not your room")
        await bob.goto(f"{url}/?name=bob")
        await expect(bob.get_by_role("button")).to_be_enabled(timeout=PATIENCE)
        await write(ann, "hi")
        await lines(bob, "ann: hi")
        await write(bob, "hello")
        await lines(ann, "ann: hi", "bob: hello")
        async with httpx.AsyncClient() as http:
            assert (await http.post(f"{url}/orders/7")).is_success
        await lines(ann, "ann: hi", "bob: hello", "shop: order 7")
        await lines(bob, "ann: hi", "bob: hello", "shop: order 7")


async def test_python_socketio(browser: Browser, tmp_path: Path) -> None:
    """With the `socket.io-client` of npm."""
    node()
    async with uvicorn("chat_socketio:app", copied(SOCKETIO, tmp_path)) as url:
        await chat(browser, url)


async def test_what_replaces_python_socketio(browser: Browser, tmp_path: Path) -> None:
    """It also works behind a Socket.IO server that is still there, which is the first step of the move."""

    def behind(app: ASGIApp) -> ASGIApp:
        return cast(ASGIApp, socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi"), app))

    async with served(SOCKETIO, "chat", tmp_path, behind) as url:
        await chat(browser, url)


async def test_fastapi(browser: Browser, tmp_path: Path) -> None:
    async with uvicorn("chat_fastapi:app", copied(FASTAPI, tmp_path)) as url:
        await chat(browser, url)


async def test_what_replaces_fastapi(browser: Browser, tmp_path: Path) -> None:
    async with served(FASTAPI, "chat", tmp_path) as url:
        await chat(browser, url)


@pytest.mark.parametrize("app", ["chat_channels", "chat"])
async def test_django_channels_and_what_replaces_it(app: str, browser: Browser, tmp_path: Path) -> None:
    """Before: Channels with its layer in memory, on uvicorn."""
    async with uvicorn(f"{app}:app", copied(DJANGO, tmp_path)) as url:
        await chat(browser, url)


async def test_what_used_centrifugo_works_with_wsgateway_unchanged(browser: Browser, tmp_path: Path) -> None:
    """`cent`, the SDK for JavaScript, and the tokens: only the file of settings is another.

    Centrifugo itself is a program in Go, which is not in the registries of Debian, PyPI, and npm. So it does not run
    here: its half is the same backend and the same page, and a `config.json` that is read as JSON.
    """
    node()
    folder = copied(CENTRIFUGO, tmp_path)
    before, settings = blocks(CENTRIFUGO, "json")[0], blocks(CENTRIFUGO, "toml")[0]
    port = free_port()
    (folder / "wsgateway.toml").write_text(settings.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    with serving("--admin-port", "0", cwd=folder) as gateway:
        address = gateway.url.partition("://")[2]
        for name in ("shop.py", "shop.html"):
            (folder / name).write_text((folder / name).read_text().replace("127.0.0.1:8001", address))
        async with uvicorn("shop:app", folder, port) as url:
            await chat(browser, url)
    old, new = json.loads(before), tomllib.loads(settings)
    assert old["client"]["token"]["hmac_secret_key"] == new["token_secret"][0]
    assert old["http_api"]["key"] == new["api_key"][0]
    assert old["http_server"]["port"] == new["port"]
    assert old["channel"]["namespaces"][0]["history_size"] == new["channels"]["room:*"]["history"]


async def test_the_sdk_of_centrifuge_with_a_gateway_in_the_application(browser: Browser, tmp_path: Path) -> None:
    node()
    async with served(CENTRIFUGO, "team", tmp_path) as url:
        await chat(browser, url)


async def test_what_replaces_pusher(browser: Browser, tmp_path: Path) -> None:
    """Pusher is a service, and the registries have no server that speaks its protocol. So its half is only compiled."""
    compile(samples(PUSHER, "python")["chat_pusher.py"], "chat_pusher.py", "exec")
    async with served(PUSHER, "chat", tmp_path) as url:
        await chat(browser, url)


async def test_what_replaces_lucee(browser: Browser, tmp_path: Path) -> None:
    """The registries have no server of CFML, so that half does not run. The page is the same for both."""
    folder = copied(LUCEE, tmp_path)
    site = Starlette(routes=[Mount("/", StaticFiles(directory=folder))])
    async with serve(site) as url:
        settings = blocks(LUCEE, "toml")[0].replace("http://localhost:8888", url)
        (folder / "wsgateway.toml").write_text(settings)
        with serving("--admin-port", "0", cwd=folder) as gateway:
            page = folder / "chat.html"
            page.write_text(page.read_text().replace("ws://localhost:10125", gateway.url.replace("http", "ws")))
            async with visitors(browser) as (ann, nobody):
                await ann.goto(f"{url}/chat.html?name=ann")
                await nobody.goto(f"{url}/chat.html")
                await expect(ann.get_by_role("button")).to_be_enabled(timeout=PATIENCE)
                await write(nobody, "hi")
                await lines(nobody, "log in first")
                await write(ann, "hello")
                await lines(nobody, "log in first", "ann: hello")
                curl = blocks(LUCEE, "sh")[0].replace("http://localhost:10125", gateway.url)
                assert b'"queued":2' in (await anyio.run_process(["sh", "-c", curl])).stdout
                await lines(ann, "ann: hello", "shop: order 7")

"""The pages for users of other systems are true: both halves of each pair run as copied, and do the same.

One test runs both halves, with the page of the sample in Chromium and the library that it loads. What cannot be had
here is said at the test.
"""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import httpx
import mypy.api
import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.processes import environment
from tests.samples import ROOT, samples
from tests.sdk.servers import MODULES, node

PAGES = "docs/coming-from"
SOCKETIO = f"{PAGES}/python-socketio.md"
FASTAPI = f"{PAGES}/fastapi.md"
DJANGO = f"{PAGES}/django-channels.md"

LIBRARIES = {"https://unpkg.com/socket.io-client@4.8.4/": MODULES / "socket.io-client"}
"""What the samples load from elsewhere, and where npm has put it."""


def copied(page: str, folder: Path) -> Path:
    """Copy the samples of `page` to files in `folder`, as a reader does."""
    for name, code in samples(page, "python").items():
        (folder / name).write_text(code)
    for name, text in re.findall(r"^```html\n<!-- (\S+) -->\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M):
        (folder / name).write_text(text)
    return folder


@asynccontextmanager
async def uvicorn(app: str, folder: Path) -> AsyncIterator[str]:
    """Run `uvicorn app` in `folder` on a free port, and yield its URL. No error may be in what it prints."""
    argv = [sys.executable, "-m", "uvicorn", app, "--port", "0"]
    lines: list[str] = []
    listens = anyio.Event()

    async def read(output: anyio.abc.ByteReceiveStream) -> None:
        async for chunk in output:
            lines.extend(chunk.decode().splitlines())
            if any("Uvicorn running" in line for line in lines):
                listens.set()

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
                yield "".join(re.findall(r"running on (\S+)", "\n".join(lines)))
            finally:
                process.terminate()
    finally:
        text = "\n".join(lines)
        print(text)  # pytest shows it when the test fails
    assert "Traceback" not in text, text
    assert "ERROR" not in text, text


@asynccontextmanager
async def visitors(browser: Browser, count: int = 2) -> AsyncIterator[list[Page]]:
    """Pages that share no cookies, and find the libraries of the samples on this machine."""
    async with AsyncExitStack() as stack:
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
    await expect(page.locator("li")).to_have_text(list(texts))


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
        await expect(bob.get_by_role("button")).to_be_enabled()
        await write(ann, "hi")
        await lines(bob, "ann: hi")
        await write(bob, "hello")
        await lines(ann, "ann: hi", "bob: hello")
        async with httpx.AsyncClient() as http:
            assert (await http.post(f"{url}/orders/7")).is_success
        await lines(ann, "ann: hi", "bob: hello", "shop: order 7")
        await lines(bob, "ann: hi", "bob: hello", "shop: order 7")


@pytest.mark.parametrize("app", ["chat_socketio", "chat"])
async def test_python_socketio_and_what_replaces_it(app: str, browser: Browser, tmp_path: Path) -> None:
    """Before: python-socketio, with the `socket.io-client` of npm."""
    node()
    async with uvicorn(f"{app}:app", copied(SOCKETIO, tmp_path)) as url:
        await chat(browser, url)


@pytest.mark.parametrize("app", ["chat_fastapi", "chat"])
async def test_fastapi_and_what_replaces_it(app: str, browser: Browser, tmp_path: Path) -> None:
    async with uvicorn(f"{app}:app", copied(FASTAPI, tmp_path)) as url:
        await chat(browser, url)


@pytest.mark.parametrize("app", ["chat_channels", "chat"])
async def test_django_channels_and_what_replaces_it(app: str, browser: Browser, tmp_path: Path) -> None:
    """Before: Channels with its layer in memory, on uvicorn."""
    async with uvicorn(f"{app}:app", copied(DJANGO, tmp_path)) as url:
        await chat(browser, url)


AFTER = {SOCKETIO: {"chat.py"}, FASTAPI: {"chat.py"}, DJANGO: {"chat.py"}}


def test_what_replaces_them_passes_the_type_checker(tmp_path: Path) -> None:
    for page, names in AFTER.items():
        for name in names:
            (tmp_path / f"{Path(page).stem}_{name}".replace("-", "_")).write_text(samples(page, "python")[name])
    files = sorted(str(file) for file in tmp_path.iterdir())
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    output, errors, status = mypy.api.run([*options, *files])
    assert status == 0, output + errors

"""Each example, started with its own command, its page driven in a real browser."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.processes import environment
from tests.servers import free_socket

EXAMPLES = Path(__file__).parent.parent / "examples"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def port() -> int:
    with free_socket() as sock:
        number: int = sock.getsockname()[1]
        return number


@asynccontextmanager
async def example(name: str, port: int) -> AsyncIterator[str]:
    """`python examples/NAME/app.py`, once it answers; its URL. Ended with SIGTERM, after which it has logged no error."""
    argv = [sys.executable, str(EXAMPLES / name / "app.py"), "--port", str(port)]
    async with await anyio.open_process(
        argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        output: list[bytes] = []

        async def read() -> None:
            assert process.stdout
            output.extend([chunk async for chunk in process.stdout])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            try:
                async with httpx.AsyncClient() as http:
                    with anyio.fail_after(20):
                        while True:
                            try:
                                assert (await http.get(f"http://127.0.0.1:{port}/")).status_code == 200
                                break
                            except httpx.ConnectError:
                                await anyio.sleep(0.05)
                yield f"http://127.0.0.1:{port}/"
            finally:
                process.terminate()
        await process.wait()
    text = b"".join(output).decode()
    assert "Finished server process" in text
    assert "Traceback" not in text, text
    assert "ERROR" not in text, text


@asynccontextmanager
async def tabs(browser: Browser, url: str, count: int = 2) -> AsyncIterator[list[Page]]:
    """Pages at `url`, which share cookies, and in which no script may fail and none of a message may run."""
    problems: list[str] = []
    async with await browser.new_context() as context:
        pages = [await context.new_page() for _ in range(count)]
        for page in pages:
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: problems.append(dialog.message))
            await page.goto(url)
        yield pages
    assert problems == []


async def join(page: Page, name: str, group: str = "") -> None:
    await page.get_by_label("Your name").fill(name)
    if group:
        await page.get_by_label("Your group").select_option(group)
    await page.get_by_role("button", name="Join").click()
    await expect(page.get_by_role("status")).to_contain_text("connected")


async def write(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()



class Lines:
    """What a page shows in its list of messages."""

    def __init__(self, page: Page) -> None:
        self._items = page.get_by_label("Messages").locator("li")

    async def are(self, *texts: str) -> None:
        await expect(self._items).to_have_text(list(texts))


async def test_simple_chat(browser: Browser, port: int) -> None:
    async with example("simple_chat", port) as url, tabs(browser, url) as (ann, eve):
        await join(ann, "  Ann  ")
        await join(eve, EVIL)
        await expect(ann.get_by_role("status")).to_have_text("connected, 2 online")
        await write(ann, "hi")
        await write(eve, EVIL)
        said = ["Ann: hi", f"{EVIL}: {EVIL}"]
        await expect(ann.locator("img")).to_have_count(0)
        await lines(eve).are(f"{EVIL} joined", *said)
        await eve.close()
        await lines(ann).are("Ann joined", f"{EVIL} joined", *said, f"{EVIL} left")

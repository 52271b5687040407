"""The tutorial is true: each step runs as copied, each mistake prints its sentence, and the last one is the example."""

import importlib.util
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import anyio.to_thread
import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.samples import ROOT
from tests.test_team import assert_typing, log_in, shows, write
from wsgateway.testing import Client, serve

TEAM = ROOT / "examples" / "team"
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
LAST = 5

_BLOCK = re.compile(r"^```(?:python|html)\n(?:# |<!-- )(\S+), step (\d)(?: -->)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def copied(step: int, folder: Path) -> Path:
    """Do what the tutorial says until the end of `step`, and return the folder of the application."""
    shutil.copytree(ROOT / "examples" / "shared", folder / "shared")
    (folder / "team" / "static").mkdir(parents=True)
    for name, number, code in _BLOCK.findall(TEXT):
        if int(number) <= step:
            (folder / "team" / name).write_text(code)
    return folder / "team"


def load(folder: Path, mistake: tuple[str, str] | None = None) -> ModuleType:
    """Import `app.py`, in which the first text of `mistake` is replaced by the second one."""
    file = folder / "app.py"
    if mistake is not None:
        assert mistake[0] in file.read_text()
        file.write_text(file.read_text().replace(*mistake))
    spec = importlib.util.spec_from_file_location("app", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser of its own, in whose pages no script may fail."""
    problems: list[str] = []
    async with await browser.new_context() as context:
        context.on("weberror", lambda error: problems.append(str(error.error)))
        yield context
    assert problems == []


async def opened(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    return page


async def test_step_1_shows_a_message_in_both_tabs(browser: Browser, tmp_path: Path) -> None:
    async with serve(load(copied(1, tmp_path)).app) as url, context(browser) as ann, Client(url, "/live/ws") as client:
        tabs = [await opened(ann, url), await opened(ann, url)]
        for tab, text in zip(tabs, ("hi", "<b>"), strict=True):
            await write(tab, text)
            assert await client.receive_json() == {"text": text}
        for tab, texts in zip(tabs, (["hi", "<b>"], ["hi", "<b>"]), strict=True):
            await expect(tab.locator("li")).to_have_text(texts)


async def test_step_2_shows_the_messages_after_a_reload(browser: Browser, tmp_path: Path) -> None:
    async with serve(load(copied(2, tmp_path)).app) as url, context(browser) as ann:
        tab = await opened(ann, url)
        await write(tab, "hi")
        line = re.compile(r"^\d.* hi$")
        await expect(tab.locator("li")).to_have_text([line])
        await tab.reload()
        await expect(tab.locator("li")).to_have_text([line])
        async with Client(url, "/live/ws?channel=room:tea&last=1", protocol="v1") as client:
            assert (await client.receive_json())["subscribed"] == "room:tea"
            assert (await client.receive_json())["message"]["text"] == "hi"


async def test_step_3_lets_members_in_and_nobody_else(browser: Browser, tmp_path: Path) -> None:
    async with serve(load(copied(3, tmp_path)).app) as url, context(browser) as ann, context(browser) as bob:
        page, other = await opened(ann, url), await opened(bob, url)
        await log_in(page, "ann", "wrong")
        await expect(page.get_by_role("alert")).to_have_text("Wrong name or password")
        await log_in(page, "ann", "wonderland")
        await log_in(other, "bob", "builder")
        await expect(other.locator("#status")).to_have_text("connected")
        await write(page, "hi")
        for each in (page, other):
            await expect(each.locator("li b")).to_have_text(["ann"])
            await shows(each, "hi")
        await other.get_by_role("link", name="Change user").click()
        await log_in(other, "eve", "apple")
        await shows(other, "eve is not a member of room:tea")
        async with Client(url, "/live/ws") as visitor:
            assert await visitor.closed() == (3500, "log in first")


async def test_step_4_shows_the_members_and_who_is_typing(browser: Browser, tmp_path: Path) -> None:
    async with serve(load(copied(4, tmp_path)).app) as url, context(browser) as ann, context(browser) as bob:
        page, other = await opened(ann, url), await opened(bob, url)
        await log_in(page, "ann", "wonderland")
        await log_in(other, "bob", "builder")
        await expect(page.locator("#members")).to_have_text("ann, bob")
        await assert_typing(page, other, "bob")
        await write(other, "hi")
        await shows(page, "hi")
        await expect(page.locator("#typing")).to_be_empty()
        await expect(other.locator("li.own")).to_have_count(1)
        await other.close()
        await expect(page.locator("#members")).to_have_text("ann")


def block(language: str, beginning: str) -> str:
    """Return the block of code that begins with `beginning`."""
    found = re.search(rf"^```{language}\n({re.escape(beginning)}.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


async def test_the_log_out_closes_every_device(browser: Browser, tmp_path: Path) -> None:
    folder = copied(LAST, tmp_path)
    page = folder / "static" / "index.html"
    link = '<a href="login.html">Change user</a>'
    assert link in page.read_text()
    page.write_text(page.read_text().replace(link, block("html", '<form method="post" action="logout">').rstrip()))
    last = 'app.mount("/", '
    module = load(folder, (last, block("py", '@app.post("/logout")') + last))
    async with serve(module.app) as url, context(browser) as ann, context(browser) as other:
        for device in (ann, other):
            await log_in(await opened(device, url), "ann", "wonderland")
            await expect(device.pages[0].locator("#status")).to_have_text("connected")
        await ann.pages[0].get_by_role("button", name="Log out").click()
        for device in (ann, other):
            await expect(device.pages[0].get_by_role("button", name="Log in")).to_be_visible()
        assert await ann.cookies() == []


def test_the_last_step_is_the_example(tmp_path: Path) -> None:
    folder = copied(LAST, tmp_path)
    files = ("app.py", "static/index.html", "static/login.html")
    assert [(folder / name).read_text() for name in files] == [(TEAM / name).read_text() for name in files]
    assert {path.name for path in (TEAM / "static").iterdir()} == {"index.html", "login.html"}


async def test_a_forgotten_lifespan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = load(copied(1, tmp_path), ("FastAPI(lifespan=gateway.lifespan)", "FastAPI()"))
    async with serve(module.app) as url, Client(url, "/live/ws"):
        pass
    await module.gateway.stop()
    assert_printed(caplog, "the gateway's lifespan was not run")


async def test_a_namespace_without_any_permission(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = load(copied(2, tmp_path), (', "public": True', ""))
    async with serve(module.app) as url:
        with pytest.raises(Exception, match="HTTP 403"):
            await Client(url, "/live/ws", channels=["room:tea"]).__aenter__()
    assert_printed(caplog, "refused a subscription to room:tea")


async def test_a_forgotten_middleware(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = load(copied(3, tmp_path), ("app.add_middleware(", "dict(cls="))
    async with serve(module.app) as url:
        with pytest.raises(Exception, match="HTTP 500"):
            await Client(url, "/live/ws").__aenter__()
    assert_printed(caplog, "on_handshake failed")


def assert_printed(caplog: pytest.LogCaptureFixture, beginning: str) -> None:
    """Assert that the sentence of the tutorial that begins with `beginning` was logged."""
    block = re.search(rf"^```text\n({re.escape(beginning)}.*?)\n```$", TEXT, re.MULTILINE)
    assert block
    assert any(block[1] in record.getMessage() for record in caplog.records), caplog.text


async def test_a_thread_that_publishes_with_the_wrong_call(tmp_path: Path) -> None:
    mistake = ("gateway.publish_from_thread(", "asyncio.run(gateway.publish(")
    folder = copied(LAST, tmp_path)
    file = folder / "app.py"
    file.write_text(file.read_text().replace('channel=f"user:{user}")\n', 'channel=f"user:{user}"))\n'))
    module = load(folder, mistake)
    block = re.search(r"^```text\nRuntimeError: (.*)\n```$", TEXT, re.MULTILINE)
    assert block
    async with serve(module.app):
        with pytest.raises(RuntimeError, match=re.escape(block[1])):
            await anyio.to_thread.run_sync(module.make_report, "ann")

"""The JavaScript of the documentation, and its `curl` lines, as written: in Chromium, against the first sample."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from playwright.async_api import Browser, Page, expect
from starlette.responses import Response

from tests.samples import ROOT, run_sample, samples
from tests.test_docs_channels import CHANNELS, PROTOCOL, shape
from wsgateway import Gateway
from wsgateway.testing import serve


class Tab:
    """A page whose lines on the console the test waits for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.lines: list[str] = []
        self._changed = anyio.Event()
        page.on("console", lambda message: self._add(message.text))
        page.on("pageerror", lambda error: self._add(f"error: {error}"))

    def _add(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()
        self._changed = anyio.Event()

    async def run(self, code: str) -> None:
        await self.page.add_script_tag(content=code, type="module")

    async def shows(self, pattern: str) -> str:
        """Wait for a line that matches `pattern`, and return it."""
        with anyio.fail_after(20):
            while True:
                for line in self.lines:
                    assert not line.startswith("error"), line
                    if re.fullmatch(pattern, line):
                        return line
                await self._changed.wait()


@asynccontextmanager
async def tab(browser: Browser, page: str = CHANNELS, name: str = "rooms.py") -> AsyncIterator[tuple[Gateway, Tab]]:
    """Serve a sample, and open an empty page beside its gateway."""
    module = run_sample(page, name)
    worker = samples(PROTOCOL, "js")["worker.js"]
    for path, text, kind in (
        ("/", '<!doctype html><link rel=icon href="data:,"><body>', "text/html"),
        ("/worker.js", worker, "text/javascript"),
    ):
        module.app.add_route(path, lambda request, text=text, kind=kind: Response(text, media_type=kind))
    async with serve(module.app) as url, await browser.new_context() as context:
        page_ = await context.new_page()
        await page_.goto(url + "/")
        yield module.gateway, Tab(page_)


async def test_the_page_of_a_room(browser: Browser) -> None:
    async with tab(browser) as (_, ann):
        await ann.run(samples(CHANNELS, "js")["room"])
        await expect(ann.page.locator("body")).to_have_text("ann: hi")
        assert ann.lines == []


async def test_client_js_as_written(browser: Browser) -> None:
    async with tab(browser) as (_, ann):
        await ann.run(samples(PROTOCOL, "js")["client"])
        for line in ("status open.*", "recovered false", "ann joined 1", "ann wrote hi", r"accepted \w+:1"):
            await ann.shows(line)


async def test_an_event_source_receives_and_recovers(browser: Browser) -> None:
    async with tab(browser) as (gateway, ann):
        await ann.run(samples(PROTOCOL, "js")["events"])
        await ann.shows("recovered false")
        await gateway.publish({"text": "hi"}, channel="room:1")
        await ann.shows("message hi")
        await gateway.disconnect(list(gateway.connections), code=1012)
        await gateway.publish({"text": "missed"}, channel="room:1")
        await ann.shows("recovered true")
        await ann.shows("message missed")


async def test_a_stream_posts_to_its_session(browser: Browser) -> None:
    async with tab(browser) as (gateway, ann):
        await ann.run(samples(PROTOCOL, "js")["session"])
        await ann.shows("answered 200")
        newest = (await gateway.history("room:1")).publications
        assert [each.message for each in newest] == [{"from": "ann", "text": "hi"}]


async def test_tabs_share_a_worker(browser: Browser) -> None:
    async with tab(browser) as (gateway, ann):
        second = Tab(await ann.page.context.new_page())
        await second.page.goto(ann.page.url)
        for each in (ann, second):
            await each.run(samples(PROTOCOL, "js")["tab"])
            await each.shows("received ready")
        with anyio.fail_after(20):
            while "room:1" not in gateway.local_channels:
                await anyio.sleep(0.02)  # the worker connects
        await gateway.publish("hi", channel="room:1")
        for each in (ann, second):
            await each.shows("received hi")
        assert len(gateway.connections) == 1


def curl_lines(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(curl .*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [block.replace("\\\n", " ").strip() for block in blocks]


async def read_lines(command: str, count: int) -> list[str]:
    """Run `command`, and return the first lines that it prints, without empty ones."""
    lines: list[str] = []
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout
        with anyio.fail_after(20):
            text = ""
            async for chunk in process.stdout:
                text += chunk.decode()
                lines = [line for line in text.split("\n")[:-1] if line]
                if len(lines) >= count:
                    break
        process.terminate()
    return lines[:count]


async def test_curl_reads_events() -> None:
    async with serve(run_sample(CHANNELS, "rooms.py").app) as url:
        lines = await read_lines(curl_lines(PROTOCOL)[0].replace("http://127.0.0.1:8000", url), 6)
    assert [line.partition(":")[0] for line in lines] == ["retry", "event", "data", "event", "id", "data"]


async def test_curl_reads_lines_of_json_as_written() -> None:
    block = re.search(r"```json\n(\{\"open\".*?)```", (ROOT / PROTOCOL).read_text(), re.DOTALL)
    assert block
    async with serve(run_sample(CHANNELS, "rooms.py").app) as url:
        lines = await read_lines(curl_lines(PROTOCOL)[1].replace("http://127.0.0.1:8000", url), 2)
    received, written = ([json.loads(line) for line in each] for each in (lines, block[1].splitlines()))
    assert shape(_without_secret(received)) == shape(_without_secret(written))


def _without_secret(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert objects[0]["open"].pop("session")
    return objects


async def test_curl_publishes_to_the_channel_of_a_user() -> None:
    text = (ROOT / CHANNELS).read_text()
    answer = re.search(r"```json\n(\{\"id\".*?)```", text, re.DOTALL)
    assert answer
    gateway = Gateway(api_key="secret", channels={"user:*": {"history": 20}})
    async with serve(gateway) as url:
        command = curl_lines(CHANNELS)[0].replace("http://127.0.0.1:10125", url).replace("$KEY", "secret")
        printed = await anyio.run_process(["sh", "-c", command])
        assert json.loads(printed.stdout).keys() == json.loads(answer[1]).keys()
        assert (await gateway.history("user:42")).publications[0].message == {"order": 7}

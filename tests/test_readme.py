"""The README is true: it is short, and what it shows runs as copied."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
from fastapi import FastAPI, Request
from playwright.async_api import Browser, expect

from tests.ports import free_port
from tests.processes import environment
from tests.samples import ROOT, run_sample, samples
from tests.test_docs_browser import tab
from wsgateway import Gateway, client
from wsgateway.testing import Client, RecordingListener, serve

README = "README.md"
TEXT = (ROOT / README).read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_it_is_read_to_the_end() -> None:
    assert len(TEXT.splitlines()) <= 200
    code = [line for line in samples(README, "python")["chat.py"].splitlines() if line.strip()]
    assert len(code) <= 12


def write_chat(folder: Path) -> None:
    (folder / "chat.py").write_text(samples(README, "python")["chat.py"])
    (folder / "static").mkdir()
    first, _, page = blocks("html")[0].partition("\n")
    assert first == "<!-- static/index.html -->"
    (folder / "static" / "index.html").write_text(page)


@asynccontextmanager
async def served(command: str, folder: Path) -> AsyncIterator[str]:
    """Run `command` of the README on a free port, in `folder`. Yield the URL when the server is ready."""
    port = free_port()
    argv = [sys.executable, "-m", *command.replace("8000", str(port)).split()]
    async with await anyio.open_process(argv, cwd=folder, env=environment(), stdout=sys.stderr) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            with anyio.fail_after(30):
                await _wait_until_ready(url)
            yield url
        finally:
            process.terminate()


async def _wait_until_ready(url: str) -> None:
    async with httpx.AsyncClient() as http:
        while True:
            try:
                if (await http.get(f"{url}/live/ready")).status_code == 200:
                    return
            except httpx.ConnectError:
                await anyio.sleep(0.05)  # another process begins to listen, which nothing announces


async def test_the_first_two_files_are_a_chat_and_curl_pushes_to_it(tmp_path: Path, browser: Browser) -> None:
    write_chat(tmp_path)
    serving, curl = (block.strip() for block in blocks("sh") if "8000" in block)
    async with served(serving, tmp_path) as url:
        pages = [await browser.new_page() for _ in range(2)]
        for page in pages:
            await page.goto(url)
        async with httpx.AsyncClient() as http, Client(url, "/live/ws"):
            with anyio.fail_after(10):
                while len((await http.get(f"{url}/live/info")).json()["connections"]) < 3:
                    await anyio.sleep(0.02)  # the pages connect
        await pages[0].locator("input").fill("hello")
        await pages[0].locator("input").press("Enter")
        for page in pages:
            await expect(page.locator("body")).to_contain_text("hello")
        pushed = await anyio.run_process(["sh", "-c", curl.replace("http://127.0.0.1:8000", url)])
        assert b'"queued":2' in pushed.stdout
        for page in pages:
            await expect(page.locator("body")).to_contain_text("hello hi")
            await page.close()


async def test_rooms_have_history_and_members_and_a_user_has_several_devices(browser: Browser) -> None:
    script = samples(README, "js")["rooms"]
    async with tab(browser, README, "rooms.py") as (gateway, first):
        second = await first.page.context.new_page()
        await second.goto(first.page.url)
        await first.run(script)
        await expect(first.page.locator("body")).to_contain_text("ann: hi")
        await second.add_script_tag(content=script, type="module")
        await expect(second.locator("body")).to_have_text(
            re.compile(r"^ann: hi .*ann: hi $")
        )  # the first from the history
        await expect(first.page.locator("body")).to_contain_text("ann has joined")
        async with httpx.AsyncClient(base_url=first.page.url) as http:
            assert (await http.post("orders/7", params={"user": "ann"})).status_code == 200
        for page in (first.page, second):
            await expect(page.locator("body")).to_contain_text("order 7 has shipped")
        assert {member.user for member in (await gateway.presence("room:1")).members} == {"ann"}


async def test_only_clients_with_a_session_connect() -> None:
    module = run_sample(README, "session.py")
    app: FastAPI = module.app

    @app.post("/login")
    def log_in(request: Request) -> None:
        request.session["user"] = "ann"

    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        async with Client(url, "/live/ws") as nobody:
            assert await nobody.closed() == (3500, "log in first")
        await http.post("/login")
        cookie = f"session={http.cookies['session']}"
        async with Client(url, "/live/ws", additional_headers={"cookie": cookie}):
            assert [connection.user for connection in module.gateway.connections] == ["ann"]


async def test_each_call_of_the_table_pushes() -> None:
    gateway = Gateway(listener=RecordingListener, api_key=["KEY"], channels={"prices": {"public": True}})
    calls = re.findall(r"^\| [^|]* \| `(?:await )?((?:gateway|wsgateway)\..*?)` \|$", TEXT, re.MULTILINE)
    assert len(calls) == 3
    body, header = re.findall(r"`POST /live/send` with `(.*?)` and `Authorization: (Bearer KEY)`", TEXT)[0]
    app = FastAPI(lifespan=gateway.lifespan)
    app.mount("/live", gateway)
    async with serve(app) as url, Client(url, "/live/ws?channel=prices") as ann:

        async def check(call: str) -> None:
            code = call.replace("wsgateway.client", "client").replace("http://127.0.0.1:8000", url).replace("…", "KEY")
            if call.startswith("gateway.publish("):
                await eval(code, {"gateway": gateway})
            else:
                await anyio.to_thread.run_sync(lambda: eval(code, {"gateway": gateway, "client": client}))
            assert await ann.receive_json() == {"price": 42}

        for call in calls:
            await check(call)
        headers = {"authorization": header, "content-type": "application/json"}
        async with httpx.AsyncClient() as http:
            assert (await http.post(f"{url}/live/send", content=body, headers=headers)).status_code == 200
        assert await ann.receive_json() == {"price": 42}


def test_the_test_of_the_chat_passes(tmp_path: Path) -> None:
    write_chat(tmp_path)
    (tmp_path / "test_chat.py").write_text(samples(README, "python")["test_chat.py"])
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "--rootdir",
        str(tmp_path),
    ]
    ran = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr

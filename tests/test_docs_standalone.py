"""The page about a backend in another language is true: its files run as written, beside a real `wsgateway serve`."""

import http.server
import json
import re
import shlex
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
from playwright.async_api import Browser, expect

from tests.ports import free_port
from tests.processes import run, serving
from tests.samples import ROOT, run_sample
from tests.test_client_js_node import node
from tests.test_docs_channels import V1
from wsgateway import Gateway
from wsgateway.testing import serve

PAGE = "docs/how-to/standalone.md"
TEXT = (ROOT / PAGE).read_text()
SDK = ROOT / "examples" / "centrifuge_js" / "vendor" / "centrifuge-5.8.0.js"
FILES = ("wsgateway.toml", "backend.mjs", "page.html", "worker.mjs")


def sample(name: str) -> str:
    """Return a file of the page, in any language."""
    found = re.search(rf"^```\w+\n(?:#|//|<!--) {re.escape(name)}.*?\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert found, name
    return found[1]


def command(start: str) -> str:
    (line,) = [line for line in TEXT.splitlines() if line.startswith(start)]
    return line


def write(folder: Path, name: str, gateway: str, backend: int) -> None:
    text = sample(name).replace("localhost:10125", gateway).replace("localhost:3000", f"localhost:{backend}")
    text = text.replace("listen(3000)", f"listen({backend})")
    if name == "worker.mjs":  # with the SDK of the examples, and the WebSocket of Node
        sdk = "import fs from 'node:fs';\nimport vm from 'node:vm';\n"
        sdk += f"vm.runInThisContext(fs.readFileSync('{SDK}', 'utf8'));"
        text = text.replace('import { Centrifuge } from "centrifuge";', sdk).replace('import WebSocket from "ws";', "")
    (folder / name).write_text(text)


@contextmanager
def program(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([node(), *arguments], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def shell(folder: Path, line: str) -> str:
    return subprocess.run(line, shell=True, cwd=folder, check=True, capture_output=True, text=True, timeout=30).stdout


async def until_answers(url: str) -> None:
    with anyio.fail_after(20):
        async with httpx.AsyncClient() as http:
            while True:
                try:
                    await http.get(url)
                    return
                except httpx.TransportError:
                    await anyio.sleep(0.05)  # Node does not report that it listens


async def until_subscribed(url: str, key: str, count: int) -> None:
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": key}) as http:
        with anyio.fail_after(20):
            while True:
                answer = await http.post("/api/presence_stats", json={"channel": "room:1"})
                if answer.json()["result"]["num_clients"] == count:
                    return
                await anyio.sleep(0.05)  # the program prints nothing until it receives a message


async def test_a_page_and_a_program_receive_from_each_other_and_from_the_backend(
    browser: Browser, tmp_path: Path
) -> None:
    backend = free_port()
    write(tmp_path, "wsgateway.toml", "", backend)
    shell(tmp_path, command("(umask 077"))
    secrets = dict(shlex.split(command("export WSGATEWAY"))[index].split("=") for index in (1, 2))
    with serving("--admin-port", "0", cwd=tmp_path, env=secrets) as served:
        gateway = served.url.removeprefix("http://").replace("127.0.0.1", "localhost")
        for name in FILES[1:]:
            write(tmp_path, name, gateway, backend)
        with program(tmp_path, "backend.mjs"):
            await until_answers(f"http://localhost:{backend}/")
            with program(tmp_path, "--experimental-websocket", "--no-warnings", "worker.mjs") as worker:
                page = await browser.new_page()
                await page.goto(f"http://localhost:{backend}/")
                await page.fill("input", "hi")
                await page.click("button")
                await expect(page.locator("li")).to_have_text(["ann: hi"])
                await until_subscribed(served.url, (tmp_path / "api_key").read_text().strip(), 2)
                shell(tmp_path, command("curl -X POST").replace("localhost:3000", f"localhost:{backend}"))
                line = command("curl -H").replace("localhost:10125", gateway)
                answer = shell(tmp_path, line)
                await expect(page.locator("li")).to_have_text(["ann: hi", "backend: an order", "backend: good night"])
                assert '"recipients":2' in answer.replace(" ", "")
                assert '"id":"default"' in answer.replace(" ", "")
                received: list[str] = []
                assert worker.stdout
                with anyio.fail_after(20):
                    while "received good night\n" not in received:
                        received.append(await anyio.to_thread.run_sync(worker.stdout.readline))
                refused = line.replace('"channel"', '"chanel"').replace("curl", "curl -s")
                assert "did you mean channel?" in shell(tmp_path, refused)
                await page.close()


def test_the_settings_have_no_mistake_and_open_no_channel_to_strangers(tmp_path: Path) -> None:
    write(tmp_path, "wsgateway.toml", "", 3000)
    checked = run("check", cwd=tmp_path, env={"WSGATEWAY_TOKEN_SECRET": "x" * 32, "WSGATEWAY_API_KEY": "k"})
    assert checked.returncode == 0, checked.stderr
    assert "# no mistakes found" in checked.stdout
    channels = tomllib.loads(sample("wsgateway.toml"))["channels"]
    assert not any(settings.get("public") for settings in channels.values())


class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        fields = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200 if fields["name"] == "double" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(2 * fields["message"]).encode())

    def log_message(self, *_: object) -> None:
        pass


async def test_a_backend_answers_requests_over_http() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Backend) as backend:
        serving = threading.Thread(target=backend.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{backend.server_port}"
        listener = run_sample(PAGE, "ask.py", {"http://localhost:3000": url}).Ask()
        async with listener.http, serve(Gateway(listener)) as gateway, V1(gateway) as client:
            assert await client.ask(request=4, id=1, name="double") == {"reply": 8, "id": 1}
            assert (await client.ask(request=4, id=2, name="other"))["status"] == 403
        await anyio.to_thread.run_sync(backend.shutdown)
        serving.join()

"""The README is true: its table of settings, its code, its commands."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from playwright.async_api import Browser

from tests.ports import free_port
from tests.processes import environment
from wsgateway import Gateway, MessageEvent
from wsgateway.cli.commands import SERVE_DEFAULTS
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.settings import SPECS
from wsgateway.testing import Client, RecordingListener, serve

README = Path(__file__).parent.parent / "README.md"
HEAD = "| setting | default | what it is |\n|---|---|---|\n"


def settings_table() -> str:
    lines = []
    for name, spec in SPECS.items():
        shown = _shown(SERVE_DEFAULTS.get(name, spec.default))
        if name == "local_access":
            shown = "true; in code false"
        lines.append(f"| `{name}` | {shown} | {spec.metadata['help']} |\n")
    return HEAD + "".join(lines)


def channel_settings_table() -> str:
    specs = fields(ChannelSettings)
    lines = [f"| `{spec.name}` | {_shown(spec.default)} | {spec.metadata['help']} |\n" for spec in specs]
    return HEAD + "".join(lines)


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ", ".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default) if default else ""


@pytest.mark.parametrize(
    ("page", "name"),
    [("README.md", "settings"), ("README.md", "channel settings"), ("docs/how-to/channels.md", "channel settings")],
)
def test_the_tables_of_settings_are_those_of_the_declarations(page: str, name: str) -> None:
    table = settings_table() if name == "settings" else channel_settings_table()
    file = README.parent / page
    text = file.read_text()
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    assert text.count(start) == 1
    before, _, rest = text.partition(start)
    found, _, after = rest.partition(end)
    if os.environ.get("WRITE_README"):
        file.write_text(before + start + table + end + after)
    else:
        assert found == table, "run: WRITE_README=1 python -m pytest tests/test_readme.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


async def test_the_first_example_runs_and_its_curl_line_pushes(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(blocks("python")[0])
    port = str(free_port())
    serving, curl = (line for line in blocks("sh")[0].splitlines() if not line.startswith("#"))
    assert serving == "uvicorn chat:app --port 8000"
    argv = [sys.executable, "-m", *serving.replace("8000", port).split()]
    async with await anyio.open_process(argv, cwd=tmp_path, env=environment(), stdout=sys.stderr) as process:
        url = f"http://127.0.0.1:{port}/live"
        async with httpx.AsyncClient() as http:
            with anyio.fail_after(20):
                while True:
                    try:
                        assert (await http.get(url + "/ready")).status_code == 200
                        break
                    except httpx.ConnectError:
                        await anyio.sleep(0.05)  # another process begins to listen
        async with Client(url) as ann:
            pushed = await anyio.run_process(["sh", "-c", curl.replace("8000", port)])
            assert b'"queued":1' in pushed.stdout
            assert await ann.receive() == "somebody said: hi"
        process.terminate()


async def test_the_listener_of_the_readme_works() -> None:
    names: dict[str, Any] = {}
    exec(next(code for code in blocks("python") if "class Rooms" in code), names)
    async with serve(Gateway(listener=names["Rooms"])) as url:
        async with Client(url, "/ws/a?name=Ann") as ann, Client(url, "/ws/a?name=Bob") as bob:
            async with Client(url, "/ws/b?name=Eve") as eve:
                assert [await c.receive_json() for c in (ann, bob, eve)] == [
                    {"welcome": name} for name in ("Ann", "Bob", "Eve")
                ]
                await ann.send("hi")
                await eve.send("alone")
                assert await ann.receive_json() == await bob.receive_json() == {"from": "Ann", "text": "hi"}
                assert await eve.receive_json() == {"from": "Eve", "text": "alone"}
        async with Client(url) as nobody:
            assert await nobody.closed() == (3500, "say who you are")


async def test_the_javascript_of_the_readme_runs_in_a_browser(browser: Browser) -> None:
    class Listener(RecordingListener):
        async def on_message(self, event: MessageEvent) -> None:
            await super().on_message(event)
            assert event.conn
            await event.conn.send("an answer")
            await event.conn.close(3500, "enough")

    listener = Listener()
    async with serve(Gateway(listener=listener)) as url:
        page = await browser.new_page()
        lines: list[str] = []
        page.on("console", lambda message: lines.append(message.text))
        await page.goto(url + "/health")
        script = next(code for code in blocks("js") if "new WebSocket" in code).replace("127.0.0.1:10125", url[7:])
        await page.evaluate(f"() => {{ {script} }}")
        await listener.wait_for("on_client_close")
        with anyio.fail_after(10):
            while "closed with 3500 enough do not come back" not in lines:
                await page.evaluate("1")
        await page.close()
    assert ("on_message", "hello") in listener.events
    assert "received an answer" in lines


@pytest.mark.parametrize(
    "command", ["wsgateway init", "wsgateway check", "wsgateway listen", "wsgateway send", "wsgateway serve"]
)
def test_the_commands_that_it_names_are_there(command: str) -> None:
    assert command in README.read_text()
    subprocess.run([sys.executable, "-m", *command.split(), "--help"], check=True, capture_output=True)

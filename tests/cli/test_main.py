"""The command line, in processes of its own."""

import json
import re
import signal
import socket
import subprocess
import time
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import get_type_hints

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from websockets.exceptions import ConnectionClosed

from tests.hub.test_connection import stalled
from tests.processes import COMMAND, environment, run, run_here, serving
from wsgateway import Gateway
from wsgateway.cli import listen
from wsgateway.cli.commands import COMMANDS
from wsgateway.cli.main import COMMAND_TOPICS, main
from wsgateway.config.channels import ChannelOptions
from wsgateway.config.settings import SPECS
from wsgateway.listeners.runner import MAX_CLOSE_HOOKS
from wsgateway.testing import Client, serve

LISTENER = """
import asyncio, json
from pathlib import Path

class Listener:
    def __init__(self):
        self.closes, self.running, self.most = [], 0, 0

    async def on_client_open(self, event):
        await event.conn.send("ready")

    async def on_client_close(self, event):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)  # long enough that hooks overlap
        self.running -= 1
        self.closes.append((event.conn.id, event.code))

    async def on_stop(self, event):
        Path("closes.json").write_text(json.dumps({"closes": self.closes, "most": self.most}))
"""


async def test_init_serve_listen_send(tmp_path: Path) -> None:
    wrote = run("init", cwd=tmp_path)
    assert wrote.returncode == 0
    assert "wsgateway serve" in wrote.stdout
    assert run("init", cwd=tmp_path).returncode == 1
    assert set(tomllib.loads((tmp_path / "wsgateway.toml").read_text())) == {"listener"}
    with serving("--admin-port", "0", cwd=tmp_path) as served:
        async with Client(served.url, "/ws?name=Ann") as ann:
            assert await ann.receive() == "Welcome, Ann."
            await ann.send("hi")
            assert await ann.receive() == "Ann: hi"
            sent = run("send", "--url", served.url + "/send", "--json", '{"n": 1}', cwd=tmp_path)
            assert (sent.returncode, sent.stdout) == (0, "recipients 1, queued 1, dropped 0\n")
            assert await ann.receive_json() == {"n": 1}
        async with httpx.AsyncClient() as http:
            panel = re.search(r'"panel": "([^"]+)"', (await http.get(served.url)).text)
            assert panel
            assert (await http.get(panel[1])).status_code == 200
        assert served.terminate() == 0
    log = (tmp_path / "WebSocket.log").read_text()
    for word in ("initialized", "starting on http://127.0.0.1:", "started on ", "stopping on ", "stopped on "):
        assert f"[default] {word}" in log


def test_the_starter_settings_are_all_of_the_declaration(tmp_path: Path) -> None:
    run("init", cwd=tmp_path)
    text = (tmp_path / "wsgateway.toml").read_text()
    uncommented = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    tables = tomllib.loads(uncommented)
    assert set(tables) == set(SPECS) - {"id"}
    assert list(tables["channels"]["room:*"]) == list(get_type_hints(ChannelOptions))
    (tmp_path / "wsgateway.toml").write_text(uncommented)
    checked = run("check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


LOGGED_IN = """
from wsgateway import Refused

class Listener:
    def on_handshake(self, event):
        if event.conn.cookies.get("session") != "of-ann":
            raise Refused(401, "log in first")
"""


async def test_listen_prints_what_arrives_and_sends_lines(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(LOGGED_IN)
    with serving("--listener", "chat.py:Listener", cwd=tmp_path) as served:
        url = "ws" + served.url[4:] + "/ws?token=secret"
        argv = [*COMMAND, "listen", url, "--header", "Cookie: session=of-ann"]
        async with await anyio.open_process(argv, env=environment(), stdout=subprocess.PIPE) as process:
            try:
                assert process.stdin
                assert process.stdout
                assert process.stderr
                await process.stdin.send(b"hello\n")
                with anyio.fail_after(20):
                    assert await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100) == b"hello"
                    assert await anyio.to_thread.run_sync(served.terminate) == 0
                    assert await process.wait() == 0
                    told = await process.stderr.receive()
            finally:
                if process.returncode is None:
                    process.kill()
            assert b"secret" not in told
    assert "secret" not in served.stderr
    assert "secret" not in (tmp_path / "WebSocket.log").read_text()


async def test_listen_prints_why_the_server_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Gateway()) as url:
        assert await anyio.to_thread.run_sync(listen.run, url + "/wss", {}) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"wsgateway: cannot connect to ws{url[4:]}/wss: the server answers 404: ")
    assert "there is no WebSocket at /wss, it is at /ws" in error
    assert len(error.splitlines()) == 1


def test_check_prints_settings_and_their_sources_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text('drain = 3\n[gateways.shop]\nport = 8123\napi_key = ["hidden"]\n')
    checked = run("check", "--verbose", cwd=tmp_path, env={"WSGATEWAY_PING_INTERVAL": "7", "WSGATEWAY_PROT": "1"})
    assert checked.returncode == 0
    lines = checked.stdout.splitlines()
    assert 'id = "shop"  # wsgateway.toml [gateways.shop]' in lines
    assert "drain = 3.0  # wsgateway.toml" in lines
    assert "port = 8123  # wsgateway.toml [gateways.shop]" in lines
    assert "ping_interval = 7.0  # WSGATEWAY_PING_INTERVAL" in lines
    assert "verbose = true  # --verbose" in lines
    assert 'api_key = "***"  # wsgateway.toml [gateways.shop]' in lines
    assert "hidden" not in checked.stdout + checked.stderr
    assert "WSGATEWAY_PROT is not a setting and is ignored, did you mean WSGATEWAY_PORT?" in checked.stderr


FAILED_STARTS = {
    "no TOML": ({"wsgateway.toml": "port = \n"}, [], ["wsgateway.toml is not TOML", "line 1"]),
    "three wrong settings": (
        {"wsgateway.toml": "prot = 1\n"},
        ["--drain", "x", "--slow-policy", "never"],
        ["prot (wsgateway.toml): there is no such setting, did you mean port?", "--drain: 'x'", "--slow-policy"],
    ),
    "no such file": ({}, ["--config", "none.toml"], ["none.toml"]),
    "no such listener": ({}, ["--listener", "nowhere:Chat"], ["there is no module 'nowhere'"]),
    "no such listener file": ({}, ["--listener", "nowhere.py"], ["there is no such file"]),
    "no such name": ({"chat.py": "class Chat: ...\n"}, ["--listener", "chat:Chta"], ["did you mean Chat?"]),
    "raises on import": ({"chat.py": "1 / 0\n"}, ["--listener", "chat"], ["ZeroDivisionError", "chat.py:1"]),
    "syntax error": ({"chat.py": "def (\n"}, ["--listener", "chat.py"], ["SyntaxError", "line 1"]),
    "hook missing": (
        {"chat.py": "def onMessage(event): ...\n"},
        ["--listener", "chat", "--on-message", "onMesage"],
        ["on_message = 'onMesage'", "did you mean onMessage?"],
    ),
    "no hooks": (
        {"chat.py": "class Listener:\n    def on_message(self, event): ...\n"},
        ["--listener", "chat.py"],
        ["chat.py has a class Listener with on_message: write chat.py:Listener"],
    ),
    "no hooks in a module": ({}, ["--listener", "json"], ["listener 'json' has no hooks"]),
    "a hook without an event": (
        {"chat.py": "def on_message(): ...\n"},
        ["--listener", "chat"],
        ["cannot be called with one event"],
    ),
    "a key file without a key": ({"key": "\n"}, [], ["WSGATEWAY_API_KEY_FILE: 'key' does not contain a key"]),
    "an empty key": ({}, ["--api-key", ""], ["--api-key: it is empty"]),
    "a file in UTF-16": ({"wsgateway.toml": "port\0"}, [], ["wsgateway.toml is UTF-16 or binary, save it as UTF-8"]),
    "on_start raises": ({"chat.py": "def on_start(event): 1 / 0\n"}, ["--listener", "chat"], ["on_start failed"]),
    "no certificate": ({}, ["--ssl-keyfile", "k.pem", "--ssl-certfile", "c.pem"], ["ssl_certfile"]),
}


@pytest.mark.parametrize("name", FAILED_STARTS)
def test_a_start_that_fails_says_what_and_where(name: str, tmp_path: Path) -> None:
    files, arguments, words = FAILED_STARTS[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    env = {"WSGATEWAY_API_KEY_FILE": "key"} if "key" in files else {}
    failed = run("serve", "--port", "0", *arguments, cwd=tmp_path, env=env)
    assert failed.returncode == 3, failed.stderr
    assert all(word in failed.stderr for word in words), failed.stderr
    if name != "on_start raises":  # whose traceback is the owner's to read
        assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("name", ["no hooks", "a hook without an event", "no such listener", "an empty key"])
def test_check_and_doctor_find_it_before_the_start(name: str, tmp_path: Path) -> None:
    files, arguments, words = FAILED_STARTS[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    for command in ("check", "doctor"):
        failed = run_here(command, *arguments, cwd=tmp_path)
        assert failed.returncode == 1
        assert all(word in failed.stdout + failed.stderr for word in words), failed.stderr
        assert "Traceback" not in failed.stderr


def test_check_and_doctor_show_a_pattern_that_allows_nothing(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text('[gateways.a]\n[gateways.b]\n[admin]\nlisteners = ["hooks/*"]\n')
    for command in ("check", "doctor"):
        done = run_here(command, cwd=tmp_path)
        assert (done.stdout + done.stderr).count("'hooks/*' allows nothing") == 1


@pytest.mark.parametrize("words", [["--api-kye=SECRET"], ["--api-kye", "SECRET"], ["--tokn", "SECRET", "--prot", "1"]])
def test_what_follows_an_unknown_flag_is_not_printed(words: list[str], tmp_path: Path) -> None:
    failed = run_here("serve", *words, cwd=tmp_path)
    assert failed.returncode == 2
    assert "did you mean --" in failed.stderr
    assert "SECRET" not in failed.stderr + failed.stdout


def test_a_taken_port_fails_with_the_reason(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        failed = run("serve", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert failed.returncode == 3
    assert "cannot listen on 127.0.0.1:" in failed.stderr
    assert "--port" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "cannot listen on" in (tmp_path / "WebSocket.log").read_text()


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["serve", "--prot", "1"], ["send"], ["send", "--json", "{"]])
def test_wrong_usage_is_2(arguments: list[str], tmp_path: Path) -> None:
    failed = run_here(*arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr


def test_an_unknown_flag_is_reported_with_the_nearest_and_all_other_mistakes(tmp_path: Path) -> None:
    failed = run_here("serve", "--prot", "1", "--drain", "x", cwd=tmp_path)
    assert "--prot is not known, did you mean --port?" in failed.stderr
    assert "--drain: 'x'" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["serve", "a.py"],
            "`wsgateway serve` takes no arguments, so a.py is not expected; a listener is given as --listener a.py",
        ),
        (["check", "port=1"], "port=… is not expected; write it as an option: --port=…"),
        (["init", "a", "b"], "b is one word too many; see `wsgateway init --help`"),
        (
            ["reload", "chat"],
            "`wsgateway reload` takes no arguments, so chat is not expected; see `wsgateway reload --help`",
        ),
        (["send", "hi", "ann"], "ann is one word too many; put a message of several words in quotes"),
        (["edit", "chat"], "name at least one setting, such as port=10126"),
        (
            ["listen", "ws://127.0.0.1:1"],
            "cannot connect to ws://127.0.0.1:1: Connection refused; is the gateway running?",
        ),
    ],
)
def test_a_mistake_of_a_beginner_is_answered_with_the_way_out(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) in (1, 2)
    assert capsys.readouterr().err == f"wsgateway: {sentence}\n"


def test_send_that_is_refused_or_not_answered_is_1(tmp_path: Path) -> None:
    nobody = run_here("send", "x", "--url", "http://127.0.0.1:1/send?key=secret", cwd=tmp_path)
    assert nobody.returncode == 1
    assert "is the gateway running?" in nobody.stderr
    assert "secret" not in nobody.stderr
    with serving(cwd=tmp_path, env={"WSGATEWAY_API_KEY": "a,b"}) as served:
        refused = run_here("send", "x", "--url", served.url + "/send", cwd=tmp_path)
        assert refused.returncode == 1
        assert "401" in refused.stderr
        sent = run("send", "x", "--url", served.url + "/send", cwd=tmp_path, env={"WSGATEWAY_API_KEY": "b"})
        assert sent.returncode == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_sigterm_with_500_clients_and_five_more_that_are_stuck(tmp_path: Path, loop: str) -> None:
    (tmp_path / "listener.py").write_text(LISTENER)
    hide = {} if loop == "uvloop" else {"PYTHONPATH": str(hidden_uvloop(tmp_path))}
    with serving("--listener", "listener.py:Listener", "--drain", "10", cwd=tmp_path, env=hide) as served:
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            for _ in range(5):
                await stack.enter_async_context(stalled(served.url))
            clients = [Client(served.url) for _ in range(500)]
            for client in clients:
                await client.__aenter__()
                assert await client.receive() == "ready"

            async def drain(client: Client) -> None:
                with anyio.fail_after(30), pytest.raises(ConnectionClosed):
                    while True:
                        await client.socket.recv()

            for client in clients:
                tasks.start_soon(drain, client)
            big = json.dumps({"message": "x" * 500_000})
            async with httpx.AsyncClient() as http:
                for _ in range(8):
                    answer = await http.post(
                        served.url + "/send", content=big, headers={"content-type": "application/json"}
                    )
                    assert answer.status_code == 200
            with anyio.fail_after(10):  # the drain
                code = await anyio.to_thread.run_sync(served.terminate, abandon_on_cancel=True)
            assert code == 0, served.stderr
        assert {client.socket.close_code for client in clients} == {1012}
    found = json.loads((tmp_path / "closes.json").read_text())
    assert len(found["closes"]) == len({conn for conn, _ in found["closes"]}) == 505
    assert {code for _, code in found["closes"]} <= {1012, 3008}
    assert found["most"] <= MAX_CLOSE_HOOKS
    assert "Traceback" not in served.stderr


def hidden_uvloop(folder: Path) -> Path:
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "uvloop.py").write_text("raise ImportError\n")
    return hidden


async def test_sigterm_does_not_wait_for_a_hook_in_a_thread(tmp_path: Path) -> None:
    (tmp_path / "listener.py").write_text(  # its sleep is the hook that never ends, nobody waits for it
        "import time\ndef on_message(event):\n    event.gateway.log.info('in')\n    time.sleep(1000)\n"
    )
    with serving("--listener", "listener.py", "--drain", "0.2", cwd=tmp_path) as served:
        async with Client(served.url) as ann:
            await ann.send("x")
            with anyio.fail_after(10):
                while "in" not in served.stderr.split("started")[-1]:
                    await anyio.sleep(0.01)  # another process writes it
            assert await anyio.to_thread.run_sync(served.terminate) == 0


async def test_a_second_sigterm_ends_it_now(tmp_path: Path) -> None:
    (tmp_path / "listener.py").write_text(  # its sleep is what the first SIGTERM waits for, and the second does not
        "import asyncio\nasync def on_client_close(event):\n    await asyncio.sleep(1000)\n"
    )
    with serving("--listener", "listener.py", "--hook-timeout", "1000", cwd=tmp_path) as served:
        async with Client(served.url):
            served.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(10):
                while "stopping" not in served.stderr:
                    await anyio.sleep(0.01)  # another process writes it
            served.process.send_signal(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(lambda: served.process.wait(10)) == 1


async def test_a_unix_socket_and_its_stale_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with serving("--uds", str(path), "--api-key", "k", cwd=tmp_path) as served:
        assert served.url == f"unix:{path}"
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport) as http:
            headers = {"authorization": "Bearer k"}
            assert (await http.get("http://localhost/info", headers=headers)).status_code == 200
        assert served.terminate() == 0
    assert not path.exists()


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wsgateway 0.")
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all("--" + name.replace("_", "-") in shown for name in SPECS if name != "channels")


def test_without_a_command_it_lists_all_by_topic_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert sorted(name for names in COMMAND_TOPICS.values() for name in names) == sorted(
        command.name or "" for command in COMMANDS
    )
    lines = shown.err.splitlines()
    for topic, names in COMMAND_TOPICS.items():
        at = lines.index(f"{topic}:")
        for name, line in zip(names, lines[at + 1 :], strict=False):
            assert re.fullmatch(rf"  {name} +[A-Z].*\.", line), "one line for each command"
    assert lines[-1] == "Next: `wsgateway init` writes a listener, and `wsgateway serve` runs it."
    (tmp_path / "wsgateway.toml").touch()
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.endswith("Next: `wsgateway serve` runs the gateways of wsgateway.toml.\n")


BLOCKING = """
import time

async def on_message(event):
    print("blocking", flush=True)
    while True:
        time.sleep(0.01)  # the block
"""


async def test_a_second_sigterm_ends_it_while_a_hook_blocks_the_loop(tmp_path: Path) -> None:
    (tmp_path / "listener.py").write_text(BLOCKING)
    with serving("--listener", "listener.py", cwd=tmp_path) as served:
        async with Client(served.url) as ann:
            await ann.send("x")
            assert served.process.stdout is not None
            while (await anyio.to_thread.run_sync(served.process.stdout.readline)).strip() != "blocking":
                pass
            for _ in range(2):
                served.process.send_signal(signal.SIGTERM)
                await anyio.sleep(0.1)  # two of one kind at once may become one
            assert await anyio.to_thread.run_sync(lambda: served.process.wait(10)) == 1


SLOW = """
import asyncio
from pathlib import Path

async def on_start(event):
    Path("starting").touch()
    await asyncio.sleep(1)  # the signal comes during it

async def on_stop(event):
    Path("stopped").touch()
"""


def test_a_sigterm_while_it_starts_ends_it_in_order(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--listener", "slow.py"], cwd=tmp_path, env=environment()
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "starting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # another process does it
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert (tmp_path / "stopped").exists()


async def test_the_unix_socket_of_a_successor_stays(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with serving("--uds", str(path), cwd=tmp_path) as first:
        path.unlink()  # as a server does that finds nobody listening there, while this one still drains
        (tmp_path / "second").mkdir()
        with serving("--uds", str(path), cwd=tmp_path / "second") as second:
            assert first.terminate() == 0
            assert path.exists()
            assert second.terminate() == 0
    assert not path.exists()

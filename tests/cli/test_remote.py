"""The commands that manage a running server. Those that end by themselves run in this process, which is faster."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from tests import processes
from tests.servers import free_socket
from wsgateway.testing import Client

FILE = """\
[gateways.chat]
port = 0

[admin]
port = {port}
token = ["secret"]
"""


class Running:
    """A server with an admin interface, and the commands against it."""

    def __init__(self, folder: Path, served: processes.Served) -> None:
        self.folder = folder
        self.served = served

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = processes.run_here(*arguments, cwd=self.folder)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with free_socket() as probe:
        port = probe.getsockname()[1]
    (tmp_path / "wsgateway.toml").write_text(FILE.format(port=port))
    with processes.serving(cwd=tmp_path, command=[*processes.COMMAND, "serve"]) as served:
        yield Running(tmp_path, served)


def test_a_gateway_lives_from_create_to_delete(running: Running) -> None:
    assert running("list").split()[:7] == ["ID", "STATE", "PORT", "CONNECTIONS", "STARTUP", "WHY", "chat"]
    assert running("create", "game", "port=0", "echo_sender=false") == "gateway [game] is running\n"
    found = json.loads(running("show", "game", "--json"))
    assert found["settings"]["echo_sender"] is False
    assert running("edit", "game", "echo-sender=", "hook_timeout=3") == "gateway [game] is running\n"
    assert "hook_timeout = 3.0" in running("show", "game")
    assert running("stop", "game") == "gateway [game] is stopped\n"
    assert running("start", "game") == "gateway [game] is running\n"
    assert running("restart", "game") == "gateway [game] is running\n"
    assert running("delete", "game") == "gateway [game] is deleted\n"
    assert "game" not in running("list")


async def test_connections_are_listed_and_closed(running: Running) -> None:
    async def command(*arguments: str) -> str:
        return await anyio.to_thread.run_sync(running, *arguments)  # the clients here go on answering pings

    url = json.loads(await command("show", "chat", "--json"))["url"]
    async with Client(url, "/ws/a") as ann, Client(url, "/ws/b") as bob:
        assert "/ws/a" in await command("connections", "chat")
        assert "/ws/a" not in await command("connections", "chat", "--search", "/ws/b")
        assert "… and 1 more" in await command("connections", "chat", "--limit", "1")
        shown = json.loads(await command("connections", "chat", "--search", "/ws/a", "--json"))
        conn = shown["connections"][0]["id"]
        assert await command("close", "chat", conn, "--code", "4000", "--reason", "bye") == "1 closed\n"
        assert await ann.closed() == (4000, "bye")
        done = await anyio.to_thread.run_sync(lambda: processes.run("stop", "chat", cwd=running.folder))
        assert done.stderr == "stopping gateway [chat]: 1 connection will be closed\n"
        assert (await bob.closed())[0] == 1012


def test_mistakes_are_sentences(running: Running) -> None:
    assert running("start", "nobody", code=1) == (
        "wsgateway: there is no gateway with id [nobody], available are [chat]\n"
    )
    assert "did you mean port?" in running("edit", "chat", "prot=1", code=2)
    assert "from 0 to 65535" in running("create", "x", "port=70000", code=2)
    assert "add it to listeners in [admin]" in running("edit", "chat", "listener=os:system", code=1)
    assert "or --all" in running("close", "chat", code=2)
    assert "token" in running("list", "--token", "wrong", code=1)
    assert "does `wsgateway serve` run" in running("list", "--admin-url", "http://127.0.0.1:1", code=1)


def test_a_start_that_fails_is_an_exit_of_1(running: Running) -> None:
    with free_socket() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert (
            "is another server running there?"
            in processes.run("create", "late", f"port={port}", cwd=running.folder).stdout
        )
        assert "is another server running there?" in running("start", "late", code=1)
    assert running("restart", "late") == "gateway [late] is running\n"


@pytest.mark.parametrize("by_signal", [True, False])
def test_the_file_is_read_again(running: Running, by_signal: bool) -> None:
    file = running.folder / "wsgateway.toml"
    good = file.read_text()
    file.write_text("[gateways\nx = 1\n")
    if by_signal:
        running.served.process.send_signal(signal.SIGHUP)
        wait_for_line(running, "every gateway continues as before")
        replace(file, good + "[gateways.news]\nport = 0\n")
        running.served.process.send_signal(signal.SIGHUP)
        wait_for_line(running, "1 gateways were changed")
        assert "news" in running("list")
    else:
        assert "is not TOML" in running("reload", code=2)
        replace(file, good + "[gateways.news]\nport = 0\n")
        assert "news" in running("reload")
        assert "send the former one with --token, or SIGHUP" in running("reload", "--token", "x", code=1)
    assert running.served.terminate() == 0


def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def wait_for_line(running: Running, text: str) -> None:
    for _ in range(500):
        if text in running.served.stderr:
            return
        time.sleep(0.02)  # between two looks at the file that another process writes
    raise AssertionError(running.served.stderr)


def test_the_log_is_printed(running: Running) -> None:
    assert "[chat] started" in running("logs", "--gateway", "chat")
    assert running("logs", "--level", "ERROR") == "\n"


def test_nothing_that_runs_is_an_exit_of_3_and_one_of_two_is_not(tmp_path: Path) -> None:
    with free_socket() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        text = f"[admin]\nenabled = false\n[gateways.a]\nport = {port}\n"
        (tmp_path / "wsgateway.toml").write_text(text)
        assert processes.run("serve", cwd=tmp_path).returncode == 3
        (tmp_path / "wsgateway.toml").write_text(text + '[gateways.b]\nport = 0\nprotocols = ["centrifuge"]\n')
        command = [*processes.COMMAND, "serve"]
        errors = tmp_path / "stderr.txt"
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=processes.environment(), stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        with process:
            assert process.stdout
            assert "gateway [a] is failed" in process.stdout.readline()
            assert "gateway [b] listens on" in process.stdout.readline()
            assert "Centrifuge clients" in process.stdout.readline()  # and no address that refuses them
            process.terminate()
            assert process.wait(20) == 0


def test_an_admin_port_that_is_taken_is_a_warning_without_a_file_only(tmp_path: Path) -> None:
    with free_socket() as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        with processes.serving("--admin-port", port, cwd=tmp_path) as served:
            assert served.terminate() == 0
            assert "the admin interface does not run" in served.stderr
        (tmp_path / "wsgateway.toml").write_text("[gateways.a]\nport = 0\n")
        done = processes.run("serve", "--admin-port", port, cwd=tmp_path)
        assert done.returncode == 3
        assert "--admin-port" in done.stderr

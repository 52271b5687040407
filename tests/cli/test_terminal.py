"""What commands read and print: on a terminal no text of others acts, no character, no `| head` is a traceback."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.processes import COMMAND, Served, environment, run, run_here, serving
from tests.servers import free_socket
from wsgateway import Gateway, testing
from wsgateway.testing import Client

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eabc\u2066\u200f\u061c"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202eabc\u2066\u200f\u061c"
ENCODINGS: list[dict[str, str]] = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]

LISTENER = """
class Listener:
    async def on_client_open(self, event):
        event.conn.user = event.conn.query.get("user")
    async def on_message(self, event):
        if event.message == "close":
            await event.conn.close(4000, "%s")
"""


class Running:
    """A server with an admin interface."""

    def __init__(self, folder: Path, served: Served) -> None:
        self.folder = folder
        self.served = served

    async def command(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command, while clients of the test go on answering pings."""
        argv = [*COMMAND, *arguments]
        with anyio.fail_after(120):
            return await anyio.run_process(argv, cwd=self.folder, env=environment(env), check=False)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with free_socket() as probe:
        port = probe.getsockname()[1]
    (tmp_path / "listener.py").write_text(LISTENER % NASTY.replace("\x1b", "\\x1b"))
    (tmp_path / "wsgateway.toml").write_text(
        f'verbose = true\nlistener = "listener.py:Listener"\n[gateways.chat]\nport = 0\n[admin]\nport = {port}\n'
    )
    with serving(cwd=tmp_path, command=[*COMMAND, "serve"]) as served:
        yield Running(tmp_path, served)


class Terminal:
    """A command on a terminal, and what it has shown so far."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path) -> None:
        self.shown = b""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment(env), cwd=cwd
        )
        os.close(slave)

    async def until(self, text: str) -> str:
        with anyio.fail_after(60):
            while text.encode() not in self.shown:
                self.shown += await anyio.to_thread.run_sync(os.read, self._master, 65536, abandon_on_cancel=True)
        return self.shown.decode(errors="replace")

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    async def end(self) -> str:
        """Wait for the end of the command; all that it has shown."""
        with anyio.fail_after(60):
            while True:
                try:
                    more = await anyio.to_thread.run_sync(os.read, self._master, 65536, abandon_on_cancel=True)
                except OSError:
                    break  # as Linux says that nobody has the terminal open
                if not more:
                    break
                self.shown += more
            await anyio.to_thread.run_sync(self.process.wait)
        return self.shown.decode(errors="replace")


@contextmanager
def terminal(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    found = Terminal(*arguments, env=env, cwd=cwd)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
        found.process.wait()
        os.close(found._master)


# Escapes


async def test_messages_and_close_reasons_do_not_act_on_a_terminal(running: Running) -> None:
    with terminal("listen", running.served.url + "/ws", cwd=running.folder) as shown:
        await shown.until("connected to ")
        async with Client(running.served.url) as ann:
            await ann.send(NASTY + "one")
            await shown.until("one")
            await ann.send("two\nlines")
            await shown.until(r"two\nlines")
        shown.type(b"close\n")
        text = await shown.end()
    assert shown.process.returncode == 0
    assert ESCAPED + "one" in text
    assert f"closed with 4000 {ESCAPED}" in text
    assert not set(NASTY) - set("0123456789mabc][;owned2J1") & set(text)


async def test_a_pipe_gets_messages_as_they_are(tmp_path: Path) -> None:
    async with testing.serve(Gateway()) as url, testing.Client(url) as ann:
        argv = [*COMMAND, "listen", url + "/ws"]
        async with await anyio.open_process(argv, env=environment(), stderr=None, cwd=tmp_path) as process:
            assert process.stdin
            assert process.stdout
            await process.stdin.send("\ufeffßtyped\n".encode())
            assert await ann.receive() == "ßtyped"
            await process.stdin.send(b"not \xff UTF-8\nagain\r\n")
            assert await ann.receive() == "again"
            await ann.send(NASTY + "漢字\nlast")
            received = b""
            with anyio.fail_after(60):
                while b"last\n" not in received:
                    received += await process.stdout.receive()
            process.kill()
    assert received.endswith((NASTY + "漢字\nlast\n").encode())


async def test_every_command_that_shows_text_of_clients_escapes_it(running: Running) -> None:
    user = re.sub("[^a-z]", lambda match: "".join(f"%{byte:02x}" for byte in match[0].encode()), NASTY)
    async with Client(running.served.url, f"/ws/{user}?user={user}") as ann:
        await ann.send("x")
        commands = [
            ["connections", "chat"],
            ["connections", "chat", "--json"],
            ["logs"],
            ["logs", "--json"],
            ["show", "chat"],
        ]
        for command in commands:
            done = await running.command(*command)
            assert done.returncode == 0, done.stderr
            assert not set(NASTY) - set("0123456789mabc][;owned2J1") & set(done.stdout.decode()), command
            if "--json" in command:
                json.loads(done.stdout)
    found = json.loads((await running.command("logs", "--json", "--lines", "1000")).stdout)
    assert any(ESCAPED in line for line in found["lines"])
    assert not set(NASTY) - set("0123456789mabc][;owned2J1") & set(running.served.stderr)


def test_json_is_the_same_value_however_it_is_written(tmp_path: Path) -> None:
    text = json.dumps(NASTY + "ü").replace("\\u00fc", "ü")
    for env in ({}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}):
        (tmp_path / "wsgateway.toml").write_text(f"log_file = {text}\n", encoding="utf-8")
        done = subprocess.run(
            [*COMMAND, "check"], cwd=tmp_path, env=environment(env), capture_output=True, timeout=120, check=True
        )
        line = next(line for line in done.stdout.decode().splitlines() if line.startswith("log_file = "))
        assert json.loads(line.removeprefix("log_file = ").rpartition("  # ")[0]) == NASTY + "ü"


# Characters that cannot be shown


@pytest.mark.parametrize("env", ENCODINGS, ids=str)
async def test_a_character_that_cannot_be_encoded_ends_no_command(running: Running, env: dict[str, str]) -> None:
    url = running.served.url
    with terminal("listen", url + "/ws", cwd=running.folder, env=env) as shown:
        await shown.until("connected to ")
        async with Client(url, "/ws/raum-ä-漢") as ann:
            await ann.send("ä 漢 👍 last")
            assert "Traceback" not in await shown.until(" last")
            if "PYTHONIOENCODING" in env:
                assert r"\u6f22 \U0001f44d last" in shown.shown.decode("latin-1")
            for command in (
                ["connections", "chat"],
                ["connections", "chat", "--json"],
                ["logs"],
                ["show", "chat", "--json"],
            ):
                done = await running.command(*command, env=env)
                assert (done.returncode, done.stderr) == (0, b""), command
                if "--json" in command:
                    json.loads(done.stdout)
            sent = await running.command("send", "ä 漢", "--url", f"{url}/send", env=env)
            assert (sent.returncode, sent.stderr) == (0, b"")
            assert [await ann.receive(), await ann.receive()] == ["ä 漢 👍 last", "ä 漢"]
            assert (await running.command("check", env=env)).returncode == 0
            assert b"Traceback" not in (await running.command("doctor", env=env)).stderr


# Standard input


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hi", "hi"),
        (b"\xef\xbb\xbfhi", "hi"),
        (b"one\r\ntwo\r\n", "one\ntwo\n"),
        ("漢 ü".encode(), "漢 ü"),
        (b"", ""),
    ],
)
async def test_a_message_from_standard_input(tmp_path: Path, data: bytes, message: str) -> None:
    async with testing.serve(Gateway(local_access=True)) as url, testing.Client(url) as ann:
        argv = [*COMMAND, "send", "-", "--url", url + "/send"]
        env = environment({"PYTHONIOENCODING": "ascii"})
        done = await anyio.run_process(argv, input=data, env=env, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert await ann.receive() == message


@pytest.mark.parametrize(
    ("arguments", "data", "said"),
    [
        (["-"], b"a\xffb", "the input is not UTF-8: byte 1 is 0xff"),
        (["-"], "hi".encode("utf-16"), "the input is not UTF-8"),
        (["-", "--json"], b"\xff", "not UTF-8"),
        (["-", "--json"], b"{", "the message is not JSON"),
        (["-", "--json"], b"[" * 100_000, "the message is not JSON"),
        (["-", "--json"], b"NaN", "which JSON does not have"),
        (["-", "--json"], b"1e999", "which JSON does not have"),
        (["-", "--json"], b'"\\ud800"', "lone surrogate"),
        ([b"\xff"], b"", "the input is not UTF-8"),
    ],
)
def test_a_message_that_cannot_be_sent_is_a_sentence(
    tmp_path: Path, arguments: list[str | bytes], data: bytes, said: str
) -> None:
    argv = [*COMMAND, "send", *arguments, "--url", "http://127.0.0.1:1/send"]
    done = subprocess.run(
        argv, input=data, env=environment(), capture_output=True, timeout=120, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("wsgateway: ")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr.decode()


def test_a_password_from_standard_input_is_read_with_a_byte_order_mark(tmp_path: Path) -> None:
    done = run("password", "--hash", cwd=tmp_path, stdin="\ufeffcorrect horse battery\r\n")
    assert done.returncode == 0
    argv = [*COMMAND, "password", "--hash"]
    wrong = subprocess.run(
        argv, input=b"\xff\n", env=environment(), capture_output=True, timeout=120, cwd=tmp_path, check=False
    )
    assert (wrong.returncode, wrong.stdout) == (1, b"")
    assert b"not UTF-8" in wrong.stderr


@pytest.mark.parametrize("command", [["send", "-", "--url", "http://127.0.0.1:1/send"], ["password", "--hash"]])
def test_no_standard_input_at_all(tmp_path: Path, command: list[str]) -> None:
    argv = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, *command]
    done = subprocess.run(argv, env=environment(), capture_output=True, timeout=120, cwd=tmp_path, check=False)
    assert b"Traceback" not in done.stderr


# A reader that ends


@pytest.mark.parametrize("command", [["logs"], ["list", "--json"], ["check"], ["doctor"]])
def test_a_reader_that_has_ended_is_no_traceback(running: Running, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *command],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=running.folder,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


async def test_listen_ends_with_its_reader(tmp_path: Path) -> None:
    async with testing.serve(Gateway()) as url, testing.Client(url) as ann:
        argv = ["sh", "-c", '"$@" 2>errors.txt | head -n 1', "sh", *COMMAND, "listen", url + "/ws"]
        async with await anyio.open_process(argv, env=environment(), stdin=subprocess.PIPE, cwd=tmp_path) as process:
            with anyio.fail_after(60):
                while "connected to" not in (
                    (tmp_path / "errors.txt").read_text() if (tmp_path / "errors.txt").exists() else ""
                ):
                    await anyio.sleep(0.02)  # another process writes it
                while process.returncode is None:
                    await ann.send("line")
                    await anyio.sleep(0.02)  # each line may be the one whose reader has ended
    assert "Traceback" not in (tmp_path / "errors.txt").read_text()


def test_a_server_goes_on_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with free_socket() as probe:
        port = probe.getsockname()[1]
    argv = [*COMMAND, "serve", "--port", str(port), "--no-admin-enabled"]
    with (tmp_path / "stderr.txt").open("w+") as stderr, Path("/dev/full").open("w") as full:
        process = subprocess.Popen(argv, stdout=full, stderr=stderr, env=environment(), cwd=tmp_path)
        try:
            for _ in range(500):
                if run("send", "x", "--url", f"http://127.0.0.1:{port}/send", cwd=tmp_path).returncode == 0:
                    break
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()


# Addresses


@pytest.mark.parametrize("url", ["http://", "ws://h:99999", "ftp://u:SECRET@h", "ws://a b", "x", "ws://h\n"])
def test_an_address_that_is_none_is_a_sentence(tmp_path: Path, url: str) -> None:
    for command in (["listen", url], ["send", "x", "--url", url], ["list", "--admin-url", url]):
        done = run_here(*command, cwd=tmp_path)
        assert done.returncode == 2, command
        assert done.stderr.startswith("wsgateway: ")
        assert len(done.stderr.splitlines()) == 1
        assert "SECRET" not in done.stderr


@pytest.mark.parametrize("url", ["http://", "https://h:99999", "ftp://u:SECRET@h", "https://u:SECRET@h"])
def test_doctor_names_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    done = run_here("doctor", "--url", url, cwd=tmp_path)
    assert done.returncode == 1
    assert "serious: --url" in done.stdout
    assert "SECRET" not in done.stdout + done.stderr

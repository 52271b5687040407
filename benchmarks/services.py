"""Runs the brokers that a gateway is measured with, on the second core."""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from contenders import free_port, wait_until_it_listens

HERE = Path(__file__).parent
BOTH = "0,1"
"""Both cores, for what is measured together."""


class Broker:
    """A broker, and the id of its process, 0 if one of the gateway's processes runs it."""

    def __init__(self, url: str = "", pid: int = 0) -> None:
        self.url = url
        self.pid = pid

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `wsgateway serve`."""
        return ("--broker", self.url) if self.url else ()

    def reads(self) -> int:
        """Return how often a history was read so far."""
        raise RuntimeError(f"{self.url} does not count reads")


class Redis(Broker):
    def reads(self) -> int:
        """Return how many scripts have run so far, which are reads if nothing is published."""
        host, _, port = self.url.removeprefix("redis://").partition(":")
        with socket.create_connection((host, int(port)), 5) as connection:
            stream = connection.makefile("rwb")
            stream.write(b"INFO commandstats\r\n")
            stream.flush()
            lines = stream.read(int(stream.readline()[1:])).decode().splitlines()
        calls = 0
        for line in lines:
            name, _, values = line.partition(":")
            if name in ("cmdstat_evalsha", "cmdstat_eval"):
                counts = dict(value.split("=") for value in values.split(","))
                calls += int(counts["calls"]) - int(counts["failed_calls"])  # a script that is not loaded yet
        return calls


class Proxy(Broker):
    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        super().__init__(url, process.pid)
        self._process = process

    def reads(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def broker(kind: str, *, cores: str = "1", is_apart: bool = False) -> Iterator[Broker]:
    """Run a new broker: `redis`, `nats`, `ipc`, or none.

    The proxy of `ipc` runs in one of the gateway's processes, as under `uvicorn`, or `is_apart`, as under
    `wsgateway serve --workers`.
    """
    with contextlib.ExitStack() as stack:
        if kind == "redis":
            port, pid = stack.enter_context(service(cores, "redis-server", "--port", "{port}", "--save", ""))
            yield Redis(f"redis://127.0.0.1:{port}", pid)
        elif kind == "nats":
            port, pid = stack.enter_context(service(cores, "nats-server", "-p", "{port}", "-a", "127.0.0.1"))
            yield Broker(f"nats://127.0.0.1:{port}", pid)
        elif kind == "ipc":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ipc"
            url = f"ipc://{folder}"
            yield stack.enter_context(_proxy(cores, folder, url)) if is_apart else Broker(url)
        else:
            yield Broker()


@contextlib.contextmanager
def service(cores: str, program: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """Run a server, and yield its port and process id."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        raise RuntimeError(f"{program} is not installed (Debian: {program})")
    port = free_port()
    command = ["taskset", "-c", cores, path, *(part.format(port=port) for part in arguments)]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until_it_listens(port, process)
            yield port, process.pid
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _proxy(cores: str, folder: Path, url: str) -> Iterator[Broker]:
    command = ["taskset", "-c", cores, sys.executable, str(HERE / "inside" / "proxy.py"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError("the proxy of ipc:// has not started")
            yield Proxy(url, process)
        finally:
            process.kill()

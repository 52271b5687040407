"""Real brokers in processes of their own: started, killed, stopped, and started again without their data."""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def path_of(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        sys.exit(f"{program} is not installed (Debian: {program})")
    return path


class Broker:
    """The sockets of `ipc://` in a folder. They have no server, because the proxy runs in one of the nodes."""

    kind = "ipc"

    def __init__(self, folder: Path) -> None:
        self.url = f"ipc://{folder}"

    def topics(self) -> int:
        """Return the number of topics that still have subscriptions."""
        return 0


class Server(Broker):
    """A broker that is a server."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.url = f"{self.kind}://127.0.0.1:{port}"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server without data. Return when it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command[0]} does not listen")
            time.sleep(0.01)  # a server reports nothing when it listens

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let the server do nothing, while its sockets stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def proceed(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Redis(Server):
    kind = "redis"

    def __init__(self, folder: Path, *arguments: str) -> None:
        port = free_port()
        command = [path_of("redis-server"), "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
        command += ["--dir", str(folder), "--repl-diskless-sync-delay", "0"]  # replication may write a file
        command += ["--dbfilename", f"{port}.rdb", *arguments]
        super().__init__(command, port)

    def command(self, *words: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65536).decode()

    def topics(self) -> int:
        return int(self.command("PUBSUB", "CHANNELS").partition("\r\n")[0].removeprefix("*"))


class Nats(Server):
    kind = "nats"

    def __init__(self) -> None:
        port, self._monitor = free_port(), free_port()
        super().__init__([path_of("nats-server"), "-a", "127.0.0.1", "-p", str(port), "-m", str(self._monitor)], port)

    def topics(self) -> int:
        with socket.create_connection(("127.0.0.1", self._monitor), 5) as connection:
            connection.sendall(b"GET /connz?subs=1 HTTP/1.0\r\n\r\n")
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return answer.count(b'"wsgateway.')


@contextmanager
def running(kind: str, folder: Path, *arguments: str) -> Iterator[Broker]:
    """Run the broker `kind`."""
    if kind == "ipc":
        yield Broker(folder / "ipc")
        return
    server = Redis(folder, *arguments) if kind == "redis" else Nats()
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Cable:
    """A TCP relay in front of a broker, which is cut and repaired as a network is."""

    def __init__(self, broker: Server) -> None:
        self._port = broker.port
        self._own_port = free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = f"{broker.kind}://127.0.0.1:{self._own_port}"

    def connect_to(self, broker: Server) -> None:
        """Lead to another broker from the next connection on."""
        self._port = broker.port

    async def repair(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._own_port)

    def cut(self) -> None:
        """Abort every connection, and accept no new one."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def aclose(self) -> None:
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._writers.add(to_writer)
            await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
            self._writers.discard(to_writer)
        except OSError:
            writer.transport.abort()
        finally:
            self._writers.discard(writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

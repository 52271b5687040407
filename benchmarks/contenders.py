"""The servers that are compared: how each is started, and what has to be installed or compiled first."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
BUILD = HERE / ".build"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Server:
    """A server to compare: the command that starts it, with `{port}` for its port, and the options of wsfan for it."""

    name: str
    command: tuple[str, ...]
    load: tuple[str, ...] = ()
    scale: float = 1.0
    """The number of messages that it is given, as a fraction of those for fast servers."""

    def under(self, folder: Path, version: str) -> "Server":
        """Return this server, run by the Python whose programs are in `folder`."""
        command = tuple(part.replace(f"{BIN}/", f"{folder}/") for part in self.command)
        return replace(self, name=f"{self.name}, {version}", command=command)


def uvicorn(app: str) -> tuple[str, ...]:
    return (str(BIN / "uvicorn"), f"{app}:app", "--port", "{port}", "--log-level", "warning")


GATEWAY = (str(BIN / "wsgateway"), "serve", "--port", "{port}", "--log-file", "")
SOCKET_IO = ("--path", "/socket.io/?EIO=4&transport=websocket", "--hello", "40", "--warm-frames", "2",
             "--pre", '42["message","', "--post", '"]')  # fmt: skip

LIMIT = Server("limit: one send(2) each (C)", (str(BUILD / "limit"), "{port}"))
SERVE = Server("**wsgateway serve**", GATEWAY)
STARLETTE = Server("Starlette, a loop of send_text", uvicorn("starlette_loop"), scale=0.5)
PLAIN = Server("**wsgateway, plain ASGI path**", uvicorn("plain_asgi"), scale=0.5)
SOCKETIFY = Server("socketify (uWebSockets in Python)", (sys.executable, "socketify_publish.py", "{port}"))
WS = Server("ws (Node)", ("node", "ws.mjs", "{port}"))
PYTHON = [
    LIMIT,
    SERVE,
    Server("**wsgateway, plain uvicorn**", (str(BIN / "uvicorn"), "wsgateway.app:app", *uvicorn("")[2:])),
    PLAIN,
    STARLETTE,
    Server("websockets, broadcast", (sys.executable, "websockets_broadcast.py", "{port}")),
    Server("python-socketio", uvicorn("python_socketio"), SOCKET_IO, 0.15),
    Server("Litestar channels", uvicorn("litestar_channels"), scale=0.2),
    Server("Django Channels, in memory", uvicorn("django_channels"), scale=0.03),
    SOCKETIFY,
]
NODE = [WS, Server("Socket.IO (Node)", ("node", "socketio.mjs", "{port}"), SOCKET_IO, 0.5)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(server: Server, *extra: object, cores: str = "0") -> Iterator[tuple[int, int]]:
    """Run the server on the first core, or others, and yield its port and process id."""
    port = free_port()
    command = [part.format(port=port) for part in server.command]
    environment = {**os.environ, "NODE_PATH": str(BUILD / "node_modules")}
    process = subprocess.Popen(
        ["taskset", "-c", cores, *command, *map(str, extra)],
        cwd=BUILD if command[0] == "node" else SERVERS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        wait_until_it_listens(port, process)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        time.sleep(0.05)
    time.sleep(0.3)


def compile_load() -> None:
    """Compile the load generator and `limit`."""
    BUILD.mkdir(exist_ok=True)
    for name, libraries in (("wsfan", []), ("limit", ["-lcrypto"])):
        source = HERE / "load" / f"{name}.c"
        try:
            subprocess.run(["cc", "-O2", "-o", str(BUILD / name), str(source), *libraries], check=True)
        except (OSError, subprocess.CalledProcessError):
            sys.exit("the load generator cannot be compiled: install a C compiler and OpenSSL's headers "
                     "(Debian: gcc libc6-dev libssl-dev)")  # fmt: skip


def prepare() -> list[Server]:
    """Compile the load generator and `limit`, install packages of Node, and return the servers that can be started."""
    compile_load()
    if not (shutil.which("node") and shutil.which("npm")):
        print("node and npm are not installed: ws and Socket.IO are left out")
        return PYTHON
    for name in ("ws.mjs", "socketio.mjs"):
        shutil.copy(SERVERS / name, BUILD)
    npm = ["npm", "install", "--silent", "--no-save", "--prefix", str(BUILD), "ws@8", "socket.io@4"]
    if subprocess.run(npm, check=False).returncode:
        print("npm could not install ws and socket.io: they are left out")
        return PYTHON
    return [*PYTHON, *NODE]

"""`make bench`: compares wsgateway with other libraries, on this machine, in alternation.

Writes RESULTS.md and fan-out.svg beside this file. The server runs on the first core, the load on the second. The
server's CPU in microseconds per delivery is compared, as medians of `--rounds` rounds.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
BUILD = HERE / ".build"
BIN = Path(sys.executable).parent
WINDOWS = (1, 4, 16)
SIZES = (64, 1024, 16384)


@dataclass(frozen=True)
class Server:
    """A server to compare: the command that starts it, with `{port}` for its port, and the options of wsfan for it."""

    name: str
    command: tuple[str, ...]
    load: tuple[str, ...] = ()
    scale: float = 1.0
    """The number of messages that it is given, as a fraction of those for fast servers."""


def uvicorn(app: str) -> tuple[str, ...]:
    return (str(BIN / "uvicorn"), f"{app}:app", "--port", "{port}", "--log-level", "warning")


GATEWAY = (str(BIN / "wsgateway"), "serve", "--port", "{port}", "--log-file", "")
SOCKET_IO = ("--path", "/socket.io/?EIO=4&transport=websocket", "--hello", "40", "--warm-frames", "2",
             "--pre", '42["message","', "--post", '"]')  # fmt: skip

LIMIT = Server("limit: one send(2) each (C)", (str(BUILD / "limit"), "{port}"))
SERVE = Server("**wsgateway serve**", GATEWAY)
STARLETTE = Server("Starlette, a loop of send_text", uvicorn("starlette_loop"), scale=0.5)
PLAIN = Server("**wsgateway, plain ASGI path**", uvicorn("plain_asgi"), scale=0.5)
FAN_OUT = [
    LIMIT,
    SERVE,
    Server("**wsgateway, plain uvicorn**", (str(BIN / "uvicorn"), "wsgateway.app:app", *uvicorn("")[2:])),
    PLAIN,
    STARLETTE,
    Server("websockets, broadcast", (sys.executable, "websockets_broadcast.py", "{port}")),
    Server("python-socketio", uvicorn("python_socketio"), SOCKET_IO, 0.15),
    Server("Litestar channels", uvicorn("litestar_channels"), scale=0.2),
    Server("Django Channels, in memory", uvicorn("django_channels"), scale=0.03),
    Server("socketify (uWebSockets in Python)", (sys.executable, "socketify_publish.py", "{port}")),
]
NODE = [
    Server("ws (Node)", ("node", "ws.mjs", "{port}")),
    Server("Socket.IO (Node)", ("node", "socketio.mjs", "{port}"), SOCKET_IO, 0.5),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(server: Server, *extra: str) -> Iterator[tuple[int, int]]:
    """Run the server on the first core, and yield its port and process id."""
    port = free_port()
    command = [part.format(port=port) for part in server.command]
    environment = {**os.environ, "NODE_PATH": str(BUILD / "node_modules")}
    process = subprocess.Popen(
        ["taskset", "-c", "0", *command, *extra],
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


def loaded(program: list[str], port: int, pid: int, *options: object) -> dict[str, float]:
    """Run a load generator on the second core, and return what it has measured."""
    command = ["taskset", "-c", "1", *program, "--port", str(port), "--pid", str(pid), *map(str, options)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if not found.stdout:
        raise RuntimeError(f"{' '.join(command)} measured nothing: {found.stderr}")
    figures: dict[str, float] = json.loads(found.stdout)
    return figures


WSFAN = [str(BUILD / "wsfan")]
FAN = [sys.executable, str(HERE / "load" / "fan.py")]
COST = "server_cpu_us_per_delivery"


class Bench:
    """Figures by table, row, and column, each a list with one value per round."""

    def __init__(self, rounds: int, messages: int) -> None:
        self.rounds = rounds
        self.messages = messages
        self.found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self.failed: dict[str, str] = {}

    def note(self, table: str, row: str, column: str, value: float) -> None:
        self.found[table, row, column].append(value)

    def median(self, table: str, row: str, column: str) -> float | None:
        values = self.found.get((table, row, column))
        return statistics.median(values) if values else None

    def ratio(self, above: tuple[str, str, str], below: tuple[str, str, str]) -> float | None:
        first, second = self.median(*above), self.median(*below)
        return None if first is None or not second else first / second

    def fan_out(self, servers: list[Server]) -> None:
        for server in servers:
            if server.name in self.failed:
                continue
            try:
                self._fan_out(server)
            except (RuntimeError, OSError) as exc:
                self.failed[server.name] = str(exc)
                print(f"  left out: {exc}")

    def _fan_out(self, server: Server) -> None:
        with running(server) as (port, pid):
            for size in SIZES:
                part = self.messages * server.scale * {64: 1, 1024: 0.7, 16384: 0.15}[size]
                for window in WINDOWS:
                    options = (*server.load, "--size", size, "--window", window, "--messages", max(3, int(part)))
                    figures = loaded(WSFAN, port, pid, "--conns", 1000, *options)
                    self.note(f"fan-out {size}", server.name, str(window), figures[COST])
                    if size == SIZES[0] and window == WINDOWS[0]:
                        self.note("idle", server.name, "connect", figures["connect_cpu_us"])
                        self.note("idle", server.name, "memory", figures["kb_per_conn"])

    def large(self) -> None:
        for server in (LIMIT, SERVE):
            with running(server) as (port, pid):
                figures = loaded(WSFAN, port, pid, "--conns", 10000, "--messages", 40, "--window", 2)
                self.note("10,000 clients", server.name, "cost", figures[COST])

    def over_http(self) -> None:
        extra = ("--path", "/ws", "--http", "/send", "--pre", '{"message":"', "--post", '"}')
        for window in (1, 16):
            with running(LIMIT) as (port, pid):
                figures = loaded(WSFAN, port, pid, "--messages", self.messages, "--window", 1)
                self.note("send", LIMIT.name, str(window), figures[COST])
            with running(SERVE) as (port, pid):
                figures = loaded(WSFAN, port, pid, *extra, "--messages", self.messages, "--window", window)
                self.note("send", SERVE.name, str(window), figures[COST])

    def echo(self) -> None:
        listener = ("--listener", str(SERVERS / "echo_listener.py") + ":Listener")
        for server, extra, path in ((STARLETTE, (), "/echo"), (SERVE, listener, "/ws")):
            with running(server, *extra) as (port, pid):
                for _ in range(2):  # the first one warms up
                    figures = loaded(WSFAN, port, pid, "--path", path, "--echo", "--messages", 60000, "--window", 200)
                self.note("echo", server.name, "cost", figures[COST])

    def slow(self) -> None:
        for label, slow in (("all read", 0), ("one never reads", 1)):
            with running(SERVE) as (port, pid):
                options = ("--size", 1024, "--messages", self.messages * 10, "--window", 4, "--slow", slow)
                figures = loaded(WSFAN, port, pid, *options)
                self.note("slow", label, "p99", figures["p99_ms"])
                self.note("slow", label, "lost", figures["lost"])
                self.note("slow", label, "grown", figures["server_mb_after"] - figures["server_mb"])

    def requests(self) -> None:
        for server in (STARLETTE, SERVE):
            with running(server) as (port, _):
                self.note("requests", server.name, "rate", posted(port))

    def tls_and_compression(self) -> None:
        import trustme

        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        key, chain, root = (BUILD / name for name in ("key.pem", "chain.pem", "root.pem"))
        certificate.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        authority.cert_pem.write_to_path(root)
        tls = ("--ssl-keyfile", str(key), "--ssl-certfile", str(chain))
        for server, compressing in ((SERVE, ("--compression",)), (STARLETTE, ())):
            with running(server, *tls) as (port, pid):
                for window in WINDOWS:
                    figures = loaded(FAN, port, pid, "--tls", root, "--window", window)
                    self.note("TLS", server.name, str(window), figures[COST])
            with running(server, *compressing) as (port, pid):
                for window in WINDOWS:
                    figures = loaded(FAN, port, pid, "--deflate", "--window", window, "--messages", 100)
                    self.note("compression", server.name, str(window), figures[COST])
                    self.note("compression", server.name, "bytes", figures["bytes_per_message"])

    def paced(self) -> None:
        for server in (SERVE, STARLETTE):
            with running(server) as (port, pid):
                figures = loaded(FAN, port, pid, "--conns", 1000, "--rate", 20, "--messages", 100, "--size", 64)
                for column in ("p50_ms", "p99_ms", "server_cpu_percent"):
                    self.note("paced", server.name, column, figures[column])

    def generator(self) -> None:
        """Measure the load generator, which must not be the bottleneck."""
        for server in (LIMIT, SERVE):
            with running(server) as (port, pid):
                figures = loaded(WSFAN, port, pid, "--messages", 3000, "--window", 64)
                for column in ("deliveries_per_s", "client_cpu_us_per_delivery", COST):
                    self.note("generator", server.name, column, figures[column])


def posted(port: int) -> float:
    """Return the requests per second that `POST /send` answers, without connections."""
    command = ["taskset", "-c", "1", sys.executable, str(HERE / "load" / "post.py"), str(port)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# What is written


def shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(bench: Bench, name: str, columns: list[str], heads: list[str], first: str) -> list[str]:
    rows = list(dict.fromkeys(row for found, row, _ in bench.found if found == name))
    lines = [f"| {first} | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for row in rows:
        lines += [f"| {row} | " + " | ".join(shown(bench.median(name, row, column)) for column in columns) + " |"]
    return [*lines, ""]


def targets(bench: Bench) -> list[str]:
    serve, limit, starlette = SERVE.name, LIMIT.name, STARLETTE.name

    def by(table: str, column: str, row: str = serve, below: str = limit) -> float | None:
        return bench.ratio((table, row, column), (table, below, column))

    rows = [
        ("fan-out, 1 on the way, by limit", by("fan-out 64", "1"), 1.35),
        ("fan-out, 4 on the way, by limit", by("fan-out 64", "4"), 0.5),
        ("fan-out, 16 on the way, by limit", by("fan-out 64", "16"), 0.22),
        ("fan-out to 10,000 clients, 2 on the way, by limit", by("10,000 clients", "cost"), 1.0),
        ("fan-out over POST /send, 1 on the way, by limit", by("send", "1"), 1.4),
        ("fan-out over POST /send, 16 on the way, by limit", by("send", "16"), 1.4),
        ("echo through on_message, by Starlette's", by("echo", "cost", below=starlette), 0.4),
        ("connect, by Starlette's", by("idle", "connect", below=starlette), 0.85),
        ("an idle connection's memory, by Starlette's", by("idle", "memory", below=starlette), 0.55),
        ("p99 of the others while one never reads, by without", by("slow", "p99", "one never reads", "all read"), 1.2),
        ("plain ASGI path, 1 on the way, by Starlette's loop", by("fan-out 64", "1", PLAIN.name, starlette), 1.3),
    ]
    lines = ["| what | measured | at most |", "|---|---|---|"]
    for what, ratio, most in rows:
        missed = " (missed)" if ratio is not None and ratio > most else ""
        lines.append(f"| {what} | {'' if ratio is None else f'{ratio:.2f}'}{missed} | {most} |")
    ratio = bench.ratio(("requests", serve, "rate"), ("requests", starlette, "rate"))
    missed = " (missed)" if ratio is not None and ratio < 0.6 else ""
    lines.append(
        f"| POST /send, requests a second, by a bare Starlette route | {shown(ratio)}{missed} | at least 0.6 |"
    )
    return [*lines, ""]


def report(bench: Bench) -> str:
    packages = ("wsgateway", "uvicorn", "uvloop", "httptools", "websockets", "starlette", "python-socketio", "litestar",
                "channels", "django", "socketify")  # fmt: skip
    versions = ", ".join(f"{name} {found}" for name in packages if (found := installed(name)))
    node = f", Node {node_version()}" if node_version() else ""
    windows = [str(window) for window in WINDOWS]
    lines = [
        "# Results",
        "",
        (
            "Written by `make bench`; do not edit. Server CPU in µs for each delivery, medians of "
            f"{bench.rounds} rounds in which the servers alternate, 1,000 clients, server and load on one core each. "
            "An absolute figure does not hold from one machine to the next, a ratio nearly does."
        ),
        "",
        f"{date.today().isoformat()}, {machine()}, Python {platform.python_version()}; {versions}{node}.",  # noqa: DTZ011
        "",
        "![fan-out](fan-out.svg)",
        "",
        "## Against the targets",
        "",
        *targets(bench),
    ]
    for size in SIZES:
        lines += [f"## Fan-out, {size:,} bytes, 1, 4 and 16 messages on their way", ""]
        lines += table(bench, f"fan-out {size}", windows, windows, "server")
    lines += ["## Connect and idle", "", "Connections with nothing to do: CPU in µs for a connect, KB kept.", ""]
    lines += table(bench, "idle", ["connect", "memory"], ["µs a connect", "KB a connection"], "server")
    lines += ["## Echo, 200 on their way", "", *table(bench, "echo", ["cost"], ["µs a round trip"], "server")]
    lines += ["## To 10,000 clients, 2 on their way", ""]
    lines += table(bench, "10,000 clients", ["cost"], ["µs a delivery"], "server")
    lines += ["## Published over `POST /send`, 1 and 16 on their way", ""]
    lines += table(bench, "send", ["1", "16"], ["1", "16"], "server")
    lines += ["## `POST /send` with nobody connected", ""]
    lines += table(bench, "requests", ["rate"], ["requests a second"], "server")
    lines += ["## One client of 1,000 never reads (1 KB, 4 on their way)", ""]
    lines += table(bench, "slow", ["p99", "lost", "grown"], ["p99 of the others, ms", "lost", "MB grown"], "")
    lines += ["## TLS, 200 clients, 1 KB", "", *table(bench, "TLS", windows, windows, "server")]
    lines += ["## Compression, 200 clients, 1 KB of text", ""]
    lines += table(bench, "compression", [*windows, "bytes"], [*windows, "bytes a message"], "server")
    lines += ["## Paced: 1,000 clients, 20 messages a second", ""]
    heads = ["p50, ms", "p99, ms", "server CPU, %"]
    lines += table(bench, "paced", ["p50_ms", "p99_ms", "server_cpu_percent"], heads, "server")
    lines += ["## The load generator, 64 messages on their way", ""]
    lines += ["What one core of it can take: bound by the kernel where each delivery is a packet, as from limit.", ""]
    columns = ["deliveries_per_s", "client_cpu_us_per_delivery", COST]
    lines += table(bench, "generator", columns, ["deliveries a second", "its own CPU, µs", "server CPU, µs"], "server")
    lines += [f"Left out: {name}, {reason}" for name, reason in bench.failed.items()]
    return "\n".join(lines).rstrip() + "\n"


def chart(bench: Bench) -> str:
    """Return a bar chart of the fan-out of 64 bytes, with one message on its way. The scale is logarithmic."""
    rows = [(name, bench.median("fan-out 64", name, "1"), bench.median("fan-out 64", name, "16"))
            for name in dict.fromkeys(row for found, row, _ in bench.found if found == "fan-out 64")]  # fmt: skip
    found = sorted((one, many, name) for name, one, many in rows if one and many)
    least = min(min(one, many) for one, many, _ in found) / 1.5
    widest = max(max(one, many) for one, many, _ in found)
    parts = []
    for place, (one, many, name) in enumerate(found):
        top = 52 + place * 40
        own = "**" in name
        weight = "bold" if own else "normal"
        text = escape(name.replace("*", ""))
        parts.append(f'<text x="270" y="{top + 17}" text-anchor="end" font-weight="{weight}">{text}</text>')
        for line, value in enumerate((one, many)):
            length = 380 * math.log(value / least) / math.log(widest / least)
            colour = ("#0b7a75", "#7bdcb5") if own else ("#6c757d", "#ced4da")
            y = top + line * 15
            parts.append(f'<rect x="280" y="{y}" width="{length:.0f}" height="13" fill="{colour[line]}"/>')
            parts.append(f'<text x="{285 + length:.0f}" y="{y + 11}" font-size="11">{shown(value)}</text>')
    title = "Server CPU for each delivered message, µs (log scale): upper bar 1, lower bar 16 on their way"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {60 + 40 * len(found)}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">'
        f'<title>{title}</title><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="10" y="26" font-size="14">{title}</text>{"".join(parts)}</svg>\n'
    )


def installed(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return ""


def node_version() -> str:
    if not shutil.which("node"):
        return ""
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release()}"


def prepare() -> list[Server]:
    """Compile the load generator and `limit`, install packages of Node, and return the servers that can be started."""
    BUILD.mkdir(exist_ok=True)
    for name, libraries in (("wsfan", []), ("limit", ["-lcrypto"])):
        source = HERE / "load" / f"{name}.c"
        try:
            subprocess.run(["cc", "-O2", "-o", str(BUILD / name), str(source), *libraries], check=True)
        except (OSError, subprocess.CalledProcessError):
            sys.exit("the load generator cannot be compiled: install a C compiler and OpenSSL's headers "
                     "(Debian: gcc libc6-dev libssl-dev)")  # fmt: skip
    if not (shutil.which("node") and shutil.which("npm")):
        print("node and npm are not installed: ws and Socket.IO are left out")
        return FAN_OUT
    for name in ("ws.mjs", "socketio.mjs"):
        shutil.copy(SERVERS / name, BUILD)
    npm = ["npm", "install", "--silent", "--no-save", "--prefix", str(BUILD), "ws@8", "socket.io@4"]
    if subprocess.run(npm, check=False).returncode:
        print("npm could not install ws and socket.io: they are left out")
        return FAN_OUT
    return [*FAN_OUT, *NODE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=200, help="number of messages of 64 bytes for a fast server")
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("the server and the load need a core each: this machine has one")
    servers = prepare()
    bench = Bench(options.rounds, options.messages)
    steps = (
        bench.large,
        bench.over_http,
        bench.echo,
        bench.slow,
        bench.requests,
        bench.tls_and_compression,
        bench.paced,
    )
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}: fan-out", flush=True)
        bench.fan_out(servers)
        for step in steps:
            print(f"  {step.__name__}", flush=True)
            step()
    bench.generator()
    text = report(bench)
    (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
    (HERE / "fan-out.svg").write_text(chart(bench), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

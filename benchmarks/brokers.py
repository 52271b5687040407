"""`make bench-brokers`: measures the cost of a broker, and of other libraries that send through Redis, in alternation.

Writes BROKERS.md beside this file. The gateway runs on the first core, the brokers and the load on the second, so
only the gateway's CPU is counted.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

from contenders import SERVE, SOCKET_IO, Server, free_port, prepare, running, uvicorn, wait_until_it_listens
from figures import Figures, Key
from measure import COST, WSFAN, loaded
from report import machine, shown, table
from websockets.asyncio.client import connect

HERE = Path(__file__).parent
WINDOWS = (1, 4, 16)
DJANGO = Server("Django Channels, channels_redis", uvicorn("django_channels_redis"), scale=0.03)
SOCKETIO = Server("python-socketio, Redis manager", uvicorn("python_socketio_redis"), SOCKET_IO, 0.15)


@contextlib.contextmanager
def service(program: str, *arguments: str) -> Iterator[str]:
    """Run a broker on the second core, and yield its host and port."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        sys.exit(f"{program} is not installed (Debian: {program})")
    port = free_port()
    command = ["taskset", "-c", "1", path, *(part.format(port=port) for part in arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_listens(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def fan_out(figures: Figures, brokers: dict[str, str], messages: int) -> None:
    """Measure one process and its clients, with each broker and without one."""
    for name, url in {"none": "", **brokers}.items():
        extra = ("--broker", url) if url else ()
        with running(SERVE, "--no-admin-enabled", *extra) as (port, pid):
            for window in WINDOWS:
                for _ in range(2):  # the first one warms up
                    measured = loaded(WSFAN, port, pid, "--conns", 1000, "--window", window, "--messages", messages)
                figures.note("fan-out", f"wsgateway, {name}", str(window), measured[COST])


def others(figures: Figures, redis: str, messages: int) -> None:
    """Measure the same work by other libraries that send through Redis."""
    os.environ["BROKER"] = redis
    for server in (DJANGO, SOCKETIO):
        try:
            with running(server) as (port, pid):
                options = (*server.load, "--messages", max(6, int(messages * server.scale)), "--window", 16)
                measured = loaded(WSFAN, port, pid, "--conns", 1000, *options)
                figures.note("fan-out", server.name, "16", measured[COST])
                if measured["lost"]:
                    figures.failed[server.name] = f"it lost {measured['lost']:.0f} deliveries"
        except (RuntimeError, OSError) as exc:
            figures.failed[server.name] = str(exc)


async def latencies(post_to: int, listen_at: int, count: int) -> list[float]:
    """Return the milliseconds from the first byte of `POST /send` at one node to its message at the other's client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", post_to)
    measured = []
    async with connect(f"ws://127.0.0.1:{listen_at}/ws", compression=None) as client:
        for number in range(count + 50):
            body = json.dumps({"message": number}).encode()
            head = f"POST /send HTTP/1.1\r\nHost: 127.0.0.1:{post_to}\r\nContent-Type: application/json\r\n"
            began = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert await client.recv() == str(number)
            measured.append((time.perf_counter() - began) * 1000)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0]))
    writer.close()
    return measured[50:]


def across(figures: Figures, brokers: dict[str, str], count: int) -> None:
    """Measure the latency from one process to another, and inside one."""
    for name, url in brokers.items():
        with running(SERVE, "--no-admin-enabled", "--broker", url) as (one, _):
            with running(SERVE, "--no-admin-enabled", "--broker", url) as (two, _):
                os.sched_setaffinity(0, {1})
                inside = asyncio.run(latencies(one, one, count))
                outside = asyncio.run(latencies(one, two, count))
                os.sched_setaffinity(0, {0, 1})
        for column, values in (("inside", inside), ("across", outside)):
            figures.note("latency", name, f"{column} p50", statistics.median(values))
            figures.note("latency", name, f"{column} p99", statistics.quantiles(values, n=100)[98])


def targets(figures: Figures) -> list[str]:
    lines = ["| what | measured | target |", "|---|---|---|"]

    def judged(what: str, value: float | None, limit: float, *, least: bool = False) -> None:
        missed = value is not None and (value < limit if least else value > limit)
        word = "at least" if least else "at most"
        lines.append(f"| {what} | {shown(value)}{' (missed)' if missed else ''} | {word} {limit:g} |")

    def ratio(above: Key, below: Key) -> float | None:
        ratios = figures.ratios(above, below)
        return statistics.median(ratios) if ratios else None

    redis = ("fan-out", "wsgateway, redis", "16")
    judged("fan-out through Redis, 16 on the way, by none", ratio(redis, ("fan-out", "wsgateway, none", "16")), 1.3)
    for name in ("ipc", "redis", "nats"):
        across, inside = (figures.median("latency", name, f"{where} p50") for where in ("across", "inside"))
        more = None if across is None or inside is None else across - inside
        judged(f"`/send` to a client of another process through {name}, p50, ms more than inside", more, 1.5)
    for server in (DJANGO, SOCKETIO):
        judged(
            f"{server.name}, by wsgateway through Redis",
            ratio(("fan-out", server.name, "16"), redis),
            10,
            least=True,
        )
    return [*lines, ""]


def report(figures: Figures, rounds: int) -> str:
    packages = (
        "wsgateway",
        "uvicorn",
        "uvloop",
        "redis",
        "hiredis",
        "nats-py",
        "pyzmq",
        "channels-redis",
        "python-socketio",
    )
    windows = [str(window) for window in WINDOWS]
    lines = [
        "# What a broker costs",
        "",
        "Written by `make bench-brokers`; do not edit. CPU of the gateway alone, in µs for each delivery to 1,000",
        f"clients of one process, medians of {rounds} rounds in which the servers alternate. With ipc the proxy",
        "is a thread of that process, and counts.",
        "",
        f"{date.today().isoformat()}, {machine()}, Python {platform.python_version()}; "  # noqa: DTZ011
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + ".",
        "",
        "## Against the targets",
        "",
        *targets(figures),
        "## Fan-out, 64 bytes, 1, 4 and 16 messages on their way",
        "",
        *table(figures, "fan-out", windows, windows, "broker"),
        "## From `POST /send` to a client, ms",
        "",
        *table(
            figures,
            "latency",
            ["inside p50", "across p50", "inside p99", "across p99"],
            ["in one process, p50", "in another, p50", "in one, p99", "in another, p99"],
            "broker",
        ),
        *(f"Not right: {name}, {reason}" for name, reason in figures.failed.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=800)
    options = parser.parse_args()
    prepare()
    figures = Figures()
    with (
        service("redis-server", "--port", "{port}", "--save", "") as redis,
        service("nats-server", "-p", "{port}", "-a", "127.0.0.1") as nats,
        tempfile.TemporaryDirectory() as folder,
    ):
        brokers = {"ipc": f"ipc://{folder}/ipc", "redis": f"redis://{redis}", "nats": f"nats://{nats}"}
        for number in range(options.rounds):
            figures.round = number
            print(f"round {number + 1} of {options.rounds}", flush=True)
            fan_out(figures, brokers, options.messages)
            others(figures, brokers["redis"], options.messages)
            across(figures, brokers, 500)
    text = report(figures, options.rounds)
    (HERE / "BROKERS.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""Measures publications with history of one publisher, over each broker, and without one. Prints a table.

.venv/bin/python benchmarks/histories.py --count 20000 --rounds 3
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
from brokers import service

from wsgateway import Gateway, testing
from wsgateway.cluster.brokers.ipc import take_proxy

COLUMNS = ("publications per second", "CPU of the publisher, µs", "p50 one by one, µs", "more than without history, µs")

CHANNELS: Any = {"room:*": {"history": 100}, "live:*": {}}
PAYLOAD = "x" * 120
WAITING = 256
"""Publications whose answers the publisher waits for at the same time."""


@contextmanager
def history_server(folder: str) -> Iterator[str]:
    """Run the proxy of ipc:// and its history server in a process of their own, as `wsgateway serve` does."""
    command = [sys.executable, __file__, "--serve", folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"ipc://{folder}"
        process.kill()


def serve(folder: str) -> None:
    proxy = take_proxy(Path(folder))
    assert proxy is not None
    print("ready", flush=True)
    sys.stdin.read()


async def one_by_one(gateway: Gateway, channel: str, count: int) -> float:
    """Return the median in microseconds."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        await gateway.publish(PAYLOAD, channel=channel)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1e6


async def measure(url: str | None, count: int) -> tuple[float, ...]:
    """Return the values of `COLUMNS`."""
    gateway = Gateway(channels=CHANNELS, broker=url)
    async with testing.serve(gateway):
        await gateway.publish(PAYLOAD, channel="room:0")

        async def publish() -> None:
            for number in range(count // WAITING):
                await gateway.publish(PAYLOAD, channel=f"room:{number % 10}")

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[publish() for _ in range(WAITING)])
        published = count // WAITING * WAITING
        rate = published / (time.perf_counter() - began)
        each = (time.process_time() - cpu) / published * 1e6
        without, kept = await one_by_one(gateway, "live:1", 1000), await one_by_one(gateway, "room:1", 1000)
    return rate, each, kept, kept - without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    measured: dict[str, list[tuple[float, ...]]] = {}
    with (
        service("redis-server", "--port", "{port}", "--save", "") as redis,
        tempfile.TemporaryDirectory() as folder,
        history_server(f"{folder}/ipc") as ipc,
    ):
        for _ in range(options.rounds):
            for name, url in {"none": None, "ipc": ipc, "redis": f"redis://{redis}"}.items():
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    measured.setdefault(name, []).append(runner.run(measure(url, options.count)))
    print(f"{options.count} publications of {len(PAYLOAD)} bytes, medians of {options.rounds} rounds")
    print("broker", *COLUMNS, sep=" | ")
    for name, rounds in measured.items():
        print(name, *(f"{statistics.median(values):.0f}" for values in zip(*rounds, strict=True)), sep=" | ")


if __name__ == "__main__":
    main()

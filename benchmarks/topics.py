"""Measures how long one process takes until new topics are in force, over each broker. Prints a table.

.venv/bin/python benchmarks/topics.py --count 20000 --rounds 3
"""

import argparse
import asyncio
import statistics
import tempfile
import time

import uvloop
from brokers import service

from wsgateway.cluster.brokers import opener
from wsgateway.cluster.bus import Bus
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

COLUMNS = ("in force, s", "longest iteration, ms")


async def watch(longest: list[float]) -> None:
    """Note the seconds of the longest iteration of the event loop."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0)  # every iteration is measured
        longest[0] = max(longest[0], time.perf_counter() - began)


async def measure(url: str, count: int) -> tuple[float, ...]:
    """Return the values of `COLUMNS`."""
    bus = Bus(
        opener(url),
        ["wsgateway.all.default", "wsgateway.node.default.0"],
        name=url,
        received=lambda topic, data: None,
        changed=lambda is_up: None,
        metrics=Metrics(),
        log=GatewayLog("benchmark"),
    )
    await bus.start()
    topics = [f"wsgateway.ch.default.user%3A{number}" for number in range(count)]
    longest = [0.0]
    began = time.perf_counter()
    futures = [bus.follow(topic) for topic in topics]
    watching = asyncio.create_task(watch(longest))
    for future in futures:
        await future
    seconds = time.perf_counter() - began
    watching.cancel()
    await bus.aclose()
    return seconds, longest[0] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measured: dict[str, list[tuple[float, ...]]] = {}
    with (
        service("redis-server", "--port", "{port}", "--save", "") as redis,
        service("nats-server", "-p", "{port}", "-a", "127.0.0.1") as nats,
        tempfile.TemporaryDirectory() as folder,
    ):
        brokers = {"ipc": f"ipc://{folder}/ipc", "redis": f"redis://{redis}", "nats": f"nats://{nats}"}
        for _ in range(options.rounds):
            for name, url in brokers.items():
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    measured.setdefault(name, []).append(runner.run(measure(url, options.count)))
    print(f"{options.count} new topics, medians of {options.rounds} rounds")
    print("broker", *COLUMNS, sep=" | ")
    for name, rounds in measured.items():
        print(name, *(f"{statistics.median(values):.3g}" for values in zip(*rounds, strict=True)), sep=" | ")


if __name__ == "__main__":
    main()

"""Prints as JSON how long one process takes until new topics are in force, over the broker at a URL.

`topics.py URL [--count 20000]`; `seconds`, and `longest_ms`, the longest iteration of the event loop meanwhile.
"""

import argparse
import asyncio
import json
import time

import uvloop

from wsgateway.cluster.brokers import opener
from wsgateway.cluster.bus import Bus
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics


async def watch(longest: list[float]) -> None:
    """Note the seconds of the longest iteration of the event loop."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0)  # every iteration is measured
        longest[0] = max(longest[0], time.perf_counter() - began)


async def measure(url: str, count: int) -> dict[str, float]:
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
    async with asyncio.timeout(60):
        for future in futures:
            await future
    seconds = time.perf_counter() - began
    watching.cancel()
    await bus.aclose()
    return {"seconds": seconds, "longest_ms": longest[0] * 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=20_000)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(options.url, options.count))))


if __name__ == "__main__":
    main()

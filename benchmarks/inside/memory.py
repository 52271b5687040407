"""Prints the bytes that a subscription takes in memory: tracemalloc's, or with `--rss` those of the process.

100,000 subscriptions: `one` channel of 100,000 connections; `ten` channels for each of 10,000 connections, with ten
subscribers each; `each` of 100,000 connections alone in a channel. The channels and their names are included, the
connections are not.
"""

import argparse
import asyncio
import gc
import json
import os
import tracemalloc
from pathlib import Path

from unconnected import CHANNELS, connected

from wsgateway import Gateway
from wsgateway.hub.channel import Wanted

SUBSCRIPTIONS = 100_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def taken(in_process: bool) -> int:
    """Return the bytes in use."""
    gc.collect()
    if in_process:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return tracemalloc.get_traced_memory()[0]


async def run(options: argparse.Namespace) -> float:
    per_connection = 10 if options.shape == "ten" else 1
    gateway = Gateway(channels=CHANNELS)
    await gateway.start()
    conns = connected(gateway, SUBSCRIPTIONS // per_connection)
    await conns[0].subscribe("warm-up")
    await conns[0].unsubscribe("warm-up")
    channels = gateway._parts.channels  # as for a client: a subscription made by code takes an entry more
    before = taken(options.rss)
    for number, conn in enumerate(conns):
        for place in range(per_connection):
            group = number // 10 * per_connection + place
            name = {"one": "room:1", "ten": f"room:{group}", "each": f"room:{number}"}[options.shape]
            channels.subscribe(conn, Wanted(name))
    await asyncio.sleep(0)
    assert gateway._parts.metrics.subscriptions == SUBSCRIPTIONS
    return (taken(options.rss) - before) / SUBSCRIPTIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=("one", "ten", "each"))
    parser.add_argument("--rss", action="store_true")
    options = parser.parse_args()
    if not options.rss:
        tracemalloc.start()
    print(json.dumps({"bytes": asyncio.run(run(options))}))


if __name__ == "__main__":
    main()

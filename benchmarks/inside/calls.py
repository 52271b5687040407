"""Prints the CPU in µs that subscribing and publishing take, without sockets and without a client protocol.

What is compared alternates in parts of a few milliseconds, so that both meet the same machine.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from unconnected import CHANNELS, connected

from wsgateway import Connection, Gateway

PART = 500
MESSAGE = "x" * 64


async def in_turn(calls: dict[str, Callable[[], Awaitable[None]]], rounds: int) -> dict[str, float]:
    """Return the µs that each of `calls` takes for one of its `PART` repetitions."""
    used = dict.fromkeys(calls, 0.0)
    for call in calls.values():
        await call()
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            begin = time.thread_time()
            await calls[name]()
            used[name] += time.thread_time() - begin
            await asyncio.sleep(0)
    return {name: seconds * 1e6 / PART / rounds for name, seconds in used.items()}


def subscribing(conn: Connection, names: list[str]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        for name in names:
            await conn.subscribe(name)
            await conn.unsubscribe(name)

    return run


def publishing(gateway: Gateway, channel: str) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        for _ in range(PART):
            await gateway.publish(MESSAGE, channel=channel)
        await asyncio.sleep(0)  # in which they are written

    return run


async def subscribe(gateway: Gateway, rounds: int) -> dict[str, float]:
    conn, other = connected(gateway, 2)
    for name in ("shared", "kept:shared"):
        await other.subscribe(name)
    return await in_turn(
        {
            "new": subscribing(conn, [f"room:{number}" for number in range(PART)]),
            "shared": subscribing(conn, ["shared"] * PART),
            "new, kept": subscribing(conn, [f"kept:{number}" for number in range(PART)]),
            "shared, kept": subscribing(conn, ["kept:shared"] * PART),
        },
        rounds,
    )


async def publish(gateway: Gateway, rounds: int) -> dict[str, float]:
    (conn,) = connected(gateway, 1)
    for name in ("shared", "kept:shared"):
        await conn.subscribe(name)
    return await in_turn(
        {
            "subscribed": publishing(gateway, "shared"),
            "subscribed, kept": publishing(gateway, "kept:shared"),
            "nobody": publishing(gateway, "nobody"),
            "nobody, kept": publishing(gateway, "kept:nobody"),
        },
        rounds,
    )


async def run(options: argparse.Namespace) -> dict[str, float]:
    gateway = Gateway(channels=CHANNELS)
    await gateway.start()
    return await (subscribe if options.what == "subscribe" else publish)(gateway, options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("subscribe", "publish"))
    parser.add_argument("--rounds", type=int, default=100)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()

"""`make bench-sdks`: what a client of the Centrifuge protocol costs, beside a plain one of the same process.

Prints one row for each figure: the medians of the rounds, and the ratio, whose rounds are compared one by one. The
gateway runs on the first core, the load on the second. Takes about four minutes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from contenders import SERVE, SERVERS, compile_load, running
from figures import Figures
from measure import COST, WSFAN, loaded

PLAIN, CENTRIFUGE = "plain", "centrifuge"
WINDOWS = {1: 150, 4: 400, 16: 1500}
"""Messages of a fan-out, by how many are in flight."""

ROUND_TRIPS = {1: 20_000, 16: 60_000}
CONNECT = '{"id":1,"connect":{"name":"load"}}'
SUBSCRIBED = f'{CONNECT}\n{{"id":2,"subscribe":{{"channel":"x"}}}}'
SOCKET = ("--path", "/connection/websocket")
IN_CHANNEL = {
    PLAIN: ("--path", "/ws?channel=x"),
    CENTRIFUGE: (*SOCKET, "--hello", SUBSCRIBED, "--warm-frames", "2",
                 "--pre", '{"id":3,"publish":{"channel":"x","data":"', "--post", '"}}'),
}  # fmt: skip
ECHO = {
    PLAIN: ("--path", "/ws"),
    CENTRIFUGE: (*SOCKET, "--hello", CONNECT, "--warm-frames", "1",
                 "--pre", '{"id":3,"rpc":{"method":"echo","data":"', "--post", '"}}'),
}  # fmt: skip
IDLE = {PLAIN: ("--path", "/ws"), CENTRIFUGE: (*SOCKET, "--hello", CONNECT, "--warm-frames", "1")}

TOKEN = """
import asyncio, json, secrets, time, timeit
import jwt
from wsgateway import Gateway
key = secrets.token_urlsafe(48)
gateway = Gateway(token_secret=[key], protocols=["plain"])
token = jwt.encode({"sub": "42", "exp": int(time.time()) + 3600, "iat": int(time.time())}, key, algorithm="HS256")
async def main():
    async with gateway.lifespan():
        identity = gateway._running.admission._parts.identity
        counts = []
        for _ in range(9):
            began = time.perf_counter()
            for _ in range(2000):
                await identity.check(token)
            counts.append((time.perf_counter() - began) / 2000 * 1e6)
        print(json.dumps(sorted(counts)[4]))
asyncio.run(main())
"""


def serving(*options: str) -> tuple[str, ...]:
    return (
        "--no-admin-enabled",
        "--config",
        str(SERVERS / "channels.toml"),
        "--listener",
        f"{SERVERS / 'request_listener.py'}:Listener",
        "--protocols",
        "plain,v1,sse,centrifuge",
        *options,
    )


def fan_out(figures: Figures, scale: float) -> None:
    """Measure a channel with 1,000 clients of one kind."""
    for kind in in_turn(figures):
        with running(SERVE, *serving()) as (port, pid):
            loaded(WSFAN, port, pid, *IN_CHANNEL[kind], "--conns", 1000, "--window", 16, "--messages", 300)  # warms up
            for window, messages in WINDOWS.items():
                sent = ("--window", window, "--messages", max(2 * window, round(scale * messages)))
                measured = loaded(WSFAN, port, pid, *IN_CHANNEL[kind], "--conns", 1000, *sent)
                assert not measured["wrong"]
                assert not measured["dead"]
                figures.note("fan-out", kind, str(window), measured[COST])


def echo(figures: Figures, scale: float) -> None:
    """Measure a round trip: a message that comes back, and an `rpc`."""
    for kind in in_turn(figures):
        with running(SERVE, *serving()) as (port, pid):
            for window, messages in ROUND_TRIPS.items():
                sent = ("--echo", "--window", window, "--messages", round(scale * messages))
                measured = loaded(WSFAN, port, pid, *ECHO[kind], "--conns", 16, *sent)
                figures.note("echo", kind, str(window), measured[COST])
                figures.note("echo", kind, f"{window}, p50 ms", measured["p50_ms"])


def idle(figures: Figures, scale: float) -> None:
    """Measure the memory of an idle connection."""
    del scale
    for kind in in_turn(figures):
        with running(SERVE, *serving()) as (port, pid):
            measured = loaded(WSFAN, port, pid, *IDLE[kind], "--conns", 5000, "--messages", 0)
            figures.note("idle", kind, "KB", measured["kb_per_conn"])


def token(figures: Figures, scale: float) -> None:
    """Measure the check of a token with HS256."""
    del scale
    command = ["taskset", "-c", "0", sys.executable, "-c", TOKEN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures.note("token", "HS256", "µs", json.loads(done.stdout))


def in_turn(figures: Figures) -> list[str]:
    kinds = [PLAIN, CENTRIFUGE]
    return kinds[::-1] if figures.round % 2 else kinds


STEPS = {"fan-out": fan_out, "echo": echo, "idle": idle, "token": token}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the usual number of messages is sent")
    parser.add_argument("--only", nargs="*", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    compile_load()
    os.environ.setdefault("WSGATEWAY_LOG_FILE", "")
    figures = Figures()
    for figures.round in range(options.rounds):
        print(f"round {figures.round + 1} of {options.rounds}", flush=True)
        for name in options.only:
            STEPS[name](figures, options.scale)
    print(f"{'':30}{PLAIN:>12}{CENTRIFUGE:>12}{'ratio':>8}")
    for table, column in dict.fromkeys((table, column) for table, _, column in figures.found):
        first, second = (figures.median(table, kind, column) for kind in (PLAIN, CENTRIFUGE))
        if first is None or second is None:
            alone = figures.median(table, "HS256", column)
            print(f"{f'{table} {column}':30}{alone or 0:12.3f}")
            continue
        ratio = statistics.median(figures.ratios((table, CENTRIFUGE, column), (table, PLAIN, column)))
        print(f"{f'{table} {column}':30}{first:12.3f}{second:12.3f}{ratio:8.3f}")


if __name__ == "__main__":
    main()

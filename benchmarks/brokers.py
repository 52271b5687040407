"""`make bench-brokers`: measures the cost of a broker, and of other libraries that send through Redis, in alternation.

Writes BROKERS.md beside this file. The gateway runs on the first core, the brokers and the load on the second, so
only the gateway's CPU is counted. The figures are kept in .build/brokers.json after each step; `--only` replaces those
of the steps that it names, and keeps the others. A whole run takes about 11 minutes.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import many
from broker_report import report
from contenders import BUILD, SERVE, compile_load, running
from figures import Figures
from many import ALL, MESSAGES, Round
from measure import COST
from services import broker
from websockets.asyncio.client import connect

HERE = Path(__file__).parent
KEPT = BUILD / "brokers.json"


def fan_out(run: Round) -> None:
    """Measure broadcasts to 1,000 clients of one process, with each broker and without."""
    for kind in ("none", *ALL):
        with run.trying(f"fan-out, {kind}"), broker(kind) as on:
            with running(SERVE, "--no-admin-enabled", *on.options) as (port, pid):
                many.fanned(run, port, pid, window=16, messages=300)  # warms up
                for window, messages in MESSAGES.items():
                    figures = many.fanned(run, port, pid, window=window, messages=messages)
                    run.figures.note("fan-out", kind, str(window), figures[COST])


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


def latency(run: Round) -> None:
    """Measure the latency of `POST /send` from one process to another, and inside one."""
    count = run.number(500)
    for kind in ALL:
        with run.trying(f"latency, {kind}"), broker(kind) as on:
            with (
                running(SERVE, "--no-admin-enabled", *on.options) as (one, _),
                running(SERVE, "--no-admin-enabled", *on.options) as (two, _),
            ):
                os.sched_setaffinity(0, {1})
                try:
                    inside = asyncio.run(latencies(one, one, count))
                    outside = asyncio.run(latencies(one, two, count))
                finally:
                    os.sched_setaffinity(0, {0, 1})
            for column, values in (("inside", inside), ("across", outside)):
                run.figures.note("latency", kind, f"{column} p50", statistics.median(values))
                run.figures.note("latency", kind, f"{column} p99", statistics.quantiles(values, n=100)[98])


STEPS: dict[str, Callable[[Round], None]] = {
    "fan-out": fan_out,
    "latency": latency,
    "channel": many.channel,
    "publication": many.publication,
    "rate": many.rate,
    "topics": many.topics,
    "presence": many.presence,
    "storm": many.storm,
    "silence": many.silence,
    "others": many.others,
}
"""The steps. Each fills the table of its name."""

ROUNDS = {"fan-out": 2, "latency": 2, "publication": 2, "presence": 2, "silence": 1, "others": 2}
"""The rounds of steps that take fewer, because their figures hardly differ or are far from their targets."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"measure only these, as a list with commas: {', '.join(STEPS)}")
    parser.add_argument("--rounds", type=int, default=3, help="some steps take fewer")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="measure a fraction of the usual, to try; implies --dry"
    )
    parser.add_argument("--dry", action="store_true", help="keep no figure, and only print the report")
    options = parser.parse_args()
    options.dry |= options.scale != 1.0
    options.steps = [name.strip() for name in options.only.split(",") if name.strip()] or list(STEPS)
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"there is no step {', '.join(sorted(unknown))}, use {', '.join(STEPS)}")
    return options


def main() -> None:
    options = arguments()
    if (os.cpu_count() or 1) < 2:
        sys.exit("the gateway and the load need a core each: this machine has one")
    compile_load()
    figures = Figures()
    if options.only and not options.dry and KEPT.exists():
        figures.load(KEPT)
    figures.forget(options.steps)
    run = Round(figures, options.scale)
    for number in range(options.rounds):
        figures.round = number
        for name in options.steps:
            if number >= ROUNDS.get(name, options.rounds):
                continue
            began = time.monotonic()
            with run.trying(name):
                STEPS[name](run)
            print(f"round {number + 1} of {options.rounds}: {name}, {time.monotonic() - began:.0f} s", flush=True)
            if not options.dry:
                figures.save(KEPT)
    text = report(figures)
    if not options.dry:
        (HERE / "BROKERS.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

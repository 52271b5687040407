"""`make bench`: compares wsgateway with other libraries, on this machine, in alternation.

Writes RESULTS.md, fan-out.svg, and latency.svg beside this file. The server runs on the first core, the load on the
second. The server's CPU in microseconds per delivery is compared, as medians of `--rounds` rounds. The figures are kept
in .build/figures.json after each step; `--only` replaces those of the tables that it names, and keeps the others.
A whole run takes about two hours, `--only targets` about 100 minutes, of which each of 10 rounds takes 10.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from charts import fan_out_chart, latency_chart
from contenders import BIN, BUILD, prepare
from figures import Figures
from measure import Bench, Step
from report import report
from tables import GROUPS, STEPS, TARGETS, chosen

from wsgateway.cli.progress import Progress

HERE = Path(__file__).parent
KEPT = BUILD / "figures.json"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = "; ".join(f"{group} stands for {','.join(steps)}" for group, steps in GROUPS.items())
    steps = f"{', '.join(name for name in STEPS if name not in TARGETS)}; {groups}"
    parser.add_argument("--only", default="", help=f"measure only these, as a list with commas: {steps}")
    parser.add_argument("--rounds", type=int, default=10, help="some tables take fewer, because no target needs them")
    parser.add_argument("--add", action="store_true", help="add these rounds to those of the last runs")
    parser.add_argument("--cpu-seconds", type=float, default=5.0, help="CPU that a server uses for a figure of a round")
    parser.add_argument("--idle-seconds", type=float, default=50.0, help="how long connections are idle")
    parser.add_argument("--rate-seconds", type=float, default=6.0, help="how long each rate of the curve lasts")
    parser.add_argument("--messages", type=int, default=200, help="messages of 64 bytes where libraries are compared")
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="VENV",
                        help="a virtual environment of another Python, as .venv311-bench, that takes part in the echo"
                        )  # fmt: skip
    parser.add_argument("--note", default="", help="what is to be said about this Python, as its build")
    parser.add_argument(
        "--dry", action="store_true", help="keep no figure, print the report only, and write the charts into .build"
    )
    return parser.parse_args()


def measure(bench: Bench, steps: dict[str, Step], rounds: range, kept: Path | None) -> None:
    """Measure all steps in each round. A step that fails is left out of that round, and the report says so."""
    planned = [(number, name) for number in rounds for name in steps if number - rounds.start < steps[name].rounds]
    with Progress("bench", len(planned), "measurements") as progress:
        for place, (number, name) in enumerate(planned):
            bench.figures.round = number
            began = time.monotonic()
            try:
                steps[name].measure(bench)
            except (RuntimeError, OSError, subprocess.CalledProcessError) as exc:
                bench.figures.failed[f"{name} in round {number + 1}"] = str(exc)
                print(f"  left out: {exc}", flush=True)
            print(f"round {number + 1} of {rounds.stop}: {name}, {time.monotonic() - began:.0f} s", flush=True)
            progress.update(place + 1)
            if kept:
                bench.figures.save(kept)


def main() -> None:
    options = arguments()
    if (os.cpu_count() or 1) < 2:
        sys.exit("the server and the load need a core each: this machine has one")
    try:
        steps = chosen(options.only)
    except ValueError as exc:
        sys.exit(str(exc))
    figures, tables = Figures(), [table for step in steps.values() for table in step.tables]
    if (options.only or options.add) and not options.dry and KEPT.exists():
        figures.load(KEPT)
    if not options.add:
        figures.forget(tables)
    first = figures.next_round(tables)
    bench = Bench(
        prepare(),
        figures,
        [BIN, *(venv.resolve() / "bin" for venv in options.also)],
        options.cpu_seconds,
        options.idle_seconds,
        options.rate_seconds,
        options.messages,
    )
    measure(bench, steps, range(first, first + options.rounds), None if options.dry else KEPT)
    text = report(figures, cpu_seconds=bench.cpu_seconds, rate_seconds=bench.rate_seconds, note=options.note)
    print(text)
    folder = BUILD if options.dry else HERE
    if not options.dry:
        (folder / "RESULTS.md").write_text(text, encoding="utf-8")
    if figures.rows("fan-out 64"):
        (folder / "fan-out.svg").write_text(fan_out_chart(figures), encoding="utf-8")
    if figures.rows("latency"):
        (folder / "latency.svg").write_text(latency_chart(figures), encoding="utf-8")


if __name__ == "__main__":
    main()

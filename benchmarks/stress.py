"""`make stress`: scenarios with many clients, nodes, and brokers that fail, each of which checks itself.

Prints a line with counts for each scenario. Exits with 1 if one has failed, and prints the seed that repeats it.

    make stress ARGS="--seed 7 --only kill"
"""

import argparse
import asyncio
import faulthandler
import logging
import multiprocessing
import os
import random
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from scenarios import SCENARIOS, channels, chaos, failures, nodes, processes  # noqa: F401  each module adds its scenarios
from scenarios.lab import lab

LIMIT = 60.0
"""Seconds after which a scenario has failed."""

ALLOWED = 90.0
"""Seconds that all scenarios may take together, on two cores."""

SHOWN = ("clients", "published", "received", "recovered", "told")
"""Counts that come first in a line."""

SHOWN_MISTAKES = 6
SHOWN_TEXT = 1500
"""Mistakes of a scenario, and characters of each, that are printed."""


@dataclass
class Outcome:
    """What a scenario has counted, and what was wrong."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        names = [*SHOWN, *sorted(set(self.counts) - set(SHOWN))]
        counts = ", ".join(f"{self.counts[name]} {name}" for name in names if self.counts[name])
        verdict = "FAIL" if self.mistakes else "ok"
        return f"{verdict:4} {self.name:34} {self.seconds:5.1f} s  {counts}"


class Errors(logging.Handler):
    """Keeps errors of the code: tracebacks, and what the event loop reports."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0] is not None:
            self.texts.append(f"logged: {self.format(record)[-1500:]}")
        elif record.name == "asyncio":
            self.texts.append(f"logged: {record.getMessage()}")


def run_one(name: str, seed: int) -> Outcome:
    """Run a scenario in this process."""
    outcome = Outcome(name)
    errors = Errors()
    logging.getLogger().handlers = [errors]
    begun = time.monotonic()
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)  # else a loop that hangs would never be reported
    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # its timers can be listed
            runner.run(_run(outcome, seed))
    except BaseException as exc:
        outcome.mistakes.append("".join(traceback.format_exception(exc))[-1500:])
    faulthandler.cancel_dump_traceback_later()
    if not outcome.counts["expected errors"]:
        outcome.mistakes += errors.texts
    outcome.seconds = time.monotonic() - begun
    return outcome


async def _run(outcome: Outcome, seed: int) -> None:
    world = None
    try:
        async with lab(f"{seed} {outcome.name}") as world:
            async with asyncio.timeout(LIMIT):
                await SCENARIOS[outcome.name].run(world)
    finally:
        if world is not None:
            outcome.counts, outcome.mistakes = world.counts, world.mistakes


def prepare() -> None:
    """Raise the limit of open files, because a scenario may have thousands of clients and both of their ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(names: Sequence[str], seed: int, jobs: int) -> int:
    """Run scenarios and print their lines. Return the exit code."""
    print(f"{len(names)} scenarios, seed {seed}", flush=True)
    begun = time.monotonic()
    failed: list[Outcome] = []
    longest_first = sorted(names, key=lambda name: -SCENARIOS[name].seconds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=prepare) as pool:
        for future in as_completed([pool.submit(run_one, name, seed) for name in longest_first]):
            outcome = future.result()
            print(outcome, flush=True)
            for mistake in outcome.mistakes[:SHOWN_MISTAKES]:
                print(f"     {mistake[:SHOWN_TEXT]}", flush=True)
            if outcome.mistakes:
                failed.append(outcome)
    seconds = time.monotonic() - begun
    slow = f", at most {ALLOWED:g} s on two cores" if seconds > ALLOWED else ""
    print(f"{len(names)} scenarios, {len(failed)} failed, {seconds:.0f} s{slow}, seed {seed}")
    for outcome in failed:
        print(f'repeat: make stress ARGS="--seed {seed} --only {outcome.name}"')
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000), help="repeats a run")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="scenarios whose name contains it")
    # one more than cores, because scenarios with failures wait most of their time
    parser.add_argument("--jobs", type=int, default=min(4, (os.cpu_count() or 1) + 1), help="processes (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print the names of the scenarios")
    options = parser.parse_args()
    names = [name for name in SCENARIOS if not options.only or any(text in name for text in options.only)]
    if options.list:
        print("\n".join(names))
        return 0
    if not names:
        parser.error(f"--only: no scenario contains {' or '.join(options.only)}; --list prints their names")
    return run(names, options.seed, options.jobs)


if __name__ == "__main__":
    sys.exit(main())

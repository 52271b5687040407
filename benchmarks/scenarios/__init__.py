"""Scenarios of `make stress`, which check themselves. Each runs alone, with a broker of its own."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from scenarios.lab import Lab


@dataclass(frozen=True)
class Scenario:
    """`run` builds its world in a `Lab`. `seconds` is its usual time; those that take longer begin earlier."""

    name: str
    run: Callable[[Lab], Awaitable[None]]
    seconds: float


SCENARIOS: dict[str, Scenario] = {}

Run = Callable[..., Awaitable[None]]


def scenario(*variants: Any, seconds: float = 1.0) -> Callable[[Run], Run]:
    """Add the decorated function as a scenario, once for each of `variants`, which is its second argument."""

    def add(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        for variant in variants:
            SCENARIOS[f"{name}-{variant}"] = Scenario(f"{name}-{variant}", partial(_call, run, variant), seconds)
        if not variants:
            SCENARIOS[name] = Scenario(name, run, seconds)
        return run

    return add


def _call(run: Run, variant: Any, lab: Lab) -> Awaitable[None]:
    return run(lab, variant)

"""State machines of hypothesis, and an event loop that such a test drives iteration by iteration."""

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_machine(machine: type[RuleBasedStateMachine], *, variable: str, examples: int, steps: int) -> None:
    """Run `machine` `examples` times, or as often as the environment's `variable` says, of `steps` steps each.

    A failure of such a long run is not made smaller, which may take longer than the run.
    """
    is_long = variable in os.environ
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get(variable, examples)),
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate,) if is_long else (Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop that also runs code between two iterations, as if it were a callback of the iteration before."""

    _is_inside = False

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        self._is_inside = True
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
            self._is_inside = False

    def is_running(self) -> bool:
        return self._is_inside or super().is_running()


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")

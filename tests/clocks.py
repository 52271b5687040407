"""An event loop whose time jumps to the next timer, so a test of timers waits for none of them."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

P = ParamSpec("P")


THREAD_TIMEOUT = 5.0
"""Seconds to wait for a thread if no timer runs."""


class JumpingSelector(selectors.DefaultSelector):
    """Adds to `now` what it should have waited. Fails if it would wait without an end, and no thread ends the wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            events = super().select(THREAD_TIMEOUT)
            if not events:
                raise RuntimeError("the test waits, and no timer runs")
            return events
        self.now += max(0.0, timeout)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock begins at 0, and jumps to the next timer if nothing else is ready."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def jumping(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a `JumpingLoop`, where `pass_time` takes no time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def pass_time(seconds: float) -> None:
    """Move the clock on, and run the timers that are due by then. The test does not wait for it."""
    jumping_loop()
    await asyncio.sleep(seconds)  # of the clock that jumps


def block(seconds: float) -> None:
    """Move the clock on without an iteration, as code does that blocks the event loop."""
    jumping_loop().selector.now += seconds


def jumping_loop() -> JumpingLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop), "mark the test with @jumping"
    return loop

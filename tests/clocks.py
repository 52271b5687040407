"""An event loop whose time jumps to the next timer, so a test of timers waits for none of them."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class JumpingSelector(selectors.DefaultSelector):
    """Adds to `now` what it should have waited. Fails if it would wait without an end."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("the test waits, and no timer runs")
        self.now += max(0.0, timeout)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """`block` moves the clock on without an iteration, as code does that blocks the loop."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    def block(self, seconds: float) -> None:
        self.selector.now += seconds


def run_jumping(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a `JumpingLoop` that begins at 0."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main)


def block(seconds: float) -> None:
    """Block the `JumpingLoop` of the caller."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.block(seconds)

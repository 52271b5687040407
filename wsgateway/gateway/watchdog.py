"""A thread that notices when an event loop is blocked, and logs what blocks it. Knows nothing of gateways except the
counters that it changes."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from wsgateway.limits import BLOCKED_LOOP
from wsgateway.logs import logger
from wsgateway.metrics import Metrics

LATE = 0.1
"""Seconds that the loop has to answer once more, because the whole process, with this thread, may have been paused."""

STACK = 12
"""Innermost calls of the blocking code that are logged."""


class Calls(NamedTuple):
    """The functions of one gateway that the watchdog calls in its thread: once the loop is closed, or is blocked."""

    closed: Callable[[], None] | None = None
    blocked: Callable[[], None] | None = None


class Watchdog:
    """Watches one event loop while a gateway on it runs. It asks the loop every `seconds` to call back.

    A loop that does not call back within `seconds` is blocked. The log gets one error with the stack of the loop's
    thread, and one line when the loop continues. While it is blocked, every client waits, and no timeout of a hook
    helps. A loop that does not run at all, as between two calls of `run_until_complete`, is not blocked.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, seconds: float = BLOCKED_LOOP) -> None:
        """Call it on the thread of `loop`."""
        self.loop = loop
        self._seconds = seconds
        self._thread_id = threading.get_ident()
        self._counters: WeakKeyDictionary[Metrics, Calls] = WeakKeyDictionary()
        self._answered = threading.Event()
        self._ended = threading.Event()

    def watch(self, metrics: Metrics, calls: Calls = Calls()) -> None:  # noqa: B008  immutable
        """Count in `metrics` too, from now on, and call `calls`."""
        was_idle = not self._counters
        self._counters[metrics] = calls
        if was_idle:
            self._ended = ended = threading.Event()
            threading.Thread(target=self._run, args=(ended,), name="wsgateway watchdog", daemon=True).start()

    def unwatch(self, metrics: Metrics) -> None:
        """Undo `watch`. May be called twice. The thread ends with the last `unwatch`, or with the loop."""
        self._counters.pop(metrics, None)
        if not self._counters:
            self._ended.set()

    def _run(self, ended: threading.Event) -> None:
        while self._counters and not ended.wait(self._seconds):
            if self.loop.is_closed():
                self._call_closed()
                return
            if not self.loop.is_running():
                continue
            asked = time.monotonic()
            self._answered.clear()
            try:
                self.loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # the loop was closed at this moment
                continue
            if self._answered.wait(self._seconds):
                continue
            frame = sys._current_frames().get(self._thread_id)
            stack = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=STACK) if frame else None
            del frame  # it keeps the objects of the blocking code alive
            if self.loop.is_running() and not self._answered.wait(LATE):
                self._report_block(asked, stack, ended)

    def _call_closed(self) -> None:
        for calls in tuple(self._counters.values()):
            if calls.closed is not None:
                calls.closed()

    def _report_block(self, asked: float, stack: traceback.StackSummary | None, ended: threading.Event) -> None:
        """Log what blocks the loop, wait until the loop continues, and log that."""
        if stack:
            _log_stack(time.monotonic() - asked, stack)
        for calls in tuple(self._counters.values()):
            if calls.blocked is not None:
                calls.blocked()
        while not self._answered.wait(self._seconds):
            if ended.is_set() or self.loop.is_closed():
                return
        seconds = time.monotonic() - asked
        logger.warning("the event loop runs again, it was blocked for at least %.1f s", seconds)
        try:
            self.loop.call_soon_threadsafe(self._count, seconds)
        except RuntimeError:  # the loop was closed at this moment
            pass

    def _count(self, seconds: float) -> None:
        for metrics in self._counters:
            metrics.blocked_loops += 1
            metrics.blocked_seconds += seconds


def _log_stack(seconds: float, stack: traceback.StackSummary) -> None:
    """Log one record whose stack is that of the event loop's thread."""
    if not logger.isEnabledFor(logging.ERROR):
        return
    inner = stack[0]  # `walk_stack` goes outwards
    stack.reverse()
    text = (
        "the event loop has been blocked for %.1f s by %s (%s:%d), and every client waits: await slow calls, or write "
        "the hook as a def, which runs in a thread"
    )
    record = logger.makeRecord(
        logger.name,
        logging.ERROR,
        inner.filename,
        inner.lineno or 0,
        text,
        (seconds, inner.name, inner.filename, inner.lineno or 0),
        None,
        sinfo="Stack of the loop's thread (innermost call last):\n" + "".join(stack.format()).rstrip(),
    )
    logger.handle(record)

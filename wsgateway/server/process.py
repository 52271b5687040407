"""The process of a server: its event loop, its signals, and its end."""

import asyncio
import logging
import os
import signal
import sys

from wsgateway.listeners.loader import has_running_hook
from wsgateway.logs import flush_log, logger

FLUSH_GRACE = 0.5
"""Seconds that a second signal leaves for log lines to reach the file."""


def loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """Return uvloop's event loop, or None, which stands for asyncio's, if uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def stop_at_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGINT or SIGTERM. A second signal ends the process immediately.

    Call it in the event loop of `stop`.
    """
    loop = asyncio.get_running_loop()
    is_stopping = False

    def stopping(*_: object) -> None:
        nonlocal is_stopping
        if is_stopping:
            flush_log(FLUSH_GRACE)
            os._exit(1)  # also while a hook blocks the event loop, which would not notice `stop`
        is_stopping = True
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopping)


def end_process(code: int) -> int:
    """Return `code` for the process to exit with, or end the process here if a hook still runs in a thread."""
    if has_running_hook():
        logger.warning("a hook still runs in a thread, which is left behind")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)  # Python would wait for the thread
    return code

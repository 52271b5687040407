"""The process that serves: its event loop, its signals, and its end."""

import asyncio
import logging
import os
import signal
import sys
import threading

from wsgateway.logs import flush_log, logger

LAST_WORDS = 0.5
"""Seconds that a second signal leaves for what was logged to reach the file."""


def loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """uvloop's loop where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def stop_at_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGINT or SIGTERM; a second one ends the process now. Call it on the loop of `stop`."""
    loop = asyncio.get_running_loop()
    is_asked = False

    def stopping(*_: object) -> None:
        nonlocal is_asked
        if is_asked:
            flush_log(LAST_WORDS)
            os._exit(1)  # also while a hook blocks the loop, which would not see `stop`
        is_asked = True
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopping)


def end_process(code: int) -> int:
    """`code`, for a process that ends by itself; one in which a hook still runs in a thread is ended here."""
    if any(thread.name.startswith("wsgateway-") for thread in threading.enumerate()):
        logger.warning("a hook still runs in a thread, which is left behind")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)  # Python would wait for the thread
    return code

"""Notices that uvicorn is about to stop, which it does not report to a response that never ends. Knows no uvicorn."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 0.25
"""Seconds between two checks, while a stream is open."""


class StopWatch:
    """Checks, while streams on plain ASGI are open, whether SIGTERM has been handled by a server like uvicorn's.

    uvicorn handles it with a method of its server, whose `should_exit` is then True. It closes the sockets of
    WebSockets, but waits for running responses as long as `timeout_graceful_shutdown` allows. Other servers are not
    noticed.
    """

    def __init__(self, server_stops: Callable[[], None]) -> None:
        """`server_stops` is called once the server is about to stop."""
        self._server_stops = server_stops
        self._streams = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Check in the `with` block, which lasts as long as a stream."""
        self._streams += 1
        if self._timer is None:
            self._check_later()
        try:
            yield
        finally:
            self._streams -= 1
            if not self._streams and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._check)

    def _check(self) -> None:
        self._timer = None
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if getattr(server, "should_exit", False):
            self._server_stops()
        else:
            self._check_later()

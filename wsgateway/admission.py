"""Which of a server's sockets are served first: handshakes in slices, newcomers before idle ones. Knows no protocol."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from wsgateway.limits import HANDSHAKES_PER_TURN

T = TypeVar("T")


class Admission:
    """Begins at most `HANDSHAKES_PER_TURN` handshakes in one iteration of the event loop, so that requests are served
    while thousands of clients reconnect."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = 0

    def ask(self, begin: Callable[[], None], loop: asyncio.AbstractEventLoop) -> bool:
        """Call `begin` now or in a later iteration. Return whether it has been called."""
        if not self._begun:
            loop.call_soon(self._next_turn, loop)
        elif self._begun >= HANDSHAKES_PER_TURN:
            self._waiting.append(begin)
            return False
        self._begun += 1
        begin()
        return True

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = 0
        while self._waiting and self._begun < HANDSHAKES_PER_TURN:
            if not self._begun:
                loop.call_soon(self._next_turn, loop)
            self._begun += 1
            self._waiting.popleft()()


class IdleSockets(Generic[T]):
    """The sockets of a server that have no request, the oldest first. When the server is full, one of them makes room
    for a newcomer: a socket that has never made a request before one that is kept alive."""

    def __init__(self) -> None:
        self._unused: dict[T, None] = {}
        self._kept_alive: dict[T, None] = {}

    def add(self, sock: T, *, is_unused: bool) -> None:
        """`sock` has no request from now on; `is_unused`: it has never had one."""
        self.discard(sock)
        (self._unused if is_unused else self._kept_alive)[sock] = None

    def discard(self, sock: T) -> None:
        """`sock` has a request, or is closed. May be called twice."""
        self._unused.pop(sock, None)
        self._kept_alive.pop(sock, None)

    def take_oldest(self) -> T | None:
        """Remove the socket to close first and return it, None if every socket has a request."""
        sockets = self._unused or self._kept_alive
        oldest = next(iter(sockets), None)
        if oldest is not None:
            del sockets[oldest]
        return oldest

"""The order in which the sockets of a server are served: handshakes in slices, new sockets before idle ones.

Knows no protocol.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

HANDSHAKES_PER_ITERATION = 20
"""Handshakes that begin in one iteration of the event loop, each of which takes a quarter of a millisecond."""


class HandshakePacer:
    """Begins at most `HANDSHAKES_PER_ITERATION` handshakes in one iteration of the event loop.

    Therefore requests are served while thousands of clients reconnect.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = 0

    def ask(self, begin: Callable[[], None], loop: asyncio.AbstractEventLoop) -> bool:
        """Call `begin` now, or in a later event loop iteration. Return whether it was called."""
        if not self._begun:
            loop.call_soon(self._next_iteration, loop)
        elif self._begun >= HANDSHAKES_PER_ITERATION:
            self._waiting.append(begin)
            return False
        self._begun += 1
        begin()
        return True

    def _next_iteration(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = 0
        while self._waiting and self._begun < HANDSHAKES_PER_ITERATION:
            if not self._begun:
                loop.call_soon(self._next_iteration, loop)
            self._begun += 1
            self._waiting.popleft()()


class IdleSockets(Generic[T]):
    """The sockets of a server that have no request, by address, the oldest first.

    When the server is full, the oldest idle socket of the address with most of them is closed. A client
    from that address is refused.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, dict[T, None]] = {}
        self._addresses: defaultdict[int, dict[str, None]] = defaultdict(dict)  # by the number of their idle sockets
        self._max_idle = 0

    def add(self, sock: T, address: str) -> None:
        """Add `sock`, of a client at `address`, which has no request from now on. Make it the newest if it is known."""
        sockets = self._sockets.setdefault(address, {})
        if sock in sockets:
            del sockets[sock]
        else:
            self._move(address, len(sockets), len(sockets) + 1)
        sockets[sock] = None

    def discard(self, sock: T, address: str) -> None:
        """Remove `sock`, which has a request or is closed. Do nothing if it was removed."""
        sockets = self._sockets.get(address, {})
        if sock in sockets:
            self._move(address, len(sockets), len(sockets) - 1)
            del sockets[sock]
            if not sockets:
                del self._sockets[address]

    def take_oldest(self, newcomer: str) -> T | None:
        """Remove and return the socket that a new client at the address `newcomer` replaces, or None."""
        if self._max_idle <= len(self._sockets.get(newcomer, {})):
            return None
        address = next(iter(self._addresses[self._max_idle]))
        oldest = next(iter(self._sockets[address]))
        self.discard(oldest, address)
        return oldest

    def _move(self, address: str, before: int, after: int) -> None:
        if before:
            addresses = self._addresses[before]
            del addresses[address]
            if not addresses:
                del self._addresses[before]
        if after:
            self._addresses[after][address] = None
        if after > self._max_idle or (before == self._max_idle and before not in self._addresses):
            self._max_idle = after  # if it is less than before, it is still the most that an address has

"""The frames that the client of a stream posts: for a stream what reading is for a socket. Knows no HTTP."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from wsgateway.limits import Backlog
from wsgateway.transports.peer import Peer

MAX_WAITING = 1000
"""Frames of one client that may wait while its inbox is full. Each belongs to an HTTP request that is not answered."""

MAX_WAITING_BYTES = 256 * 1024
"""Bytes of these frames."""


class WaitingFrame:
    """A frame that its peer has not accepted yet. `accepted` is done with True once it has."""

    __slots__ = ("accepted", "frame", "size")

    def __init__(self, frame: str | bytes, size: int, accepted: "asyncio.Future[bool]") -> None:
        self.frame = frame
        self.size = size
        self.accepted = accepted


class Posted:
    """Passes the frames of one client to `peer`, in the order in which they arrive.

    A frame that the peer does not accept waits until `resume`, and every later one waits behind it.
    """

    __slots__ = ("_backlog", "_peer", "_waiting")

    def __init__(self, peer: Peer) -> None:
        self._peer: Peer | None = peer
        self._waiting: deque[WaitingFrame] | None = None  # made when a frame has to wait
        self._backlog: Backlog | None = None

    def hold(self, frame: str | bytes, size: int) -> None:
        """Pass `frame` on at the first `resume`, because the stream has not begun."""
        self._append(frame, size)

    def put(self, frame: str | bytes, size: int) -> "asyncio.Future[bool]":
        """Pass `frame` on after all earlier ones. Cancel the result to withdraw it.

        The result is True once the peer has accepted the frame, or if the stream has ended. It is False if too many
        frames wait.
        """
        if self._peer is None or (not self._waiting and self._peer.received(frame, size)):
            return _done(value=True)
        self._remove_done()
        if self._backlog is not None and not self._backlog.fits(size):
            return _done(value=False)
        return self._append(frame, size)

    def resume(self) -> None:
        """Pass on the frames that wait, until the peer does not accept one."""
        while self._waiting and self._peer is not None:
            first = self._waiting[0]
            if not first.accepted.done():
                if not self._peer.received(first.frame, first.size):
                    return
                _set(first.accepted)
            self._remove_done()

    def end(self) -> None:
        """Accept and discard every frame, because the stream has ended. May be called twice."""
        waiting, self._waiting, self._backlog, self._peer = self._waiting, None, None, None
        for each in waiting or ():
            _set(each.accepted)

    def _append(self, frame: str | bytes, size: int) -> "asyncio.Future[bool]":
        if self._waiting is None or self._backlog is None:
            self._waiting, self._backlog = deque(), Backlog(MAX_WAITING, MAX_WAITING_BYTES)
        waiting = WaitingFrame(frame, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._backlog.add(size)
        return waiting.accepted

    def _remove_done(self) -> None:
        """Remove the oldest frames that were accepted or withdrawn. All wait equally long, so the oldest ends first."""
        while self._waiting and self._waiting[0].accepted.done():
            assert self._backlog is not None
            self._backlog.remove(self._waiting.popleft().size)


@dataclass(frozen=True, slots=True)
class PostedStreams:
    """The streams of one running gateway whose clients post frames, by their secrets, and the name of its process."""

    node: str
    by_secret: dict[str, Posted] = field(default_factory=dict, repr=False)


def _done(*, value: bool) -> "asyncio.Future[bool]":
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    done.set_result(value)
    return done


def _set(accepted: "asyncio.Future[bool]") -> None:
    if not accepted.done():
        accepted.set_result(True)

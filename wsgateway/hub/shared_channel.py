"""One channel with a shared history in this process: reads the store for its replica, delivers, and notifies."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from wsgateway.cluster.history.recovery import Recovery, Wish
from wsgateway.cluster.history.replica import MAX_ASIDE, MAX_ASIDE_BYTES, Arrival, Effects, Page, Replica, State
from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.exceptions import HistoryError
from wsgateway.frames import Position, Publication
from wsgateway.hub.channel import Wanted
from wsgateway.hub.connection import Connection
from wsgateway.hub.shared_history import SharedHistory
from wsgateway.limits import Backlog
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

SLICE = 500
"""Subscribers that are notified of a loss in one iteration of the event loop."""

LARGE = 200
"""Subscribers from which on publications wait for others that this process has published."""

GATHER = 0.001
"""Seconds that they wait. To write to so many subscribers twice would take longer."""

BASE_BACKOFF = 0.1
MAX_BACKOFF = 2.0
"""Seconds between two tries to read the store, at first and at most."""


class Mark(NamedTuple):
    """What a record says besides its publication: its origin, the connection that does not receive it, its number."""

    origin: str
    but: str
    number: int


@dataclass(slots=True, frozen=True)
class Subscribers:
    """What a channel needs of the hub. `deliver` sends a publication to the subscribers of its channel in this process.

    `to_notify` returns the subscribers of a channel whose protocol can notify them, and `lose` ends the subscription of
    one of them because publications were missed. `count` returns how many subscribers a channel has.
    """

    deliver: Callable[[Publication, Mark | None], None]
    to_notify: Callable[[str], list[Connection]]
    lose: Callable[[Connection, str], object]
    is_up: Callable[[], bool]
    count: Callable[[str], int]


class SharedChannel:
    """The replica of one channel, and the reads that it has asked for."""

    __slots__ = (
        "_gathering",
        "_generation",
        "_held",
        "_history",
        "_last",
        "_log",
        "_loop",
        "_losing",
        "_marks",
        "_metrics",
        "_reading",
        "_shared_read",
        "_since",
        "_subscribers",
        "_waiting",
        "heard",
        "name",
        "replica",
        "settings",
    )

    def __init__(
        self,
        name: str,
        settings: ChannelSettings,
        history: SharedHistory,
        subscribers: Subscribers,
        metrics: Metrics,
        log: GatewayLog,
    ) -> None:
        self.name = name
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        """The time of the last publication or check, in seconds of the event loop's clock."""

        self.replica = Replica(limit=settings.history, is_latest_only=settings.keep is Keep.LAST)
        self._history = history
        self._subscribers = subscribers
        self._metrics = metrics
        self._log = log
        self._since: int | None = None  # the least offset that a waiting client has
        self._last = 1  # the most publications that a waiting client without one has asked for
        self._generation = 0
        self._marks: dict[Position, Mark] = {}  # of publications that are not delivered yet
        self._reading: asyncio.Task[None] | None = None
        self._shared_read: tuple[int, asyncio.Future[Page]] | None = None
        self._losing: asyncio.Task[None] | None = None
        self._held: list[tuple[Arrival, Mark | None]] = []
        self._waiting = Backlog(MAX_ASIDE, MAX_ASIDE_BYTES)  # what is held
        self._gathering: asyncio.TimerHandle | None = None

    # Joining

    def want(self, wanted: Wanted) -> None:
        """Let the first read contain what a waiting client has asked for."""
        if wanted.since is not None and not wanted.is_garbled:
            offset = wanted.since.offset
            self._since = offset if self._since is None else min(self._since, offset)
        elif wanted.last:
            self._last = max(self._last, wanted.last)

    async def join(self) -> None:
        """Read the store for the first time. Raise `HistoryError`."""
        while True:
            generation = self._generation
            page = await self._first_page()
            if generation == self._generation:  # else the link was lost meanwhile
                break
        self._apply(self.replica.joined(page))

    async def _first_page(self) -> Page:
        settings = self.settings
        if settings.keep is Keep.LAST:
            return await self._history.page(self.name, settings, 0, MAX_HISTORY)
        if self._since is not None:
            page = await self._history.page(self.name, settings, self._since, MAX_HISTORY)
            if page.entries or not page.top:
                return page
        return await self._history.page(self.name, settings, None, min(self._last, settings.history))

    # Clients

    async def page_for(self, wish: Wish) -> Page | None:
        """Return the page that `recover` needs for `wish`, None if it needs none. Raise `HistoryError`."""
        if not self._subscribers.is_up():
            raise HistoryError("the broker is unavailable, try again later")
        if self._losing is not None:
            await asyncio.shield(self._losing)
        self._drop_old()
        above = self.replica.above(wish)
        if above is None:
            return None
        shared = self._shared_read
        if shared is not None and shared[0] <= above and not shared[1].done():
            return await asyncio.shield(shared[1])
        future = self._history.page(self.name, self.settings, above, MAX_HISTORY)
        self._shared_read = (above, future)
        return await asyncio.shield(future)

    def recover(self, wish: Wish, page: Page | None) -> Recovery | None:
        """Return the recovery of a client that subscribes now. None if it has to wait until others are notified."""
        if self.replica.state is State.JOINING or self._losing is not None:
            return None
        self._drop_old()
        return self.replica.recover(wish, time.monotonic(), page)

    def forget(self) -> None:
        """Drop the publications that are kept here, because the history was dropped."""
        self.replica.tail.clear()

    def _drop_old(self) -> None:
        """Drop the publications that are older than `history_ttl`, because the store has dropped them, too."""
        ttl, newest = self.settings.history_ttl, self.replica.tail.newest(1)
        if ttl is not None and newest and newest[0][2].time + ttl < time.time():
            self.replica.tail.clear()

    # Arrivals

    def arrived(self, prev: int, position: Position, publication: Publication, mark: Mark | None) -> None:
        """Handle a publication that has arrived on the topic of the channel."""
        self.heard = self._loop.time()
        arrival = Arrival(prev, position.offset, position.epoch, publication)
        if self._losing is None and self._gathering is None and not self._gathers():
            self._handle(arrival, mark)
        elif self._waiting.fits(len(publication.payload)):
            self._waiting.add(len(publication.payload))
            self._held.append((arrival, mark))
            if self._losing is None and self._gathering is None:
                self._gathering = self._loop.call_later(GATHER, self._end_gathering)

    def _gathers(self) -> bool:
        """Return whether more publications of this process are about to arrive, and are better written together."""
        return self._history.appending > 1 and self._subscribers.count(self.name) >= LARGE

    def _end_gathering(self) -> None:
        self._gathering = None
        self._handle_held()

    def _handle_held(self) -> None:
        held, self._held = self._held, []
        self._waiting.clear()
        for number, (arrival, mark) in enumerate(held):
            self._handle(arrival, mark)
            if self._losing is not None:
                self._held = held[number + 1 :] + self._held
                return

    def _handle(self, arrival: Arrival, mark: Mark | None) -> None:
        if mark is not None and len(self._marks) < MAX_HISTORY:
            self._marks[Position(arrival.epoch, arrival.offset)] = mark
        self._apply(self.replica.arrived(arrival))

    def restored(self) -> None:
        """Handle that the link to the broker is restored."""
        self._generation += 1
        if self._losing is None:  # else it is done afterwards
            effects = self.replica.restored()
            if self.replica.state is not State.JOINING:  # `join` reads again
                self._apply(effects)

    def check(self) -> None:
        """Make sure that nothing was missed in a channel without publications."""
        self.heard = self._loop.time()
        if self._losing is None:
            self._apply(self.replica.check())

    def close(self) -> None:
        """Stop reading."""
        for each in (self._reading, self._losing, self._gathering):
            if each is not None:
                each.cancel()

    # Effects

    def _apply(self, effects: Effects) -> None:
        if effects.is_lost:
            conns = self._subscribers.to_notify(self.name)
            if len(conns) > SLICE:
                self._losing = asyncio.create_task(self._lose_in_slices(conns, effects))
                return
            for conn in conns:
                self._subscribers.lose(conn, self.name)
        self._finish(effects)

    async def _lose_in_slices(self, conns: list[Connection], effects: Effects) -> None:
        generation = self._generation
        for first in range(0, len(conns), SLICE):
            for conn in conns[first : first + SLICE]:
                self._subscribers.lose(conn, self.name)
            await asyncio.sleep(0)  # serves others between two slices
        self._losing = None
        self._finish(effects)
        if generation == self._generation:
            self._handle_held()
        else:
            self._held.clear()
            self._waiting.clear()
            self._apply(self.replica.restored())

    def _finish(self, effects: Effects) -> None:
        deliver, marks = self._subscribers.deliver, self._marks
        for publication in effects.publications:
            mark = None
            if marks and publication.position is not None:
                mark = marks.pop(publication.position, None)
            deliver(publication, mark)
        if effects.read_above is not None:
            if self._reading is not None:
                self._reading.cancel()
            self._reading = asyncio.create_task(self._read(effects.renew, effects.read_above))
        elif self.replica.state is State.LIVE:
            marks.clear()

    async def _read(self, renew: str, above: int) -> None:
        """Read the page that the replica has asked for, until that succeeds or the link is lost."""
        delay = BASE_BACKOFF
        while True:
            try:
                if renew:
                    await self._history.renew(self.name, renew)
                page = await self._history.page(self.name, self.settings, above, MAX_HISTORY)
                break
            except HistoryError as exc:
                if not self._subscribers.is_up():
                    return  # `restored` reads again
                self._log.limited("healing").warning("the history of %s cannot be read: %s", self.name, exc)
                await asyncio.sleep(random.uniform(0, delay))  # noqa: S311  jitter, so that channels do not read at the same time
                delay = min(2 * delay, MAX_BACKOFF)
        self._reading = None
        effects = self.replica.healed(page)
        if effects.is_lost:
            self._metrics.gaps["lost"] += 1
            self._log.limited("lost").warning("subscribers of %s have missed publications", self.name)
        elif effects.publications:
            self._metrics.gaps["healed"] += 1
        self._apply(effects)

"""Counts the recipients of a publication to a channel in all nodes. Knows no broker.

A publication that is counted has a number. Once it is published, its node asks all nodes with a `Tally` how many
recipients it had there. A publication that is not counted costs nothing outside the nodes of its channel.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context

from wsgateway.cluster.acks import PendingAcks
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.envelopes import Tally
from wsgateway.cluster.tally import PATIENCE, Tallies
from wsgateway.messages import Deliveries

_NONE = Deliveries(0, 0, 0)


class Counting:
    """The counts that this node asks for, and those that it answers with.

    `has_subscribers` returns whether a channel has subscribers in this process, `is_live` whether it misses nothing.
    """

    def __init__(
        self, cluster: Cluster, *, has_subscribers: Callable[[str], bool], is_live: Callable[[str], bool]
    ) -> None:
        self._cluster = cluster
        self._has_subscribers = has_subscribers
        self._is_live = is_live
        self._tallies = Tallies()
        self._own: dict[int, asyncio.Future[Deliveries]] = {}  # by number: what this process has published
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Answer no request any more."""
        if self._timer is not None:
            self._timer.cancel()
        for future in self._own.values():
            future.cancel()

    # Asking

    def begin(self, channel: str, *, arrives: bool) -> "Count":
        """Return the count of a publication to `channel`. It has to be published with its number.

        With `arrives`, the subscribers of this process receive it when it arrives on the channel's topic.
        """
        pending = self._cluster.expect()
        own = None
        if arrives and self._has_subscribers(channel):
            own = self._own[pending.number] = self._loop.create_future()
        return Count(self, channel, pending, own)

    async def collect(self, count: "Count", here: Deliveries) -> Deliveries:
        """Ask all nodes, and return the sum of their counts and of `here`, those of this process."""
        self._cluster.tally(count.channel, count.pending)
        try:
            if count.own is not None:
                async with asyncio.timeout(self._cluster.timeout):
                    here = await count.own
        except TimeoutError:
            count.pending.is_complete = False
        finally:
            self._own.pop(count.number, None)
        return await self._cluster.collect(here, count.pending)

    def cancel(self, count: "Count") -> None:
        """Expect no counts, because nothing was published."""
        self._own.pop(count.number, None)
        self._cluster.cancel(count.pending)

    # Answering

    def delivered(self, origin: str, number: int, counts: Deliveries) -> None:
        """Handle that a numbered publication was delivered to the subscribers in this process."""
        if origin == self._cluster.node:
            future = self._own.get(number)
            if future is not None and not future.done():
                future.set_result(counts)
        elif self._tallies.add((origin, number), counts, time.monotonic()):
            self._cluster.acknowledge(origin, number, counts)

    def asked(self, tally: Tally) -> None:
        """Answer another node, or wait until its publication has arrived."""
        publication = tally.origin, tally.ask
        counts = self._tallies.find(publication, time.monotonic())
        if counts is None and self._has_subscribers(tally.channel):
            self._tallies.wait(publication, tally.channel, time.monotonic())
            if self._timer is None:
                self._timer = self._loop.call_later(PATIENCE, self._expire, context=Context())
        else:
            self._cluster.acknowledge(tally.origin, tally.ask, counts or _NONE)

    def _expire(self) -> None:
        """Answer the requests whose publication does not arrive, unless a missed one may still be delivered."""
        self._timer = None
        for (origin, number), channel in self._tallies.expire(time.monotonic()):
            if self._is_live(channel):
                self._cluster.acknowledge(origin, number, _NONE)
        if self._tallies.has_requests:
            self._timer = self._loop.call_later(PATIENCE / 2, self._expire, context=Context())


class Count:
    """The count of one publication. `number` is its number."""

    __slots__ = ("_counting", "channel", "own", "pending")

    def __init__(
        self, counting: Counting, channel: str, pending: PendingAcks, own: "asyncio.Future[Deliveries] | None"
    ) -> None:
        self._counting = counting
        self.channel = channel
        self.pending = pending
        self.own = own

    @property
    def number(self) -> int:
        return self.pending.number

    async def collect(self, here: Deliveries) -> Deliveries:
        """Ask all nodes, and return the sum of their counts and of `here`, those of this process."""
        return await self._counting.collect(self, here)

    def cancel(self) -> None:
        """Expect no counts, because nothing was published."""
        self._counting.cancel(self)

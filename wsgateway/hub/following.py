"""The channels whose topics this process follows. Knows no hooks, and no particular broker.

A channel is followed from before its first subscription until 5 s after its last one has ended.
"""

import asyncio
from collections import OrderedDict
from contextvars import Context

from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.envelopes import Membership, Record, Tally
from wsgateway.cluster.history.recovery import Recovery, Wish
from wsgateway.cluster.history.replica import Page, State
from wsgateway.cluster.records import encode_record, publication_of
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.namespaces import Namespaces
from wsgateway.config.values import Keep
from wsgateway.exceptions import BrokerError, HistoryError, MessageError
from wsgateway.frames import Position, Publication
from wsgateway.hub.channel import Wanted
from wsgateway.hub.counting import Counting
from wsgateway.hub.presence import SharedPresence
from wsgateway.hub.shared_channel import Mark, SharedChannel, Subscribers
from wsgateway.hub.shared_history import SharedHistory
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

LINGERING = 5.0
"""Seconds that a channel without subscribers is still followed, for clients that reconnect."""

MAX_LINGERING = 10_000
"""Channels that linger at the same time. Clients may subscribe to any number one after the other."""

CHECK_INTERVAL = 30.0
"""Seconds without publications after which the history of a channel is checked for missed ones."""

TICK = 0.5
"""Seconds between two looks for channels that have lingered or must be checked."""

MAX_CHECKED = 500
"""Channels that are checked at the same time."""


class Followed:
    """One channel whose topic is followed. `shared` is its replica, None without a history.

    `joining` is the task that makes it live, None once it is. `left` is when it has lost its last subscriber.
    """

    __slots__ = ("joining", "left", "name", "shared")

    def __init__(self, name: str, shared: SharedChannel | None) -> None:
        self.name = name
        self.shared = shared
        self.joining: asyncio.Task[None] | None = None
        self.left = 0.0


class Following:
    """The channels that one process of a gateway with a broker follows, while the gateway runs."""

    def __init__(
        self,
        namespaces: Namespaces,
        cluster: Cluster,
        history: SharedHistory | None,
        presence: SharedPresence,
        subscribers: Subscribers,
        *,
        max_bytes: int,
        metrics: Metrics,
        log: GatewayLog,
    ) -> None:
        """`max_bytes` is the size of one recovery."""
        self.history = history
        self.presence = presence
        self._namespaces = namespaces
        self._cluster = cluster
        self._routing = cluster.routing
        self._subscribers = subscribers
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._log = log
        self._followed: dict[str, Followed] = {}
        self._lingering: OrderedDict[str, Followed] = OrderedDict()  # those without subscribers, by `left`
        self._quiet: OrderedDict[str, SharedChannel] = OrderedDict()  # those with a history, by `heard`
        self.counting = Counting(
            cluster, has_subscribers=lambda name: subscribers.count(name) > 0, is_live=self._is_live
        )
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def has(self, name: str) -> bool:
        """Return whether a channel is followed."""
        return name in self._followed

    async def aclose(self) -> None:
        """Follow no channel any more."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [each.joining for each in self._followed.values() if each.joining is not None]
        for followed in tuple(self._followed.values()):
            self._drop(followed)
        if tasks:
            await asyncio.wait(tasks)
        self.counting.close()
        await self.presence.aclose()

    # Subscriptions

    async def ready(self, wanted: Wanted) -> Page | None:
        """Wait until a subscription to the channel can begin, and return the page that its recovery needs.

        It can begin at any time in the next 5 s. Without a history, it can begin while the broker is unavailable, too.
        Raise `HistoryError`.
        """
        name = wanted.channel
        followed = self._followed.get(name)
        if followed is None:
            followed = self._follow(name)
        if name in self._lingering or followed.joining is not None:
            self.linger(name)
        shared = followed.shared
        if followed.joining is not None:
            if shared is not None:
                shared.want(wanted)
            await self._joined(followed.joining)
            if name in self._lingering:
                self.linger(name)
        return None if shared is None else await shared.page_for(self._wish(wanted, shared.settings))

    async def _joined(self, joining: asyncio.Task[None]) -> None:
        await asyncio.wait({joining})
        if joining.cancelled():
            raise HistoryError("the gateway is stopping")
        joining.result()

    def retain(self, name: str) -> None:
        """Handle that a channel has its first subscriber."""
        self._lingering.pop(name, None)

    def linger(self, name: str) -> None:
        """Handle that a channel has no subscribers, or begins without. It lingers."""
        followed = self._followed.get(name)
        if followed is not None:
            followed.left = self._loop.time()
            self._lingering[name] = followed
            self._lingering.move_to_end(name)
            if len(self._lingering) > MAX_LINGERING:
                oldest = next(iter(self._lingering.values()))
                if oldest.joining is None:
                    self._drop(oldest)
            self._tick_later()

    def recover(self, wanted: Wanted, page: Page | None) -> Recovery | None:
        """Return the recovery of a client that subscribes now. None if `ready` must be called again."""
        followed = self._followed.get(wanted.channel)
        if followed is None or followed.shared is None:
            return None
        return followed.shared.recover(self._wish(wanted, followed.shared.settings), page)

    def position(self, name: str) -> Position | None:
        """Return the position of a channel in this process, None if it has none here."""
        followed = self._followed.get(name)
        if followed is None or followed.shared is None or followed.joining is not None:
            return None
        return followed.shared.replica.position

    def _wish(self, wanted: Wanted, settings: ChannelSettings) -> Wish:
        since = None if wanted.is_garbled else wanted.since
        return Wish(since, wanted.last, self._max_bytes, settings.keep is Keep.LAST)

    def _follow(self, name: str) -> Followed:
        settings, shared = self._namespaces.find(name), None
        if settings.history and self.history is not None:
            shared = SharedChannel(name, settings, self.history, self._subscribers, self._metrics, self._log)
        followed = self._followed[name] = Followed(name, shared)
        followed.joining = asyncio.create_task(self._join(followed), context=Context())
        followed.joining.add_done_callback(_retrieve)
        return followed

    async def _join(self, followed: Followed) -> None:
        """Make a channel live. If its history cannot be read, stop following it, and raise `HistoryError`."""
        try:
            try:
                await self._routing.follow(followed.name)
            except BrokerError as exc:
                if followed.shared is not None:
                    raise HistoryError(f"the broker is unavailable: {exc}") from exc
            if self._namespaces.find(followed.name).presence:
                await self.presence.join(followed.name)
            if followed.shared is not None:
                await followed.shared.join()
                self._quiet[followed.name] = followed.shared
                self._tick_later()
        except BaseException:
            followed.joining = None
            self._drop(followed)
            raise
        followed.joining = None

    def _drop(self, followed: Followed) -> None:
        name = followed.name
        if self._followed.get(name) is not followed:
            return
        del self._followed[name]
        self._lingering.pop(name, None)
        self._quiet.pop(name, None)
        if followed.joining is not None:
            followed.joining.cancel()
        if followed.shared is not None:
            followed.shared.close()
        self.presence.leave(name)
        self._routing.unfollow(name)

    # Publications

    def announce(self, publication: Publication, *, but: str = "", number: int = 0) -> None:
        """Publish to the other nodes what is in no history. Raise `MessageError` if it is too large."""
        data = encode_record(publication, node=self._cluster.node, but=but, number=number)
        if not self._routing.publish(publication.channel, data):
            text = f"{len(data)} bytes are too many for the broker"
            raise MessageError(f"the message cannot be published to {publication.channel}: {text}")

    def published(self, record: Record, prev: int, position: Position | None) -> None:
        """Handle a publication that has arrived. Raise `EnvelopeError` if it is malformed."""
        followed = self._followed.get(record.channel)
        if followed is None:
            return
        publication = publication_of(record, self._namespaces.find(record.channel), position)
        mark = Mark(record.origin, record.but, record.number) if record.but or record.number else None
        if position is None or followed.shared is None:
            self._subscribers.deliver(publication, mark)
            return
        if record.channel in self._quiet:
            self._quiet.move_to_end(record.channel)
        followed.shared.arrived(prev, position, publication, mark)

    def asked(self, tally: Tally) -> None:
        """Handle that another node asks how many recipients its publication had here."""
        self.counting.asked(tally)

    def _is_live(self, channel: str) -> bool:
        """Return whether no publication of `channel` that was missed can still be delivered."""
        followed = self._followed.get(channel)
        return followed is None or followed.shared is None or followed.shared.replica.state is State.LIVE

    def changed_members(self, membership: Membership) -> None:
        """Handle members that have joined or left in another process."""
        self.presence.arrived(membership)

    def forgotten(self, channel: str) -> None:
        """Handle that the history of a channel was dropped."""
        followed = self._followed.get(channel)
        if followed is not None and followed.shared is not None:
            followed.shared.forget()

    def node_gone(self, node_id: str) -> None:
        """Handle that the connections of another node are members of no channel any more."""
        self.presence.node_gone(node_id)

    def node_present(self, node_id: str) -> None:
        """Handle that another node has joined, or answers again, or that its link to the broker was lost."""
        self.presence.node_present(node_id)

    def link_changed(self, *, is_up: bool) -> None:
        """Handle that the broker is available again, or is not any more."""
        if is_up:
            self.presence.restored()
            for followed in tuple(self._followed.values()):
                if followed.shared is not None:
                    followed.shared.restored()

    # Time

    def _tick_later(self) -> None:
        if self._timer is None and (self._lingering or self._quiet):
            self._timer = self._loop.call_later(TICK, self._tick, context=Context())

    def _tick(self) -> None:
        """Drop channels that have lingered, and check those without publications."""
        self._timer = None
        now = self._loop.time()
        while self._lingering:
            followed = next(iter(self._lingering.values()))
            if now - followed.left < LINGERING:
                break
            if followed.joining is None:
                self._drop(followed)
            else:
                self.linger(followed.name)
        silent = now - CHECK_INTERVAL
        for shared in [*self._quiet.values()][:MAX_CHECKED]:
            if shared.heard > silent:
                break
            self._quiet.move_to_end(shared.name)
            shared.check()
        self._tick_later()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Mark the error of a task as seen, because its clients may all have disconnected."""
    if not task.cancelled():
        task.exception()

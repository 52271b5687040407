"""Publishes messages: to the connections of this process, to channels, and to the other nodes of the gateway.

The only way out for a message that is not for a single connection. Knows no hooks. Only `Receipt.wait` waits.
"""

import asyncio
import time
from asyncio import Future
from collections.abc import Iterable, Sequence

from wsgateway.cluster.acks import PendingAcks
from wsgateway.cluster.single import AnyCluster
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.frames import Member, NamedMessage, Position, Publication
from wsgateway.hub.channel import Channel
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection
from wsgateway.hub.counting import Count
from wsgateway.hub.following import Following
from wsgateway.hub.hub import Hub
from wsgateway.hub.shared_channel import Mark
from wsgateway.hub.shared_history import Appended
from wsgateway.hub.target import Target
from wsgateway.messages import Deliveries, Message, Sent
from wsgateway.metrics import Metrics

NO_DELIVERIES = Deliveries(0, 0, 0)


class Receipt:
    """The result of publishing a message. `counts` are those of this process.

    `at` is its position, None if it is in no history. `is_new` is False if its idempotency key was used before. Both
    are known once `stored` has returned. `appending` is None unless a shared history has to store the message.
    """

    __slots__ = ("_cluster", "_count", "_pending", "appending", "at", "counts", "is_new")

    def __init__(
        self,
        counts: Deliveries,
        cluster: AnyCluster,
        pending: PendingAcks | None = None,
        *,
        at: Position | None = None,
        is_new: bool = True,
        appending: Future[Appended] | None = None,
        count: Count | None = None,
    ) -> None:
        self.counts = counts
        self.at = at
        self.is_new = is_new
        self._cluster = cluster
        self._pending = pending
        self._count = count
        self.appending = appending

    async def stored(self) -> None:
        """Wait until a shared history has stored the message. Raise `HistoryError`."""
        if self.appending is not None:
            self.at, self.is_new = await asyncio.shield(self.appending)

    async def wait(self) -> Sent:
        """Wait until the message is stored, and at most `broker_timeout` seconds for the counts of the other nodes.

        Return the sum. Raise `HistoryError`.
        """
        count, counts = self._count, self.counts
        try:
            if self.appending is not None:
                await self.stored()
            if count is not None and self.is_new:
                counts = await count.collect(counts)
        finally:
            if count is not None:
                count.cancel()
        if self._pending is not None:
            counts = await self._cluster.collect(counts, self._pending)
        return Sent._make((*counts, self.position, self.is_new))

    @property
    def position(self) -> str | None:
        return None if self.at is None else str(self.at)


def publish_to_nodes(cluster: AnyCluster, message: Message, ids: Sequence[str] | None, counts: Deliveries) -> Receipt:
    """Publish `message` to the other nodes, and request their counts.

    The recipients are all their connections, or those with `ids`. `counts` are those of this process.
    """
    return Receipt(counts, cluster, cluster.publish(message, ids, acknowledge=True))


class PubSub:
    """Publishes the messages of one gateway. Recipients that are closed or unknown are skipped, logged, and counted."""

    def __init__(self, hub: Hub, cluster: AnyCluster, channels: Channels, metrics: Metrics) -> None:
        self._hub = hub
        self._metrics = metrics
        self._cluster = cluster
        self._channels = channels

    def publish_nowait(
        self, message: Message, to: Iterable[Connection | str] | None, *, but: Connection | None = None
    ) -> Deliveries:
        """Publish `message` to the connections and ids `to`, and return the counts of this node.

        If `to` is None, the recipients are every connection of every node except `but`.
        """
        if to is None:
            counts = self._deliver_to_all(message, but)
            self._cluster.publish(message, None, acknowledge=False)
            return counts
        own, remote = self._cluster.split(to)
        counts = self._hub.deliver_to(message, own)
        if remote:
            self._cluster.publish(message, remote, acknowledge=False)
        return counts

    def publish(
        self,
        message: Message,
        target: Target,
        *,
        sender: Connection | None = None,
        but: Connection | None = None,
        counts: bool = True,
    ) -> Receipt:
        """Publish `message` to `target`. With `counts`, `Receipt.wait` waits for the counts of the other nodes.

        `sender` is the connection that has sent it. `but` is left out, unless `target` names connections.
        Raise `ChannelError` if there is no such channel, and `ValueError` for an idempotency key without a history.
        """
        if target.channel:
            return self._publish_to_channel(message, target, sender, but, counts=counts)
        if target.name:
            message = NamedMessage(message.payload, message.kind, target.name)
        if target.user:
            conns = [conn for conn in self._hub.of_user(target.user) if conn is not but]
            delivered = self._hub.deliver_to(message, conns)
            pending = self._cluster.publish_to_user(message, target.user, acknowledge=counts)
            return Receipt(delivered, self._cluster, pending)
        to = target.connections
        if counts:
            return self.publish_to(message, to, but=but)
        return Receipt(self.publish_nowait(message, to, but=but), self._cluster)

    def publish_to(
        self, message: Message, to: Iterable[Connection | str] | None, *, but: Connection | None = None
    ) -> Receipt:
        """Publish `message` as `publish_nowait` does, and request the counts of the other nodes."""
        if to is None:
            return publish_to_nodes(self._cluster, message, None, self._deliver_to_all(message, but))
        own, remote = self._cluster.split(to)
        delivered = self._hub.deliver_to(message, own)
        if not remote:
            return Receipt(delivered, self._cluster)
        return publish_to_nodes(self._cluster, message, remote, delivered)

    def _deliver_to_all(self, message: Message, but: Connection | None) -> Deliveries:
        return self._hub.deliver(message, self._hub.everybody, but=None if but is None else but._outbox)

    def _publish_to_channel(
        self, message: Message, target: Target, sender: Connection | None, but: Connection | None, *, counts: bool
    ) -> Receipt:
        name = target.channel
        settings = self._channels.namespaces.find(name)
        channel = self._channels.find(name)
        now = time.monotonic()
        publication = Publication(
            message,
            name,
            name=target.name,
            key=target.key,
            tags=None if target.tags is None else dict(target.tags),  # a copy, which its owner cannot change
            time=time.time(),
            expires=None if target.ttl is None else now + target.ttl,
            sender=_member(channel, sender) if sender is not None and settings.presence else None,
            policy=settings.slow_policy,
            is_latest_only=settings.keep is Keep.LAST,
        )
        is_stored = settings.history > 0 and not target.skip_history
        if target.idempotency_key and not is_stored:
            raise ValueError(f"idempotency_key needs a history, and the channel {name} keeps none")
        if self._channels.following is not None:
            key = target.idempotency_key if is_stored else None
            return self._publish_to_followers(self._channels.following, publication, settings, key, but, counts=counts)
        at = None
        if is_stored:
            at, is_new = self._channels.history.append(publication, settings, idempotency_key=target.idempotency_key)
            if not is_new:
                return Receipt(NO_DELIVERIES, self._cluster, at=at, is_new=False)
        self._metrics.publications[self._channels.namespaces.namespace_of(name)] += 1
        return Receipt(self._deliver_here(publication, channel, but, now), self._cluster, at=at)

    def _publish_to_followers(
        self,
        following: Following,
        publication: Publication,
        settings: ChannelSettings,
        key: str | None,
        but: Connection | None,
        *,
        counts: bool,
    ) -> Receipt:
        """Publish to the nodes that follow the channel. Unless `key` is None, their shared history stores it."""
        name, without, history = publication.channel, "" if but is None else but.id, following.history
        is_stored = key is not None and history is not None
        count = following.counting.begin(name, arrives=is_stored) if counts else None
        number = 0 if count is None else count.number
        self._metrics.publications[self._channels.namespaces.namespace_of(name)] += 1
        try:
            if key is not None and history is not None:
                future = history.append(publication, settings, idempotency_key=key, but=without, number=number)
                return Receipt(NO_DELIVERIES, self._cluster, appending=future, count=count)
            following.announce(publication, but=without, number=number)
        except BaseException:
            if count is not None:
                count.cancel()
            raise
        delivered = self._deliver_here(publication, self._channels.find(name), but, time.monotonic())
        return Receipt(delivered, self._cluster, count=count)

    def _deliver_here(
        self, publication: Publication, channel: Channel | None, but: Connection | None, now: float
    ) -> Deliveries:
        if channel is None:
            return NO_DELIVERIES
        channel.published = now
        return self._hub.deliver(publication, channel, but=None if but is None else but._outbox)

    def deliver(self, publication: Publication, mark: Mark | None) -> None:
        """Deliver a publication of another process, or of a shared history, to the subscribers in this process."""
        but = None if mark is None else self._hub.connections.get(mark.but)
        channel = self._channels.find(publication.channel)
        counts = self._deliver_here(publication, channel, but, time.monotonic())
        following = self._channels.following
        if mark is not None and mark.number and following is not None:
            following.counting.delivered(mark.origin, mark.number, counts)


def _member(channel: Channel | None, conn: Connection) -> Member:
    """Return the sender `conn` as members of `channel` see it, which may have no subscribers."""
    if channel is None:
        return Member(conn.id, conn.user_id, conn_info=conn._conn_info)
    return channel.member(conn)

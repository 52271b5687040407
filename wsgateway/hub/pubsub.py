"""Publishes messages to the connections of this process and to the other nodes of the gateway. Knows no hooks.

Only `Publication.wait` waits.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from wsgateway.cluster.acks import PendingAcks
from wsgateway.cluster.single import AnyCluster
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.messages import Message, Sent

Recipients: TypeAlias = Iterable[Connection | str] | None
"""Connections and ids, in this order, each once. None means every open connection of every node, an empty iterable
means no recipients."""


class Publication:
    """A message that was published. `sent` has the counts of this process."""

    __slots__ = ("_cluster", "_pending", "sent")

    def __init__(self, sent: Sent, cluster: AnyCluster, pending: PendingAcks | None) -> None:
        self.sent = sent
        self._cluster = cluster
        self._pending = pending

    async def wait(self) -> Sent:
        """Wait at most `broker_timeout` seconds for the counts of the other nodes, and return the counts of all."""
        if self._pending is None:
            return self.sent
        return await self._cluster.collect(self.sent, self._pending)


def publish_to_nodes(cluster: AnyCluster, message: Message, ids: Sequence[str] | None, sent: Sent) -> Publication:
    """Publish `message` to the other nodes, and request their counts.

    The recipients are all their connections, or those with `ids`. `sent` are the counts of this process.
    """
    return Publication(sent, cluster, cluster.publish(message, ids, acknowledge=True))


class PubSub:
    """Publishes the messages of one gateway. Recipients that are closed or unknown are skipped, logged, and counted."""

    def __init__(self, hub: Hub, cluster: AnyCluster) -> None:
        self._hub = hub
        self._cluster = cluster

    def publish_nowait(self, message: Message, to: Recipients, *, but: Connection | None = None) -> Sent:
        """Publish `message` to the recipients `to`, and return the counts of this node.

        If `to` is None, `but` is left out.
        """
        if to is None:
            sent = self._deliver_to_all(message, but)
            self._cluster.publish(message, None, acknowledge=False)
            return sent
        own, remote = self._cluster.split(to)
        sent = self._hub.deliver_to(message, own)
        if remote:
            self._cluster.publish(message, remote, acknowledge=False)
        return sent

    def publish(self, message: Message, to: Recipients, *, but: Connection | None = None) -> Publication:
        """Publish `message`, and request counts from the other nodes. `Publication.wait` waits for them."""
        if to is None:
            return publish_to_nodes(self._cluster, message, None, self._deliver_to_all(message, but))
        own, remote = self._cluster.split(to)
        sent = self._hub.deliver_to(message, own)
        if not remote:
            return Publication(sent, self._cluster, None)
        return publish_to_nodes(self._cluster, message, remote, sent)

    def _deliver_to_all(self, message: Message, but: Connection | None) -> Sent:
        return self._hub.deliver(message, self._hub.everybody, but=None if but is None else but._outbox)

"""The only way out for a message: to the connections of this process, and towards the other processes of the gateway.

Nothing here waits but `Publication.counted`.
"""

import enum
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from wsgateway.cluster.acks import PendingAcks
from wsgateway.cluster.cluster import Cluster, SingleNode
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.messages import Message, Sent


class Everybody(enum.Enum):
    """The recipients of a broadcast: every open connection in every process."""

    EVERYBODY = "everybody"


EVERYBODY = Everybody.EVERYBODY

Recipients: TypeAlias = Everybody | Iterable[Connection | str]
"""Everybody, or connections and ids of connections: exactly these, in this order, each once. An empty one is nobody."""


class Publication:
    """A message that was published. `sent` has the counts of this process."""

    __slots__ = ("_cluster", "_pending", "sent")

    def __init__(self, sent: Sent, cluster: Cluster | SingleNode, pending: PendingAcks | None) -> None:
        self.sent = sent
        self._cluster = cluster
        self._pending = pending

    async def counted(self) -> Sent:
        """Wait for the counts of the other processes, at most `broker_timeout` seconds, and return those of all."""
        if self._pending is None:
            return self.sent
        return await self._cluster.collect(self.sent, self._pending)


def publish_to_nodes(
    cluster: Cluster | SingleNode, message: Message, ids: Sequence[str] | None, sent: Sent
) -> Publication:
    """Publish `message` to the other processes, for all their connections or for those with `ids`, and count it.

    `sent` are the counts of this process.
    """
    return Publication(sent, cluster, cluster.publish(message, ids, acknowledge=True))


class PubSub:
    """Publishes the messages of one gateway. Recipients that are closed or unknown are skipped, logged, and counted."""

    def __init__(self, hub: Hub, cluster: Cluster | SingleNode) -> None:
        self._hub = hub
        self._cluster = cluster

    def publish_nowait(self, message: Message, to: Recipients, *, but: Connection | None = None) -> Sent:
        """Publish `message`, to everybody without `but`, or to named recipients. Return the counts of this process."""
        if to is EVERYBODY:
            sent = self._hub.deliver(message, None, but=but)
            self._cluster.publish(message, None, acknowledge=False)
            return sent
        own, remote = self._cluster.split(to)
        sent = self._hub.deliver(message, self._hub.resolve(own))
        if remote:
            self._cluster.publish(message, remote, acknowledge=False)
        return sent

    def publish(self, message: Message, to: Recipients) -> Publication:
        """`publish_nowait`, and have the other processes count. Does not wait either: `Publication.counted` does."""
        if to is EVERYBODY:
            return publish_to_nodes(self._cluster, message, None, self._hub.deliver(message, None))
        own, remote = self._cluster.split(to)
        sent = self._hub.deliver(message, self._hub.resolve(own))
        if not remote:
            return Publication(sent, self._cluster, None)
        return publish_to_nodes(self._cluster, message, remote, sent)

"""The recipients of a message: every connection or named ones, in this node and in others."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.connections import channels_of, connected, hub_of, text
from wsgateway import Gateway
from wsgateway.cluster.acks import PendingAcks
from wsgateway.cluster.single import SingleNode
from wsgateway.hub.pubsub import PubSub
from wsgateway.hub.target import Target
from wsgateway.messages import Deliveries, Message

MESSAGE = text("hi")


class TwoNodes(SingleNode):
    """A cluster whose other node has the connections whose ids begin with `far`."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[tuple[Sequence[str] | None, bool]] = []

    def split(self, recipients: Iterable[Any]) -> tuple[Iterable[Any], Sequence[str]]:
        listed = list(recipients)
        remote = [item for item in listed if isinstance(item, str) and item.startswith("far")]
        return [item for item in listed if item not in remote], remote

    def publish_to_user(self, message: Message, user: str, *, acknowledge: bool) -> PendingAcks | None:
        self.published.append(([f"user {user}"], acknowledge))
        return None

    def publish(self, message: Message, ids: Sequence[str] | None, *, acknowledge: bool) -> PendingAcks | None:
        self.published.append((ids, acknowledge))
        return None


def made(count: int) -> tuple[PubSub, TwoNodes, list[Any]]:
    gateway = Gateway()
    hub, cluster = hub_of(gateway), TwoNodes()
    return (
        PubSub(hub, cluster, channels_of(gateway, hub), gateway.metrics),
        cluster,
        [conn for conn, _ in connected(gateway, hub, count)],
    )


async def test_everybody_is_every_connection_and_the_other_nodes() -> None:
    pubsub, cluster, _ = made(3)
    assert pubsub.publish_nowait(MESSAGE, None) == Deliveries(3, 3, 0)
    assert cluster.published == [(None, False)]


async def test_everybody_but_one_leaves_out_that_one() -> None:
    pubsub, cluster, connections = made(3)
    assert pubsub.publish_nowait(MESSAGE, None, but=connections[0]) == Deliveries(2, 2, 0)
    assert pubsub.publish(MESSAGE, Target(), but=connections[0]).counts == Deliveries(2, 2, 0)
    assert cluster.published == [(None, False), (None, True)]


@pytest.mark.parametrize("remote", [[], ["far1", "far2"]], ids=["here", "there too"])
async def test_named_recipients_are_split_between_the_nodes(remote: list[str]) -> None:
    pubsub, cluster, connections = made(3)
    sent = pubsub.publish_nowait(MESSAGE, [connections[0], connections[1].id, "unknown", *remote])
    assert sent == Deliveries(2, 2, 0)
    assert cluster.published == ([(remote, False)] if remote else [])


async def test_nobody_receives_what_is_published_to_an_empty_list() -> None:
    pubsub, cluster, _ = made(3)
    assert pubsub.publish_nowait(MESSAGE, []) == Deliveries(0, 0, 0)
    assert cluster.published == []


async def test_a_counted_publication_has_the_other_nodes_count() -> None:
    pubsub, cluster, connections = made(2)
    for to in (None, [connections[0], "far1"], [connections[0]]):
        assert (await pubsub.publish(MESSAGE, Target(connections=to)).wait()).queued in (1, 2)
    assert cluster.published == [(None, True), (["far1"], True)]


async def test_a_message_to_a_user_is_for_the_connections_of_every_node() -> None:
    pubsub, cluster, _ = made(2)
    for counts in (True, False):
        assert (await pubsub.publish(MESSAGE, Target(user="ann"), counts=counts).wait()).recipients == 0
    assert cluster.published == [(["user ann"], True), (["user ann"], False)]

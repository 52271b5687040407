"""The counts of the other nodes, and when they are complete."""

from dataclasses import dataclass, field

import pytest

from wsgateway.cluster.acks import Acks
from wsgateway.cluster.envelopes import VERSION, Ack, Info
from wsgateway.cluster.nodes import Nodes, NodeState
from wsgateway.messages import Deliveries

INFO = Info(host="h", pid=1, version="1", age=0.0, state="running")
A, B = "a" * 8, "b" * 8
HERE = Deliveries(1, 1, 0)


@dataclass
class Node:
    """This process, which knows the nodes A and B."""

    is_up: bool = True
    nodes: Nodes = field(default_factory=Nodes)

    def __post_init__(self) -> None:
        for node_id in (A, B):
            self.nodes.see(node_id, INFO, 0)
        self.acks = Acks(self.nodes, is_up=lambda: self.is_up, is_serving=True)


@pytest.fixture
def node() -> Node:
    return Node()


def ack(origin: str, number: int, recipients: int = 2) -> Ack:
    return Ack(VERSION, origin, 1, number, recipients, recipients, 0)


async def test_the_counts_of_every_node_are_added(node: Node) -> None:
    pending = node.acks.expect(None)
    node.acks.add(ack(A, pending.number))
    node.acks.add(ack(B, pending.number, 3))
    assert await node.acks.collect(HERE, pending, 10) == Deliveries(6, 6, 0, nodes=3, complete=True)


async def test_only_the_nodes_of_the_named_connections_are_waited_for(node: Node) -> None:
    pending = node.acks.expect([f"{B}.one", f"{B}.two"])
    node.acks.add(ack(A, pending.number))
    assert pending.missing == {B}
    node.acks.add(ack(B, pending.number))
    assert await node.acks.collect(HERE, pending, 10) == Deliveries(3, 3, 0, nodes=2, complete=True)


async def test_an_acknowledgement_counts_once(node: Node) -> None:
    pending = node.acks.expect([f"{A}.x"])
    for _ in range(2):
        node.acks.add(ack(A, pending.number))
    assert pending.counts == [Deliveries(2, 2, 0)]


async def test_a_late_node_makes_the_counts_incomplete_and_is_not_waited_for_again(node: Node) -> None:
    pending = node.acks.expect([f"{A}.x"])
    assert await node.acks.collect(HERE, pending, 0) == Deliveries(1, 1, 0, nodes=1, complete=False)
    again = node.acks.expect([f"{A}.x"])
    assert (again.missing, again.is_complete, again.done.done()) == (set(), False, True)
    node.acks.add(ack(A, pending.number))  # it answers after all
    assert node.acks.expect([f"{A}.x"]).missing == {A}


async def test_a_node_that_leaves_is_not_waited_for(node: Node) -> None:
    pending = node.acks.expect(None)
    node.acks.add(ack(A, pending.number))
    node.nodes.mark(B, NodeState.LEFT, 1)
    node.acks.drop_node(B)
    assert await node.acks.collect(HERE, pending, 10) == Deliveries(3, 3, 0, nodes=2, complete=False)


async def test_nothing_is_waited_for_once_the_broker_is_unavailable(node: Node) -> None:
    pending = node.acks.expect(None)
    node.is_up = False
    node.acks.end_all()
    assert not (await node.acks.collect(HERE, pending, 10)).complete


async def test_a_publisher_that_knows_no_node_has_incomplete_counts() -> None:
    acks = Acks(Nodes(), is_up=lambda: True, is_serving=False)
    assert await acks.collect(Deliveries(0, 0, 0), acks.expect(None), 10) == Deliveries(
        0, 0, 0, nodes=0, complete=False
    )

"""A gateway without a broker has a cluster of one."""

import pytest

from wsgateway.cluster.nodes import node_of
from wsgateway.cluster.questions import CollectTotals
from wsgateway.cluster.single import SingleNode
from wsgateway.exceptions import NodeError
from wsgateway.messages import Kind, Message


async def test_a_single_node_is_up_and_has_no_other() -> None:
    alone = SingleNode()
    assert (alone.node, alone.is_up, alone.has_broker, alone.nodes.alive()) == ("", True, False, [])
    assert alone.publish(Message(b"x", Kind.BYTES), None, acknowledge=True) is None
    assert await alone.ask_all(CollectTotals()) == {}
    with pytest.raises(NodeError, match="no broker"):
        await alone.ask("deadbeef", CollectTotals())


def test_every_recipient_of_a_single_node_is_its_own() -> None:
    own, others = SingleNode().split(["deadbeef.x", "y"])
    assert (list(own), list(others)) == (["deadbeef.x", "y"], [])


def test_the_node_is_the_beginning_of_a_connection_id() -> None:
    assert node_of("deadbeef.abc") == "deadbeef"

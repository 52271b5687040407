"""The nodes of a gateway, as their heartbeats arrive or do not."""

import pytest

from wsgateway.cluster.envelopes import MAX_NODES, Info
from wsgateway.cluster.nodes import LEASE, SHOWN, SILENCE, Nodes, NodeState

INFO = Info(host="h", pid=1, version="1", age=0.0, state="running")
A, B = "a" * 8, "b" * 8


@pytest.fixture
def nodes() -> Nodes:
    nodes = Nodes()
    nodes.see(A, INFO, 0)
    return nodes


def states(nodes: Nodes) -> dict[str, NodeState]:
    return {node.id: node.state for node in nodes.shown()}


def test_a_heartbeat_says_whether_the_node_is_new(nodes: Nodes) -> None:
    assert [nodes.see(A, INFO, 1), nodes.see(B, INFO, 1), nodes.see(B, INFO, 2)] == [False, True, False]


def test_a_node_without_a_heartbeat_is_lost_after_its_lease(nodes: Nodes) -> None:
    assert nodes.expire(LEASE) == []
    assert [node.id for node in nodes.expire(LEASE + 1)] == [A]
    assert (nodes.get(A), nodes.alive(), states(nodes)) == (None, [], {A: NodeState.LOST})


def test_a_lost_node_is_returned_once_and_forgotten_later(nodes: Nodes) -> None:
    nodes.expire(LEASE + 1)
    assert nodes.expire(LEASE + 1 + SHOWN) == []
    assert states(nodes) == {A: NodeState.LOST}
    nodes.expire(LEASE + 2 + SHOWN)
    assert states(nodes) == {}


def test_a_node_that_was_lost_or_late_is_new_with_its_next_heartbeat(nodes: Nodes) -> None:
    node = nodes.get(A)
    assert node is not None
    node.is_late = True
    nodes.mark(A, NodeState.LEFT, 1)
    assert nodes.see(A, INFO, 2)
    assert (nodes.get(A), node.is_late) == (node, False)


def test_a_node_that_is_not_known_cannot_leave(nodes: Nodes) -> None:
    nodes.mark(B, NodeState.LEFT, 1)
    assert states(nodes) == {A: NodeState.ALIVE}


def test_a_full_table_forgets_the_node_that_has_been_gone_longest(nodes: Nodes) -> None:
    for number in range(MAX_NODES - 1):
        nodes.see(f"{number:08x}", INFO, 0)
    assert nodes.make_space(A)
    assert not nodes.make_space(B)
    nodes.mark(A, NodeState.LEFT, 2)
    nodes.mark("00000007", NodeState.LOST, 1)
    assert nodes.make_space(B)
    assert "00000007" not in states(nodes)
    assert A in states(nodes)


def test_silence_is_counted_from_the_last_sign_of_life_that_could_be_read(nodes: Nodes) -> None:
    node = nodes.get(A)
    assert nodes.silences(0) == [(node, SILENCE)]
    assert not nodes.touch(A, 2)
    assert nodes.silences(0) == [(node, 2 + SILENCE)]
    assert nodes.silences(3) == [(node, 3 + SILENCE)]


def test_a_node_is_absent_until_its_next_sign_of_life(nodes: Nodes) -> None:
    assert [nodes.set_absent(A), nodes.set_absent(A), nodes.set_absent(B)] == [True, False, False]
    assert (nodes.silences(0), nodes.present(), nodes.is_present(A)) == ([], [], False)
    assert states(nodes) == {A: NodeState.ALIVE}
    assert nodes.touch(A, 9)
    assert nodes.is_present(A)


def test_a_heartbeat_that_arrives_after_its_node_has_left_does_not_revive_it(nodes: Nodes) -> None:
    nodes.mark(A, NodeState.LEFT, 1)
    assert not nodes.touch(A, 2)
    assert not nodes.touch(B, 2)
    assert states(nodes) == {A: NodeState.LEFT}


def test_a_node_whose_loop_is_blocked_is_alive_and_stays_late(nodes: Nodes) -> None:
    node = nodes.get(A)
    assert node is not None
    node.is_late = True
    nodes.touch(A, 9, is_blocked=True)
    assert (node.seen, node.is_late) == (9, True)
    nodes.touch(A, 10)
    assert not node.is_late

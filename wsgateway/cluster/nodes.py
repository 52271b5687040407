"""The nodes of a gateway: alive while their heartbeats arrive, absent if they do not answer, lost when a heartbeat is
overdue. No I/O; the time is an argument.
"""

import enum
from dataclasses import dataclass

from wsgateway.cluster.envelopes import MAX_NODES, NODE_ID, Info

LEASE = 30.0
"""Seconds after its last heartbeat at which a node is lost."""

SILENCE = 4.0
"""Seconds after its last heartbeat at which a node is asked whether it is still running."""

SHOWN = 300.0
"""Seconds for which a node that is lost or has left is still shown."""


def node_of(conn_id: str) -> str:
    """Return the id of the node that has the connection. For other text, return its first characters."""
    return conn_id[:NODE_ID]


class NodeState(enum.StrEnum):
    """Whether a node is alive; LOST if its heartbeat is overdue or it was seen dying, LEFT if it has left by itself."""

    ALIVE = "alive"
    LOST = "lost"
    LEFT = "left"


@dataclass(slots=True)
class Node:
    """One node. `seen` is the time of its last heartbeat, `reported` that of `info`.

    `is_late` is whether its last answer was not in time. An absent node was silent and did not answer, or is no longer
    alive. Its connections are members of no channel until its next heartbeat.
    """

    id: str
    info: Info
    seen: float
    reported: float
    state: NodeState = NodeState.ALIVE
    is_late: bool = False
    is_absent: bool = False


class Nodes:
    """The other nodes of one gateway by id, at most `MAX_NODES`."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def make_space(self, node_id: str) -> bool:
        """Return whether the node is known or can be added. If necessary, forget one that has left or is lost."""
        if node_id in self._nodes or len(self._nodes) < MAX_NODES:
            return True
        gone = min(
            (node for node in self._nodes.values() if node.state is not NodeState.ALIVE),
            key=lambda node: node.seen,
            default=None,
        )
        if gone is not None:
            del self._nodes[gone.id]
        return gone is not None

    def see(self, node_id: str, info: Info, now: float) -> bool:
        """Record a heartbeat with a report. Return whether the node is new, or was absent."""
        known = self._nodes.get(node_id)
        if known is None:
            self._nodes[node_id] = Node(node_id, info, now, now)
            return True
        known.info, known.reported = info, now
        return _revive(known, now)

    def touch(self, node_id: str, now: float, *, is_blocked: bool = False) -> bool:
        """Record another sign of life. Return whether the node was absent. A node that has left remains so.

        A node whose event loop is blocked stays late.
        """
        known = self._nodes.get(node_id)
        if known is None or known.state is NodeState.LEFT:
            return False
        is_late = known.is_late and is_blocked
        was_absent = _revive(known, now)
        known.is_late = is_late
        return was_absent

    def mark(self, node_id: str, state: NodeState, now: float) -> None:
        """Set the state of a node that has left, or was seen dying."""
        known = self._nodes.get(node_id)
        if known is not None:
            known.state, known.seen = state, now

    def set_late(self, node_id: str, *, is_late: bool) -> None:
        """Record whether the last answer of a node that is alive was not in time."""
        node = self.get(node_id)
        if node is not None:
            node.is_late = is_late

    def set_absent(self, node_id: str) -> bool:
        """Make a node absent. Return False if it was, or is not known."""
        known = self._nodes.get(node_id)
        if known is None or known.is_absent:
            return False
        known.is_absent = known.is_late = True
        return True

    def is_present(self, node_id: str) -> bool:
        """Return whether the node is alive and not absent."""
        known = self.get(node_id)
        return known is not None and not known.is_absent

    def present(self) -> list[Node]:
        """Return the nodes that are alive and not absent."""
        return [node for node in self.alive() if not node.is_absent]

    def silences(self, since: float) -> list[tuple[Node, float]]:
        """Return the nodes that are present, each with the time at which it will have been silent for too long.

        Silence before `since` is ignored.
        """
        return [(node, max(node.seen, since) + SILENCE) for node in self.present()]

    def get(self, node_id: str) -> Node | None:
        """Return the node with that id, if it is alive."""
        known = self._nodes.get(node_id)
        return known if known is not None and known.state is NodeState.ALIVE else None

    def alive(self) -> list[Node]:
        return [node for node in self._nodes.values() if node.state is NodeState.ALIVE]

    def shown(self) -> list[Node]:
        """Return every node that is alive, was lost or has left less than `SHOWN` seconds ago."""
        return list(self._nodes.values())

    def expire(self, now: float) -> list[Node]:
        """Mark nodes whose heartbeat is overdue as LOST and return them. Forget nodes that were lost or left more than
        `SHOWN` seconds ago."""
        lost = [node for node in self.alive() if now - node.seen > LEASE]
        for node in lost:
            node.state, node.seen = NodeState.LOST, now
        for node in self.shown():
            if node.state is not NodeState.ALIVE and now - node.seen > SHOWN:
                del self._nodes[node.id]
        return lost


def _revive(node: Node, now: float) -> bool:
    """Make a node alive and present. Return whether it was absent."""
    was_absent = node.is_absent or node.state is not NodeState.ALIVE
    node.seen, node.state, node.is_late, node.is_absent = now, NodeState.ALIVE, False, False
    return was_absent

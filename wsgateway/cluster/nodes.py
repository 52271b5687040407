"""The nodes of a gateway: alive while their heartbeats arrive, lost when a heartbeat is overdue. No I/O; the time is an
argument.
"""

import enum
from dataclasses import dataclass

from wsgateway.cluster.envelopes import MAX_NODES, NODE_ID, Info

LEASE = 30.0
"""Seconds after its last heartbeat at which a node is lost."""

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
    """One node. `seen` is the time of its last heartbeat; `is_late` is whether its last answer was not in time."""

    id: str
    info: Info
    seen: float
    state: NodeState = NodeState.ALIVE
    is_late: bool = False


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
        """Record a heartbeat. Return whether the node is new, or alive again."""
        known = self._nodes.get(node_id)
        if known is None:
            self._nodes[node_id] = Node(node_id, info, now)
            return True
        was_gone = known.state is not NodeState.ALIVE
        known.info, known.seen, known.state, known.is_late = info, now, NodeState.ALIVE, False
        return was_gone

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

"""Which processes a gateway runs in: known by their beats, dead when these stay away. No I/O, time is an argument."""

import enum
from dataclasses import dataclass

from wsgateway.cluster.envelopes import NODE_ID, Info
from wsgateway.limits import LEASE, MAX_NODES

SHOWN = 300.0
"""Seconds for which a node that is dead or has left is still shown."""


def node_of(conn_id: str) -> str:
    """Return the id of the node that has the connection; something else if `conn_id` is not the id of a connection."""
    return conn_id[:NODE_ID]


class NodeState(enum.StrEnum):
    """Whether a node lives. `lost`: its beats stayed away; `left`: it said good-bye."""

    ALIVE = "alive"
    LOST = "lost"
    LEFT = "left"


@dataclass(slots=True)
class Node:
    """One process. `seen` is when it was heard last; `is_late`: it has not answered when it was asked last."""

    id: str
    info: Info
    seen: float
    state: NodeState = NodeState.ALIVE
    is_late: bool = False


class Nodes:
    """The other processes of one gateway, by id: at most `MAX_NODES`."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def has_place(self, node_id: str) -> bool:
        """Return whether the node is known or can be added. What has gone longest is forgotten for it."""
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

    def heard(self, node_id: str, info: Info, now: float) -> bool:
        """A beat has come. Whether the node is new, or back."""
        known = self._nodes.get(node_id)
        if known is None:
            self._nodes[node_id] = Node(node_id, info, now)
            return True
        was_away = known.state is not NodeState.ALIVE
        known.info, known.seen, known.state, known.is_late = info, now, NodeState.ALIVE, False
        return was_away

    def gone(self, node_id: str, state: NodeState, now: float) -> None:
        """It said good-bye, or was seen dying."""
        known = self._nodes.get(node_id)
        if known is not None:
            known.state, known.seen = state, now

    def get(self, node_id: str) -> Node | None:
        """The node with that id, if it lives."""
        known = self._nodes.get(node_id)
        return known if known is not None and known.state is NodeState.ALIVE else None

    def alive(self) -> list[Node]:
        return [node for node in self._nodes.values() if node.state is NodeState.ALIVE]

    def shown(self) -> list[Node]:
        """All that live, and those that have gone not long ago."""
        return list(self._nodes.values())

    def expire(self, now: float) -> list[Node]:
        """Find those whose beats stay away, and forget who has been gone for long; the former."""
        lost = [node for node in self.alive() if now - node.seen > LEASE]
        for node in lost:
            node.state, node.seen = NodeState.LOST, now
        for node in self.shown():
            if node.state is not NodeState.ALIVE and now - node.seen > SHOWN:
                del self._nodes[node.id]
        return lost

"""Asks other nodes to do something with connections: the nodes that have those with certain ids, or every node."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from wsgateway.cluster.nodes import node_of
from wsgateway.cluster.questions import Question, with_ids
from wsgateway.cluster.single import AnyCluster

A = TypeVar("A")

MAX_IDS = 10_000
"""Ids in one question. They take 330 KB, and a NATS server accepts 1 MiB by default."""


async def ask_owners(cluster: AnyCluster, question: Question[A], ids: Sequence[str] | None) -> tuple[list[A], bool]:
    """Ask `question` of the other nodes that have connections with `ids`, or, if that is None, of every node.

    With `ids`, the question has a field of that name, which becomes the ids of each node. Nodes that were late are
    asked, too. Return the answers, and whether every node has answered. A node that does not answer in time is logged;
    it may still act on the question. One that has left has no connections any more.
    """
    if ids is None:
        asked = [(node.id, question) for node in cluster.nodes.alive()]
        is_reachable = cluster.is_up
    else:
        by_node: dict[str, list[str]] = {}
        for conn_id in cluster.split(ids)[1]:
            by_node.setdefault(node_of(conn_id), []).append(conn_id)
        asked = [
            (node_id, with_ids(question, theirs[start : start + MAX_IDS]))
            for node_id, theirs in by_node.items()
            for start in range(0, len(theirs), MAX_IDS)
        ]
        is_reachable = cluster.is_up or not asked
    answers = await cluster.ask_each(asked) if asked else []
    unanswered = Counter(node_id for node_id, _ in asked) - Counter(node_id for node_id, _ in answers)
    is_complete = is_reachable and all(cluster.nodes.get(node_id) is None for node_id in unanswered)
    return [answer for _, answer in answers], is_complete

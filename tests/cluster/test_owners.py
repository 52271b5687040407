"""Which nodes are asked about connections, and when their answers are complete."""

from collections.abc import Sequence
from typing import Any

import pytest

from wsgateway.cluster.envelopes import Info
from wsgateway.cluster.nodes import NodeState, node_of
from wsgateway.cluster.owners import MAX_IDS, ask_owners
from wsgateway.cluster.questions import Close, CloseUser
from wsgateway.cluster.single import SingleNode

INFO = Info(host="h", pid=1, version="1", age=0.0, state="running")
A, B, GONE = "a" * 8, "b" * 8, "c" * 8


class Three(SingleNode):
    """A cluster with the nodes A and B, whose answers are the number of ids, and one that has left."""

    def __init__(self, *silent: str) -> None:
        super().__init__()
        self.asked: list[tuple[str, int | None]] = []
        self.silent = silent
        for node_id in (A, B):
            self.nodes.see(node_id, INFO, 0)

    def split(self, recipients: Any) -> tuple[list[Any], list[str]]:
        return [], [each for each in recipients if node_of(each) in (A, B, GONE)]

    async def ask_each(self, questions: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
        counts = [(node_id, len(getattr(each, "ids", None) or "a")) for node_id, each in questions]
        self.asked += counts
        return [(node_id, count) for node_id, count in counts if node_id not in (*self.silent, GONE)]


def close(ids: list[str] | None) -> Close:
    return Close(ids, 1000, "")


async def test_every_node_is_asked_about_a_user_or_all() -> None:
    cluster = Three()
    assert await ask_owners(cluster, CloseUser("ann", 1000, ""), None) == ([1, 1], True)
    assert [node_id for node_id, _ in cluster.asked] == [A, B]


async def test_only_the_nodes_that_have_the_connections_are_asked() -> None:
    cluster, ids = Three(), [f"{B}.1", "own", f"{B}.2"]
    assert await ask_owners(cluster, close(ids), ids) == ([2], True)
    assert cluster.asked == [(B, 2)]
    assert await ask_owners(cluster, close(["own"]), ["own"]) == ([], True)


async def test_many_ids_are_asked_for_in_parts() -> None:
    cluster, ids = Three(), [f"{A}.{number}" for number in range(MAX_IDS + 1)]
    assert await ask_owners(cluster, close(ids), ids) == ([MAX_IDS, 1], True)


@pytest.mark.parametrize("ids", [None, [f"{A}.1", f"{B}.1"]])
async def test_a_node_that_does_not_answer_makes_the_answers_incomplete(ids: list[str] | None) -> None:
    cluster = Three(B)
    assert await ask_owners(cluster, close(ids), ids) == ([1], False)
    cluster.nodes.mark(B, NodeState.LEFT, 1)
    assert await ask_owners(cluster, close(ids), ids) == ([1], True)  # its connections are closed


async def test_without_the_broker_only_a_question_to_no_node_is_complete() -> None:
    cluster = Three(A, B)
    cluster.is_up = False
    assert await ask_owners(cluster, close(None), None) == ([], False)
    assert await ask_owners(cluster, close([f"{GONE}.1"]), [f"{GONE}.1"]) == ([], False)
    assert await ask_owners(cluster, close(["own"]), ["own"]) == ([], True)

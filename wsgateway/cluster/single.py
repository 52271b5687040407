"""The cluster of a gateway without a broker, and the type of either kind of cluster."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from wsgateway.cluster.acks import PendingAcks
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.nodes import Nodes
from wsgateway.cluster.questions import Question
from wsgateway.exceptions import NodeError
from wsgateway.messages import Deliveries, Message

A = TypeVar("A")


class SingleNode:
    """The cluster of a gateway without a broker, whose only node is this process. Has the methods of `Cluster`."""

    node = ""
    is_up = True
    is_serving = True
    has_broker = False
    failure = ""
    topics = 0

    def __init__(self) -> None:
        self.nodes = Nodes()

    async def start(self) -> None:
        """Do nothing, because there is no broker to join."""

    async def aclose(self) -> None:
        """Do nothing, because there is no broker to leave."""

    def notify(self) -> None:
        """Do nothing, because there is no other node."""

    async def wait_until(self, is_fulfilled: Callable[[], bool]) -> None:
        """Do not wait, because there is no other node."""

    def loop_blocked(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do nothing, because there is no other node."""

    def is_remote(self, conn_id: str) -> bool:
        return False

    def split(self, recipients: Iterable[Any]) -> tuple[Iterable[Any], Sequence[str]]:
        """Return all `recipients` as those of this node."""
        return recipients, ()

    def publish(self, message: Message, ids: Sequence[str] | None, *, acknowledge: bool) -> PendingAcks | None:
        """Do nothing, because there is no other node."""

    def publish_to_user(self, message: Message, user: str, *, acknowledge: bool) -> PendingAcks | None:
        """Do nothing, because there is no other node."""

    async def collect(self, here: Deliveries, pending: PendingAcks) -> Deliveries:
        return here

    async def ask(self, node_id: str, question: Question[A]) -> A:
        raise NodeError(f"node {node_id!r} cannot be reached, the gateway has no broker")

    async def ask_within(self, seconds: float, node_id: str, question: Question[A]) -> A:
        raise NodeError(f"node {node_id!r} cannot be reached, the gateway has no broker")

    async def ask_each(self, questions: Sequence[tuple[str, Question[A]]]) -> list[tuple[str, A]]:
        return []

    async def ask_all(self, question: Question[A]) -> dict[str, A]:
        return {}


AnyCluster = Cluster | SingleNode
"""The nodes of one gateway, whether it has a broker or not."""

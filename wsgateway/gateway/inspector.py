"""The nodes of a gateway, and the connections in all of them: counted, searched, paged, and closed from any node.

Knows no HTTP, nor how a node answers.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from wsgateway.cluster.envelopes import Info
from wsgateway.cluster.nodes import NodeState, node_of
from wsgateway.cluster.owners import ask_owners
from wsgateway.cluster.questions import (
    Close,
    CloseUser,
    CollectSamples,
    CollectTotals,
    ConnectionInfo,
    Describe,
    Rows,
    Search,
)
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import NodeError
from wsgateway.gateway.answers import Answers
from wsgateway.gateway.channels import ChannelInspector
from wsgateway.gateway.registry import GatewayState
from wsgateway.gateway.shapes import Closed, NodeInfo
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Samples


class Inspector:
    """Inspects a gateway across all its nodes. A node that does not answer in time is left out, and logged."""

    def __init__(self, answers: Answers, cluster: Callable[[], AnyCluster], log: GatewayLog) -> None:
        self._answers = answers
        self.channels = ChannelInspector(answers.gateway_id, answers.channels, cluster, log)
        self._current_cluster = cluster
        self._counting: asyncio.Future[dict[str, dict[str, float]]] | None = None

    @property
    def _cluster(self) -> AnyCluster:
        return self._current_cluster()

    # The nodes

    async def nodes(self) -> list[NodeInfo]:
        """Return every node, this one first, the others as last reported. Return an empty list without a broker."""
        cluster = self._cluster
        if not cluster.has_broker:
            return []
        totals = await self._count_others(cluster)
        now = time.monotonic()
        nodes = [_own_info(cluster.node, self._answers.info())] if cluster.is_serving else []
        for node in cluster.nodes.shown():
            counted = totals.get(node.id, {}).get("connections", node.info.connections)
            age = node.info.age + now - node.reported
            silent = now - node.seen
            nodes.append(_node_info(node.id, node.info, node.state, silent, age=age, connections=int(counted)))
        return nodes

    @property
    def has_running_peers(self) -> bool:
        """Whether other nodes serve this gateway too."""
        return any(node.info.state == GatewayState.RUNNING for node in self._cluster.nodes.alive())

    async def totals(self) -> dict[str, float]:
        """Return the number of connections of all nodes, and counters from which a page computes rates."""
        own = self._answers.totals()
        others = (await self._count_others(self._cluster)).values()
        return {name: value + sum(totals.get(name, 0) for totals in others) for name, value in own.items()}

    def reported_totals(self) -> dict[str, float]:
        """Return the totals as the other nodes have last reported them. Times of hooks are those of this node alone."""
        totals = self._answers.totals()
        for node in self._cluster.nodes.alive():
            info = node.info
            totals["connections"] += info.connections
            totals["in"] += info.messages_in
            totals["out"] += info.messages_out
            totals["dropped"] += info.dropped
        return totals

    async def _count_others(self, cluster: AnyCluster) -> dict[str, dict[str, float]]:
        """Return the totals of every other node. Concurrent callers share one request."""
        if not cluster.has_broker:
            return {}
        if self._counting is None or self._counting.get_loop().is_closed():
            self._counting = asyncio.ensure_future(cluster.ask_all(CollectTotals()))
            self._counting.add_done_callback(self._forget_counting)
        return await asyncio.shield(self._counting)

    def _forget_counting(self, _: object) -> None:
        self._counting = None

    async def samples(self) -> list[Samples]:
        """Return the metrics of each node."""
        cluster = self._cluster
        own = [self._answers.samples()] if cluster.is_serving else []
        return [*own, *(await cluster.ask_all(CollectSamples())).values()]

    # The connections

    async def page(self, search: str, offset: int, limit: int) -> tuple[int, list[ConnectionInfo]]:
        """Return how many connections match `search`, and a page of them, in the same order on every node."""
        own = await self._answers.matching(search)
        cluster = self._cluster
        totals: dict[str, int] = {**await cluster.ask_all(Search(search)), cluster.node: len(own)}
        rows: list[ConnectionInfo] = []
        passed = 0
        for node_id, total in sorted(totals.items()):
            missing, skip = limit - len(rows), max(0, offset - passed)
            if missing > 0 and skip < total and node_id == cluster.node:
                rows += [self._answers.row(conn) for conn in own[skip : skip + missing]]
            elif missing > 0 and skip < total:
                try:
                    rows += await cluster.ask(node_id, Rows(search, skip, missing))
                except NodeError:
                    pass  # it has left meanwhile
            passed += total
        return passed, rows

    async def describe(self, conn_id: str) -> ConnectionInfo | None:
        """Return one connection with its headers, whichever node has it; None if it is not open. Raise `NodeError`."""
        cluster = self._cluster
        if cluster.is_remote(conn_id):
            return await cluster.ask(node_of(conn_id), Describe(conn_id))
        return self._answers.describe(conn_id)

    def node_of(self, conn_id: str) -> str:
        """Return the id of the other node that has the connection; empty for a connection of this node."""
        return node_of(conn_id) if self._cluster.is_remote(conn_id) else ""

    async def close(self, ids: Sequence[str] | None, code: int, reason: str, *, user: str = "") -> Closed:
        """Begin to close the connections with `ids`, those of `user`, or all of them.

        Raise `ValueError` for a code or reason that cannot be sent.
        """
        listed = None if ids is None else list(ids)
        question = CloseUser(user, code, reason) if user else Close(listed, code, reason)
        own = self._answers.close(question)
        others, is_complete = await ask_owners(self._cluster, question, None if user else listed)
        return Closed(own + sum(others), is_complete)


def _own_info(node_id: str, info: Info) -> NodeInfo:
    return _node_info(node_id, info, NodeState.ALIVE, 0.0, age=info.age, connections=info.connections)


def _node_info(node_id: str, info: Info, state: NodeState, silent: float, *, age: float, connections: int) -> NodeInfo:
    is_alive = state is NodeState.ALIVE
    return NodeInfo(
        id=node_id,
        state=info.state if is_alive else str(state),
        host=info.host,
        pid=info.pid,
        version=info.version,
        age=round(age, 3),
        silent=round(max(0.0, silent), 3),
        connections=connections if is_alive else 0,
        messages_in=info.messages_in,
        messages_out=info.messages_out,
        dropped=info.dropped,
        slow=info.slow,
        hook_errors=info.errors,
    )

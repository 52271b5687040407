"""Lists the channels with subscribers, and the nodes, of a gateway for the server API. Knows no HTTP."""

import asyncio
import fnmatch
import re
import time
from collections import Counter
from collections.abc import Callable

from wsgateway.cluster.envelopes import Info
from wsgateway.cluster.nodes import Node
from wsgateway.cluster.questions import CollectTotals, ListChannels
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import NodeError
from wsgateway.gateway.answers import Answers
from wsgateway.gateway.api_shapes import NodeResult
from wsgateway.logs import GatewayLog

PAGE = 1000
"""Channels in one answer of another node. It fits into the 1 MiB of a NATS message if their names have 255 bytes."""

CHUNK = 5000
"""Names that are compared in one iteration of the event loop."""


class Overview:
    """The channels and nodes of a gateway. A node that does not answer in time is logged, and left out."""

    def __init__(self, answers: Answers, cluster: Callable[[], AnyCluster], log: GatewayLog) -> None:
        self._answers = answers
        self._cluster = cluster
        self._log = log

    async def channels(self, pattern: str) -> Counter[str]:
        """Return the number of subscribers of each channel that has some, and whose name matches `pattern`.

        `*` matches any text, and `?` any character. An empty pattern matches every name.
        """
        is_match = matcher(pattern)
        prefix = re.split(r"[*?]", pattern, maxsplit=1)[0]
        channels = self._answers.channels
        counts: Counter[str] = Counter()
        for number, name in enumerate(await channels.names(prefix), 1):
            subscribers = channels.count_of(name)
            if subscribers and is_match(name):
                counts[name] += subscribers
            if number % CHUNK == 0:
                await asyncio.sleep(0)  # serves others between two chunks
        nodes = [node for node in self._cluster().nodes.present() if not node.is_late]
        for others in await asyncio.gather(*(self._channels_of(node, prefix, is_match) for node in nodes)):
            counts.update(others)
        return counts

    async def _channels_of(self, node: Node, prefix: str, is_match: Callable[[str], bool]) -> Counter[str]:
        """Return the subscribers of channels in another node, which lists them page by page."""
        counts: Counter[str] = Counter()
        after = ""
        try:
            while True:
                page = await self._cluster().ask(node.id, ListChannels(prefix, PAGE, after))
                rows = [row for row in page.rows if row.name > after]  # a node of an earlier version ignores `after`
                counts.update({row.name: row.subscribers for row in rows if row.subscribers and is_match(row.name)})
                if len(rows) < PAGE:
                    return counts
                after = rows[-1].name
        except NodeError as exc:
            self._log.limited("asked for channels").warning("channels: %s", exc)
            return counts

    async def nodes(self) -> list[NodeResult]:
        """Return the nodes that are alive, this one first."""
        cluster = self._cluster()
        own = _node(cluster.node, self._answers.info(), self._answers.totals(), 0.0)
        totals = await cluster.ask_all(CollectTotals())
        now = time.monotonic()
        others = [
            _node(node.id, node.info, totals.get(node.id, {}), now - node.reported) for node in cluster.nodes.present()
        ]
        return [own, *others]


def _node(node_id: str, info: Info, totals: dict[str, float], silent: float) -> NodeResult:
    """Return one node. A node of an earlier version has no count of users, subscriptions, and channels."""
    name = f"{info.host}-{info.pid}"
    return NodeResult(
        uid=node_id or name,
        name=name,
        version=info.version,
        num_clients=int(totals.get("connections", info.connections)),
        num_users=int(totals.get("users", 0)),
        num_subs=int(totals.get("subscriptions", 0)),
        num_channels=int(totals.get("channels", 0)),
        uptime=int(info.age + silent),
    )


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that matches names against `pattern`, in which `*` and `?` are wildcards."""
    if not pattern:
        return lambda _: True
    expression = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))  # takes no exponential time
    return lambda name: expression.match(name) is not None

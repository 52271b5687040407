"""The heartbeats of one node, and those of the others, or their silence. Knows no topics."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from wsgateway.cluster import envelopes
from wsgateway.cluster.asking import Answering, Asks
from wsgateway.cluster.envelopes import VERSION, Heartbeat, Info
from wsgateway.cluster.nodes import Node, Nodes
from wsgateway.cluster.questions import Ping
from wsgateway.exceptions import NodeError, NodeLate
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

HEARTBEAT = 1.0
"""Seconds between two heartbeats of a node."""

REPORT = 10.0
"""Seconds between two heartbeats that contain the report of the node. Earlier versions send only these."""

LEASE_CHECK = 0.5
"""Seconds between two checks for overdue heartbeats, at most; a part of `HEARTBEAT`."""

MIN_PAUSE = 0.001
"""Seconds between two checks, at least."""

PAUSE = 1.5
"""Seconds between two checks after which this process was paused or blocked, and has not read what has arrived."""

NODE_LINES = 10
"""Lines of the log per second for nodes that join, are absent, or are lost."""

PING_TIMEOUT = 1.0
"""Seconds that a silent node has to answer."""


@dataclass(slots=True)
class Reports:
    """What follows from heartbeats, for the owner of a `Heartbeats`.

    `send` publishes a heartbeat to all nodes before everything that waits, and `report` one with the report of this
    node. `lost` is called with the id of a node whose lease has expired, `absent` and `present` with that of one that
    becomes absent or present.
    """

    send: Callable[[bytes], None]
    report: Callable[[], None]
    lost: Callable[[str], None]
    absent: Callable[[str], None]
    present: Callable[[str], None]


class Heartbeats:
    """Sends the heartbeats of the node `own`, unless it only publishes, and notices which nodes are silent."""

    def __init__(
        self,
        own: str,
        nodes: Nodes,
        asks: Asks,
        reports: Reports,
        *,
        is_up: Callable[[], bool],
        is_serving: bool,
        metrics: Metrics,
        log: GatewayLog,
    ) -> None:
        self._own = own
        self._nodes = nodes
        self._asks = asks
        self._reports = reports
        self._is_up = is_up
        self._is_serving = is_serving
        self._metrics = metrics
        self._log = log
        self._marks = 0
        self._listening = -math.inf  # since when this process reads what arrives
        self._pings: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self.echoes: set[bytes] = set()
        """Heartbeats of this node that have to return through the broker. The owner removes those that do."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> bool:
        """Send no more heartbeats. May be called twice. Return whether it was started."""
        task, self._task = self._task, None
        if task is None:
            return False
        for each in (task, *self._pings.values()):
            each.cancel()
        await asyncio.wait({task, *self._pings.values()})
        return True

    # Signs of life

    def add(self, node_id: str, info: Info) -> None:
        """Handle the report of a node."""
        if not self._nodes.make_space(node_id):
            self._metrics.broker_dropped["nodes"] += 1
            text = "node %s (%s, pid %d) is not added: too many processes report that they belong to this gateway"
            self._log.limited("too many nodes").warning(text, node_id, info.host, info.pid)
        elif self._nodes.see(node_id, info, _now()):
            log = self._log.limited("joined", burst=NODE_LINES)
            log.info("node %s (%s, pid %d) has joined", node_id, info.host, info.pid)
            self._reports.present(node_id)

    def touch(self, node_id: str, *, is_blocked: bool = False) -> None:
        """Handle another sign of life of a node, perhaps of one whose event loop is blocked."""
        if self._nodes.touch(node_id, _now(), is_blocked=is_blocked):
            self._log.limited("present", burst=NODE_LINES).info("node %s answers again", node_id)
            self._reports.present(node_id)

    def set_absent(self, node_id: str) -> None:
        """Make a node absent, unless it is."""
        if self._nodes.set_absent(node_id):
            self._reports.absent(node_id)

    # Its task

    async def _run(self) -> None:
        checked = beaten = reported = -math.inf
        while True:
            now = _now()
            if now - checked > PAUSE or not self._is_up():
                self._listening = now
            checked = now
            if self._is_serving and now - beaten >= HEARTBEAT:
                beaten = now
                self._send()
                if now - reported >= REPORT:
                    reported = now
                    self._reports.report()
            for node in self._nodes.expire(now):
                log = self._log.limited("lost", burst=NODE_LINES)
                log.warning("node %s (%s, pid %d) is lost", node.id, node.info.host, node.info.pid)
                self._reports.lost(node.id)
            due = min(beaten + HEARTBEAT, self._ask_silent(now)) if self._is_serving else math.inf
            # silence has no event; a pause that is too short to change the clock would never end
            await asyncio.sleep(max(MIN_PAUSE, min(LEASE_CHECK, due - now)))

    def _send(self) -> bytes:
        """Send a heartbeat without a report, and return it."""
        self._marks += 1
        data = envelopes.encode(Heartbeat(VERSION, self._own, 0, None, mark=self._marks))
        self._reports.send(data)
        return data

    def _ask_silent(self, now: float) -> float:
        """Begin to ask the nodes that have been silent for too long. Return when the next one will have been."""
        due = math.inf
        if not self._is_up():
            return due
        for node, silent in self._nodes.silences(self._listening):
            if node.id in self._pings:
                continue
            if silent > now:
                due = min(due, silent)
                continue
            self._pings[node.id] = task = asyncio.create_task(self._ping(node))
            task.add_done_callback(partial(self._end_ping, node.id))
        return due

    def _end_ping(self, node_id: str, _: object) -> None:
        del self._pings[node_id]

    async def _ping(self, node: Node) -> None:
        """Ask a silent node whether it is running."""
        echo, seen, asked = self._send(), node.seen, _now()
        self.echoes.add(echo)
        try:
            await self._asks.ask_within(PING_TIMEOUT, node.id, Ping())
        except NodeLate:
            is_slow = echo in self.echoes or _now() - asked > PING_TIMEOUT + LEASE_CHECK
            if not is_slow and node.seen == seen:  # neither the broker nor this process is slow
                log = self._log.limited("absent", burst=NODE_LINES)
                text = "node %s (%s, pid %d) does not answer: until it does, its clients are members of no channel"
                log.warning(text, node.id, node.info.host, node.info.pid)
                self.set_absent(node.id)
            return
        except NodeError:
            if not self._is_up():
                return
        finally:
            self.echoes.discard(echo)
        self.touch(node.id)


async def _answer_ping(_: Ping) -> bool:
    return True


ANSWERING: Answering = {Ping: _answer_ping}
"""The answer to the question whether a node is running."""


def _now() -> float:
    return asyncio.get_running_loop().time()

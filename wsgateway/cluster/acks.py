"""Acknowledgements of messages: how many recipients a message had in the other nodes. Knows no broker."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wsgateway.cluster.envelopes import Ack
from wsgateway.cluster.nodes import Nodes, node_of
from wsgateway.messages import Deliveries


@dataclass(slots=True)
class PendingAcks:
    """The acknowledgements of one message. `missing` are the nodes that have not sent one; each contains `number`."""

    missing: set[str]
    done: asyncio.Future[None]
    number: int
    is_complete: bool
    counts: list[Deliveries] = field(default_factory=list)


class Acks:
    """The acknowledgements that one process waits for.

    `is_up` returns whether the broker is available; `is_serving` is whether this process has clients of its own.
    """

    def __init__(self, nodes: Nodes, *, is_up: Callable[[], bool], is_serving: bool) -> None:
        self._nodes = nodes
        self._is_up = is_up
        self._is_serving = is_serving
        self._pending: dict[int, PendingAcks] = {}
        self._count = 0

    def expect(self, ids: Sequence[str] | None) -> PendingAcks:
        """Begin to collect acknowledgements of a message to all connections, or to those with `ids`."""
        nodes = self._nodes.alive()
        if ids is not None:
            named = {node_of(conn_id) for conn_id in ids}
            nodes = [node for node in nodes if node.id in named]
        self._count += 1
        pending = PendingAcks(
            {node.id for node in nodes if not node.is_late},
            asyncio.get_running_loop().create_future(),
            self._count,
            is_complete=self._is_up() and not any(node.is_late for node in nodes),
        )
        if not self._is_serving and not nodes:
            pending.is_complete = False  # a publisher that knows no node cannot know how many there are
        if pending.missing:
            self._pending[pending.number] = pending
        else:
            pending.done.set_result(None)
        return pending

    def publish(
        self, publish: Callable[[int], bool], ids: Sequence[str] | None, *, acknowledge: bool
    ) -> PendingAcks | None:
        """Call `publish` with the number that the nodes acknowledge, 0 for none. It returns whether it has sent it."""
        if not acknowledge:
            publish(0)
            return None
        pending = self.expect(ids)
        if not (publish(pending.number) and self._is_up()):
            self.end(pending)
        return pending

    def end(self, pending: PendingAcks) -> None:
        """Stop waiting. The counts are complete only if no acknowledgement is missing."""
        self._pending.pop(pending.number, None)
        if pending.missing or not self._is_up():
            pending.is_complete = False
        if not pending.done.done():
            pending.done.set_result(None)

    def end_all(self) -> None:
        """Stop waiting for all messages, because no node can be reached."""
        for pending in tuple(self._pending.values()):
            self.end(pending)

    async def collect(self, here: Deliveries, pending: PendingAcks, seconds: float) -> Deliveries:
        """Return the counts of all nodes that acknowledge within `seconds`, added to those of this process, `here`."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(pending.done)
        except TimeoutError:
            for node_id in pending.missing:
                self._nodes.set_late(node_id, is_late=True)
        finally:
            self.end(pending)
        counts = [here, *pending.counts]
        return Deliveries(
            sum(sent.recipients for sent in counts),
            sum(sent.queued for sent in counts),
            sum(sent.dropped for sent in counts),
            len(pending.counts) + self._is_serving,
            pending.is_complete,
        )

    def add(self, ack: Ack) -> None:
        """Record the acknowledgement of another node."""
        self._nodes.set_late(ack.origin, is_late=False)
        pending = self._pending.get(ack.ask)
        if pending is None or ack.origin not in pending.missing:
            return
        pending.missing.discard(ack.origin)
        pending.counts.append(Deliveries(ack.recipients, ack.queued, ack.dropped))
        if not pending.missing:
            self.end(pending)

    def drop_node(self, node_id: str) -> None:
        """Stop waiting for a node that has left or is lost."""
        for pending in tuple(self._pending.values()):
            if node_id in pending.missing:
                pending.missing.discard(node_id)
                pending.is_complete = False
                if not pending.missing:
                    self.end(pending)

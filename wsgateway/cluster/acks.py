"""Messages whose counts are gathered from the other processes. Knows no broker: it is told what has come."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wsgateway.cluster.envelopes import Ack
from wsgateway.cluster.nodes import Nodes, node_of
from wsgateway.messages import Sent


@dataclass(slots=True)
class Confirmation:
    """A message whose counts are gathered. `missing` are the nodes that have not answered yet."""

    missing: set[str]
    done: asyncio.Future[None]
    ask: int
    is_complete: bool
    counts: list[Sent] = field(default_factory=list)


class Confirmations:
    """Those of one process. `is_up` tells whether the broker is there, `is_serving` whether this process counts too."""

    def __init__(self, nodes: Nodes, *, is_up: Callable[[], bool], is_serving: bool) -> None:
        self._nodes = nodes
        self._is_up = is_up
        self._is_serving = is_serving
        self._waiting: dict[int, Confirmation] = {}
        self._asks = 0

    def expect(self, ids: Sequence[str] | None) -> Confirmation:
        """Begin to count what is sent to all clients, or to those with `ids`."""
        wanted = self._nodes.alive()
        if ids is not None:
            named = {node_of(conn_id) for conn_id in ids}
            wanted = [node for node in wanted if node.id in named]
        self._asks += 1
        confirmation = Confirmation(
            {node.id for node in wanted if not node.is_late},
            asyncio.get_running_loop().create_future(),
            self._asks,
            is_complete=self._is_up() and not any(node.is_late for node in wanted),
        )
        if not self._is_serving and not wanted:
            confirmation.is_complete = False  # who only publishes, and has met nobody, knows nothing
        if confirmation.missing:
            self._waiting[confirmation.ask] = confirmation
        else:
            confirmation.done.set_result(None)
        return confirmation

    def end(self, confirmation: Confirmation) -> None:
        """No more answers are waited for. It is complete only if none is missing."""
        self._waiting.pop(confirmation.ask, None)
        if confirmation.missing or not self._is_up():
            confirmation.is_complete = False
        if not confirmation.done.done():
            confirmation.done.set_result(None)

    def end_all(self) -> None:
        """Nobody can answer any more."""
        for confirmation in tuple(self._waiting.values()):
            self.end(confirmation)

    async def gathered(self, here: Sent, confirmation: Confirmation, seconds: float) -> Sent:
        """The counts of all processes that answer within `seconds`, with those of this one, `here`."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(confirmation.done)
        except TimeoutError:
            for node_id in confirmation.missing:
                late = self._nodes.get(node_id)
                if late is not None:
                    late.is_late = True
        finally:
            self.end(confirmation)
        counts = [here, *confirmation.counts]
        return Sent(
            sum(sent.recipients for sent in counts),
            sum(sent.queued for sent in counts),
            sum(sent.dropped for sent in counts),
            len(confirmation.counts) + self._is_serving,
            confirmation.is_complete,
        )

    def acknowledged(self, ack: Ack) -> None:
        """A process has counted."""
        node = self._nodes.get(ack.origin)
        if node is not None:
            node.is_late = False
        confirmation = self._waiting.get(ack.ask)
        if confirmation is None or ack.origin not in confirmation.missing:
            return
        confirmation.missing.discard(ack.origin)
        confirmation.counts.append(Sent(ack.recipients, ack.queued, ack.dropped))
        if not confirmation.missing:
            self.end(confirmation)

    def gone(self, node_id: str) -> None:
        """Its answers are not waited for."""
        for confirmation in tuple(self._waiting.values()):
            if node_id in confirmation.missing:
                confirmation.missing.discard(node_id)
                confirmation.is_complete = False
                if not confirmation.missing:
                    self.end(confirmation)

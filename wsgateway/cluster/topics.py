"""The topics that a process follows, and those that its link is subscribed to. Does no I/O: `Bus` takes the differences
in batches, and reports what the link has done.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from wsgateway.cluster.brokers import fail
from wsgateway.exceptions import BrokerError

TOPIC_BATCH = 512
"""Topics that are passed to the link together."""


class Topics:
    """The followed topics of one bus.

    `_subscribed` has the topics whose subscription the current link has begun, from the moment a batch is taken until
    their end is taken. `_in_force` has those that it has confirmed. A topic where both sets disagree with `_followed`
    is in `_changed` or, for the next batches, in `_next`. Only followed topics have futures in `_waiting`.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Set when there is something to take."""

        self._followed: set[str] = set()
        self._subscribed: set[str] = set()
        self._in_force: set[str] = set()
        self._changed: dict[str, None] = {}
        self._next: deque[str] = deque()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._failure: str | None = "the broker is not connected yet"

    def __len__(self) -> int:
        """Return how many topics are followed."""
        return len(self._followed)

    def follow(self, topic: str) -> asyncio.Future[None]:
        """Add `topic`. The future is the caller's own. It is done when the topic is in force, or has failed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._followed.add(topic)
        if self._failure is not None:
            fail(future, BrokerError(self._failure))
        elif topic in self._in_force:
            future.set_result(None)
        else:
            self._waiting.setdefault(topic, []).append(future)
            self._change(topic)
        return future

    def unfollow(self, topic: str) -> None:
        """Remove `topic`, if it is followed."""
        self._followed.discard(topic)
        for future in self._waiting.pop(topic, ()):
            fail(future, BrokerError("the topic is no longer followed"))
        if self._failure is None:
            self._change(topic)

    def _change(self, topic: str) -> None:
        self._changed[topic] = None
        self.changed.set()

    def open(self) -> None:
        """Begin with a new link, which is subscribed to none of the topics."""
        self._failure = None
        self._next.extend(self._followed)
        self.changed.set()

    def close(self, reason: str) -> None:
        """Forget the link, because of `reason`. The topics are still followed, and the next link gets them."""
        self._failure = reason
        self._subscribed.clear()
        self._in_force.clear()
        self._changed.clear()
        self._next.clear()
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                fail(future, BrokerError(reason))

    def take(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the next topics to subscribe to, and those to unsubscribe from. Both are empty if nothing differs.

        One batch at a time: `confirm` what was subscribed to before the next.
        """
        added: list[str] = []
        removed: list[str] = []
        while (self._next or self._changed) and len(added) < TOPIC_BATCH and len(removed) < TOPIC_BATCH:
            if not self._next:
                self._next.extend(self._changed)
                self._changed.clear()
            topic = self._next.popleft()
            if topic in self._followed:
                if topic not in self._subscribed:
                    added.append(topic)
            elif topic in self._subscribed:
                removed.append(topic)
        self._subscribed.update(added)
        self._subscribed.difference_update(removed)
        self._in_force.difference_update(removed)
        return added, removed

    def confirm(self, topics: Sequence[str]) -> None:
        """Mark `topics` as in force, and end the waiting for them."""
        self._in_force.update(topics)
        for topic in topics:
            for future in self._waiting.pop(topic, ()):
                if not future.done():
                    future.set_result(None)

"""Remembers how many recipients each publication to a channel had in this node, for nodes that ask later. No I/O."""

from collections import OrderedDict

from wsgateway.messages import Deliveries

KEPT = 2.0
"""Seconds for which counts are remembered."""

PATIENCE = 0.5
"""Seconds for which a request waits for its publication. It is less than the usual `broker_timeout`, after which the
node that asks would consider this one late."""

MAX_KEPT = 10_000
"""Counts that are remembered, and requests that wait."""

Numbered = tuple[str, int]
"""The node that has published, and the number that it has given the publication."""


class Tallies:
    """The counts of numbered publications of other nodes, and the requests that wait for their publication."""

    def __init__(self) -> None:
        self._counts: OrderedDict[Numbered, tuple[float, Deliveries]] = OrderedDict()
        self._requests: OrderedDict[Numbered, tuple[float, str]] = OrderedDict()

    @property
    def has_requests(self) -> bool:
        return bool(self._requests)

    def add(self, publication: Numbered, counts: Deliveries, now: float) -> bool:
        """Remember the counts of a publication. Return whether a request waits for them, which is forgotten then."""
        self._forget(now)
        if self._requests.pop(publication, None) is not None:
            return True
        self._counts[publication] = now, counts
        if len(self._counts) > MAX_KEPT:
            self._counts.popitem(last=False)
        return False

    def find(self, publication: Numbered, now: float) -> Deliveries | None:
        """Return the counts of a publication, None if it has not arrived, or long ago."""
        self._forget(now)
        known = self._counts.pop(publication, None)
        return None if known is None else known[1]

    def wait(self, publication: Numbered, channel: str, now: float) -> None:
        """Let a request wait until the publication arrives in `channel`. The oldest is dropped if too many wait."""
        self._requests[publication] = now, channel
        if len(self._requests) > MAX_KEPT:
            self._requests.popitem(last=False)

    def expire(self, now: float) -> list[tuple[Numbered, str]]:
        """Return the requests that have waited for `PATIENCE` seconds, each with its channel, and forget them."""
        expired = []
        while self._requests:
            publication, (asked, channel) = next(iter(self._requests.items()))
            if now - asked < PATIENCE:
                break
            del self._requests[publication]
            expired.append((publication, channel))
        return expired

    def _forget(self, now: float) -> None:
        while self._counts:
            publication, (arrived, _) = next(iter(self._counts.items()))
            if now - arrived < KEPT:
                break
            del self._counts[publication]

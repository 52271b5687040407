"""The numbers of envelopes, by which a process notices lost and repeated ones. No I/O."""

from collections.abc import Iterable

from wsgateway.exceptions import EnvelopeError

MAX_REMEMBERED = 10_000
"""Topics and origins whose last number is remembered. Processes that only publish may be many over time."""

MAX_LOST = 10**9
"""Envelopes that may be lost in a row; a larger gap is a wrong number."""


class Sequences:
    """The last number that was sent on each topic, and received from each origin on each topic."""

    def __init__(self, lasting: str) -> None:
        """The number of the topic `lasting` is never forgotten."""
        self._lasting = lasting
        self._sent: dict[str, int] = {}
        self._received: dict[tuple[str, str], int] = {}

    def next(self, topic: str) -> int:
        """Return the number of the next envelope on `topic`. It counts once `sent` was called with it."""
        return self._sent.get(topic, 0) + 1

    def sent(self, topic: str, number: int) -> None:
        """Remember that `number` was sent on `topic`."""
        self._sent[topic] = number
        if len(self._sent) > MAX_REMEMBERED:
            del self._sent[next(name for name in self._sent if name != self._lasting)]

    def lost_before(self, origin: str, topic: str, number: int) -> int:
        """Return how many envelopes of `origin` are missing on `topic` before `number`, and remember `number`.

        Raise `EnvelopeError` for one that has arrived before, and for a number that is too large to be right.
        """
        key = (origin, topic)
        last = self._received.get(key)
        if last is not None and number - last > MAX_LOST:
            raise EnvelopeError("malformed", f"it is number {number} of {origin}, the last was {last}")
        self._received.pop(key, None)
        self._received[key] = number if last is None else max(last, number)
        if len(self._received) > MAX_REMEMBERED:
            del self._received[next(iter(self._received))]  # the least recent one
        if last is None:
            return 0
        if number <= last:
            raise EnvelopeError("double", f"number {number} of {origin} has arrived before")
        return number - last - 1

    def forget(self, origin: str, *, sent: str, received: Iterable[str]) -> None:
        """Forget the numbers of a node on `sent`, its topic, and on `received`. It never joins again under its id."""
        self._sent.pop(sent, None)
        for topic in received:
            self._received.pop((origin, topic), None)

"""Puts the copies of stored messages into the order in which they were stored. No I/O, no clock.

NATS stores the messages of several connections in one order, and publishes their copies almost in this order.
"""

from typing import NamedTuple

MAX_HELD = 1_000
"""Copies on one topic that wait for earlier ones. With more, nothing is waited for."""


class Copy(NamedTuple):
    """A copy of a message: its stream, its sequence there, the one of the message before on the same subject."""

    stream: str
    prev: int
    offset: int
    data: bytes


class Order:
    """The copies on many topics that wait for an earlier one."""

    __slots__ = ("_held", "_passed")

    def __init__(self) -> None:
        self._passed: dict[str, tuple[str, int]] = {}  # by topic, the stream and the newest offset that was passed on
        self._held: dict[str, dict[int, Copy]] = {}  # by topic and by `prev`

    def __bool__(self) -> bool:
        """Return whether a copy waits."""
        return bool(self._held)

    def arrived(self, topic: str, copy: Copy) -> list[Copy]:
        """Return the copies that can be passed on now, in this order."""
        stream, passed = self._passed.get(topic, ("", 0))
        if stream == copy.stream and copy.prev > passed:
            held = self._held.setdefault(topic, {})
            held[copy.prev] = copy
            return self._release(topic) if len(held) > MAX_HELD else []
        self._pass(topic, copy)
        if topic not in self._held:
            return [copy]
        copies, held = [copy], self._held[topic]
        while held and (following := held.pop(copies[-1].offset, None)) is not None:
            copies.append(following)
        self._pass(topic, copies[-1])
        if not held:
            del self._held[topic]
        return copies

    def release(self) -> list[tuple[str, Copy]]:
        """Return all copies that wait, with their topics. What they wait for is missing."""
        return [(topic, copy) for topic in list(self._held) for copy in self._release(topic)]

    def forget(self, topic: str) -> None:
        """Drop what is known of a topic."""
        self._passed.pop(topic, None)
        self._held.pop(topic, None)

    def _release(self, topic: str) -> list[Copy]:
        copies = sorted(self._held.pop(topic).values(), key=lambda copy: copy.offset)
        self._pass(topic, copies[-1])
        return copies

    def _pass(self, topic: str, copy: Copy) -> None:
        stream, passed = self._passed.get(topic, ("", 0))
        if stream != copy.stream or copy.offset > passed:
            self._passed[topic] = (copy.stream, copy.offset)

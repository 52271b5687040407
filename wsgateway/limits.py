"""Limits of rates and queues. No I/O and no clock; the time is an argument."""

import enum
from collections import OrderedDict
from collections.abc import Hashable

BODY_TIMEOUT = 30.0
"""Seconds within which the body of a request must arrive."""

BLOCKED_LOOP = 1.0
"""Seconds without an iteration after which an event loop counts as blocked, and between two checks of it."""

MAX_REMEMBERED = 10_000
"""Senders whose rate is remembered. If there are more, the one whose last event is oldest is forgotten."""


class SlowPolicy(enum.StrEnum):
    """The policy for a message that does not fit into a connection's outbox."""

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


class Bucket:
    """A token bucket: allows `rate` events per second, and a burst of `burst`. The caller passes the time.

    A `burst` of 0 means one second's worth.
    """

    __slots__ = ("_burst", "_left", "_rate", "_seen")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, burst or rate)
        self._left = self._burst
        self._seen = now

    def allows(self, now: float, *, overdraft: int = 0) -> bool:
        """Return whether one more event is allowed at `now`, in seconds of a monotonic clock, and count it if so.

        Allow `overdraft` more events than the bucket holds. Later events have to wait longer for them.
        """
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1 - overdraft:
            return False
        self._left -= 1
        return True

    def skip(self, now: float) -> None:
        """Discard the time until `now`, so that it allows no events."""
        self._seen = now


class RateLimits:
    """A `Bucket` for each of many senders, by address or key. A `rate` of 0 means no limit.

    The length of a sender's name is bounded, because `plain_address` cuts addresses and keys are those configured.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    @property
    def has_limit(self) -> bool:
        return bool(self._rate)

    def allows(self, sender: Hashable, now: float) -> bool:
        """Return whether one more event of `sender` is allowed at `now`, and count it if so."""
        if not self._rate:
            return True
        bucket = self._buckets.pop(sender, None) or Bucket(self._rate, self._burst, now)
        self._buckets[sender] = bucket
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket.allows(now)

    def skip(self, sender: Hashable, now: float) -> None:
        """Discard the time until `now` for `sender`, for example because its last request still runs."""
        bucket = self._buckets.get(sender)
        if bucket is not None:
            bucket.skip(now)


class Backlog:
    """Counts the messages and bytes of a bounded queue. An empty queue accepts any message."""

    __slots__ = ("bytes", "max_bytes", "max_messages", "messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0

    def fits(self, size: int) -> bool:
        """Return whether one more message of `size` bytes may wait."""
        return not self.messages or (self.messages < self.max_messages and self.bytes + size <= self.max_bytes)

    @property
    def is_full(self) -> bool:
        return self.messages >= self.max_messages or self.bytes >= self.max_bytes

    def add(self, size: int) -> None:
        self.messages += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        self.messages -= 1
        self.bytes -= size

    def clear(self) -> None:
        self.messages = self.bytes = 0

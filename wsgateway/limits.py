"""What is too much. No I/O, no clock of its own: rules that are asked and answer."""

from collections import OrderedDict
from collections.abc import Hashable

INBOX_MESSAGES = 32
INBOX_BYTES = 128 * 1024
"""What may wait for one connection's hooks before reading pauses."""

MAX_HEAD = 32 * 1024
"""Bytes of a request's head; a cookie of 16 KB has room in it."""

MAX_URL = 8 * 1024
"""Bytes of a request's path and query string."""

MAX_PIPELINED = 1000
"""Requests of one connection that wait for the answer to the one before."""

SPARE_DESCRIPTORS = 64
"""Open files that are left for others than clients, where `max_connections` is not set."""

SPARE_SOCKETS = 32
"""Sockets beside those of clients, for `/send`, probes and handshakes that are refused."""

ACCEPTS = 4
"""Sockets that asyncio's loop accepts in one turn. A socket past the limit is closed some
iterations later, and counts as spare until then."""

HANDSHAKES_PER_TURN = 20
"""Handshakes that begin in one turn of the loop, of a quarter of a millisecond each; the others begin in later ones."""

CROWDED = 0.8
"""Part of `max_connections` from which on a warning is logged."""

MAX_FRAGMENTS = 1024
"""Fragments of one message; each costs memory, however short it is."""

SLICE = 2000
"""Clients that are written to without letting the loop serve others in between."""

MAX_INFLATED = 256 * 1024
"""Bytes of one client's messages that are inflated in one iteration of the event loop, as many as come in one read."""

FULL_READ = 250_000
"""Bytes of a read after which libuv, which reads 256,000 at most, reads the same socket again in the same iteration."""

MAX_PENDING = 64 * 1024
"""Bytes of frames that are joined into one write, at most, but for the last of them."""

TLS_BUFFER = 64 * 1024
"""Bytes from which on a TLS client is congested, as any other is; Python's own bound is 512 KiB."""

MAX_ROUNDS = 16
"""Joined writes that may wait behind each other while a large fan-out goes on; past them, the loop waits for it."""

MAX_NESTED_SENDS = 8
"""How deep `gateway.send` may be called from within the `on_message` that an outer `gateway.send` runs."""

MAX_CLOSE_HOOKS = 100
"""`on_client_close` hooks that run at once while a gateway drains: each may want a connection to a database."""

MAX_HOOK_THREADS = 40
"""Worker threads for the `def` hooks of one gateway."""

BODY_TIMEOUT = 30.0
"""Seconds within which the body of a request has to arrive."""

BROKER_OUTBOX_MESSAGES = 10_000
BROKER_OUTBOX_BYTES = 32 * 1024 * 1024
"""What may wait for a broker that is slow or away; past it the oldest is dropped."""

MAX_NODES = 500
"""Other processes of one gateway that are known, those that have gone lately too."""

MAX_ASKED = 1000
"""Things that one process does for the others at the same time; past them, the next is refused."""

MAX_LOST = 10**9
"""Envelopes of one process that may be lost in a row; a larger gap is a wrong number and not a loss."""

NODE_LINES = 10
"""Lines of the log per second for processes that join or are lost."""

HEARTBEAT = 10.0
"""Seconds between two beats of a node."""

LEASE = 30.0
"""Seconds without a beat after which a node is dead."""

LEASE_CHECK = 0.5
"""Seconds between two looks at whose lease is over; a part of `HEARTBEAT`."""

BLOCKED_LOOP = 1.0
"""Seconds without a turn after which an event loop counts as blocked; it is asked as often."""


class Bucket:
    """How often something may happen: `rate` times a second, `burst` times at once. Time is the caller's."""

    __slots__ = ("_burst", "_left", "_rate", "_seen")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._left = self._burst
        self._seen = now

    def allows(self, now: float, *, overdraft: int = 0) -> bool:
        """Whether it may happen once more at `now`, in seconds of a clock that never goes back; then it is counted.

        With an `overdraft` it may happen so many times more, which later ones pay for.
        """
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1 - overdraft:
            return False
        self._left -= 1
        return True

    def skip(self, now: float) -> None:
        """Let nothing accrue for the time until `now`."""
        self._seen = now


MAX_REMEMBERED = 10_000
"""Senders whose rate is remembered; past them, the one that was quiet longest is forgotten."""


class Rates:
    """A `Bucket` for each of many senders, by address or key. With a `rate` of 0 everything is allowed.

    What names a sender has a bounded length: `plain_address` cuts an address, and a key is one of the configured ones.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst or rate
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def allows(self, sender: Hashable, now: float) -> bool:
        """Whether `sender` may once more at `now`; then it is counted."""
        if not self._rate:
            return True
        bucket = self._buckets.pop(sender, None) or Bucket(self._rate, self._burst, now)
        self._buckets[sender] = bucket
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket.allows(now)

    def skip(self, sender: Hashable, now: float) -> None:
        """Let nothing accrue to `sender` for the time until `now`, as while what was allowed still runs."""
        bucket = self._buckets.get(sender)
        if bucket is not None:
            bucket.skip(now)


class Backlog:
    """How much waits in a queue that is bounded in messages and in bytes. An empty one takes any message."""

    __slots__ = ("bytes", "max_bytes", "max_messages", "messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0

    def fits(self, size: int) -> bool:
        """Whether one more message of `size` bytes may wait."""
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

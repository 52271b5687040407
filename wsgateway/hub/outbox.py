"""The outbox of one connection: all that is sent to its client passes through it. Knows neither hooks nor sockets."""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, assert_never

from wsgateway.closing import TOO_SLOW
from wsgateway.config.settings import Settings
from wsgateway.hub.recording import Recording
from wsgateway.limits import SlowPolicy
from wsgateway.messages import Message, WireFormat
from wsgateway.metrics import Metrics

Write = Callable[[bytes], None]

MAX_STALE = 64
"""Messages replaced by newer ones that may stay in a queue before it is rebuilt."""


class Transport(Protocol):
    """Carries the bytes of one connection. Only the transport knows the socket."""

    name: str

    def wake(self) -> None:
        """Write what waits in the outbox, or begin the close. Return immediately."""


class Membership(Protocol):
    """An audience as its members see it.

    This is a Protocol although only `Audience` implements it, because the module of `Audience` imports this one.
    """

    delivered: int
    is_pending: bool

    def add(self, outbox: "Outbox") -> None: ...
    def remove(self, outbox: "Outbox") -> None: ...


class OutboxHub(Protocol):
    """The hub as an outbox sees it.

    This is a Protocol although only `Hub` implements it, because the module of `Hub` imports this one.
    """

    def put_behind(self, outbox: "Outbox", message: Message) -> bool: ...
    def make_fast(self, outbox: "Outbox", write: Write) -> bool: ...
    def make_slow(self, outbox: "Outbox") -> None: ...
    def leave(self, outbox: "Outbox") -> None: ...
    def delivered_to(self, outbox: "Outbox") -> int: ...


class Latest(dict[tuple[str, str], Message]):
    """The newest waiting message of each slot. `stale` counts older ones that are still in the queue."""

    stale = 0


class Outbox:
    """Messages waiting for one connection, and the way past them while its transport accepts every write.

    Only the thread of the event loop may touch it. It guarantees:
    - While `write` is set, the queue is empty.
    - The counts change together with the queue, by the same payload.
    - Every append is followed by one `wake` of the transport.
    - Once the close has begun, nothing is accepted.
    """

    __slots__ = (
        "_bytes",
        "_hub",
        "_latest",
        "_metrics",
        "_queue",
        "_settings",
        "audiences",
        "closing",
        "count",
        "dropped",
        "id",
        "recording",
        "transport",
        "wire_format",
        "write",
    )

    def __init__(
        self, conn_id: str, transport: Transport, wire_format: WireFormat, settings: Settings, metrics: Metrics
    ) -> None:
        self.id = conn_id
        self.transport = transport
        self.wire_format = wire_format
        self.closing: tuple[int, str] | None = None
        """Code and reason of the close, once it has begun."""

        self.write: Write | None = None
        """Writes to the socket, while the transport accepts every write. Only the hub sets it and calls it."""

        self.count = 0
        """`messages_out` less the `delivered` of each audience of which this is a fast member. It may be negative."""

        self.audiences: tuple[Membership, ...] = ()
        self.dropped = 0
        self.recording: Recording | None = None
        self._hub: OutboxHub | None = None
        self._settings = settings
        self._metrics = metrics
        self._queue: deque[Message] | None = None  # made when a message waits, because an empty deque takes 700 bytes
        self._latest: Latest | None = None
        self._bytes = 0

    @property
    def is_open(self) -> bool:
        """Whether the connection has entered the hub and the close has not begun."""
        return self._hub is not None and self.closing is None

    @property
    def has_joined(self) -> bool:
        """Whether the connection has entered the hub, even if it has left."""
        return self._hub is not None

    @property
    def has_begun(self) -> bool:
        """Whether the connection has entered the hub, or its close has begun."""
        return self._hub is not None or self.closing is not None

    @property
    def messages(self) -> int:
        """The number of messages that wait."""
        if self._queue is None:
            return 0
        return len(self._queue) if self._latest is None else len(self._queue) - self._latest.stale

    @property
    def bytes(self) -> int:
        """The payload bytes of the messages that wait."""
        return self._bytes

    @property
    def messages_out(self) -> int:
        """The number of messages written to the client, including those that wait for the end of the iteration."""
        if self.write is None or self._hub is None:
            return self.count
        return self.count + self._hub.delivered_to(self)

    # Sending

    def put(self, message: Message) -> bool:
        """Write or queue `message`, or apply `slow_policy` if the outbox is full. Return False if it was dropped."""
        if self.closing is not None:
            return False
        if self.write is not None:
            assert self._hub is not None
            if not self._hub.put_behind(self, message):
                self._metrics.queued += 1
                self._count_out(len(message.payload))
                data = message.encoded(self.wire_format)
                self.write(data)
                if not data and not message.is_control:
                    self._metrics.undeliverable += 1
            return True
        queued = self.append(message)
        self.after_append(message, is_queued=queued)
        return queued

    def has_space(self, message: Message) -> bool:
        """Return whether `put` would accept `message`, whatever its policy is."""
        return self.write is not None or self._fits(len(message.payload))

    def append(self, message: Message) -> bool:
        """Queue `message`, and write nothing before `after_append`. Return False if it was dropped."""
        if self.closing is not None:
            return False
        if message.slot is not None and self._latest is not None:
            self._forget_older(message.slot)
        size = len(message.payload)
        if not self._fits(size) and not self._make_space(size, self._policy_of(message)):
            return False
        assert self.write is None
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)
        if message.slot is not None:
            if self._latest is None:
                self._latest = Latest()
            self._latest[message.slot] = message
        self._bytes += size
        self._metrics.queued += 1
        return True

    def put_first(self, message: Message) -> None:
        """Queue `message` before everything that waits, and write nothing before the next `wake` of the transport."""
        if self.closing is not None:
            return
        assert self.write is None
        self._queue = self._queue or deque()
        self._queue.appendleft(message)
        self._bytes += len(message.payload)
        self._metrics.queued += 1

    def after_append(self, message: Message, *, is_queued: bool) -> None:
        """Write the outbox after `append(message)`, or close a client that is too slow."""
        if is_queued:
            self.transport.wake()
        elif self.closing is None and self._policy_of(message) is SlowPolicy.DISCONNECT:
            self.close_too_slow()

    def _policy_of(self, message: Message) -> SlowPolicy:
        return message.policy or self._settings.slow_policy

    def _fits(self, size: int) -> bool:
        """Return whether one more message of `size` bytes may wait. An empty queue accepts any message."""
        if not self._queue:
            return True
        count, settings = self.messages, self._settings
        return not count or (count < settings.outbox_messages and self._bytes + size <= settings.outbox_bytes)

    def _make_space(self, size: int, policy: SlowPolicy) -> bool:
        """Apply `policy` to a full outbox. Return False if the message that does not fit is dropped."""
        match policy:
            case SlowPolicy.DROP_OLDEST:
                while not self._fits(size):
                    oldest = self._oldest()
                    if oldest is None or oldest.policy is SlowPolicy.DISCONNECT:  # that one may not be lost
                        self._drop(1, policy)
                        return False
                    self._pop()
                    self._drop(1, policy)
                return True
            case SlowPolicy.DROP_NEWEST | SlowPolicy.DISCONNECT:  # `after_append` closes the client
                self._drop(1, policy)
                return False
            case _:
                assert_never(policy)

    def _oldest(self) -> Message | None:
        """Return the oldest message that no newer one has replaced."""
        queue, latest = self._queue, self._latest
        while queue:
            message = queue[0]
            if latest is None or message.slot is None or latest.get(message.slot) is message:
                return message
            queue.popleft()
            latest.stale -= 1
        return None

    def _pop(self) -> Message | None:
        """Remove and return the oldest message."""
        message = self._oldest()
        if message is None:
            return None
        assert self._queue is not None
        self._queue.popleft()
        self._bytes -= len(message.payload)
        if self._latest is not None and message.slot is not None:
            del self._latest[message.slot]
        return message

    def _forget_older(self, slot: tuple[str, str]) -> None:
        """Forget the message that waits in `slot`, because a newer one replaces it."""
        queue, latest = self._queue, self._latest
        assert queue is not None
        assert latest is not None
        older = latest.pop(slot, None)
        if older is None:
            return
        self._bytes -= len(older.payload)
        latest.stale += 1
        if latest.stale > MAX_STALE and latest.stale > len(queue) // 2:
            current = [one for one in queue if one.slot is None or latest.get(one.slot) is one]
            queue.clear()
            queue.extend(current)
            latest.stale = 0

    def _drop(self, count: int, policy: SlowPolicy) -> None:
        self._metrics.dropped[policy] += count
        self.dropped += count
        if self.recording is not None and count:
            self.recording.add("dropped", None, f"{count}, slow_policy {policy}")

    def _count_out(self, size: int) -> None:
        self.count += 1
        self._metrics.messages_out += 1
        self._metrics.bytes_out += size

    # For the transport

    def take(self) -> Message | None:
        """Remove and return the oldest message that has not expired. It counts as written."""
        queue = self._queue
        if not queue:
            return None
        message: Message | None
        if self._latest is None:
            message = queue.popleft()
            self._bytes -= len(message.payload)
        else:
            message = self._pop()
        while message is not None and message.expires is not None and message.expires <= time.monotonic():
            message = self._pop()
        if message is None:
            return None
        size = len(message.payload)
        self._count_out(size)
        if self.recording is not None:
            self.recording.add("out", size)
        return message

    def direct(self, write: Write) -> bool:
        """Pass what is sent to `write` from now on. The outbox must be empty, and the transport accept every write.

        Return False if messages wait again, because they were sent meanwhile.
        """
        if self._hub is None or self.closing is not None or self.recording is not None or self.write is not None:
            return True
        self._queue = self._latest = None
        return self._hub.make_fast(self, write)

    def buffer(self) -> None:
        """Queue what is sent from now on. May be called twice, and from within a write."""
        if self.write is not None:
            assert self._hub is not None
            self._hub.make_slow(self)

    # From joining to the end

    def join(self, hub: OutboxHub) -> None:
        """Note that the connection has entered `hub`."""
        self._hub = hub

    def close(self, code: int, reason: str) -> None:
        """Begin to close. What waits is still written, but nothing more is accepted. A second call does nothing."""
        if self.closing is not None:
            return
        self.closing = self.wire_format.closing(code, reason)
        try:
            if self._hub is not None:
                self._hub.leave(self)
        finally:  # also if a write has raised
            self.transport.wake()

    def close_too_slow(self) -> None:
        """Close a client that is too slow, and drop what waits."""
        if self.closing is None:
            self._metrics.too_slow += 1
        self._drop(self.messages, SlowPolicy.DISCONNECT)
        self.clear()
        self.close(TOO_SLOW, "slow")
        self.transport.wake()  # a close that had begun already may have waited for what was dropped

    def end(self, code: int, reason: str) -> tuple[int, str]:
        """Accept nothing more, because the transport has ended.

        Return the code and the reason of the close: those given here, unless this side has closed first.
        """
        if self.closing is None:
            self.closing = (code, reason)
        self.clear()
        return self.closing

    def clear(self) -> None:
        """Discard what waits."""
        self._queue = self._latest = None
        self._bytes = 0

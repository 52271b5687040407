"""The open connections of one gateway in this process, and fan-out. Knows neither hooks nor sockets. Nothing waits.

Every place where a message may wait, in the order in which it travels, with its bound and what happens at the bound:

in     1. `server.socket`: what one read brought while the inbox was full, at most 256 KB; reading is paused.
          `transports.asgi`: one message while the inbox is full; the rest waits in the server.
       2. `listeners.inbox`: INBOX_MESSAGES (32) messages or INBOX_BYTES (128 KiB); reading is paused until there is
          space. A message from `gateway.send` or `/send` has its own inbox, so it never waits behind another message.
nodes  3. `cluster.bus`: OUTBOX_MESSAGES (10,000) envelopes or OUTBOX_BYTES (32 MiB); the oldest is
          dropped and counted.
out    4. `Hub._pending`, broadcasts only: until the event loop iteration ends; beyond MAX_PENDING (64 KiB) they are
          flushed early.
       5. `Hub._rounds`: a fan-out to more than SLICE (2,000) connections is written over several iterations; beyond
          MAX_ROUNDS (16) `deliver` writes before it returns.
       6. `hub.connection`, the outbox: `outbox_messages`, `outbox_bytes`; at either, `slow_policy` applies.
       7. The buffer of the server's transport: above its high-water mark the outbox is used instead; without progress
          for `send_timeout` the client is closed with 3008.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from operator import length_hint

from wsgateway.hub.connection import Connection
from wsgateway.hub.recording import Recording
from wsgateway.logs import GatewayLog
from wsgateway.messages import Message, Sent
from wsgateway.metrics import Metrics
from wsgateway.text import short

SLICE = 2000
"""Connections that are written to without letting the event loop serve others in between."""

MAX_PENDING = 64 * 1024
"""Bytes at which pending broadcasts are flushed early. The message that crosses the limit is included."""

MAX_ROUNDS = 16
"""Maximum rounds that wait during a large fan-out. Beyond it, `deliver` writes the oldest before it returns."""


class Connections(Collection[Connection]):
    """The open connections of a gateway in this process, oldest first. A live view that changes as they do."""

    __slots__ = ("_by_id",)

    def __init__(self, by_id: dict[str, Connection]) -> None:
        self._by_id = by_id

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._by_id.values()))  # a snapshot, because the body may send, and so close, a connection

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, conn: object) -> bool:
        key = conn.id if isinstance(conn, Connection) else conn
        return isinstance(key, str) and key in self._by_id

    def get(self, conn_id: str) -> Connection | None:
        """Return the open connection with that id, or None."""
        return self._by_id.get(conn_id)


Write = Callable[[bytes], None]


def _written(data: bytes) -> None:
    """Do nothing. It replaces the `write` of a recipient that has already received this round."""


class Round:
    """One write to many connections. It may be made in parts, and early for some of them."""

    __slots__ = ("_cursor", "_places", "_recipients", "_writes", "data")

    def __init__(self, data: bytes, recipients: dict[Connection, Write]) -> None:
        self.data = data
        self._recipients = tuple(recipients)
        self._writes = list(recipients.values())
        self._cursor = iter(self._writes)
        self._places: dict[Connection, int] | None = None  # made by the first `write_to`, which most rounds never see

    def write(self, limit: int) -> int:
        """Write to the next `limit` connections. Return how many were waiting.

        A write may call anything, including this method.
        """
        waiting, data = length_hint(self._cursor), self.data
        for write in self._cursor if waiting <= limit else islice(self._cursor, limit):
            write(data)
        return waiting

    def write_to(self, conn: Connection) -> bool:
        """Write to `conn` now. Return False if it is not a recipient or has already received this round."""
        position = len(self._writes) - length_hint(self._cursor)  # exact for the iterator of a list
        if position and self._recipients[position - 1] is conn:  # the caller runs within the write to `conn`
            return False
        if self._places is None:
            self._places = {recipient: place for place, recipient in enumerate(self._recipients)}
        place = self._places.get(conn, -1)
        if place < position or self._writes[place] is _written:
            return False
        write, self._writes[place] = self._writes[place], _written
        write(self.data)
        return True


class Hub:
    """The open connections of one gateway. The connections whose transport accepts every write are the
    fast set.

    Broadcasts made during one iteration of the event loop are concatenated and written to the fast set once, when it
    ends. Any other send, and any change to the fast set, first flushes what is pending for the connections concerned,
    so each of them receives messages in order.

    A write may call back, make any connection slow, fast, or closed, and send. Therefore the recipients of a
    message are chosen before the first write, fast ones as a `Round`, slow ones by their outboxes. A round stays in
    `_rounds` until every recipient was written to, so whatever is sent from within a write comes after it. A round of
    more than `SLICE` recipients is written over several iterations.
    """

    def __init__(self, metrics: Metrics, log: GatewayLog) -> None:
        self._open: dict[str, Connection] = {}
        self._fast: dict[Connection, Write] = {}
        self._deflating: dict[Connection, Write] = {}  # the part of the fast set that receives compressed messages
        self._pending: list[Message] = []
        self._pending_bytes = 0
        self._broadcasts = 0  # messages that were written to the whole fast set so far
        self._rounds: deque[Round] = deque()
        self._is_writing = False  # writes rounds now, or will in the next iteration
        self._metrics = metrics
        self._log = log
        self.connections = Connections(self._open)

    def join(self, conn: Connection) -> None:
        """Make `conn` a recipient, until its close begins."""
        self._open[conn.id] = conn
        conn.opened(self.leave)

    def leave(self, conn: Connection) -> None:
        """Remove `conn` from the recipients. May be called twice, and from within a write."""
        self._open.pop(conn.id, None)
        if self._is_fast(conn):
            self._make_round()
            self._remove(conn)
            for entry in tuple(self._rounds):
                entry.write_to(conn)
            self._write_rounds()

    def fast(self, conn: Connection, write: Write, *, deflates: bool = False) -> None:
        """Pass every message for `conn` to `write`, compressed if `deflates`, until `slow` is called.

        The outbox of `conn` must be empty.
        """
        if conn.id in self._open and conn.recording is None and not self._is_fast(conn):
            self._make_round()
            conn.messages_out -= self._broadcasts
            (self._deflating if deflates else self._fast)[conn] = write
            conn.use_writer(write, deflates=deflates, after=self.settle)
            self._write_rounds()

    def slow(self, conn: Connection) -> None:
        """Queue the messages for `conn` in its outbox. May be called twice, and from within a write."""
        if self._is_fast(conn):
            self.settle(conn)
        if self._is_fast(conn):  # still: the last write to it may have called this method
            self._remove(conn)

    def _remove(self, conn: Connection) -> None:
        """Remove `conn` from the fast set. Nothing may be pending."""
        self._fast.pop(conn, None)
        self._deflating.pop(conn, None)
        conn.messages_out += self._broadcasts
        conn.use_writer(None)

    def _is_fast(self, conn: Connection) -> bool:
        return conn in self._fast or conn in self._deflating

    def messages_out(self, conn: Connection) -> int:
        """Return how many messages were written to `conn` so far."""
        return conn.messages_out + (self._broadcasts if self._is_fast(conn) else 0)

    def record(self, conn: Connection) -> Recording:
        """Record what happens to `conn` until `stop_recording` was called as often.

        Meanwhile the connection is not in the fast set.
        """
        if conn.recording is None:
            self.slow(conn)
            conn.recording = Recording(conn.opened_at)
        conn.recording.viewers += 1
        return conn.recording

    def stop_recording(self, conn: Connection) -> None:
        """Undo one call of `record`."""
        if conn.recording is not None:
            conn.recording.viewers -= 1
            if not conn.recording.viewers:
                conn.recording = None
                conn.wake()

    def flush(self) -> None:
        """Write what is pending to the fast set. To a large set, or from within a write, only begin to."""
        self._make_round()
        self._write_rounds()

    def _make_round(self) -> None:
        """Make a round of what is pending, for the fast set as it is now. Write nothing."""
        if self._pending:
            messages, self._pending, self._pending_bytes = self._pending, [], 0
            self._broadcasts += len(messages)
            self._add_rounds(messages, self._fast, self._deflating)

    def _add_rounds(
        self, messages: list[Message], fast: dict[Connection, Write], deflating: dict[Connection, Write]
    ) -> None:
        count = len(fast) + len(deflating)
        self._metrics.messages_out += len(messages) * count
        self._metrics.bytes_out += sum([len(message.payload) for message in messages]) * count
        if fast:
            self._rounds.append(Round(b"".join([message.wire for message in messages]), fast))
        if deflating:
            self._rounds.append(Round(b"".join([message.deflated for message in messages]), deflating))

    def _end_iteration(self) -> None:
        if not self._is_writing:  # else `_continue_writing` flushes, after the rounds that are being written
            self.flush()

    def settle(self, conn: Connection) -> None:
        """Write everything to `conn` that was sent before now."""
        while self._pending or self._rounds:
            self.flush()
            written = [entry.write_to(conn) for entry in tuple(self._rounds)]
            if True not in written and not self._pending:
                return

    def _write_rounds(self) -> None:
        """Write the rounds, unless a caller up the stack or a later iteration will."""
        if self._is_writing or not self._rounds:
            return
        self._is_writing = True
        try:
            self._write_slice()
        finally:
            self._is_writing = bool(self._rounds)
            if self._is_writing:
                asyncio.get_running_loop().call_soon(self._continue_writing)

    def _continue_writing(self) -> None:
        if self._rounds:
            try:
                self._write_slice()
            finally:  # also after the last round, so that what is pending is joined with what follows
                asyncio.get_running_loop().call_soon(self._continue_writing)
        else:
            self._is_writing = False
            self.flush()

    def _write_slice(self) -> None:
        """Write to the next `SLICE` connections, and forget the rounds that are complete."""
        left = SLICE
        while self._rounds and left > 0:
            first = self._rounds[0]
            waiting = first.write(left)
            if waiting <= left and self._rounds and self._rounds[0] is first:  # a write may have changed the rounds
                self._rounds.popleft()
            left -= waiting

    def resolve(self, recipients: Iterable[object]) -> list[Connection]:
        """Return the open connections among `recipients`, which are connections and ids: in this order, each once.

        Others are skipped, logged, and counted.
        """
        connections: dict[Connection, None] = {}
        skipped = 0
        unusable: list[object] = []
        for item in recipients:
            if isinstance(item, Connection):
                conn = self._open.get(item.id)
                if conn is not item:
                    conn = None
            elif isinstance(item, str):
                conn = self._open.get(item)
            else:
                conn = None
                unusable.append(item)
            if conn is None:
                skipped += 1
            else:
                connections[conn] = None
        if skipped:
            self._metrics.skipped_recipients += skipped
            text = "skipped %d recipients that are closed, unknown, or of another gateway"
            self._log.limited("skipped").info(text, skipped)
        if unusable:
            text = "skipped %d recipients that are neither connections nor ids, such as %s: check event.connections"
            self._log.limited("strange recipients").warning(text, len(unusable), short(unusable[0]))
        return list(connections)

    def abandon(self) -> None:
        """Forget every connection without writing to it, because its event loop was closed."""
        for conn in self._open.values():
            conn.use_writer(None)
            conn.mark_closed(1006, "")
        for collection in (self._open, self._fast, self._deflating, self._pending, self._rounds):
            collection.clear()
        self._pending_bytes = 0

    def deliver_to_ids(self, message: Message, ids: Sequence[str] | None) -> Sent:
        """Send `message`, which another node has published, to the open connections with `ids`, or to every one."""
        return self.deliver(message, None if ids is None else self.resolve(ids))

    def deliver(
        self, message: Message, recipients: Sequence[Connection] | None, *, but: Connection | None = None
    ) -> Sent:
        """Send `message` to `recipients`, or to every open connection except `but`."""
        if recipients is None and but is None:
            return self._deliver_to_all(message)
        if recipients is not None and len(recipients) == 1:
            queued = int(recipients[0].send_nowait(message))
            return Sent(1, queued, 1 - queued)
        self._make_round()
        chosen = self._open.values() if recipients is None else recipients
        fast: dict[Connection, Write] = {}
        deflating: dict[Connection, Write] = {}
        slow: list[Connection] = []
        for conn in chosen:
            if conn is but:
                continue
            if conn in self._fast:
                fast[conn] = self._fast[conn]
                conn.messages_out += 1
            elif conn in self._deflating:
                deflating[conn] = self._deflating[conn]
                conn.messages_out += 1
            else:
                slow.append(conn)
        count = len(fast) + len(deflating)
        self._metrics.queued += count
        accepted = [conn.put(message) for conn in slow]
        self._add_rounds([message], fast, deflating)
        self._write_rounds()
        return _wake_slow(slow, accepted, fast=count)

    def _deliver_to_all(self, message: Message) -> Sent:
        fast = len(self._fast) + len(self._deflating)
        slow: list[Connection] = []
        if fast < len(self._open):
            slow = [conn for conn in self._open.values() if conn not in self._fast and conn not in self._deflating]
        accepted = [conn.put(message) for conn in slow]
        if fast:
            if not self._pending:
                asyncio.get_running_loop().call_soon(self._end_iteration)
            self._pending.append(message)
            self._pending_bytes += len(message.payload)
            self._metrics.queued += fast
            if self._pending_bytes > MAX_PENDING:
                self.flush()
                while len(self._rounds) > MAX_ROUNDS:
                    self._write_slice()
        return _wake_slow(slow, accepted, fast=fast)


def _wake_slow(slow: list[Connection], accepted: list[bool], *, fast: int) -> Sent:
    """Call `after_put` for each `put`, now that all outboxes have the message. Return the counts."""
    if not slow:
        return Sent(fast, fast, 0)
    for conn, is_queued in zip(slow, accepted, strict=True):
        conn.after_put(is_queued)
    count, queued = fast + len(accepted), fast + sum(accepted)
    return Sent(count, queued, count - queued)

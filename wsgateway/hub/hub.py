"""The open connections of one gateway in this process, and fan-out. Knows neither hooks nor sockets. Nothing waits.

Every place where a message may wait, in the order in which it travels, with its bound and what happens at the bound:

in     1. `server.socket`: what one read brought while the inbox was full, at most 256 KB; reading is paused.
          `transports.asgi`: one message while the inbox is full; the rest waits in the server.
       2. `listeners.inbox`: INBOX_MESSAGES (32) messages or INBOX_BYTES (128 KiB); reading is paused until there is
          space. A message from `gateway.send` or `/send` has an inbox of its own, which only it waits in.
nodes  3. `cluster.bus`: BROKER_OUTBOX_MESSAGES (10,000) envelopes or BROKER_OUTBOX_BYTES (32 MiB); the oldest is
          dropped and counted.
out    4. `Hub._pending`, broadcasts only: until the event loop iteration ends; past MAX_PENDING (64 KiB) they are
          flushed early.
       5. `Hub._rounds`: a fan-out to more than SLICE (2,000) connections is written over several iterations; past
          MAX_ROUNDS (16) `deliver` writes before it returns.
       6. `hub.connection`, the outbox: `outbox_messages`, `outbox_bytes`; at either, `slow_policy` decides.
       7. The buffer of the server's transport: above its high-water mark the outbox is used instead; without progress
          for `send_timeout` the client is closed with 3008.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from operator import length_hint

from wsgateway.hub.connection import Connection, short
from wsgateway.hub.recording import Recording
from wsgateway.logs import GatewayLog
from wsgateway.messages import Message, Sent
from wsgateway.metrics import Metrics

SLICE = 2000
"""Connections that are written to without letting the event loop serve others in between."""

MAX_PENDING = 64 * 1024
"""Bytes of messages that are joined into one write, at most, but for the last of them."""

MAX_ROUNDS = 16
"""Joined writes that may wait behind each other while a large fan-out goes on; past them, the event loop waits."""


class Connections(Collection[Connection]):
    """The open connections of a gateway, in the order in which they came. A live view: it changes as they do."""

    __slots__ = ("_by_id",)

    def __init__(self, by_id: dict[str, Connection]) -> None:
        self._by_id = by_id

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._by_id.values()))  # a snapshot: the body may send, and so close, a connection

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, conn: object) -> bool:
        key = conn.id if isinstance(conn, Connection) else conn
        return isinstance(key, str) and key in self._by_id

    def get(self, conn_id: str) -> Connection | None:
        """The open connection with that id, or None."""
        return self._by_id.get(conn_id)


Write = Callable[[bytes], None]


def _written(data: bytes) -> None:
    """Takes the place of a write that was made out of turn."""


class Round:
    """One write to many connections, which may be made in parts, and for one of them out of turn."""

    __slots__ = ("_cursor", "_places", "_recipients", "_writes", "data")

    def __init__(self, data: bytes, recipients: dict[Connection, Write]) -> None:
        self.data = data
        self._recipients = tuple(recipients)
        self._writes = list(recipients.values())
        self._cursor = iter(self._writes)
        self._places: dict[Connection, int] | None = None  # made when somebody asks, which most rounds never see

    def write(self, most: int) -> int:
        """Write to the next `most` connections; return how many were waiting. A write may call anything, this too."""
        waiting, data = length_hint(self._cursor), self.data
        for write in self._cursor if waiting <= most else islice(self._cursor, most):
            write(data)
        return waiting

    def write_to(self, conn: Connection) -> bool:
        """Write to `conn` now. Return False if it is not a recipient or was written to already."""
        position = len(self._writes) - length_hint(self._cursor)  # exact, as of any list's iterator
        if position and self._recipients[position - 1] is conn:  # it calls from within its own write
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
    """The open connections of one gateway, and among them the fast set: those whose transport takes every write.

    Broadcasts made during one iteration of the event loop are concatenated and written to the fast set once, when it
    ends. Any other send, and any change to the fast set, first flushes what is pending for the connections concerned,
    so each of them receives messages in order.

    A write may call back: it can make any connection slow, fast, or closed, and send. Therefore the recipients of a
    message are decided before the first write, fast ones as a `Round`, slow ones by their outboxes. A round stays in
    `_rounds` until every recipient was reached, so whatever is sent from within a write is ordered after it. Past
    `SLICE` recipients a round is written over several iterations.
    """

    def __init__(self, metrics: Metrics, log: GatewayLog) -> None:
        self._open: dict[str, Connection] = {}
        self._fast: dict[Connection, Write] = {}
        self._deflating: dict[Connection, Write] = {}  # the part of the fast set that takes compressed frames
        self._pending: list[Message] = []
        self._pending_bytes = 0
        self._broadcasts = 0  # frames written to the whole fast set so far
        self._rounds: deque[Round] = deque()
        self._is_writing = False  # the rounds, now or in the next iteration
        self._metrics = metrics
        self._log = log
        self.connections = Connections(self._open)

    def join(self, conn: Connection) -> None:
        """From now on `conn` is a recipient, until its close begins."""
        self._open[conn.id] = conn
        conn.opened(self.leave)

    def leave(self, conn: Connection) -> None:
        """No recipient any more. May be called twice, and from within a write."""
        self._open.pop(conn.id, None)
        if self._is_fast(conn):
            self._make_round()
            self._remove(conn)
            for entry in tuple(self._rounds):
                entry.write_to(conn)
            self._write_rounds()

    def fast(self, conn: Connection, write: Write, *, deflates: bool = False) -> None:
        """`write` takes every frame for `conn`, compressed where it `deflates`, until `slow` is called.

        Nothing may wait in the outbox of `conn`.
        """
        if conn.id in self._open and conn.recording is None and not self._is_fast(conn):
            self._make_round()
            conn.messages_out -= self._broadcasts
            (self._deflating if deflates else self._fast)[conn] = write
            conn.written_by(write, deflates=deflates, after=self.settle)
            self._write_rounds()

    def slow(self, conn: Connection) -> None:
        """The frames for `conn` go through its outbox. May be called twice, and from within a write."""
        if self._is_fast(conn):
            self.settle(conn)
        if self._is_fast(conn):  # still: the last write to it may have called this method
            self._remove(conn)

    def _remove(self, conn: Connection) -> None:
        """Take `conn` out of the fast set. Nothing may be pending."""
        self._fast.pop(conn, None)
        self._deflating.pop(conn, None)
        conn.messages_out += self._broadcasts
        conn.written_by(None)

    def _is_fast(self, conn: Connection) -> bool:
        return conn in self._fast or conn in self._deflating

    def messages_out(self, conn: Connection) -> int:
        """Messages written to `conn` so far."""
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
        """The opposite of `record`."""
        if conn.recording is not None:
            conn.recording.viewers -= 1
            if not conn.recording.viewers:
                conn.recording = None
                conn.wake()

    def flush(self) -> None:
        """Write what is pending to the fast set; to a large one, or from within a write, begin to."""
        self._make_round()
        self._write_rounds()

    def _make_round(self) -> None:
        """Decide who receives what is pending. Writes nothing."""
        if self._pending:
            frames, self._pending, self._pending_bytes = self._pending, [], 0
            self._broadcasts += len(frames)
            self._add_rounds(frames, self._fast, self._deflating)

    def _add_rounds(
        self, frames: list[Message], fast: dict[Connection, Write], deflating: dict[Connection, Write]
    ) -> None:
        count = len(fast) + len(deflating)
        self._metrics.messages_out += len(frames) * count
        self._metrics.bytes_out += sum([len(frame.payload) for frame in frames]) * count
        if fast:
            self._rounds.append(Round(b"".join([frame.wire for frame in frames]), fast))
        if deflating:
            self._rounds.append(Round(b"".join([frame.deflated for frame in frames]), deflating))

    def _end_turn(self) -> None:
        if not self._is_writing:  # else it goes out, joined with what is still to come, when the rounds have ended
            self.flush()

    def settle(self, conn: Connection) -> None:
        """Write to `conn` all that was sent before now."""
        while self._pending or self._rounds:
            self.flush()
            written = [entry.write_to(conn) for entry in tuple(self._rounds)]
            if True not in written and not self._pending:
                return

    def _write_rounds(self) -> None:
        """Write the rounds, unless a caller up the stack or a later iteration is about to."""
        if self._is_writing or not self._rounds:
            return
        self._is_writing = True
        try:
            self._write_slice()
        finally:
            self._is_writing = bool(self._rounds)
            if self._is_writing:
                asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._rounds:
            try:
                self._write_slice()
            finally:  # also after the last round: what is pending then waits for what comes until the next iteration
                asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._is_writing = False
            self.flush()

    def _write_slice(self) -> None:
        """Write to the next `SLICE` connections, and forget the rounds that have ended."""
        left = SLICE
        while self._rounds and left > 0:
            first = self._rounds[0]
            waiting = first.write(left)
            if waiting <= left and self._rounds and self._rounds[0] is first:  # still, after all that a write may call
                self._rounds.popleft()
            left -= waiting

    def resolve(self, wanted: Iterable[object]) -> list[Connection]:
        """The open connections among `wanted` (connections and ids), in this order, each once.

        Others are skipped, logged and counted.
        """
        found: dict[Connection, None] = {}
        skipped = 0
        strange: list[object] = []
        for item in wanted:
            if isinstance(item, Connection):
                conn = self._open.get(item.id)
                if conn is not item:
                    conn = None
            elif isinstance(item, str):
                conn = self._open.get(item)
            else:
                conn = None
                strange.append(item)
            if conn is None:
                skipped += 1
            else:
                found[conn] = None
        if skipped:
            self._metrics.skipped_recipients += skipped
            text = "skipped %d recipients that are closed, unknown or of another gateway"
            self._log.limited("skipped").info(text, skipped)
        if strange:
            text = "skipped %d recipients that are neither connections nor ids, such as %s: look at event.connections"
            self._log.limited("strange recipients").warning(text, len(strange), short(strange[0]))
        return list(found)

    def abandon(self) -> None:
        """Forget every connection without writing to it, because its event loop was closed."""
        for conn in self._open.values():
            conn.written_by(None)
            conn.mark_closed(1006, "")
        for forgotten in (self._open, self._fast, self._deflating, self._pending, self._rounds):
            forgotten.clear()
        self._pending_bytes = 0

    def deliver_to_ids(self, frame: Message, ids: Sequence[str] | None) -> Sent:
        """Send `frame` to the open connections with `ids`, or to every one: what another process sends."""
        return self.deliver(frame, None if ids is None else self.resolve(ids))

    def deliver(
        self, frame: Message, recipients: Sequence[Connection] | None, *, but: Connection | None = None
    ) -> Sent:
        """Send `frame` to `recipients`, or to every open connection, without `but`."""
        if recipients is None and but is None:
            return self._deliver_to_all(frame)
        if recipients is not None and len(recipients) == 1:
            queued = int(recipients[0].send_frame(frame))
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
        taken = [conn.put(frame) for conn in slow]
        self._add_rounds([frame], fast, deflating)
        self._write_rounds()
        return _woken(slow, taken, fast=count)

    def _deliver_to_all(self, frame: Message) -> Sent:
        fast = len(self._fast) + len(self._deflating)
        slow: list[Connection] = []
        if fast < len(self._open):
            slow = [conn for conn in self._open.values() if conn not in self._fast and conn not in self._deflating]
        taken = [conn.put(frame) for conn in slow]
        if fast:
            if not self._pending:
                asyncio.get_running_loop().call_soon(self._end_turn)
            self._pending.append(frame)
            self._pending_bytes += len(frame.payload)
            self._metrics.queued += fast
            if self._pending_bytes > MAX_PENDING:
                self.flush()
                while len(self._rounds) > MAX_ROUNDS:
                    self._write_slice()
        return _woken(slow, taken, fast=fast)


def _woken(slow: list[Connection], taken: list[bool], *, fast: int) -> Sent:
    """Go on after each `put`, now that the message stands in all the outboxes that took it; return the counts."""
    if not slow:
        return Sent(fast, fast, 0)
    for conn, was_taken in zip(slow, taken, strict=True):
        conn.after_put(was_taken)
    count, queued = fast + len(taken), fast + sum(taken)
    return Sent(count, queued, count - queued)

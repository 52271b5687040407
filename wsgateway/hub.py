"""Who is connected, and fan-out. Knows nothing of hooks and sockets. Nothing here waits."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from wsgateway.connection import Connection, short
from wsgateway.limits import MAX_PENDING, MAX_ROUNDS, SLICE
from wsgateway.logs import GatewayLog
from wsgateway.messages import Frame
from wsgateway.metrics import Metrics
from wsgateway.recordings import Recording


class Sent(NamedTuple):
    """What became of one message: `recipients` were chosen, `queued` took it, `dropped` did not.

    These are the counts of the `nodes` processes that have answered in time; `complete`: all have.
    """

    recipients: int
    queued: int
    dropped: int
    nodes: int = 1
    complete: bool = True


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


class Sending(Protocol):
    """What everybody needs of a gateway."""

    @property
    def id(self) -> str: ...

    @property
    def connections(self) -> Connections: ...

    async def send(
        self,
        message: object,
        *,
        connections: Iterable[Connection | str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Sent: ...


Write = Callable[[bytes], None]


class Hub:
    """The open connections of one gateway, and among them the fast set: those whose transport takes every write.

    Frames for everybody that arise in one turn of the loop are joined, and written to the fast set once when the
    turn ends; past `SLICE` recipients over several turns, in rounds. Whatever else is sent, and every change of who is
    in the set, first writes what is pending to whom it concerns, so that order holds.
    """

    def __init__(self, metrics: Metrics, log: GatewayLog) -> None:
        self._open: dict[str, Connection] = {}
        self._fast: dict[Connection, Write] = {}
        self._deflating: dict[Connection, Write] = {}  # the part of the fast set that takes compressed frames
        self._pending: list[Frame] = []
        self._pending_bytes = 0
        self._broadcasts = 0  # frames written to the whole fast set so far
        self._rounds: deque[tuple[bytes, dict[Connection, Write]]] = deque()  # what is written, and who waits for it
        self._metrics = metrics
        self._log = log
        self.connections = Connections(self._open)

    def join(self, conn: Connection) -> None:
        """From now on `conn` is a recipient, until its close begins."""
        self._open[conn.id] = conn
        conn.opened(self.leave)

    def leave(self, conn: Connection) -> None:
        """No recipient any more. May be called twice."""
        self.slow(conn)
        self._open.pop(conn.id, None)

    def fast(self, conn: Connection, write: Write, *, deflates: bool = False) -> None:
        """`write` takes every frame for `conn`, compressed where it `deflates`, until `slow` is called."""
        if conn.id in self._open and conn.recording is None:
            self.flush()
            conn.messages_out -= self._broadcasts
            (self._deflating if deflates else self._fast)[conn] = write
            conn.written_by(write, deflates=deflates, after=self._settle)

    def slow(self, conn: Connection) -> None:
        """The frames for `conn` go through its outbox. May be called twice, and from within a write."""
        if conn in self._fast or conn in self._deflating:
            self._settle(conn)
            self._fast.pop(conn, None)
            self._deflating.pop(conn, None)
            conn.messages_out += self._broadcasts
            conn.written_by(None)

    def messages_out(self, conn: Connection) -> int:
        """Messages written to `conn` so far."""
        is_fast = conn in self._fast or conn in self._deflating
        return conn.messages_out + (self._broadcasts if is_fast else 0)

    def record(self, conn: Connection) -> Recording:
        """Record what happens to `conn` until `forget` was called as often. Meanwhile it is not in the fast set."""
        if conn.recording is None:
            self.slow(conn)
            conn.recording = Recording(conn.opened_at)
        conn.recording.viewers += 1
        return conn.recording

    def forget(self, conn: Connection) -> None:
        """The opposite of `record`."""
        if conn.recording is not None:
            conn.recording.viewers -= 1
            if not conn.recording.viewers:
                conn.recording = None
                conn.wake()

    def flush(self) -> None:
        """Write what is pending to the fast set; to a large one, begin to."""
        if self._pending:
            frames, self._pending, self._pending_bytes = self._pending, [], 0
            self._broadcasts += len(frames)
            self._write_all(frames, self._fast, self._deflating)

    def _end_turn(self) -> None:
        if not self._rounds:  # else it goes out, joined with what is still to come, when they have ended
            self.flush()

    def _settle(self, conn: Connection) -> None:
        """Write to `conn` all that was sent before now."""
        if self._pending:
            self.flush()
        if self._rounds:
            for data, waiting in tuple(self._rounds):
                write = waiting.pop(conn, None)
                if write is not None:
                    write(data)

    def _write_all(
        self, frames: list[Frame], fast: dict[Connection, Write], deflating: dict[Connection, Write]
    ) -> None:
        count = len(fast) + len(deflating)
        self._metrics.messages_out += len(frames) * count
        self._metrics.bytes_out += sum([len(frame.payload) for frame in frames]) * count
        if fast:
            self._write(b"".join([frame.wire for frame in frames]), fast)
        if deflating:
            self._write(b"".join([frame.deflated for frame in frames]), deflating)

    def _write(self, data: bytes, recipients: dict[Connection, Write]) -> None:
        if len(recipients) <= SLICE and not self._rounds:
            for write in tuple(recipients.values()):
                write(data)
        else:
            self._rounds.append((data, dict(recipients)))
            if len(self._rounds) == 1:
                self._go_on()

    def _go_on(self) -> None:
        self._write_slice()
        if self._rounds:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self.flush()

    def _write_slice(self) -> None:
        data, waiting = self._rounds[0]
        for _ in range(SLICE):
            if not waiting:
                self._rounds.popleft()
                return
            waiting.popitem()[1](data)

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
            self._log.info(text, skipped, extra={"kind": "skipped"})
        if strange:
            text = "skipped %d recipients that are neither connections nor ids, such as %s: look at event.connections"
            self._log.warning(text, len(strange), short(strange[0]), extra={"kind": "strange recipients"})
        return list(found)

    def abandon(self) -> None:
        """Forget every connection without writing to it, because its event loop was closed."""
        for conn in self._open.values():
            conn.written_by(None)
            conn.ended(1006, "")
        for forgotten in (self._open, self._fast, self._deflating, self._pending, self._rounds):
            forgotten.clear()
        self._pending_bytes = 0

    def deliver_to_ids(self, frame: Frame, ids: Sequence[str] | None) -> Sent:
        """Send `frame` to the open connections with `ids`, or to every one: what another process sends."""
        return self.deliver(frame, None if ids is None else self.resolve(ids))

    def deliver(self, frame: Frame, recipients: Sequence[Connection] | None, *, but: Connection | None = None) -> Sent:
        """Send `frame` to `recipients`, or to every open connection, without `but`."""
        if recipients is None and but is None:
            return self._deliver_to_all(frame)
        if recipients is not None and len(recipients) == 1:
            queued = int(recipients[0].send_frame(frame))
            return Sent(1, queued, 1 - queued)
        chosen = self._open.values() if recipients is None else recipients
        self.flush()
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
        self._write_all([frame], fast, deflating)
        queued = count + sum([conn.send_frame(frame) for conn in slow])
        return Sent(count + len(slow), queued, count + len(slow) - queued)

    def _deliver_to_all(self, frame: Frame) -> Sent:
        fast = len(self._fast) + len(self._deflating)
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
        queued, count = fast, len(self._open)
        if fast < count:
            slow = [conn for conn in self._open.values() if conn not in self._fast and conn not in self._deflating]
            queued += sum([conn.send_frame(frame) for conn in slow])
        return Sent(count, queued, count - queued)

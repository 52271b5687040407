"""Who is connected, and fan-out. Knows nothing of hooks and sockets. Nothing here waits."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from wsgateway.connection import Connection
from wsgateway.limits import MAX_PENDING
from wsgateway.logs import GatewayLog
from wsgateway.messages import Frame
from wsgateway.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one message: `recipients` were chosen, `queued` took it, `dropped` did not."""

    recipients: int
    queued: int
    dropped: int


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


class Hub:
    """The open connections of one gateway, and among them the fast set: those whose transport takes every write.

    Frames for everybody that arise in one turn of the loop are joined, and written to the fast set once when the
    turn ends. Whatever else is sent, and every change of who is in the set, writes what is pending first, so that
    order holds.
    """

    def __init__(self, metrics: Metrics, log: GatewayLog) -> None:
        self._open: dict[str, Connection] = {}
        self._fast: dict[Connection, Callable[[bytes], None]] = {}
        self._pending: list[bytes] = []
        self._pending_bytes = 0
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

    def fast(self, conn: Connection, write: Callable[[bytes], None]) -> None:
        """`write` takes every frame for `conn`, until `slow` is called."""
        if conn.id in self._open:
            self.flush()
            self._fast[conn] = write
            conn.written_by(write, after=self.flush)

    def slow(self, conn: Connection) -> None:
        """The frames for `conn` go through its outbox. May be called twice, and from within a write."""
        if conn in self._fast:
            self.flush()
            del self._fast[conn]
            conn.written_by(None, after=None)

    def flush(self) -> None:
        """Write what is pending to the fast set."""
        if self._pending:
            data = b"".join(self._pending)
            count, self._pending = len(self._pending), []
            writes = tuple(self._fast.values())
            self._metrics.messages_out += count * len(writes)
            self._metrics.bytes_out += self._pending_bytes * len(writes)
            self._pending_bytes = 0
            for write in writes:
                write(data)

    def resolve(self, wanted: Iterable[object]) -> list[Connection]:
        """The open connections among `wanted` (connections and ids), in this order, each once.

        Others are skipped, logged and counted.
        """
        found: dict[str, Connection] = {}
        skipped = 0
        for item in wanted:
            key = item.id if isinstance(item, Connection) else item
            conn = self._open.get(key) if isinstance(key, str) else None
            if conn is None or (isinstance(item, Connection) and item is not conn):
                skipped += 1
            else:
                found[conn.id] = conn
        if skipped:
            self._metrics.skipped_recipients += skipped
            self._log.info("skipped %d recipients that are closed, unknown or of another gateway", skipped)
        return list(found.values())

    def deliver(self, frame: Frame, recipients: Iterable[Connection] | None, *, but: Connection | None = None) -> Sent:
        """Send `frame` to `recipients`, or to every open connection, without `but`."""
        if recipients is None and but is None:
            return self._deliver_to_all(frame)
        chosen = tuple(self._open.values()) if recipients is None else tuple(recipients)
        if but is not None:
            chosen = tuple(conn for conn in chosen if conn is not but)
        queued = sum([conn.send_frame(frame) for conn in chosen])
        return Sent(len(chosen), queued, len(chosen) - queued)

    def _deliver_to_all(self, frame: Frame) -> Sent:
        fast = len(self._fast)
        if fast:
            if not self._pending:
                asyncio.get_running_loop().call_soon(self.flush)
            self._pending.append(frame.wire)
            self._pending_bytes += len(frame.payload)
            self._metrics.queued += fast
            if self._pending_bytes > MAX_PENDING:
                self.flush()
        queued, count = fast, len(self._open)
        if fast < count:
            queued += sum([conn.send_frame(frame) for conn in tuple(self._open.values()) if conn not in self._fast])
        return Sent(count, queued, count - queued)

"""Who is connected, and fan-out. Knows nothing of hooks and sockets. Nothing here waits."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from wsgateway.connection import Connection
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
    """The open connections of one gateway."""

    def __init__(self, metrics: Metrics, log: GatewayLog) -> None:
        self._open: dict[str, Connection] = {}
        self._metrics = metrics
        self._log = log
        self.connections = Connections(self._open)

    def join(self, conn: Connection) -> None:
        """From now on `conn` is a recipient, until its close begins."""
        self._open[conn.id] = conn
        conn.opened(self.leave)

    def leave(self, conn: Connection) -> None:
        """No recipient any more. May be called twice."""
        self._open.pop(conn.id, None)

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
        chosen = tuple(self._open.values()) if recipients is None else tuple(recipients)
        if but is not None:
            chosen = tuple(conn for conn in chosen if conn is not but)
        queued = sum([conn.send_frame(frame) for conn in chosen])
        return Sent(len(chosen), queued, len(chosen) - queued)

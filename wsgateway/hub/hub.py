"""The open connections of one gateway in this process, and fan-out. Knows neither hooks nor sockets. Nothing waits.

Every place where a message may wait, in the order in which it travels, with its bound and what happens at the bound:

in     1. `server.socket`: what one read brought while the inbox was full, at most 256 KB; reading is paused.
          `transports.asgi`: one message while the inbox is full; the rest waits in the server.
       2. `listeners.inbox`: INBOX_MESSAGES (32) messages or INBOX_BYTES (128 KiB); reading is paused until there is
          space. A message from `gateway.send` or `/send` has its own inbox, so it never waits behind another message.
          While the server waits for an answer of the client, OVERFULL_MESSAGES (1,024) or OVERFULL_BYTES (512 KiB).
          `protocols.centrifuge.session`: the rest of a frame with several commands meanwhile. `transports.posted`:
          frames that the client of a stream posts meanwhile, MAX_WAITING (1,000) or MAX_WAITING_BYTES (256 KiB); a
          further one is refused.
nodes  3. `cluster.bus`: OUTBOX_MESSAGES (10,000) envelopes or OUTBOX_BYTES (32 MiB); the oldest is
          dropped and counted.
       4. `cluster.history.pipeline`, `cluster.history.ipc`: MAX_WAITING (10,000) publications for a history store or
          MAX_WAITING_BYTES (32 MiB); the next one fails.
       5. `cluster.history.replica`: MAX_ASIDE (1,000) announcements or MAX_ASIDE_BYTES (32 MiB) while a channel joins
          or heals; further ones are dropped, and read from the store afterwards.
       6. `hub.roster`: MAX_HELD (1,000) changes of the members in a node while it is asked for its list; further ones
          are dropped, and the node is asked again.
out    7. `hub.turn_log`: until the event loop iteration ends; beyond MAX_LOGGED (64 KiB) they are
          flushed early.
       8. `hub.fan_out`, for more than SLICE (2,000) connections: over several iterations; beyond
          MAX_WAITING (1 MiB) each flush writes to SLICE connections before it returns.
       9. `hub.outbox`: `outbox_messages`, `outbox_bytes`; at either, `slow_policy` applies.
      10. The buffer of the server's transport: above its high-water mark the outbox is used instead; without progress
          for `send_timeout` the client is closed with 3008.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized

from wsgateway.hub.audience import Audience
from wsgateway.hub.connection import Connection
from wsgateway.hub.outbox import Outbox, Write
from wsgateway.hub.recording import Recording
from wsgateway.hub.turn_log import TurnLog
from wsgateway.logs import GatewayLog
from wsgateway.messages import Deliveries, Message, WireFormat
from wsgateway.metrics import Metrics
from wsgateway.text import short

_QUEUED, _DROPPED = Deliveries(1, 1, 0), Deliveries(1, 0, 1)


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


class LocalChannels(Mapping[str, Connections]):
    """The channels that have subscribers in this process, a live view.

    `local_channels["room:1"]` is a mapping of the subscribers of `room:1`.
    """

    __slots__ = ("_by_name", "_subscribers")

    def __init__(self, by_name: Mapping[str, object], subscribers: Callable[[str], list[Connection]]) -> None:
        self._by_name = by_name
        self._subscribers = subscribers

    def __getitem__(self, name: str) -> Connections:
        if name not in self._by_name:
            raise KeyError(name)
        return Connections({conn.id: conn for conn in self._subscribers(name)})

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._by_name))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name


class Hub:
    """The open connections of one gateway.

    Connections that receive the same messages are an audience, and `everybody` is the first. To a fast member, the turn
    log writes directly, once in each iteration of the event loop. A slow one receives through its outbox, because its
    transport is congested, it is recorded, or it is on plain ASGI.

    Each connection receives everything in the order in which it was sent, whether to an audience, to named
    recipients, or with `conn.send`. A write may call back, make any connection slow, fast, or closed, and send.
    Therefore the recipients of a message are chosen before the first write.
    """

    def __init__(self, metrics: Metrics, log: GatewayLog, *, plain: WireFormat) -> None:
        """`plain` is the wire format that most connections have."""
        self._open: dict[str, Connection] = {}
        self._metrics = metrics
        self._log = log
        self._turn = TurnLog(plain)
        self.everybody = Audience(plain)
        self.left: Callable[[Connection, tuple[object, ...]], None] = lambda conn, audiences: None
        """Called with a connection that has left, and its audiences besides `everybody`."""

        self._users: dict[str, dict[Connection, None]] = {}
        self._named = 0  # connections with a `user_id`
        self._only_everybody = (self.everybody,)  # one for all connections
        self.connections = Connections(self._open)

    # Members

    def join(self, conn: Connection) -> None:
        """Make `conn` a recipient, until its close begins."""
        outbox = conn._outbox
        self._open[conn.id] = conn
        if conn.user_id:
            self._users.setdefault(conn.user_id, {})[conn] = None
            self._named += 1
        outbox.join(self)
        outbox.audiences = self._only_everybody
        self.everybody.add(outbox)

    def leave(self, outbox: Outbox) -> None:
        """Write what was sent to `outbox`, which receives nothing from now on. May be called twice, and in a write."""
        conn = self._open.pop(outbox.id, None)
        if conn is not None and conn.user_id:
            self._forget_user(conn)
        write = outbox.write
        data = b"" if write is None else self._turn.withdraw(outbox)
        others = outbox.audiences[1:]  # without those that a write of `withdraw` has removed it from
        _remove(outbox)
        if write is not None and data:
            write(data)
        if conn is not None:
            if conn._session is not None:
                conn._session.closing()
            self.left(conn, others)

    def _forget_user(self, conn: Connection) -> None:
        theirs = self._users[conn.user_id]
        del theirs[conn]
        self._named -= 1
        if not theirs:
            del self._users[conn.user_id]

    def of_user(self, user_id: str) -> list[Connection]:
        """Return the open connections with that `user_id`, oldest first."""
        return list(self._users.get(user_id, ()))

    def count_users(self) -> int:
        """Return the number of users with open connections. All connections without a `user_id` are one user."""
        return len(self._users) + (len(self._open) > self._named)

    def select(self, ids: Iterable[str] | None, user: str = "") -> list[Connection]:
        """Return the open connections of `user`, or those with `ids`, each once, or, without either, every one."""
        if user:
            return self.of_user(user)
        if ids is None:
            return list(self._open.values())
        conns = map(self._open.get, dict.fromkeys(ids))
        return [conn for conn in conns if conn is not None]

    def make_fast(self, outbox: Outbox, write: Write) -> bool:
        """Pass what is sent to `outbox`, which is empty, to `write`. Return False if something may be waiting again."""
        while any(audience.is_pending for audience in outbox.audiences):  # it was queued for it, as a slow member
            self._turn.flush()
        if outbox.messages or not outbox.is_open or outbox.recording is not None or outbox.write is not None:
            return False  # because of what a write has called
        _use(outbox, write)
        return True

    def make_slow(self, outbox: Outbox) -> None:
        """Write what was sent to `outbox`, and queue what is sent from now on. May be called in a write."""
        write, data = outbox.write, self._turn.withdraw(outbox)
        _use(outbox, None)
        if write is not None and data:
            write(data)

    def add(self, outbox: Outbox, audience: Audience) -> bool:
        """Add a connection to `audience`. Return False if it is a member, or has left the hub."""
        while audience.is_pending:  # a write may call `deliver`
            self._turn.flush()
        if not outbox.is_open or audience in outbox.audiences:
            return False
        outbox.audiences = (*outbox.audiences, audience)
        audience.add(outbox)
        return True

    def remove(self, outbox: Outbox, audience: Audience) -> bool:
        """Remove a connection from `audience`, which is not `everybody`. Return False if it is no member."""
        while audience.is_pending:
            self._turn.flush()
        if audience not in outbox.audiences:
            return False
        outbox.audiences = tuple(other for other in outbox.audiences if other is not audience)
        audience.remove(outbox)
        return True

    def record(self, conn: Connection) -> Recording:
        """Record what happens to `conn` until each call is undone by `stop_recording`.

        Meanwhile the connection is a slow member.
        """
        outbox = conn._outbox
        recording = outbox.recording
        if recording is None:
            recording = outbox.recording = Recording(conn.opened_at)  # before the write of `buffer`
            outbox.buffer()
        recording.viewers += 1
        return recording

    def stop_recording(self, conn: Connection) -> None:
        """Undo one call of `record`."""
        outbox = conn._outbox
        if outbox.recording is not None:
            outbox.recording.viewers -= 1
            if not outbox.recording.viewers:
                outbox.recording = None
                outbox.transport.wake()

    def abandon(self) -> None:
        """Forget every connection without writing to it, because its event loop was closed."""
        for conn in self._open.values():
            _remove(conn._outbox)
            conn._outbox.end(1006, "")
        self._open.clear()
        self._users.clear()
        self._named = 0
        self._turn.clear()

    # Sending

    def deliver(self, message: Message, audience: Audience, *, but: Outbox | None = None) -> Deliveries:
        """Send `message` to every member of `audience` except `but`."""
        fast = audience.fast_count
        if but is not None and audience.is_fast(but):
            fast -= 1
            skipped = but
        else:
            skipped = None
        if fast:
            self._turn.add(message, audience, skipped)
            audience.delivered += 1
            if skipped is not None:
                skipped.count -= 1
            self._count_out(fast, len(message.payload))
        slow = () if not audience.slow else tuple(outbox for outbox in audience.slow if outbox is not but)
        if audience.more is not None and not message.is_control:
            self._count_undeliverable(message, audience.more)
        return self._deliver_to_slow(message, slow, fast)

    def _count_undeliverable(self, message: Message, more: Mapping[WireFormat, Sized]) -> None:
        for form, members in more.items():
            if not form.carries(message):
                self._metrics.undeliverable += len(members)

    def deliver_to(self, message: Message, recipients: Iterable[object]) -> Deliveries:
        """Send `message` to the open connections among `recipients`, which are connections and ids."""
        listed = recipients if isinstance(recipients, list) else list(recipients)
        if len(listed) == 1:
            conn = listed[0]
            if isinstance(conn, Connection) and self._open.get(conn.id) is conn:
                return _QUEUED if conn._outbox.put(message) else _DROPPED
        count = self._turn.add_to_last(message, listed)
        if count:
            self._count_out(count, len(message.payload))
            return self._deliver_to_slow(message, (), count)
        outboxes = self.resolve(listed)
        if len(outboxes) == 1:
            return _QUEUED if outboxes[0].put(message) else _DROPPED
        slow = tuple(outbox for outbox in outboxes if outbox.write is None)
        fast = len(outboxes) - len(slow)
        if fast:
            named = list(listed) if fast == len(listed) else None
            self._turn.add_named(message, outboxes, named)
            self._count_out(fast, len(message.payload))
        return self._deliver_to_slow(message, slow, fast)

    def deliver_to_ids(self, message: Message, ids: Sequence[str] | None) -> Deliveries:
        """Send `message`, which another node has published, to the open connections with `ids`, or to every one."""
        return self.deliver(message, self.everybody) if ids is None else self.deliver_to(message, ids)

    def deliver_to_user(self, message: Message, user: str) -> Deliveries:
        """Send `message`, which another node has published, to the open connections of `user`."""
        return self.deliver_to(message, self.of_user(user))

    def _count_out(self, count: int, size: int) -> None:
        metrics = self._metrics
        metrics.queued += count
        metrics.messages_out += count
        metrics.bytes_out += size * count

    def _deliver_to_slow(self, message: Message, slow: Sequence[Outbox], fast: int) -> Deliveries:
        """Queue `message` for all of `slow`, then write their outboxes. `fast` others have it in the log."""
        accepted = [outbox.append(message) for outbox in slow]
        for outbox, is_queued in zip(slow, accepted, strict=True):
            outbox.after_append(message, is_queued=is_queued)
        if self._turn.is_full:
            self._turn.flush()
        count, queued = fast + len(accepted), fast + sum(accepted)
        return Deliveries(count, queued, count - queued)

    def put_behind(self, outbox: Outbox, message: Message) -> bool:
        """Write `message` after what was sent to `outbox` before it. Return False if all of that is written already."""
        if self._turn.is_empty:
            return False
        is_sent = self._turn.put_behind(outbox, message)
        if is_sent:
            self._count_out(1, len(message.payload))
            if not message.is_control and not outbox.wire_format.carries(message):
                self._metrics.undeliverable += 1
        return is_sent

    def delivered_to(self, outbox: Outbox) -> int:
        """Return how many messages a fast member has received from its audiences, in the log too."""
        return sum(audience.delivered for audience in outbox.audiences)

    @property
    def is_writing(self) -> bool:
        """Whether anything that was sent to fast members is not written yet."""
        return not self._turn.is_empty

    def flush(self) -> None:
        """Write what was sent to fast members now. To many connections, or from within a write, only begin to."""
        self._turn.flush()

    def resolve(self, recipients: Iterable[object]) -> list[Outbox]:
        """Return the outboxes of the open connections among `recipients`, which are connections and ids.

        They are in the order of `recipients`, each once.

        Others are skipped, logged, and counted.
        """
        outboxes: dict[Outbox, None] = {}
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
                outboxes[conn._outbox] = None
        if skipped:
            self._metrics.skipped_recipients += skipped
            text = "skipped %d recipients that are closed, unknown, or of another gateway"
            self._log.limited("skipped").info(text, skipped)
        if unusable:
            text = "skipped %d recipients that are neither connections nor ids, such as %s: check event.connections"
            self._log.limited("strange recipients").warning(text, len(unusable), short(unusable[0]))
        return list(outboxes)


def _use(outbox: Outbox, write: Write | None) -> None:
    """Make a fast member of `outbox` in all its audiences, which is written to with `write`, or a slow one if None."""
    for audience in outbox.audiences:
        audience.remove(outbox)
    outbox.write = write
    for audience in outbox.audiences:
        audience.add(outbox)


def _remove(outbox: Outbox) -> None:
    """Remove `outbox` from all its audiences."""
    for audience in outbox.audiences:
        audience.remove(outbox)
    outbox.audiences, outbox.write = (), None

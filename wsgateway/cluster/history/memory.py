"""Keeps the history of every channel in the memory of this process. Synchronous, no I/O."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice

from wsgateway.cluster.history.expiry import ExpiryQueue, KeptChannel, oldest_of
from wsgateway.cluster.history.recovery import Recovery, Wish, recover
from wsgateway.cluster.history.tail import Entry, Tail
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.frames import Position, Publication

KEY_TTL = 300.0
"""Seconds that an idempotency key is remembered, in its channel."""

POSITION_TTL = 24 * 3600.0
"""Seconds that the position of a channel without records is remembered after the last publication or subscription."""

MAX_SHARE = 4
"""Idempotency keys take at most this part of `limit_bytes`, and positions of channels without records as well. So
neither callers with many keys nor clients that subscribe to many names drop all records."""

MAX_KEY = 64
"""Characters of an idempotency key and its channel that are remembered as they are; of longer ones, a hash is."""

RECORD_BYTES = 450
KEY_BYTES = 300
"""What a record and an idempotency key take in memory besides their text and payload, measured."""


def _size_of(publication: Publication) -> int:
    """Return the bytes that a publication takes. The payload counts twice, because an encoded form is kept with it."""
    size = RECORD_BYTES + 2 * len(publication.payload) + len(publication.key) + len(publication.name)
    if publication.tags is None:
        return size
    return size + sum([100 + len(name) + len(value) for name, value in publication.tags.items()])


def _key_of(publication: Publication) -> str:
    return publication.key


class MemoryHistory:
    """The histories of all channels of one gateway.

    `bytes` is their size, including positions and idempotency keys: at most `limit_bytes`, which may be changed. Above
    it, the channel whose last publication is oldest loses its records, and `evicted` counts that. Positions of channels
    without records and idempotency keys take at most a quarter each; above it, the oldest are forgotten. A history that
    has lost records can only look too short, so a client that has missed some is notified that it starts over.

    A channel with records is in the queue of `_full` for its `history_ttl`. Without records, only its position is kept,
    and it is in the queue of `_idle` for the time that this is remembered.
    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        now: Callable[[], float],
        new_epoch: Callable[[], str],
        size_of: Callable[[Publication], int] = _size_of,
    ) -> None:
        """`now` is the monotonic clock. `new_epoch` returns a text that was never an epoch before."""
        self.bytes = 0
        self.evicted = 0
        self.limit_bytes = limit_bytes
        self._now = now
        self._new_epoch = new_epoch
        self._size_of = size_of
        self._channels: dict[str, KeptChannel] = {}
        self._full: dict[float, ExpiryQueue] = {}
        self._idle = {delay: ExpiryQueue(delay) for delay in (POSITION_TTL, math.inf)}
        self._idle_bytes = 0
        self._keys: OrderedDict[str | bytes, tuple[float, Position]] = OrderedDict()
        self._keys_bytes = 0
        self._next_due = math.inf

    @property
    def channels(self) -> int:
        """The number of channels whose position is remembered."""
        return len(self._channels)

    def append(
        self, publication: Publication, settings: ChannelSettings, *, idempotency_key: str = ""
    ) -> tuple[Position, bool]:
        """Add a publication and set its position. Return the position, and True because it is new.

        If its channel has seen the same idempotency key in the last 300 s, nothing is added. Return the position of the
        first publication with that key, and False.
        """
        now = self._now()
        if now >= self._next_due:
            self._expire(now)
        ident = _ident(publication.channel, idempotency_key) if idempotency_key else ""
        if ident and ident in self._keys:
            return self._keys[ident][1], False
        channel = self._channels.get(publication.channel) or self._create(publication.channel, settings, now)
        tail = channel.tail
        if not len(tail):
            self._idle_bytes -= channel.bytes
        size, top = tail.bytes, tail.top
        position = publication.position = Position(tail.epoch, top + 1)
        tail.append(top, top + 1, publication)
        self.bytes += tail.bytes - size
        self._put(channel, channel.full, now)
        if ident:
            self._remember(ident, position, now)
        if self.bytes > self.limit_bytes:
            self._evict(channel, now)
        return position, True

    def position(self, channel: str, settings: ChannelSettings) -> Position:
        """Return the position of a channel, which is remembered for 24 h from now on, or as long as it has records."""
        tail = self._use(channel, settings).tail
        return Position(tail.epoch, tail.top)

    def recover(
        self,
        channel: str,
        settings: ChannelSettings,
        *,
        since: Position | None,
        is_garbled: bool = False,
        last: int | None,
        max_bytes: int,
    ) -> Recovery:
        """Return the recovery of a client that subscribes: every publication after `since`, or a new start.

        If `is_garbled`, the client sent text that is not a position, and `since` is ignored.
        """
        wish = Wish(None if is_garbled else since, last, max_bytes, settings.keep is Keep.LAST)
        return recover(self._use(channel, settings).tail, wish, limit=settings.history, now=self._now())

    def read(
        self,
        channel: str,
        settings: ChannelSettings,
        *,
        limit: int,
        since: Position | None = None,
        reverse: bool = False,
    ) -> tuple[Position, list[Publication]]:
        """Return the position of a channel, and at most `limit` of its publications.

        They are the first that follow `since`; without it, the newest ones. They are in the order of their offsets.
        With `reverse`, they are the last before `since`, or the newest ones, and the newest is first.

        A reader compares epochs. Everything kept follows a position of another epoch, because the numbering has started
        again since. Nothing follows a position above the channel's. Dropped publications are not reported.
        """
        tail = self._use(channel, settings).tail
        at = Position(tail.epoch, tail.top)
        offset = tail.top + 1 if since is None else since.offset if since.epoch in ("", tail.epoch) else 0
        if limit <= 0:
            return at, []
        is_backward = reverse or since is None
        entries = tail.before(offset) if is_backward else tail.after(offset)
        now = self._now()
        alive = (item for _, _, item in entries if item.expires is None or item.expires > now)
        publications = list(islice(alive, min(limit, len(tail))))
        if is_backward and not reverse:
            publications.reverse()
        return at, publications

    def page(
        self, channel: str, settings: ChannelSettings, *, above: int | None, most: int
    ) -> tuple[Position, int, list[Entry[Publication]]]:
        """Return the position of a channel, `start`, and at most `most` entries, in the order of their offsets.

        They are the oldest above `above`; if that is None, the newest. See `StoredPage`.
        """
        tail = self._use(channel, settings).tail
        at = Position(tail.epoch, tail.top)
        if above is not None:
            return at, min(max(above, tail.floor), tail.top), list(islice(tail.after(above), most))
        entries = tail.newest(most + 1)
        if len(entries) <= most:
            return at, tail.floor, entries
        return at, entries[0][1], entries[1:]

    def renew(self, channel: str, epoch: str) -> None:
        """Replace `epoch` of a channel by a new one. Do nothing if the channel has another one."""
        found = self._channels.get(channel)
        if found is not None and found.tail.epoch == epoch:
            found.tail.epoch = self._new_epoch()

    def adapt(self, channel: str, settings: ChannelSettings) -> None:
        """Apply `settings` to a channel. If `keep` has changed, the history starts again, with a new epoch."""
        found = self._channels.get(channel)
        if found is None:
            return
        tail = found.tail
        if tail.is_latest_only is not (settings.keep is Keep.LAST):
            self.forget(channel)
            self._drop_position(found)
            return
        if tail.limit != settings.history:
            size = tail.bytes
            tail.limit_to(settings.history)
            self.bytes += tail.bytes - size
        if found.full.delay != _ttl(settings):
            found.full, found.idle = self._queues(_ttl(settings))
            self._put(found, found.full if len(tail) else found.idle, self._now())

    def names(self) -> Iterator[str]:
        """Yield the names of the channels that have records."""
        self.expire()
        for queue in self._full.values():
            yield from queue.channels

    def peek(self, channel: str) -> tuple[Position, int, float | None] | None:
        """Return the position of a channel, the number of its records, and the time of the newest one.

        The time is that of the monotonic clock. Return None if no position is remembered.

        The time for which the position is remembered does not start again.
        """
        self.expire()
        found = self._channels.get(channel)
        if found is None:
            return None
        tail = found.tail
        return Position(tail.epoch, tail.top), len(tail), found.since if len(tail) else None

    def forget(self, channel: str) -> None:
        """Drop the records of a channel. Its position stays, so that clients that have missed some are notified."""
        found = self._channels.get(channel)
        if found is not None and len(found.tail):
            self._drop_records(found, self._now())

    def expire(self) -> None:
        """Drop the records, positions, and idempotency keys whose time is over. Cheap if there are none."""
        now = self._now()
        if now >= self._next_due:
            self._expire(now)

    # Channels

    def _use(self, name: str, settings: ChannelSettings) -> KeptChannel:
        """Return a channel, created if it is new. If it has no records, the time of its position starts again."""
        now = self._now()
        if now >= self._next_due:
            self._expire(now)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._create(name, settings, now)
            self._limit_idle(channel)
            if self.bytes > self.limit_bytes:
                self._evict(channel, now)
        elif not len(channel.tail):
            self._put(channel, channel.idle, now)
        return channel

    def _create(self, name: str, settings: ChannelSettings, now: float) -> KeptChannel:
        key_of = _key_of if settings.keep is Keep.LAST else None
        tail = Tail(self._new_epoch(), limit=settings.history, size_of=self._size_of, key_of=key_of)
        channel = self._channels[name] = KeptChannel(name, tail, *self._queues(_ttl(settings)))
        self.bytes += channel.bytes
        self._idle_bytes += channel.bytes
        self._put(channel, channel.idle, now)
        return channel

    def _queues(self, ttl: float) -> tuple[ExpiryQueue, ExpiryQueue]:
        """Return the queues of a channel with this `history_ttl`: with records, and without."""
        return self._full.setdefault(ttl, ExpiryQueue(ttl)), self._idle[math.inf if ttl == math.inf else POSITION_TTL]

    def _put(self, channel: KeptChannel, queue: ExpiryQueue, now: float) -> None:
        """Add a channel at the end of a queue. It leaves the queue that it is in."""
        channel.since = now
        if channel.queue is queue:
            queue.channels.move_to_end(channel.name)
            return
        if channel.queue is not None:
            del channel.queue.channels[channel.name]
        channel.queue = queue
        queue.channels[channel.name] = channel
        if now + queue.delay < self._next_due:
            self._next_due = now + queue.delay

    def _drop_records(self, channel: KeptChannel, now: float) -> None:
        self.bytes -= channel.tail.bytes
        channel.tail.clear()
        self._idle_bytes += channel.bytes
        self._put(channel, channel.idle, now)
        self._limit_idle(channel)

    def _drop_position(self, channel: KeptChannel) -> None:
        assert channel.queue is not None
        del channel.queue.channels[channel.name]
        del self._channels[channel.name]
        self.bytes -= channel.bytes
        self._idle_bytes -= channel.bytes

    # Bounds

    def _limit_idle(self, kept: KeptChannel) -> None:
        """Forget the oldest positions without records while they take too much, but never that of `kept`."""
        while self._idle_bytes * MAX_SHARE > self.limit_bytes:
            oldest = oldest_of(self._idle.values())
            if oldest is None or oldest is kept:
                return
            self._drop_position(oldest)

    def _evict(self, kept: KeptChannel, now: float) -> None:
        """Drop records until the limit is kept: those of the oldest channels, at last the oldest ones of `kept`."""
        while self.bytes > self.limit_bytes:
            oldest = oldest_of(self._full.values())
            if oldest is None:
                return
            self.evicted += 1
            if oldest is not kept:
                self._drop_records(oldest, now)
                continue
            while self.bytes > self.limit_bytes and len(kept.tail) > 1:
                size = kept.tail.bytes
                kept.tail.drop_oldest()
                self.bytes += kept.tail.bytes - size
            if self.bytes > self.limit_bytes:
                self._drop_records(kept, now)
            return

    # Idempotency

    def _remember(self, ident: str | bytes, position: Position, now: float) -> None:
        self._keys[ident] = (now + KEY_TTL, position)
        self._next_due = min(self._next_due, now + KEY_TTL)
        self._keys_bytes += KEY_BYTES + len(ident)
        self.bytes += KEY_BYTES + len(ident)
        while self._keys_bytes * MAX_SHARE > self.limit_bytes:
            self._forget_key()

    def _forget_key(self) -> None:
        ident, _ = self._keys.popitem(last=False)
        self._keys_bytes -= KEY_BYTES + len(ident)
        self.bytes -= KEY_BYTES + len(ident)

    # Time

    def _expire(self, now: float) -> None:
        for queue in self._full.values():
            while (channel := queue.first()) is not None and channel.since + queue.delay <= now:
                self._drop_records(channel, now)
        for queue in self._idle.values():
            while (channel := queue.first()) is not None and channel.since + queue.delay <= now:
                self._drop_position(channel)
        while self._keys and next(iter(self._keys.values()))[0] <= now:
            self._forget_key()
        self._next_due = min(self._dues(), default=math.inf)

    def _dues(self) -> Iterator[float]:
        for queue in (*self._full.values(), *self._idle.values()):
            channel = queue.first()
            if channel is not None:
                yield channel.since + queue.delay
        if self._keys:
            yield next(iter(self._keys.values()))[0]


def _ttl(settings: ChannelSettings) -> float:
    return math.inf if settings.history_ttl is None else settings.history_ttl


def _ident(channel: str, key: str) -> str | bytes:
    """Return the stored form of an idempotency key. A name has no space, so no two pairs have the same text."""
    text = f"{channel} {key}"
    return text if len(text) <= MAX_KEY else blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()

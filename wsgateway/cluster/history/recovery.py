"""Decides which publications a client receives when it subscribes. No I/O, no clock."""

from collections.abc import Iterable
from typing import NamedTuple

from wsgateway.cluster.history.tail import Entry, Tail
from wsgateway.frames import Position, Publication


class Recovery(NamedTuple):
    """The publications that one client receives when it subscribes.

    If `recovered`, they are all that the client has missed. Otherwise the client starts over, and they are the same as
    for a new client. `at` is the position before the first of them, or the position of the channel if there are no
    publications. So the newest position that the client has seen is the right `since` whenever its connection breaks.
    """

    recovered: bool
    at: Position
    publications: list[Publication]


class Wish(NamedTuple):
    """A client's request: every publication after `since`, or the newest `last`, with at most `max_bytes` of payload.

    In a channel that keeps the newest publication of each key (`is_latest_only`), a client that starts over receives
    all of them, and `last` is ignored.
    """

    since: Position | None
    last: int | None
    max_bytes: int
    is_latest_only: bool


def recover(tail: Tail[Publication], wish: Wish, *, limit: int, now: float) -> Recovery:
    """Return the recovery for `wish`. It is never partial: a client receives every missed publication, or starts over.

    A recovery contains at most `limit` publications. Publications past their `ttl` are left out and count as delivered.
    """
    since = wish.since
    if since is not None and since.epoch in ("", tail.epoch):
        missed = tail.since(since.offset)
        if missed is not None and len(missed) <= limit:
            alive = [entry for entry in missed if _is_alive(entry, now)]
            if sum([len(entry[2].payload) for entry in alive]) <= wish.max_bytes:
                return _recovery(tail, alive, recovered=True)
    count = len(tail) if wish.is_latest_only else min(wish.last or 0, len(tail))
    newest = _newest(tail.before(tail.top + 1), count, wish.max_bytes, now)
    return _recovery(tail, newest, recovered=False)


def _newest(entries: Iterable[Entry[Publication]], count: int, max_bytes: int, now: float) -> list[Entry[Publication]]:
    """Return the first `count` of `entries` that are alive and fit into `max_bytes` together, in reverse order."""
    newest: list[Entry[Publication]] = []
    if count <= 0:
        return newest
    for entry in entries:
        if not _is_alive(entry, now):
            continue
        max_bytes -= len(entry[2].payload)
        if max_bytes < 0:
            break
        newest.append(entry)
        if len(newest) == count:
            break
    newest.reverse()
    return newest


def _is_alive(entry: Entry[Publication], now: float) -> bool:
    expires = entry[2].expires
    return expires is None or expires > now


def _recovery(tail: Tail[Publication], entries: list[Entry[Publication]], *, recovered: bool) -> Recovery:
    before = entries[0][0] if entries else tail.top
    return Recovery(recovered, Position(tail.epoch, before), [entry[2] for entry in entries])

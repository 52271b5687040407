"""Reads the records of a channel from a stream of JetStream, one by one."""

import asyncio
import datetime
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from wsgateway.cluster.brokers.nats import epoch_of
from wsgateway.cluster.history.jetstream import JetStream
from wsgateway.cluster.history.store import Request, StoredPage
from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.exceptions import HistoryError

MAX_PAGE_BYTES = 64 * 1024 * 1024
"""Size of the records of one page, after which the oldest are left out."""


class Stream(NamedTuple):
    """A stream, and the time of the event loop's clock until which it has dropped nothing because of its age."""

    name: str
    complete_until: float

    @property
    def epoch(self) -> str:
        return epoch_of(self.name)


class _Row(NamedTuple):
    """A record as it is stored: its sequence in the stream, when it was stored, in seconds, and the record."""

    offset: int
    time: float
    record: bytes


class StreamReader:
    """Reads through one connection."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream

    async def read(self, stream: Stream, subject: str, request: Request) -> StoredPage:
        """Return the page of a channel, whose records have this subject in `stream`. Raise `HistoryError`."""
        _, settings, above, most = request
        last = await self._get(stream, {"last_by_subj": subject})
        if last is None:
            return StoredPage(stream.epoch, 0, 0, [], is_blank=True)
        top, most = last.offset, max(0, min(most, MAX_HISTORY))
        ttl = settings.history_ttl
        is_expired = ttl is not None and last.time + ttl < time.time()
        if is_expired or (above is not None and above >= top) or (above is None and not most):
            return StoredPage(stream.epoch, top, top, [])
        if not most:
            return StoredPage(stream.epoch, top, cast(int, above), [])
        if above is None and most == 1:
            return StoredPage(stream.epoch, top, top - 1, [(top - 1, top, last.record)])
        start, rows = await self._rows(stream, subject, last, above or 0, settings)
        if above is not None:
            rows = rows[:most]
        elif len(rows) > most:
            start, rows = rows[-most - 1].offset, rows[-most:]
        prevs = [start, *[row.offset for row in rows]]
        records = [(prev, row.offset, row.record) for prev, row in zip(prevs, rows, strict=False)]
        return StoredPage(stream.epoch, top, start, records)

    async def _rows(
        self, stream: Stream, subject: str, last: _Row, above: int, settings: ChannelSettings
    ) -> tuple[int, list[_Row]]:
        """Return the records of a channel above `above` up to `last`, and the offset above which none is missing."""
        rows, is_whole = await self._walk(stream, subject, above, last)
        if above and rows[0].offset == above:
            start, rows = above, rows[1:]
        elif not above and is_whole and self._is_complete(stream, rows, settings):
            start = 0
        else:
            start = rows[0].offset - 1  # above it, nothing is missing; where the record before is, is not known
        ttl = settings.history_ttl
        if ttl is not None:
            for index in range(len(rows) - 1, 0, -1):
                if rows[index].time - rows[index - 1].time > ttl:  # those before had expired
                    start, rows = rows[index - 1].offset, rows[index:]
                    break
        if len(rows) > settings.history:
            start, rows = rows[-settings.history - 1].offset, rows[-settings.history :]
        return start, rows

    def _is_complete(self, stream: Stream, rows: Sequence[_Row], settings: ChannelSettings) -> bool:
        """Return whether `rows` are all records that the channel ever had, except those that were forgotten."""
        is_young = asyncio.get_running_loop().time() < stream.complete_until
        return is_young and len(rows) <= settings.history

    async def _walk(self, stream: Stream, subject: str, first: int, last: _Row) -> tuple[list[_Row], bool]:
        """Return the records from `first` to `last` without a hole, and False if older ones were left out."""
        rows: deque[_Row] = deque()
        size, is_whole = 0, True
        sequence = max(first, 1)
        while True:
            row = last if sequence == last.offset else await self._get(stream, _next(subject, sequence))
            if row is None or row.offset > last.offset:
                break
            rows.append(row)
            size += len(row.record)
            while size > MAX_PAGE_BYTES and len(rows) > 1:
                size -= len(rows.popleft().record)
                is_whole = False
            sequence = row.offset + 1
            if row.offset == last.offset:
                break
        if len(rows) > 1:  # those that were dropped meanwhile may have left a hole
            oldest = await self._get(stream, _next(subject, rows[0].offset))
            kept = last.offset if oldest is None else oldest.offset
            while len(rows) > 1 and rows[0].offset < kept:
                rows.popleft()
                is_whole = False
        return list(rows) or [last], is_whole and bool(rows)

    async def _get(self, stream: Stream, what: Mapping[str, object]) -> _Row | None:
        """Return the record that a stream has for `what`, None if it has none. Raise `HistoryError`."""
        message = await self._jetstream.ask(f"DIRECT.GET.{stream.name}", what)
        headers = message.headers or {}
        if "Nats-Sequence" not in headers:
            if headers.get("Status") == "404":
                return None
            raise HistoryError(f"the server {self._jetstream.name} cannot read the history: {headers}")
        stored = datetime.datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
        return _Row(int(headers["Nats-Sequence"]), stored, message.data)


def _next(subject: str, sequence: int) -> dict[str, object]:
    return {"seq": sequence, "next_by_subj": subject}

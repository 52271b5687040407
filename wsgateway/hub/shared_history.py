"""The histories that the nodes of a gateway share, in a store outside this process. Knows no subscribers."""

import asyncio
import time
from functools import partial

from wsgateway.cluster import envelopes
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.envelopes import VERSION, Forgotten
from wsgateway.cluster.history.replica import Page
from wsgateway.cluster.history.store import Append, HistoryStore, Request, StoredPage
from wsgateway.cluster.history.tail import Entry
from wsgateway.cluster.records import decode_record, encode_record, publication_of
from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.config.grace import BROKER_GRACE
from wsgateway.config.values import Keep
from wsgateway.exceptions import EnvelopeError, HistoryError
from wsgateway.frames import Position, Publication
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

MAX_REQUESTS = 500
"""Requests that are passed to the store together."""

MAX_READING = 4
"""Batches of requests that the store answers at the same time. Others wait."""

CHUNK = 500
"""Records that are decoded in one iteration of the event loop."""

Appended = tuple[Position, bool]
"""The position of a publication, and whether it is new."""


class SharedHistory:
    """The histories of one gateway, while it runs. Requests of one iteration of the event loop are sent together."""

    def __init__(self, store: HistoryStore, cluster: Cluster, metrics: Metrics, log: GatewayLog) -> None:
        self._store = store
        self._cluster = cluster
        self._metrics = metrics
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._requests: list[tuple[Request, asyncio.Future[Page]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Semaphore(MAX_READING)
        self._appending: set[asyncio.Future[Appended]] = set()

    async def start(self) -> None:
        """Begin to connect to the store."""
        await self._store.start()

    async def aclose(self) -> None:
        """Wait for the last publications, at most `BROKER_GRACE` seconds, and close the store."""
        if self._appending:
            await asyncio.wait(self._appending, timeout=BROKER_GRACE)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._store.aclose()

    @property
    def usage(self) -> tuple[int, int]:
        """`bytes` and `evicted` of the store."""
        return self._store.bytes, self._store.evicted

    @property
    def appending(self) -> int:
        """The number of publications that the store has not confirmed yet."""
        return len(self._appending)

    # Writing

    def append(
        self,
        publication: Publication,
        settings: ChannelSettings,
        *,
        idempotency_key: str,
        but: str = "",
        number: int = 0,
    ) -> asyncio.Future[Appended]:
        """Add a publication, and announce it to all nodes that follow its channel.

        Publications are stored in the order of the calls. The future fails with `HistoryError`, which is logged. Raise
        `MessageError` for a publication that is too large.
        """
        channel = publication.channel
        record = encode_record(publication, node=self._cluster.node, but=but, number=number)
        topic = self._cluster.names.of_channel(channel)
        future = self._store.append(Append(channel, topic, record, settings, publication.key, idempotency_key))
        self._appending.add(future)
        future.add_done_callback(partial(self._appended, self._loop.time()))
        return future

    def _appended(self, began: float, future: asyncio.Future[Appended]) -> None:
        self._appending.discard(future)
        self._metrics.history_seconds.observe(self._loop.time() - began)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._metrics.history_errors += 1
            self._log.limited("history").error("a publication was not stored: %s", error)

    async def renew(self, channel: str, epoch: str) -> None:
        """Replace a broken epoch. Raise `HistoryError`."""
        await self._store.renew(channel, epoch)

    async def forget(self, channel: str) -> None:
        """Drop the history of a channel in the store and in all nodes. Raise `HistoryError`."""
        await self._store.forget(channel)
        data = envelopes.encode(Forgotten(VERSION, self._cluster.node, 0, channel))
        self._cluster.routing.publish(channel, data)

    # Reading

    def page(self, channel: str, settings: ChannelSettings, above: int | None, most: int) -> asyncio.Future[Page]:
        """Read the publications above the offset `above`, or else the newest `most`. It fails with `HistoryError`."""
        future: asyncio.Future[Page] = self._loop.create_future()
        if not self._requests:
            self._loop.call_soon(self._send)
        self._requests.append((Request(channel, settings, above, most), future))
        return future

    async def read(
        self, channel: str, settings: ChannelSettings, *, limit: int, since: Position | None, reverse: bool
    ) -> tuple[Position, list[Publication]]:
        """Return the position of a channel, and at most `limit` publications, as `MemoryHistory.read` does."""
        is_backward = reverse or since is None
        above, most = None, limit
        if settings.keep is Keep.LAST or (reverse and since is not None):
            above, most = 0, MAX_HISTORY
        elif since is not None:
            above = since.offset
        page = await self.page(channel, settings, above, most)
        if since is not None and since.epoch not in ("", page.epoch) and above:
            page = await self.page(channel, settings, 0, most)
        now = time.monotonic()
        publications = [entry[2] for entry in page.entries if entry[2].expires is None or entry[2].expires > now]
        if since is not None:
            offset = since.offset if since.epoch in ("", page.epoch) else 0
            publications = [each for each in publications if _is_beyond(each, offset, reverse=reverse)]
        chosen = publications[-limit:] if is_backward and limit else publications[:limit]
        if reverse:
            chosen.reverse()
        return Position(page.epoch, page.top), chosen

    def _send(self) -> None:
        requests, self._requests = self._requests, []
        for first in range(0, len(requests), MAX_REQUESTS):
            task = self._loop.create_task(self._read(requests[first : first + MAX_REQUESTS]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read(self, requests: list[tuple[Request, asyncio.Future[Page]]]) -> None:
        """Read one batch, and pass each page to its caller."""
        try:
            async with self._reading:
                pages = await self._store.read([request for request, _ in requests])
            for (request, future), stored in zip(requests, pages, strict=True):
                if isinstance(stored, HistoryError):
                    if not future.done():
                        future.set_exception(stored)
                    continue
                page = await self._decoded(request, stored)
                if not future.done():
                    future.set_result(page)
        except Exception as exc:
            error = exc
            if not isinstance(exc, HistoryError):
                self._log.error("the history cannot be read: %r", exc, exc_info=exc)
                error = HistoryError(f"it cannot be read, the log has the reason: {exc!r}")
            for _, future in requests:
                if not future.done():
                    future.set_exception(error)
        finally:
            for _, future in requests:
                future.cancel()

    async def _decoded(self, request: Request, stored: StoredPage) -> Page:
        """Return a page with its publications. It begins after a record that cannot be decoded."""
        start, entries = stored.start, list[Entry[Publication]]()
        for number, (prev, offset, data) in enumerate(stored.records, 1):
            try:
                publication = publication_of(decode_record(data), request.settings, Position(stored.epoch, offset))
                entries.append((prev, offset, publication))
            except EnvelopeError as exc:
                self._metrics.broker_dropped[exc.reason] += 1
                text = "the history of %s contains a record that cannot be read: %s"
                self._log.limited("record").warning(text, request.channel, exc)
                start, entries = offset, []
            if number % CHUNK == 0:
                await asyncio.sleep(0)  # serves others between two chunks
        return Page(stored.epoch, stored.top, start, entries, stored.is_blank)


def _is_beyond(publication: Publication, offset: int, *, reverse: bool) -> bool:
    """Return whether a publication is above `offset`, or with `reverse` below."""
    assert publication.position is not None
    return publication.position.offset < offset if reverse else publication.position.offset > offset

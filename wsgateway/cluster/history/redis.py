"""Keeps the histories of a gateway in Redis or Valkey, where its nodes share them."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, cast

from wsgateway.cluster.brokers.redis_server import RedisServer
from wsgateway.cluster.history.faults import fault_of_probe
from wsgateway.cluster.history.pipeline import MAX_COMMAND_BYTES, Pipeline
from wsgateway.cluster.history.scripts import (
    append_script,
    bulk,
    command,
    keys_of,
    probe_of,
    read_script,
    renew_script,
)
from wsgateway.cluster.history.store import Append, Request, StoredPage
from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.exceptions import HistoryError
from wsgateway.frames import Position
from wsgateway.logs import GatewayLog

KEY_TTL = b"300"
"""Seconds that an idempotency key is remembered, in its channel."""

POSITION_TTL = 24 * 3600
"""Seconds that a position is remembered after the records have expired."""

MAX_PAGE_BYTES = 64 * 1024 * 1024
"""Size of the records of one page, after which the oldest are left out."""

MAX_CACHED = 10_000
"""Channels whose part of a command is kept."""


class _Channel:
    """The parts of an append that are the same for each publication of a channel."""

    __slots__ = ("head", "plain", "rest", "settings", "topic")

    def __init__(self, append: Append, keys: Sequence[bytes]) -> None:
        settings = append.settings
        self.settings = settings
        self.topic = append.topic
        ttl, position_ttl = _ttls(settings)
        arguments = (b"%d" % settings.history, ttl, position_ttl, settings.keep.encode(), append.topic.encode())
        self.head = append_script.head + b"".join(map(bulk, keys[:3]))
        self.rest = b"".join(map(bulk, arguments))
        self.plain = self.head + bulk(keys[3]) + bulk(b"") + self.rest


class RedisHistory:
    """The histories of one gateway in one Redis server, through two connections: one that appends, one that reads."""

    def __init__(
        self,
        url: str,
        *,
        gateway: str,
        new_epoch: Callable[[], str],
        log: GatewayLog,
    ) -> None:
        """`gateway` is its id as in topics. `new_epoch` returns a text that was never an epoch before.

        Raise `ValueError` if redis-py cannot use `url`.
        """
        self.bytes = self.evicted = 0
        server = RedisServer(url)
        self._gateway = gateway
        begin = new_epoch().encode()
        self._epochs = (b"%b%x" % (begin, number) for number in count())  # each append may need one
        self._channels: dict[str, _Channel] = {}
        probe = probe_of(gateway)

        def pipeline(*, max_weight: int, may_repeat: bool) -> Pipeline:
            return Pipeline(
                server.connect,
                test=probe,
                check=_check_probe,
                max_weight=max_weight,
                may_repeat=may_repeat,
                name=server.name,
                log=log,
            )

        self._appending = pipeline(max_weight=MAX_COMMAND_BYTES, may_repeat=False)
        self._reading = pipeline(max_weight=MAX_HISTORY, may_repeat=True)

    async def start(self) -> None:
        self._appending.start()
        self._reading.start()

    async def aclose(self) -> None:
        await asyncio.gather(self._appending.aclose(), self._reading.aclose())

    def append(self, append: Append) -> "asyncio.Future[tuple[Position, bool]]":
        name, topic, record, settings, key, idempotency_key = append
        channel = self._channels.get(name)
        if channel is None or channel.settings is not settings or channel.topic != topic:
            channel = self._remember(append)
        if idempotency_key:
            ident = keys_of(self._gateway, name)[3] + idempotency_key.encode(errors="surrogatepass")
            head = b"".join((channel.head, bulk(ident), bulk(KEY_TTL), channel.rest))
        else:
            head = channel.plain
        epoch = next(self._epochs)
        name_of = key.encode(errors="surrogatepass")
        data = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            head,
            len(epoch),
            epoch,
            len(name_of),
            name_of,
            len(record),
            record,
        )
        return self._appending.put(data, _position_of, script=append_script, weight=len(data))

    async def read(self, requests: Sequence[Request]) -> list[StoredPage | HistoryError]:
        futures = [self._read(request) for request in requests]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        return [answer if isinstance(answer, HistoryError) else cast(StoredPage, answer) for answer in answers]

    async def renew(self, channel: str, epoch: str) -> None:
        data = renew_script.command(keys_of(self._gateway, channel)[1], epoch.encode(), next(self._epochs))
        await self._appending.put(data, _nothing, script=renew_script, weight=len(data))

    async def forget(self, channel: str) -> None:
        records, _, offsets, _ = keys_of(self._gateway, channel)
        data = command(b"UNLINK", records, offsets)
        await self._appending.put(data, _nothing, weight=len(data))

    def _read(self, request: Request) -> "asyncio.Future[StoredPage]":
        name, settings, above, most = request
        most = max(0, min(most, MAX_HISTORY))
        data = read_script.command(
            *keys_of(self._gateway, name)[:3],
            b"" if above is None else b"%d" % above,
            b"%d" % most,
            b"%d" % MAX_PAGE_BYTES,
            _ttls(settings)[1],
            next(self._epochs),
            settings.keep.encode(),
        )
        convert = _page_of_values if settings.keep is Keep.LAST else _page_of
        return self._reading.put(data, convert, script=read_script, weight=max(1, min(most, settings.history)))

    def _remember(self, append: Append) -> _Channel:
        if len(self._channels) >= MAX_CACHED:
            self._channels.clear()
        channel = self._channels[append.channel] = _Channel(append, keys_of(self._gateway, append.channel))
        return channel


def _ttls(settings: ChannelSettings) -> tuple[bytes, bytes]:
    """Return the milliseconds that records are kept, and the position; empty if there is no limit."""
    if settings.history_ttl is None:
        return b"", b""
    milliseconds = max(1, round(settings.history_ttl * 1000))
    return b"%d" % milliseconds, b"%d" % (milliseconds + POSITION_TTL * 1000)


def _check_probe(answer: Any) -> None:
    fault = fault_of_probe(answer)
    if fault:
        raise HistoryError(fault)


def _position_of(answer: Any) -> tuple[Position, bool]:
    offset, epoch, is_new = answer
    return Position(epoch.decode(), offset), is_new == 1


def _page_of(answer: Any) -> StoredPage:
    epoch, top, start, rows = answer
    offset = int(start)
    records = [(offset + index, offset + index + 1, row) for index, row in enumerate(reversed(rows))]
    return StoredPage(epoch.decode(), int(top), offset, records)


def _page_of_values(answer: Any) -> StoredPage:
    epoch, top, start, rows = answer
    records = []
    for row in reversed(rows):
        offset, _, record = row.partition(b"\n")
        records.append((int(offset) - 1, int(offset), record))
    return StoredPage(epoch.decode(), int(top), int(start), records)


def _nothing(answer: Any) -> None:
    pass

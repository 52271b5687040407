"""Keeps the histories of a gateway in JetStream of NATS, in the memory of its server.

Each namespace has a stream. A publication is stored on the channel's subject in it, and the stream publishes a copy on
the channel's topic, with the sequences of this publication and of the one before. So the offset of a publication is its
sequence in the stream, and the offsets of a channel rise with holes. The epoch is the end of the stream's name, because
a stream that was lost is created again with a new name.
"""

import asyncio
import datetime
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from hashlib import sha256
from typing import Any, NamedTuple, cast

from wsgateway.cluster.brokers.nats import epoch_of
from wsgateway.cluster.history.jetstream import CLOSED, JetStream, fail
from wsgateway.cluster.history.store import Append, Request, StoredPage
from wsgateway.cluster.history.stream_reader import Stream, StreamReader
from wsgateway.cluster.routing import topic_part
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.grace import BROKER_GRACE
from wsgateway.exceptions import HistoryError
from wsgateway.frames import Position
from wsgateway.logs import GatewayLog

PREFIX = "wsgateway.history"
"""The beginning of the subjects of all streams."""

TOPICS = "wsgateway.ch"
"""The beginning of the topics of all channels."""

KEY_TTL = 300
"""Seconds that an idempotency key is remembered, in its channel."""

POSITION_TTL = 24 * 3600
"""Seconds that records are kept after `history_ttl`, because the newest of them is the position of the channel."""

SENT_PER_ITERATION = 64
"""Publications that are sent in one iteration of the event loop."""

ATTEMPTS = 5
"""Attempts to find or create a stream, while other nodes do the same."""

OVERLAP = 10065
NOT_FOUND = 10059
"""The numbers of JetStream's errors for a stream with subjects of another one, and for a stream that does not exist."""


class _Waiting(NamedTuple):
    append: Append
    future: "asyncio.Future[tuple[Position, bool]]"


class NatsHistory:
    """The histories of one gateway in one NATS server or cluster."""

    def __init__(
        self,
        url: str,
        *,
        gateway: str,
        channels: Mapping[str, ChannelSettings],
        new_epoch: Callable[[], str],
        log: GatewayLog,
    ) -> None:
        """`gateway` is its id as in topics. `new_epoch` returns a text that was never an epoch before.

        Raise `ValueError` for a URL without a host.
        """
        self.bytes = self.evicted = 0
        self._gateway = gateway
        self._channels = channels
        self._new_epoch = new_epoch
        self._log = log
        self._jetstream = JetStream(url)
        self._reader = StreamReader(self._jetstream)
        self._generation = 0
        self._streams: dict[str, Stream] = {}  # by token
        self._ensuring = asyncio.Lock()
        self._tops: dict[str, int] = {}  # the highest known sequence of each stream
        self._tokens: dict[int, str] = {}  # by the id of settings, which `_known` keeps alive
        self._known: list[ChannelSettings] = []
        self._queue: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._is_closed = False

    async def start(self) -> None:
        if self._starting is None and not self._is_closed:
            self._starting = asyncio.get_running_loop().create_task(self._start(), context=Context())

    async def aclose(self) -> None:
        self._is_closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        task = self._task
        if task is not None:
            await asyncio.wait({task}, timeout=BROKER_GRACE)
            task.cancel()
            await asyncio.wait({task})
        await self._jetstream.aclose()

    def append(self, append: Append) -> "asyncio.Future[tuple[Position, bool]]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Position, bool]] = loop.create_future()
        if self._is_closed:
            fail(future, HistoryError(CLOSED))
            return future
        try:
            self._jetstream.accept(future, len(append.record))
        except HistoryError as exc:
            fail(future, exc)
            return future
        self._queue.append(_Waiting(append, future))
        if self._task is None:
            self._task = loop.create_task(self._send(), context=Context())
        return future

    async def read(self, requests: Sequence[Request]) -> list[StoredPage | HistoryError]:
        if self._is_closed:
            raise HistoryError(CLOSED)
        pages = await asyncio.gather(*[self._read(request) for request in requests], return_exceptions=True)
        for page in pages:
            if isinstance(page, BaseException) and not isinstance(page, HistoryError):
                raise page
        return cast(list[StoredPage | HistoryError], pages)

    async def renew(self, channel: str, epoch: str) -> None:
        """Delete the stream with this epoch. The next read or append creates another, and all its channels are new."""
        del channel
        for name in await self._names(f"{self._gateway}.>"):
            if epoch_of(name) == epoch:
                await self._jetstream.ask_json(f"STREAM.DELETE.{name}", {}, but=NOT_FOUND)
        self._streams.clear()

    async def forget(self, channel: str) -> None:
        """Delete the records of a channel, in every stream."""
        part = topic_part(channel)
        for name in await self._names(f"{self._gateway}.>"):
            subject = f"{PREFIX}.{self._gateway}.{name.split('_')[-2]}.{part}"
            await self._jetstream.ask_json(f"STREAM.PURGE.{name}", {"filter": subject}, but=NOT_FOUND)

    # Appending

    async def _send(self) -> None:
        """Publish what was appended, in this order, while there is something."""
        queue, publish = self._queue, self._jetstream.publish
        sent = 0
        try:
            while queue:
                waiting = queue[0]
                append = waiting.append
                try:
                    await self._stream(append.settings)
                except HistoryError as exc:
                    self._fail_all(exc)
                    return
                queue.popleft()
                headers = None
                if append.idempotency_key:
                    headers = {"Nats-Msg-Id": _id_of(append.channel, append.idempotency_key)}
                subject = self._subject(append.channel, append.settings)
                await publish(subject, append.record, headers, waiting.future, self._position_of)
                sent += 1
                if sent % SENT_PER_ITERATION == 0:
                    await asyncio.sleep(0)  # serves others
        finally:
            self._task = None
            if self._is_closed:
                self._fail_all(HistoryError(CLOSED))

    def _fail_all(self, error: HistoryError) -> None:
        while self._queue:
            fail(self._queue.popleft().future, error)

    def _position_of(self, answer: Mapping[str, Any]) -> tuple[Position, bool]:
        stream, offset = answer["stream"], answer["seq"]
        if offset > self._tops.get(stream, 0):
            self._tops[stream] = offset
        return Position(epoch_of(stream), offset), not answer.get("duplicate")

    # Reading

    async def _read(self, request: Request) -> StoredPage:
        stream = await self._stream(request.settings)
        try:
            page = await self._reader.read(stream, self._subject(request.channel, request.settings), request)
        except HistoryError:
            self._streams.clear()  # if another node has deleted the stream, there is no answer
            raise
        self._tops[stream.name] = max(page.top, self._tops.get(stream.name, 0))
        return page

    # Streams

    async def _start(self) -> None:
        for settings in self._channels.values():
            if settings.history:
                try:
                    await self._stream(settings)
                except HistoryError as exc:
                    self._log.limited("history").error("no history can be kept: %s", exc)
                    return

    def _token(self, settings: ChannelSettings) -> str:
        """Return the part of subjects and names that stands for the namespace with these settings."""
        token = self._tokens.get(id(settings))
        if token is None:
            patterns = [pattern for pattern, each in self._channels.items() if each is settings]
            text = patterns[0] if patterns else f"{settings.history} {settings.history_ttl}"
            token = self._tokens[id(settings)] = sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
            self._known.append(settings)
        return token

    def _subject(self, channel: str, settings: ChannelSettings) -> str:
        return f"{PREFIX}.{self._gateway}.{self._token(settings)}.{topic_part(channel)}"

    async def _names(self, subject: str) -> list[str]:
        """Return the names of the gateway's streams with subjects that `subject` matches."""
        answer = await self._jetstream.ask_json("STREAM.NAMES", {"subject": f"{PREFIX}.{subject}"})
        begin = f"wsgateway_{self._gateway}_"
        return [name for name in answer["streams"] or () if name.startswith(begin)]

    async def _stream(self, settings: ChannelSettings) -> Stream:
        """Return the stream of a namespace. Find or create it with each new connection. Raise `HistoryError`."""
        token = self._token(settings)
        await self._jetstream.connect()
        if self._generation == self._jetstream.generation and token in self._streams:
            return self._streams[token]
        async with self._ensuring:
            await self._jetstream.connect()
            if self._generation != self._jetstream.generation:
                self._generation = self._jetstream.generation
                self._streams.clear()
            for attempt in range(ATTEMPTS):
                if token in self._streams:
                    break
                await asyncio.sleep(0.05 * attempt)  # another node may be creating the stream, which is not reported
                stream = await self._find(token, settings) or await self._create(token, settings)
                if stream is not None:
                    self._streams[token] = stream
            else:
                if token not in self._streams:
                    text = f"a stream of another program contains the subjects {PREFIX}.>, change its subjects"
                    raise HistoryError(text)
            return self._streams[token]

    async def _find(self, token: str, settings: ChannelSettings) -> Stream | None:
        """Return the existing stream with these settings, None if there is none."""
        for name in await self._names(f"{self._gateway}.{token}.>"):
            info = await self._jetstream.ask_json(f"STREAM.INFO.{name}", {}, but=NOT_FOUND)
            if "error" in info:
                return None
            if info["state"]["last_seq"] < self._tops.get(name, 0):  # a member of a cluster has lost its memory
                await self._jetstream.ask_json(f"STREAM.DELETE.{name}", {}, but=NOT_FOUND)
                continue
            limits = _limits_of(settings)
            if any(info["config"].get(key) != value for key, value in limits.items()):
                await self._jetstream.ask_json(f"STREAM.UPDATE.{name}", {**info["config"], **limits})
            return Stream(name, _complete_until(info["created"], limits["max_age"]))
        return None

    async def _create(self, token: str, settings: ChannelSettings) -> Stream | None:
        """Return a new stream, None if another node has created one."""
        name = f"wsgateway_{self._gateway}_{token}_{self._new_epoch()}"
        subjects = f"{PREFIX}.{self._gateway}.{token}.>"
        limits = _limits_of(settings)
        config = {
            "name": name,
            "subjects": [subjects],
            "storage": "memory",
            "retention": "limits",
            "discard": "old",
            "duplicate_window": KEY_TTL * 10**9,
            "allow_direct": True,
            "num_replicas": 1,
            "republish": {"src": subjects, "dest": f"{TOPICS}.{self._gateway}.>"},
            **limits,
        }
        answer = await self._jetstream.ask_json(f"STREAM.CREATE.{name}", config, but=OVERLAP)
        return None if "error" in answer else Stream(name, _complete_until(answer["created"], limits["max_age"]))


def _id_of(channel: str, idempotency_key: str) -> str:
    """Return the id of a publication in its stream."""
    return sha256(f"{channel} {idempotency_key}".encode(errors="surrogatepass")).hexdigest()


def _limits_of(settings: ChannelSettings) -> dict[str, int]:
    """Return the limits of a stream. One record more than `history` shows whether one was dropped."""
    ttl = settings.history_ttl
    age = 0 if ttl is None else round((ttl + POSITION_TTL) * 10**9)
    return {"max_msgs_per_subject": settings.history + 1, "max_age": age}


def _complete_until(created: str, max_age: int) -> float:
    """Return the time of the event loop's clock at which a stream that was created then begins to drop records."""
    if not max_age:
        return math.inf
    age = time.time() - datetime.datetime.fromisoformat(created).timestamp()
    return asyncio.get_running_loop().time() + max_age / 10**9 - age

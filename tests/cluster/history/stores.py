"""History stores of every kind, each with a real server, as the contract suite sees them."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import anyio

from wsgateway.cluster.brokers import Link, opener
from wsgateway.cluster.history.memory import MemoryHistory
from wsgateway.cluster.history.store import (
    Append,
    HistoryStore,
    Request,
    StoredPage,
    announcement,
    new_epoch,
    parse_announcement,
)
from wsgateway.cluster.history.stores import open_store
from wsgateway.cluster.routing import topic_part
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.exceptions import HistoryError
from wsgateway.frames import Position, Publication
from wsgateway.logs import GatewayLog
from wsgateway.messages import Kind, Message

HISTORY_BYTES = 64 * 1024 * 1024

GATEWAY = "my%20gateway%2E1"

KEPT = ChannelSettings(history=100)
LATEST = ChannelSettings(history=100, keep=Keep.LAST)

Announced = tuple[int, Position, bytes]
"""The offset of the publication before, the position, and the record."""


class Announcements(Protocol):
    """What arrives on one topic."""

    async def next(self, number: int) -> list[Announced]:
        """Wait for that many."""


class Backend:
    """The history stores of several nodes of one gateway, on the same server."""

    def __init__(self, url: str, stack: AsyncExitStack, gateway: str = GATEWAY) -> None:
        self.url = url
        self.gateway = gateway
        self.is_nats = url.startswith("nats")
        self._stack = stack

    def channel(self) -> str:
        """A channel that no other test uses."""
        return f"room:{secrets.token_hex(6)}"

    async def open(self) -> HistoryStore:
        """The store of one more node."""
        log = GatewayLog("chat")
        store = open_store(
            self.url,
            gateway=self.gateway,
            channels={},
            history_bytes=HISTORY_BYTES,
            new_epoch=new_epoch,
            log=log,
        )
        assert store is not None
        await store.start()
        self._stack.push_async_callback(store.aclose)
        return store

    async def listen(self, channel: str) -> Announcements:
        """The announcements of a channel from now on."""
        topic = topic_of(channel, self.gateway if self.is_nats else GATEWAY)  # only NATS chooses the topic itself
        link = await opener(self.url)([topic])
        self._stack.push_async_callback(link.aclose)
        await _wait_until_subscribed(link, topic)
        return _Listener(link)


class _Listener:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._arrived: list[bytes] = []

    async def next(self, number: int) -> list[Announced]:
        with anyio.fail_after(20):
            while len(self._arrived) < number:
                self._arrived += [data for _, data in await self._link.receive() if data != b"there?"]
        found, self._arrived = self._arrived[:number], self._arrived[number:]
        return [parse_announcement(data) for data in found]


async def _wait_until_subscribed(link: Link, topic: str) -> None:
    with anyio.fail_after(5):
        while True:
            await link.publish([(topic, b"there?")])
            with anyio.move_on_after(0.05):
                await link.receive()
                return


def topic_of(channel: str, gateway: str = GATEWAY) -> str:
    return f"wsgateway.ch.{gateway}.{topic_part(channel)}"


def entry(
    channel: str, record: bytes, settings: ChannelSettings = KEPT, *, key: str = "", idempotency_key: str = ""
) -> Append:
    return Append(channel, topic_of(channel), record, settings, key, idempotency_key)


async def pages(store: HistoryStore, requests: Sequence[Request]) -> list[StoredPage]:
    """The pages that a store returns. Raises the first error among them."""
    found = []
    for page in await store.read(requests):
        if isinstance(page, HistoryError):
            raise page
        found.append(page)
    return found


# In memory


class InMemory(Backend):
    """`MemoryHistory`, which has no topics: the announcements are made here."""

    def __init__(self, stack: AsyncExitStack) -> None:
        super().__init__("", stack)
        self._history = MemoryHistory(HISTORY_BYTES, now=asyncio.get_running_loop().time, new_epoch=new_epoch)
        self.listeners: defaultdict[str, list[asyncio.Queue[bytes]]] = defaultdict(list)

    async def open(self) -> HistoryStore:
        return _MemoryStore(self._history, self._announce)

    async def listen(self, channel: str) -> Announcements:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.listeners[topic_of(channel)].append(queue)
        return _MemoryListener(queue)

    def _announce(self, topic: str, data: bytes) -> None:
        for queue in self.listeners[topic]:
            queue.put_nowait(data)


class _MemoryListener:
    def __init__(self, queue: "asyncio.Queue[bytes]") -> None:
        self._queue = queue

    async def next(self, number: int) -> list[Announced]:
        with anyio.fail_after(20):
            return [parse_announcement(await self._queue.get()) for _ in range(number)]


class _MemoryStore:
    def __init__(self, history: MemoryHistory, announce: Callable[[str, bytes], None]) -> None:
        self.bytes = self.evicted = 0
        self._history = history
        self._announce = announce

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def append(self, append: Append) -> "asyncio.Future[tuple[Position, bool]]":
        publication = Publication(Message(append.record, Kind.BYTES), append.channel, key=append.key)
        at, is_new = self._history.append(publication, append.settings, idempotency_key=append.idempotency_key)
        if is_new:
            self._announce(append.topic, announcement(at.offset - 1, at, append.record))
        future: asyncio.Future[tuple[Position, bool]] = asyncio.get_running_loop().create_future()
        future.set_result((at, is_new))
        return future

    async def read(self, requests: Sequence[Request]) -> list[StoredPage]:
        return [self._page(request) for request in requests]

    async def renew(self, channel: str, epoch: str) -> None:
        self._history.renew(channel, epoch)

    async def forget(self, channel: str) -> None:
        self._history.forget(channel)

    def _page(self, request: Request) -> StoredPage:
        channel, settings, above, most = request
        at, start, entries = self._history.page(channel, settings, above=above, most=most)
        return StoredPage(
            at.epoch, at.offset, start, [(prev, offset, publication.payload) for prev, offset, publication in entries]
        )


@asynccontextmanager
async def backend_at(url: str, gateway: str = GATEWAY) -> AsyncIterator[Backend]:
    """The stores at a URL; in memory if it is empty."""
    async with AsyncExitStack() as stack:
        yield Backend(url, stack, gateway) if url else InMemory(stack)

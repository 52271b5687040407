"""A broker and a history in memory, for several gateways on one event loop: what they do wrong is decided by the test.

`Network.use` makes a gateway use them in place of those of its URL.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from wsgateway import Gateway
from wsgateway.cluster.brokers import Link
from wsgateway.cluster.history.store import Append, Request, StoredPage, announcement
from wsgateway.config.values import Keep
from wsgateway.exceptions import BrokerError, HistoryError
from wsgateway.frames import Position
from wsgateway.gateway import running


class NetworkLink:
    """The link of one gateway. What arrives waits until it is received."""

    max_payload = 2**20

    def __init__(self, network: "Network", topics: Sequence[str]) -> None:
        self._network = network
        self.topics = set(topics)
        self.arrived: deque[tuple[str, bytes]] = deque()
        self.is_cut = False
        self._something = asyncio.Event()

    def put(self, topic: str, data: bytes) -> None:
        self.arrived.append((topic, data))
        self._something.set()

    def cut(self) -> None:
        self.is_cut = True
        self._network.links.discard(self)
        self._something.set()

    def _check(self) -> None:
        if self.is_cut:
            raise BrokerError("the link was cut")

    async def publish(self, batch: Sequence[tuple[str, bytes]]) -> None:
        self._check()
        for topic, data in batch:
            self._network.publish(topic, data)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await asyncio.sleep(self._network.latency())  # of the clock that jumps: the latency of the broker
        self._check()
        self.topics |= set(topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._check()
        self.topics -= set(topics)

    async def receive(self) -> Sequence[tuple[str, bytes]]:
        while not self.arrived:
            self._check()
            self._something.clear()
            await self._something.wait()
        self._check()
        batch = list(self.arrived)
        self.arrived.clear()
        return batch

    async def aclose(self) -> None:
        self.cut()


class Network:
    """The broker, and the history of its channels: `epoch` and `log` by name, of which the newest are kept."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.links: set[NetworkLink] = set()
        self.is_down = False
        self.loses: Callable[[bytes], bool] = lambda data: False
        self.repeats: Callable[[bytes], bool] = lambda data: False
        self.epochs: dict[str, str] = {}
        self.logs: dict[str, list[tuple[str, bytes]]] = {}
        self.keys: dict[tuple[str, str], Position] = {}
        self._count = 0

    def use(self, gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
        """Let `gateway` use this network, once it starts."""
        gateway._parts = replace(gateway._parts, open_link=self.open_link)
        patch.setattr(running, "open_store", lambda url, **options: NetworkStore(self))

    def latency(self) -> float:
        return self.random.choice((0.0, 0.0, 0.001, 0.05))

    async def open_link(self, topics: Sequence[str]) -> Link:
        await asyncio.sleep(0.01)  # of the clock that jumps: the time to connect
        if self.is_down:
            raise BrokerError("it is down")
        link = NetworkLink(self, topics)
        self.links.add(link)
        return link

    def publish(self, topic: str, data: bytes) -> None:
        for link in self.links:
            if topic in link.topics and not self.loses(data):
                link.put(topic, data)
                if self.repeats(data):
                    link.put(topic, data)

    def cut_all(self) -> None:
        for link in tuple(self.links):
            link.cut()

    # The history

    def log(self, channel: str) -> list[tuple[str, bytes]]:
        if channel not in self.epochs:
            self.new_epoch(channel)
            self.logs[channel] = []
        return self.logs[channel]

    def new_epoch(self, channel: str) -> None:
        self._count += 1
        self.epochs[channel] = f"e{self._count}"

    def wipe(self) -> None:
        """Lose everything, as a server that was started again."""
        self.epochs.clear()
        self.logs.clear()
        self.keys.clear()

    def fail_over(self, lost: int) -> None:
        """Lose the newest publications of each channel, and all links."""
        for log in self.logs.values():
            del log[max(0, len(log) - lost) :]
        self.keys.clear()
        self.cut_all()

    def kept(self, request: Request) -> list[tuple[int, bytes]]:
        log, settings = self.log(request.channel), request.settings
        rows = [(offset, record) for offset, (_, record) in enumerate(log, 1)]
        if settings.keep is Keep.LAST:
            newest = {key: offset for offset, (key, _) in enumerate(log, 1)}
            rows = [row for row in rows if newest[log[row[0] - 1][0]] == row[0]]
        return rows[-settings.history :]


class NetworkStore:
    """The history as one gateway uses it."""

    bytes = evicted = 0

    def __init__(self, network: Network) -> None:
        self._network = network

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def append(self, append: Append) -> asyncio.Future[tuple[Position, bool]]:
        network, future = self._network, asyncio.get_running_loop().create_future()
        if network.is_down:
            future.set_exception(HistoryError("it is down"))
            return future
        log, key = network.log(append.channel), (append.channel, append.idempotency_key)
        if append.idempotency_key and key in network.keys:
            future.set_result((network.keys[key], False))
            return future
        log.append((append.key, append.record))
        position = network.keys[key] = Position(network.epochs[append.channel], len(log))
        network.publish(append.topic, announcement(len(log) - 1, position, append.record))
        asyncio.get_running_loop().call_later(network.latency(), _resolve, future, position)
        return future

    async def read(self, requests: Sequence[Request]) -> list[StoredPage]:
        network = self._network
        await asyncio.sleep(network.latency())  # of the clock that jumps: the request is on its way
        if network.is_down:
            raise HistoryError("it is down")
        pages = [self._page(request) for request in requests]
        await asyncio.sleep(network.latency())  # of the clock that jumps: the answer is on its way
        return pages

    def _page(self, request: Request) -> StoredPage:
        network = self._network
        rows = network.kept(request)
        top = len(network.log(request.channel))
        if request.above is None:
            rows = rows[max(0, len(rows) - request.most) :]
            start = rows[0][0] - 1 if rows else top
        else:
            first = rows[0][0] if rows else top + 1
            rows = [row for row in rows if row[0] > request.above][: request.most]
            start = min(top, max(request.above, 0 if request.settings.keep is Keep.LAST else first - 1))
        return StoredPage(
            network.epochs[request.channel], top, start, [(offset - 1, offset, record) for offset, record in rows]
        )

    async def renew(self, channel: str, epoch: str) -> None:
        await asyncio.sleep(self._network.latency())  # of the clock that jumps: the request is on its way
        if self._network.epochs.get(channel) == epoch:
            self._network.new_epoch(channel)

    async def forget(self, channel: str) -> None:
        raise NotImplementedError


def _resolve(future: "asyncio.Future[Any]", position: Position) -> None:
    if not future.done():
        future.set_result((position, True))

"""The world of one scenario: a broker, the nodes of a gateway, clients, and senders. At its end, nothing remains."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scenarios import brokers, leftovers
from scenarios.clients import Client
from scenarios.listener import Listener
from scenarios.views import Ledger
from scenarios.wires import until
from wsgateway import Gateway, Sent, Settings
from wsgateway.exceptions import GatewayError, HistoryError
from wsgateway.gateway.registry import registry
from wsgateway.hub import following
from wsgateway.server.serving import serving

LINGERING, TICK = 5.0, 0.05
"""Seconds that a channel lingers, and between two looks for such channels, which are usually longer apart."""

STOP = 20.0
"""Seconds in which a node has to stop."""

CHANNELS: dict[str, Any] = {
    "kept:*": {"history": 1000},
    "short:*": {"history": 10},
    "last:*": {"history": 1000, "keep": "last"},
    "here:*": {"presence": True},
    "herekept:*": {"presence": True, "history": 1000},
    "drop:*": {"slow_policy": "drop_oldest"},
    "newest:*": {"slow_policy": "drop_newest"},
    "open:*": {"public": True, "history": 1000, "clients": ["subscribe", "publish"]},
    "*": {},
}
"""The namespaces. `plain:*` and all others have no history."""

WITHOUT_HISTORY = {name: options for name, options in CHANNELS.items() if "history" not in options}


class Node:
    """One node of a gateway in this process, with a link of its own."""

    def __init__(self, gateway: Gateway, url: str, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self.url = url
        self._stack = stack

    @property
    def metrics(self) -> Any:
        return self.gateway._parts.metrics

    async def stop(self) -> None:
        """Drain the node, as a roll does. May be called twice."""
        await self._stack.aclose()


class Lab:
    """A scenario uses it to make nodes, clients, and messages, and to check that all clients have what they should.

    `counts` are printed. `random` has the seed of the run.
    """

    def __init__(self, seed: str, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self.clients: list[Client] = []
        self.nodes: list[Node] = []
        self.mistakes: list[str] = []
        self.broker: Any = brokers.Broker(folder / "ipc")
        self.processes = AsyncExitStack()
        """Ends what uses the broker."""
        self.stack = AsyncExitStack()
        self.linger(LINGERING)

    def linger(self, seconds: float) -> None:
        """Let channels without subscribers linger for so long."""
        following.LINGERING, following.TICK = seconds, TICK

    # The world

    def start_broker(self, kind: str, *arguments: str) -> Any:
        self.broker = self.stack.enter_context(brokers.running(kind, self.folder, *arguments))
        return self.broker

    async def start_node(
        self, *, url: str | None = None, broker: bool = True, has_history: bool = True, **options: Any
    ) -> Node:
        """Start a node of the gateway."""
        options.setdefault("drain", 2.0)
        options.setdefault("channels", CHANNELS if has_history else WITHOUT_HISTORY)
        address = (url or self.broker.url) if broker else None
        gateway = Gateway(options.pop("listener", Listener), broker=address, test_page=False, **options)
        stack = AsyncExitStack()
        served = await stack.enter_async_context(serving(gateway, Settings(port=0)))
        registry.remove(gateway)  # else a second node of the gateway could not run in this process
        node = Node(gateway, served, stack)
        self.nodes.append(node)
        return node

    async def start_nodes(self, count: int, **options: Any) -> list[Node]:
        """Start nodes, and wait until each knows all others."""
        nodes = [await self.start_node(**options) for _ in range(count)]
        await until(
            lambda: all(len(node.gateway._running.cluster.nodes.alive()) == count - 1 for node in nodes),  # type: ignore[union-attr]
            "the nodes do not know each other",
        )
        return nodes

    def client(self, node: Node | Callable[[], str], *channels: str, **options: Any) -> Client:
        """Return a client of a node, not connected yet."""
        choose = node if callable(node) else lambda: node.url
        options.setdefault("name", f"client {len(self.clients)}")
        client = Client(self.ledger, choose, *channels, rng=self.random, **options)
        self.clients.append(client)
        return client

    async def join(self, clients: Iterable[Client], *, at_once: int = 200) -> None:
        """Connect clients, and wait until they are subscribed."""
        space = asyncio.Semaphore(at_once)

        async def join(client: Client) -> None:
            async with space:
                await client.join()

        await asyncio.gather(*[join(client) for client in clients])

    def url_of_any(self) -> str:
        """Return the URL of a random node that runs."""
        running = [node.url for node in self.nodes if node.gateway.state == "running"]
        return self.random.choice(running)

    # Messages

    async def publish(self, node: Node, channel: str, sender: str = "s", **options: Any) -> Sent:
        """Publish the next message of `sender` to `channel`."""
        text = self.ledger.next_text(channel, sender)
        sent = await node.gateway.publish(text, channel=channel, **options)
        self.counts["published"] += 1
        if sent.is_new:
            self.ledger.published(channel, sent.at, text, options.get("key", ""))
        return sent

    async def publish_surely(self, node: Node, channel: str, sender: str = "s") -> None:
        """Publish the next message, again with the same key if its answer was lost, as an application does."""
        text = self.ledger.next_text(channel, sender)
        for _ in range(50):
            try:
                sent = await node.gateway.publish(text, channel=channel, idempotency_key=text)
            except HistoryError:
                self.counts["published again"] += 1
                await asyncio.sleep(0.1)  # an application does not repeat it without pause
            else:
                self.counts["published"] += 1
                self.ledger.published(channel, sent.at, text)
                return
        self.check(False, f"{text} cannot be published")

    async def publish_many(self, node: Node, channel: str, count: int, sender: str = "s", **options: Any) -> None:
        """Publish messages without waiting for each."""
        await asyncio.gather(*[self.publish(node, channel, sender, **options) for _ in range(count)])

    async def keep_publishing(
        self, node: Callable[[], Node], channels: Iterable[str], rate: float, over: asyncio.Event, sender: str = "s"
    ) -> None:
        """Publish to the channels in turn, `rate` times per second, until `over`. Errors are counted."""
        names = list(channels)
        number = 0
        while not over.is_set():
            try:
                await self.publish(node(), names[number % len(names)], sender)
            except GatewayError:
                self.counts["not published"] += 1
            number += 1
            await asyncio.sleep(1 / rate)  # the pace of the publications

    # Checks

    def check(self, condition: bool, what: str) -> None:
        if not condition:
            self.mistakes.append(what)

    def equal(self, value: object, expected: object, what: str) -> None:
        if value != expected:
            self.mistakes.append(f"{what}: {str(value)[:200]}, not {str(expected)[:200]}")

    async def all_current(self, clients: Iterable[Client] | None = None, *, seconds: float = 20.0) -> None:
        """Wait until every client has received everything."""
        waiting = list(self.clients if clients is None else clients)

        def behind() -> list[str]:
            return [
                f"{client.name}, {view.channel}: {view.since or view.numbers}"
                for client in waiting
                for view in client.views.values()
                if not (view.is_subscribed and view.is_current())
            ]

        try:
            await until(lambda: not behind(), "", seconds=seconds)
        except TimeoutError:
            late = behind()
            wanted = {**self.ledger.tops} or dict(self.ledger.sent)
            self.mistakes.append(f"{len(late)} views are not current, such as {late[:3]}, of {str(wanted)[:200]}")

    def views(self) -> list[Any]:
        return [view for client in self.clients for view in client.views.values()]

    # The end

    async def aclose(self, before: set["asyncio.Task[Any]"]) -> None:
        """Let all clients leave, check that nothing of them remains, and stop the nodes."""
        for what in ("received", "recovered", "told"):
            self.counts[what] = sum(getattr(view, what) for view in self.views())
        self.counts["clients"] = len(self.clients)
        for client in self.clients:
            await client.aclose()
        self.linger(0.0)
        running = [node.gateway for node in self.nodes if node.gateway.state == "running"]

        def of_clients() -> list[str]:
            return [text for gateway in running for text in leftovers.of_clients(gateway)]

        await self._nothing(of_clients, seconds=10)
        for number, node in enumerate(self.nodes):
            try:
                await asyncio.wait_for(node.stop(), STOP)
            except TimeoutError:
                self.mistakes.append(f"node {number} does not stop")
        await self.processes.aclose()
        await self._nothing(lambda: [f"{self.broker.topics()} topics"] if self.broker.topics() else [], seconds=5)
        await self.stack.aclose()
        await self._nothing(lambda: leftovers.of_tasks(before), seconds=5)
        await self._nothing(leftovers.of_timers, seconds=5)

    async def _nothing(self, remains: Callable[[], list[str]], *, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (left := remains()) and loop.time() < deadline:
            await asyncio.sleep(0.01)  # what remains ends without an event
        if left:
            self.mistakes.append(f"remains: {', '.join(left)[:500]}")


@asynccontextmanager
async def lab(seed: str) -> AsyncIterator[Lab]:
    """Yield a laboratory, and close it. Afterwards, its `mistakes` are complete."""
    before = asyncio.all_tasks()
    with TemporaryDirectory(prefix="stress") as folder:
        world = Lab(seed, Path(folder))
        try:
            yield world
        finally:
            await world.aclose(before)
            world.mistakes += world.ledger.mistakes

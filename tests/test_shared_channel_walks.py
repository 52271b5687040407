"""Random walks of clients over several processes, while the broker loses messages and the history fails: no client
misses a publication without being notified.

WALKS=200 for a long run, WALK=7 for one walk.
"""

import json
import os
import random
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest

from tests.clocks import jumping, pass_time
from tests.leftovers import assert_nothing_is_left
from tests.network import Network
from tests.pipes import Pipe, joined, tell
from wsgateway import Gateway, HistoryError
from wsgateway.gateway.registry import registry
from wsgateway.protocols.v1 import SUBPROTOCOL

PROCESSES, CLIENTS, STEPS = 3, 6, 120
CHANNELS: Any = {
    "all:*": {"public": True, "history": 8},
    "last:*": {"public": True, "history": 4, "keep": "last"},
}
NAMES = ("all:1", "last:1")
SEEDS = [int(os.environ["WALK"])] if "WALK" in os.environ else range(int(os.environ.get("WALKS", "12")))


class Walker:
    """A client of `wsgateway.v1` that subscribes to one channel, and again after it was lost."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.at: str | None = None
        self.pipe: Pipe | None = None
        self.read = 0
        self.values: dict[str, int] = {}
        self.seen: list[tuple[str, int]] = []
        self.told = self.recovered = self.received = 0
        self.is_subscribed = self.is_refused = False

    @property
    def position(self) -> tuple[str, int]:
        assert self.at is not None
        epoch, _, offset = self.at.partition(":")
        return epoch, int(offset)

    async def connect(self, gateway: Gateway) -> None:
        self.pipe, self.read, self.is_refused = await joined(gateway, subprotocol=SUBPROTOCOL), 0, False
        self.subscribe()

    def subscribe(self) -> None:
        assert self.pipe is not None
        since = {} if self.at is None else {"since": self.at}
        tell(self.pipe.conn, json.dumps({"subscribe": self.channel, **since, "id": 1}))

    def disconnect(self) -> None:
        if self.pipe is not None:
            self.take()
            self.pipe.close()
            self.pipe, self.is_subscribed = None, False

    def take(self) -> None:
        """Handle what has arrived."""
        if self.pipe is None:
            return
        rows = self.pipe.messages()
        for row in rows[self.read :]:
            self.handle(json.loads(row))
        self.read = len(rows)

    def handle(self, row: Any) -> None:
        if "subscribed" in row:
            assert not self.is_subscribed
            self.is_subscribed = True
            if row["recovered"]:
                self.recovered += 1
                assert self.at is not None
                if self.channel.startswith("all"):
                    assert row["at"] == self.at
            else:
                self.told += self.at is not None
                self.at = row["at"]
                self.values.clear()
        elif "unsubscribed" in row:
            assert row["code"] == 2500
            self.told += 1
            self.at, self.is_subscribed = None, False
            self.values.clear()
            self.subscribe()
        elif "refused" in row:
            assert row["status"] == 503
            assert not self.is_subscribed
            self.is_refused = True
        else:
            assert self.is_subscribed
            self.received += 1
            before, self.at = self.position, row["at"]
            epoch, offset = self.position
            assert epoch == before[0], "another epoch without being notified"
            if self.channel.startswith("all"):
                assert offset == before[1] + 1, f"a gap or one twice: {before} then {row['at']}"
            else:
                assert offset > before[1], f"one twice: {before} then {row['at']}"
            self.values[row.get("key", "")] = row["message"]

    def retry(self) -> None:
        if self.is_refused and self.pipe is not None:
            self.is_refused = False
            self.subscribe()


class Walk:
    def __init__(self, seed: int, gateways: list[Gateway], network: Network) -> None:
        self.random = random.Random(seed)
        self.gateways = gateways
        self.network = network
        self.clients = [Walker(NAMES[number % len(NAMES)]) for number in range(CLIENTS)]
        self.texts = 0
        self.may_lose = True
        network.loses = lambda data: self.may_lose and data[:1].isdigit() and self.random.random() < 0.1
        network.repeats = lambda data: data[:1].isdigit() and self.random.random() < 0.05

    async def publish(self) -> None:
        gateway, name = self.random.choice(self.gateways), self.random.choice(NAMES)
        key = self.random.choice("abcdef") if name.startswith("last") else ""
        self.texts += 1
        with suppress(HistoryError):  # it is down
            await gateway.publish(self.texts, channel=name, key=key)

    async def step(self) -> None:
        rng = self.random
        kind = rng.choices(
            ("publish", "connect", "disconnect", "time", "long", "cut", "down", "wipe", "failover"),
            (50, 25, 10, 20, 2, 3, 1, 1, 1),
        )[0]
        if kind == "publish":
            for _ in range(rng.choice((1, 1, 2, 5, 12))):
                await self.publish()
        elif kind == "connect":
            client = rng.choice(self.clients)
            if client.pipe is None:
                await client.connect(rng.choice(self.gateways))
        elif kind == "disconnect":
            rng.choice(self.clients).disconnect()
        elif kind == "time":
            await pass_time(rng.choice((0.001, 0.01, 0.1, 0.5)))
        elif kind == "long":
            await pass_time(rng.choice((6, 40)))
        elif kind == "cut" and self.network.links:
            rng.choice(sorted(self.network.links, key=id)).cut()
        elif kind == "down":
            self.network.is_down = True
            self.network.cut_all()
            await pass_time(rng.choice((0.5, 3)))
            self.network.is_down = False
        elif kind == "wipe":
            self.network.wipe()
        elif kind == "failover":
            self.network.fail_over(rng.choice((0, 1, 2, 5)))
        for client in self.clients:
            client.take()
            client.retry()

    async def settle(self) -> None:
        """Everything works again. Each client that is connected has what the history has."""
        self.may_lose = False
        for _ in range(4):
            await pass_time(35)
            for client in self.clients:
                client.take()
                client.retry()
        for client in self.clients:
            client.take()
            if client.pipe is None:
                continue
            assert client.is_subscribed
            log = self.network.logs[client.channel]
            assert client.at == f"{self.network.epochs[client.channel]}:{len(log)}"


@pytest.mark.parametrize("seed", SEEDS)
@jumping
async def test_no_client_misses_a_publication_without_being_notified(seed: int) -> None:
    network = Network(seed)
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        gateways = []
        for _ in range(PROCESSES):
            gateway = Gateway(
                channels=CHANNELS, broker="redis://memory", id="walk", ping_interval=100_000, pong_timeout=100_000
            )
            network.use(gateway, patch)
            gateways.append(gateway)
            await stack.enter_async_context(gateway.lifespan())
            registry.remove(gateway)  # which refuses a second gateway with one id, because a process is one node
        walk = Walk(seed, gateways, network)
        for _ in range(STEPS):
            await walk.step()
        await walk.settle()
        clients = walk.clients
        assert sum(client.received for client in clients) > 0
        for client in clients:
            client.disconnect()
        await anyio.sleep(10)  # of the clock that jumps: channels have lingered
        assert [gateway._present().cluster.topics for gateway in gateways] == [0] * PROCESSES
    for gateway in gateways:
        assert_nothing_is_left(gateway)

"""Fan-out in random histories: clients congest within a write, read on, close and come, in any order; within a write
anything else may happen too. Whatever happens, each message arrives once, in order, and is counted."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import combinations
from random import Random
from typing import Any

import pytest

from tests.connections import text
from tests.pipes import Pipe, joined
from wsgateway import Connection, Gateway
from wsgateway.hub.fan_out import SLICE
from wsgateway.messages import Deliveries, Message
from wsgateway.testing import RecordingListener

SIZES = (10, 200, 5_000, 70_000)  # short, worth compressing, some to a flush, one of which is more than a flush
LIMITS = (0, 2_000, 150_000, 10**9)


class History:
    """Random events on `count` connections of one gateway, and the messages that each should have received."""

    def __init__(self, seed: int, *, reentrant: float = 0, **settings: Any) -> None:
        self.random = Random(seed)
        self.gateway = Gateway(RecordingListener(), compression=True, **{**ROOMY, **settings})
        self.hub = self.gateway._hub
        self.pipes: list[Pipe] = []
        self.sent = 0
        self.expected: dict[Connection, list[int]] = {}
        self.queued = self.dropped = 0
        self._reentrant = reentrant
        self._depth = 0

    async def join(self, *, limit: int | None = None) -> None:
        limit = self.random.choice(LIMITS) if limit is None else limit
        self._depth += 9  # it would be a recipient before the test knows it
        pipe = await joined(self.gateway, limit=limit, deflates=self.random.random() < 0.4)
        pipe.on_write = self.within_write
        self.pipes.append(pipe)
        self.expected[pipe.conn] = []
        self._depth -= 9

    def within_write(self, pipe: Pipe) -> None:
        """A client reads on, another closes, a hook sends: all before the write has returned."""
        if self._depth < 3 and self.random.random() < self._reentrant:
            self._depth += 1
            self.random.choice((self.read, self.read, self.close, self.broadcast, self.to_some, self.hub.flush))()
            self._depth -= 1

    def frame(self) -> Message:
        self.sent += 1
        return text(f"{self.sent} " + "x" * self.random.choice(SIZES))

    def open(self) -> list[Connection]:
        return [pipe.conn for pipe in self.pipes if pipe.conn.is_open]

    def count(self, sent: Deliveries, recipients: list[Connection], number: int) -> None:
        assert sent.queued + sent.dropped == sent.recipients
        if not self._reentrant:
            assert sent.recipients == len(recipients)
        self.queued += sent.queued
        self.dropped += sent.dropped
        for conn in recipients:
            self.expected[conn].append(number)

    def broadcast(self) -> None:
        conns, frame, number = self.open(), self.frame(), self.sent
        but = self.random.choice((None, None, None, *conns))
        sent = self.hub.deliver(frame, self.hub.everybody, but=None if but is None else but._outbox)
        self.count(sent, [conn for conn in conns if conn is not but], number)

    def to_some(self) -> None:
        conns = self.open()
        chosen = self.random.sample(conns, self.random.randint(0, len(conns)))
        frame, number = self.frame(), self.sent
        self.count(self.hub.deliver_to(frame, chosen), chosen, number)

    def read(self) -> None:
        if self.pipes:
            self.random.choice(self.pipes).read(self.random.choice((1_000, 100_000, 10**9)))

    def close(self) -> None:
        if len(self.pipes) > 2 and self.random.random() < 0.3:
            self.random.choice(self.pipes).conn._outbox.close(4000, "")

    def record(self) -> None:
        for conn in self.open()[:1]:
            self.hub.stop_recording(conn) if conn._outbox.recording is not None else self.hub.record(conn)

    async def iteration(self) -> None:
        await asyncio.sleep(0)  # one iteration of the event loop

    async def run(self, steps: int) -> None:
        actions: tuple[Callable[[], Awaitable[None] | None], ...] = (
            self.broadcast,
            self.broadcast,
            self.broadcast,
            self.to_some,
            self.read,
            self.read,
            self.close,
            self.record,
            self.join,
            self.hub.flush,
            self.iteration,
            self.iteration,
        )
        for _ in range(steps):
            action = self.random.choice(actions)
            if action != self.join or len(self.pipes) < 12:
                waiting = action()
                if waiting is not None:
                    await waiting

    async def end(self) -> None:
        """Everybody reads all that waits."""
        self._reentrant = 0
        while self.hub.is_writing or any(pipe.is_paused for pipe in self.pipes):
            for pipe in self.pipes:
                pipe.read(10**9)
            await asyncio.sleep(0)  # one iteration of the event loop

    def received(self, pipe: Pipe) -> list[int]:
        return [int(payload.partition(b" ")[0]) for payload in pipe.messages()]

    def check_each_once_and_in_one_order(self) -> None:
        lists = [self.received(pipe) for pipe in self.pipes]
        for pipe, numbers in zip(self.pipes, lists, strict=True):
            assert [number for number, count in Counter(numbers).items() if count > 1] == []
            assert set(numbers) <= set(self.expected[pipe.conn])
        for one, other in combinations(lists, 2):
            both = set(one) & set(other)
            assert [number for number in one if number in both] == [number for number in other if number in both]

    def check_all_arrived(self) -> None:
        for pipe in self.pipes:
            if pipe.conn.is_open:
                assert sorted(self.received(pipe)) == sorted(self.expected[pipe.conn])
                assert pipe.conn.messages_out == len(self.expected[pipe.conn])

    async def vanish(self) -> None:
        for pipe in self.pipes:
            pipe.abort()
        await asyncio.sleep(0)  # the pipes report their end in the next iteration


ROOMY: dict[str, Any] = {"outbox_bytes": 10**9, "outbox_messages": 10**6, "send_timeout": 600, "ping_interval": 600}


@pytest.mark.parametrize("seed", range(60))
async def test_each_message_arrives_once_in_order_and_is_counted(seed: int) -> None:
    history = History(seed)
    async with history.gateway.lifespan():
        for _ in range(4):
            await history.join()
        await history.run(200)
        await history.end()
        history.check_each_once_and_in_one_order()
        history.check_all_arrived()
        for pipe in history.pipes:
            assert history.received(pipe) == sorted(history.received(pipe))
        assert history.dropped == 0
        assert history.queued == sum(map(len, history.expected.values()))
        await history.vanish()


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_a_write_calls_each_message_arrives_once_and_in_one_order(seed: int) -> None:
    history = History(1000 + seed, reentrant=0.3)
    async with history.gateway.lifespan():
        for _ in range(5):
            await history.join()
        await history.run(150)
        await history.end()
        history.check_each_once_and_in_one_order()
        history.check_all_arrived()
        await history.vanish()


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("seed", range(15))
async def test_with_full_outboxes_what_is_dropped_is_counted_and_the_rest_arrives(seed: int, policy: str) -> None:
    history = History(2000 + seed, outbox_bytes=100_000, outbox_messages=4, slow_policy=policy, send_timeout=600)
    async with history.gateway.lifespan():
        for _ in range(5):
            await history.join()
        await history.run(200)
        await history.end()
        history.check_each_once_and_in_one_order()
        for pipe in history.pipes:
            if pipe.conn.is_open:
                assert len(history.received(pipe)) + pipe.conn.dropped == len(history.expected[pipe.conn])
        assert history.queued + history.dropped == sum(map(len, history.expected.values()))
        await history.vanish()


@pytest.mark.parametrize("seed", range(2))
async def test_more_than_a_slice_receive_each_message_once(seed: int) -> None:
    history = History(3000 + seed, reentrant=0.0005)
    async with history.gateway.lifespan():
        for _ in range(SLICE + 50):
            await history.join(limit=history.random.choice((2_000, 10**9, 10**9)))
        for number in range(12):
            history.broadcast()
            if number % 3 == 0:
                await history.iteration()
                history.close()
                history.to_some()
            for _ in range(20):
                history.read()
        await history.end()
        for pipe in history.pipes:
            numbers = history.received(pipe)
            assert len(set(numbers)) == len(numbers)
            if pipe.conn.is_open:
                assert sorted(numbers) == sorted(history.expected[pipe.conn])
        await history.vanish()

"""Fan-out against a model: whatever happens in whatever order, also within a write, each connection receives what was
sent to it, once and in order, and the counts agree. Over the writers of both transports, plain and compressed."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from tests.connections import text
from tests.machines import SteppedLoop, finished, run_machine
from tests.pipes import Pipe, joined
from wsgateway import Connection, Gateway
from wsgateway.hub import fan_out, turn_log
from wsgateway.hub.audience import Audience
from wsgateway.messages import Deliveries, Message
from wsgateway.transports.framing import PLAIN

SIZES = (0, 20, 200, 900)  # short, many to a flush, worth compressing, and more than one flush takes
LIMITS = (0, 300, 1500, 10**9, 10**9, 10**9)
CLIENTS = 8


class PipeClient:
    """A client on the gateway's own server, whose socket is a pipe."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.conn = pipe.conn

    def read(self, size: int) -> None:
        self.pipe.read(size)

    def received(self) -> list[bytes]:
        return self.pipe.messages()

    def vanish(self) -> None:
        self.pipe.abort()


class AsgiClient:
    """A client on plain ASGI, whose server lets it wait until it reads."""

    def __init__(self) -> None:
        self.conn: Connection
        self.unread = 0
        self._received: list[bytes] = []
        self._may_send = asyncio.Event()
        self._gone = asyncio.Event()
        self._is_new = True

    async def receive(self) -> dict[str, Any]:
        if self._is_new:
            self._is_new = False
            return {"type": "websocket.connect"}
        await self._gone.wait()
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.close":
            self._gone.set()
        if message["type"] != "websocket.send":
            return
        while self.unread > 1000:
            self._may_send.clear()
            await self._may_send.wait()
        data = message["text"].encode() if "text" in message else message["bytes"]
        self.unread += len(data)
        self._received.append(data)

    def read(self, size: int) -> None:
        self.unread = max(0, self.unread - size)
        self._may_send.set()

    def received(self) -> list[bytes]:
        return self._received

    def vanish(self) -> None:
        self._gone.set()


class Model:
    """A client, and what it should receive. `is_lost` means that it has vanished, so the rest does not arrive."""

    def __init__(self, client: PipeClient | AsgiClient) -> None:
        self.client = client
        self.conn = client.conn
        self.expected: list[int] = []
        self.rooms: set[int] = set()
        self.is_lost = False

    def numbers(self) -> list[int]:
        return [int(data.partition(b" ")[0]) for data in self.client.received()]


class HubMachine(RuleBasedStateMachine):
    """Outboxes with enough space, so nothing is dropped."""

    options: dict[str, Any] = {"outbox_bytes": 10**9, "outbox_messages": 10**6}  # noqa: RUF012  never changed
    is_roomy = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.gateway = Gateway(compression=True, send_timeout=600, ping_interval=600, **self.options)
        self.tasks: set[asyncio.Task[None]] = set()
        self.hub = self.gateway._hub
        self.rooms = [Audience(PLAIN), Audience(PLAIN)]
        self.models: list[Model] = []
        self.count = self.queued = self.dropped = 0
        self.next_action: Callable[[], None] | None = None
        self.loop.run_until_complete(self.gateway.start())

    def teardown(self) -> None:
        self.next_action = None
        try:
            quiet = 0
            while quiet < 5:  # the writer of plain ASGI takes several iterations for a message
                before = self.hub.is_writing, [len(model.client.received()) for model in self.models]
                self.read_all()
                self.run_iteration()
                after = self.hub.is_writing, [len(model.client.received()) for model in self.models]
                quiet = quiet + 1 if before == after else 0
            self.check(at_end=True)
        finally:
            with self.loop.inside():
                for model in self.models:
                    model.client.vanish()
            self.loop.run_until_complete(self.gateway.stop())
            while self.tasks:
                self.run_iteration()
            self.loop.close()

    # What the rules are made of

    def run_iteration(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))  # one iteration

    def read_all(self) -> None:
        with self.loop.inside():
            for model in self.models:
                model.client.read(10**9)

    def has_space(self) -> bool:
        return sum(model.conn.is_open for model in self.models) < CLIENTS

    def model_at(self, index: int) -> Model | None:
        """One of the open clients."""
        models = [model for model in self.models if model.conn.is_open]
        return models[index % len(models)] if models else None

    def next_message(self, size: int) -> tuple[int, Message]:
        self.count += 1
        return self.count, text(f"{self.count} ".ljust(size, "x"))

    def expect(self, models: list[Model], number: int) -> None:
        for model in models:
            model.expected.append(number)

    def add(self, sent: Deliveries, models: list[Model]) -> None:
        assert sent.recipients == len(models)
        assert sent.queued + sent.dropped == sent.recipients
        if self.is_roomy:
            assert sent.dropped == 0
        self.queued += sent.queued
        self.dropped += sent.dropped

    def within_write(self, pipe: Pipe) -> None:
        del pipe
        action, self.next_action = self.next_action, None
        if action is not None:
            action()

    # Actions, which also happen within a write

    def deliver(self, room: int, but: int | None, size: int) -> None:
        audience = self.rooms[room] if room < len(self.rooms) else self.hub.everybody
        skipped = None if but is None else self.model_at(but)
        models = [
            model
            for model in self.models
            if model.conn.is_open and model is not skipped and (room >= len(self.rooms) or room in model.rooms)
        ]
        number, message = self.next_message(size)
        self.expect(models, number)
        outbox = None if skipped is None else skipped.conn._outbox
        self.add(self.hub.deliver(message, audience, but=outbox), models)

    def deliver_to(self, chosen: list[int], size: int) -> None:
        if not self.models:
            return
        named = list(dict.fromkeys(index % len(self.models) for index in chosen))
        models = [self.models[index] for index in named]
        number, message = self.next_message(size)
        recipients: list[object] = [
            model.conn if number % 3 else model.conn.id for model in models
        ]  # ids too, and closed connections, which are skipped
        models = [model for model in models if model.conn.is_open]
        self.expect(models, number)
        self.add(self.hub.deliver_to(message, recipients), models)

    def send(self, index: int, size: int) -> None:
        model = self.model_at(index)
        if model is not None and model.conn.is_open:
            number, message = self.next_message(size)
            self.expect([model], number)
            is_queued = model.conn._outbox.put(message)
            self.queued += is_queued
            self.dropped += not is_queued
            assert is_queued or not self.is_roomy

    def read(self, index: int, size: int) -> None:
        if self.models:  # closed ones too, to which the rest is still written
            self.models[-1 - index % len(self.models)].client.read(size)

    def close(self, index: int) -> None:
        model = self.model_at(index)
        if model is not None:
            model.conn._outbox.close(4000, "")

    def move(self, index: int, room: int) -> None:
        model = self.model_at(index)
        if model is None or not model.conn.is_open:
            return
        outbox, audience = model.conn._outbox, self.rooms[room]
        if room in model.rooms:
            assert self.hub.remove(outbox, audience) or not model.conn.is_open
            model.rooms.discard(room)
        elif self.hub.add(outbox, audience):
            model.rooms.add(room)
        else:  # a write has called something that closes it, or adds it
            assert not model.conn.is_open or room in model.rooms

    def record(self, index: int) -> None:
        model = self.model_at(index)
        if model is not None and model.conn.is_open:
            is_recorded = model.conn._outbox.recording is not None
            self.hub.stop_recording(model.conn) if is_recorded else self.hub.record(model.conn)

    # Rules

    indexes = st.integers(0, CLIENTS - 1)
    sizes = st.sampled_from(SIZES)

    @precondition(has_space)
    @rule(limit=st.sampled_from(LIMITS), deflates=st.booleans(), rooms=st.sets(st.sampled_from((0, 1))))
    def join(self, limit: int, deflates: bool, rooms: set[int]) -> None:
        action, self.next_action = self.next_action, None  # it would deliver to a client that has no model yet
        with self.loop.inside():
            pipe: Pipe = finished(joined(self.gateway, limit=limit, deflates=deflates))
        pipe.on_write, self.next_action = self.within_write, action
        self.models.append(Model(PipeClient(pipe)))
        self.enter(self.models[-1], rooms)

    @precondition(has_space)
    @rule(rooms=st.sets(st.sampled_from((0, 1))))
    def join_on_asgi(self, rooms: set[int]) -> None:
        action, self.next_action = self.next_action, None
        client, before = AsgiClient(), set(self.gateway.connections)
        scope = {
            "type": "websocket",
            "path": "/ws",
            "raw_path": b"/ws",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
        }
        task = self.loop.create_task(run(self.gateway(scope, client.receive, client.send)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        while set(self.gateway.connections) == before:
            self.run_iteration()
        (client.conn,) = set(self.gateway.connections) - before
        self.next_action = action
        self.models.append(Model(client))
        self.enter(self.models[-1], rooms)

    def enter(self, model: Model, rooms: set[int]) -> None:
        with self.loop.inside():
            for room in sorted(rooms):
                if self.hub.add(model.conn._outbox, self.rooms[room]):
                    model.rooms.add(room)

    @rule(room=st.sampled_from((0, 1, 2, 2)), but=st.none() | indexes, size=sizes)
    def deliver_now(self, room: int, but: int | None, size: int) -> None:
        with self.loop.inside():
            self.deliver(room, but, size)

    @rule(chosen=st.lists(indexes, max_size=CLIENTS), size=sizes, times=st.integers(1, 3))
    def deliver_to_now(self, chosen: list[int], size: int, times: int) -> None:
        with self.loop.inside():
            for _ in range(times):
                self.deliver_to(chosen, size)

    @rule(index=indexes, size=sizes)
    def send_now(self, index: int, size: int) -> None:
        with self.loop.inside():
            self.send(index, size)

    @rule(index=indexes, room=st.sampled_from((0, 1)))
    def move_now(self, index: int, room: int) -> None:
        with self.loop.inside():
            self.move(index, room)

    @rule(index=indexes, size=st.sampled_from((100, 1000, 10**9)))
    def read_now(self, index: int, size: int) -> None:
        with self.loop.inside():
            self.read(index, size)

    @rule(index=indexes)
    def record_now(self, index: int) -> None:
        with self.loop.inside():
            self.record(index)

    @rule(index=indexes)
    def close_now(self, index: int) -> None:
        with self.loop.inside():
            self.close(index)

    @rule(index=indexes)
    def vanish(self, index: int) -> None:
        model = self.model_at(index)
        if model is not None:
            model.is_lost = True
            with self.loop.inside():
                model.client.vanish()

    @rule()
    def flush(self) -> None:
        with self.loop.inside():
            self.hub.flush()

    @rule(index=indexes, limit=st.sampled_from(LIMITS))
    def limit(self, index: int, limit: int) -> None:
        """A client congests within one of the next writes to it."""
        model = self.model_at(index)
        if model is not None and isinstance(model.client, PipeClient):
            model.client.pipe.limit = limit

    @rule()
    def iterate(self) -> None:
        self.run_iteration()

    @rule(
        action=st.sampled_from(
            ("deliver", "deliver", "deliver_to", "send", "read", "close", "move", "record", "flush")
        ),
        index=indexes,
        size=sizes,
    )
    def within_next_write(self, action: str, index: int, size: int) -> None:
        """Something happens before the next write has returned."""
        actions: dict[str, Callable[[], None]] = {
            "deliver": lambda: self.deliver(index % 3, index if size else None, size),
            "deliver_to": lambda: self.deliver_to([index, index + 1, index + 2], size),
            "send": lambda: self.send(index, size),
            "read": lambda: self.read(index, 10**9),
            "close": lambda: self.close(index),
            "move": lambda: self.move(index, size % 2),
            "record": lambda: self.record(index),
            "flush": self.hub.flush,
        }
        self.next_action = actions[action]

    @invariant()
    def agree(self) -> None:
        self.check(at_end=False)

    def check(self, *, at_end: bool) -> None:
        for model in self.models:
            numbers, conn = model.numbers(), model.conn
            if self.is_roomy:
                assert numbers == model.expected[: len(numbers)]
            else:
                assert is_subsequence(numbers, model.expected)
            if conn.is_open:
                assert conn.messages_out + conn.queued_messages + conn.dropped == len(model.expected)
                assert conn.messages_out >= len(numbers)
            if at_end and self.is_roomy and not model.is_lost:
                assert numbers == model.expected
            if at_end and conn.is_open and not model.is_lost:
                assert len(numbers) + conn.dropped == len(model.expected)
                assert conn.messages_out == len(numbers)
        metrics = self.gateway.metrics
        assert metrics.queued == self.queued
        if self.is_roomy:
            assert sum(metrics.dropped.values()) == 0


def run_with_small_limits(machine: type[HubMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it with limits so small that a few clients and short messages reach them."""
    monkeypatch.setattr(fan_out, "SLICE", 2)
    monkeypatch.setattr(turn_log, "SLICE", 2)
    monkeypatch.setattr(turn_log, "MAX_LOGGED", 800)
    monkeypatch.setattr(fan_out, "MAX_WAITING", 3000)
    monkeypatch.setattr(fan_out, "MAX_JOINED", 800)
    run_machine(machine, variable="HUB_EXAMPLES", examples=60, steps=60)  # HUB_EXAMPLES=20000 for a long run


class DropOldest(HubMachine):
    options = {"outbox_bytes": 2000, "outbox_messages": 3, "slow_policy": "drop_oldest"}  # noqa: RUF012  never changed
    is_roomy = False


class DropNewest(HubMachine):
    options = {"outbox_bytes": 2000, "outbox_messages": 3, "slow_policy": "drop_newest"}  # noqa: RUF012  never changed
    is_roomy = False


class Disconnect(HubMachine):
    options = {"outbox_bytes": 2000, "outbox_messages": 3, "slow_policy": "disconnect"}  # noqa: RUF012  never changed
    is_roomy = False


@pytest.mark.parametrize("machine", [HubMachine, DropOldest, DropNewest, Disconnect])
def test_each_connection_receives_what_was_sent_to_it(
    machine: type[HubMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_small_limits(machine, monkeypatch)


def is_subsequence(numbers: list[int], expected: list[int]) -> bool:
    rest = iter(expected)
    return all(number in rest for number in numbers)


async def run(waiting: Any) -> None:
    await waiting

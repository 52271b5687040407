"""Channels against a model. Clients subscribe, unsubscribe, and close, and messages are published, in any order, also
within a write. Each client of `wsgateway.v1` receives each publication once and in order, or is notified of the loss,
and its list of members is that of the channel."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.machines import SteppedLoop, finished, run_machine
from tests.pipes import Pipe, joined, tell
from wsgateway import Gateway
from wsgateway.frames import Position
from wsgateway.protocols.v1 import SUBPROTOCOL

CHANNELS: Any = {
    "all": {"public": True, "history": 4, "presence": True},
    "last": {"public": True, "history": 3, "keep": "last"},
    "live": {"public": True, "presence": True},
}
NAMES = tuple(CHANNELS)
CLIENTS = 6


class V1Client:
    """A client that reads what its pipe was given, object by object, and fails at the first that cannot be right."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.conn = pipe.conn
        self.members: dict[str, set[str]] = {}
        """The members of each channel that it is subscribed to."""

        self.positions: dict[str, Position] = {}
        self.received: list[list[int]] = []
        self.expected: list[list[int]] = []
        """The messages of the channel without history, for each of its subscriptions."""

        self._read = 0

    def read_objects(self) -> None:
        for message in self.pipe.messages()[self._read :]:
            self._read += 1
            self._take(json.loads(message))

    def _take(self, told: dict[str, Any]) -> None:
        name = told.get("subscribed") or told.get("unsubscribed") or told["channel"]
        if "subscribed" in told:
            assert name not in self.members
            self.members[name] = {member["id"] for member in told.get("members", ())}
            if "at" in told:
                at = Position.parse(told["at"])
                assert at is not None
                if told["recovered"]:
                    assert at == self.positions[name]
                self.positions[name] = at
            else:
                self.received.append([])
        elif "unsubscribed" in told:
            del self.members[name]
        elif "joined" in told:
            assert told["joined"]["id"] not in self.members[name]
            self.members[name].add(told["joined"]["id"])
        elif "left" in told:
            self.members[name].remove(told["left"]["id"])
        elif "at" in told:
            at, before = Position.parse(told["at"]), self.positions[name]
            assert name in self.members
            assert at is not None
            assert at.epoch == before.epoch
            assert at.offset == before.offset + 1 if name == "all" else at.offset > before.offset
            self.positions[name] = at
        else:
            self.received[-1].append(told["message"])


class ChannelMachine(RuleBasedStateMachine):
    """Clients of one process, with enough space in their outboxes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        options: Any = {"outbox_bytes": 10**9, "outbox_messages": 10**6, "ping_interval": 600, "send_timeout": 600}
        self.gateway = Gateway(channels=CHANNELS, **options)
        self.clients: list[V1Client] = []
        self.count = 0
        self.kept: dict[str, int] = {"a": 0, "b": 0, "c": 0, "d": 0}  # the offset of the newest publication of each key
        self.next_action: Callable[[], None] | None = None
        self.loop.run_until_complete(self.gateway.start())

    def teardown(self) -> None:
        self.next_action = None
        try:
            for _ in range(40):
                with self.loop.inside():
                    for client in self.clients:
                        client.pipe.read(10**9)
                self.loop.run_until_complete(self.nothing())
            self.check()
        finally:
            with self.loop.inside():
                for client in self.clients:
                    client.pipe.abort()
            self.loop.run_until_complete(self.gateway.stop())
            assert len(self.gateway.local_channels) == 0
            assert self.gateway.metrics.subscriptions == self.gateway.metrics.channels == 0
            self.loop.close()

    async def nothing(self) -> None:
        """Take one iteration of the event loop."""

    def check(self) -> None:
        channels = self.gateway._parts.channels
        for client in self.clients:
            client.read_objects()
            if not client.conn.is_open:
                continue
            assert set(client.conn.channels) == set(client.members)
            assert client.received == client.expected
            for name, members in client.members.items():
                if CHANNELS[name].get("history"):
                    namespace = channels.namespaces.find(name)
                    assert client.positions[name] == channels.history.position(name, namespace)
                if CHANNELS[name].get("presence"):
                    assert members == {conn.id for conn in channels.subscribers(name)}

    # Actions, which also happen within a write

    def client_at(self, index: int) -> V1Client | None:
        clients = [client for client in self.clients if client.conn.is_open]
        return clients[index % len(clients)] if clients else None

    def within_write(self, pipe: Pipe) -> None:
        del pipe
        action, self.next_action = self.next_action, None
        if action is not None:
            action()

    def publish(self, name: str, key: str) -> None:
        self.count += 1
        for client in self.clients:
            if name == "live" and client.conn.is_open and name in client.conn.channels:
                client.expected[-1].append(self.count)
        finished(self.gateway.publish(self.count, channel=name, key=key))

    def subscribe(self, index: int, name: str, how: str) -> None:
        client = self.client_at(index)
        if client is None or name in client.conn.channels:
            return
        client.read_objects()
        if name == "live":
            client.expected.append([])
        command: dict[str, Any] = {"subscribe": name}
        if how == "since" and name in client.positions:
            command["since"] = str(client.positions[name])
        elif how == "last":
            command["last"] = 2
        tell(client.conn, json.dumps(command))

    def unsubscribe(self, index: int, name: str) -> None:
        client = self.client_at(index)
        if client is not None and name in client.conn.channels:
            tell(client.conn, json.dumps({"unsubscribe": name}))

    def close(self, index: int) -> None:
        client = self.client_at(index)
        if client is not None:
            client.conn._outbox.close(4000, "")

    # Rules

    indexes = st.integers(0, CLIENTS - 1)
    names = st.sampled_from(NAMES)
    keys = st.sampled_from("abcd")

    @precondition(lambda self: sum(client.conn.is_open for client in self.clients) < CLIENTS)
    @rule(limit=st.sampled_from((0, 300, 10**9, 10**9)))
    def open(self, limit: int) -> None:
        action, self.next_action = self.next_action, None
        with self.loop.inside():
            pipe: Pipe = finished(joined(self.gateway, limit=limit, subprotocol=SUBPROTOCOL))
        pipe.on_write, self.next_action = self.within_write, action
        self.clients.append(V1Client(pipe))

    @rule(name=names, key=keys, times=st.integers(1, 6))
    def publish_now(self, name: str, key: str, times: int) -> None:
        with self.loop.inside():
            for _ in range(times):
                self.publish(name, key)

    @rule(index=indexes, name=names, how=st.sampled_from(("since", "last", "")))
    def subscribe_now(self, index: int, name: str, how: str) -> None:
        with self.loop.inside():
            self.subscribe(index, name, how)

    @rule(index=indexes, name=names)
    def unsubscribe_now(self, index: int, name: str) -> None:
        with self.loop.inside():
            self.unsubscribe(index, name)

    @rule(index=indexes)
    def close_now(self, index: int) -> None:
        with self.loop.inside():
            self.close(index)

    @rule(index=indexes, size=st.sampled_from((100, 10**9)))
    def read(self, index: int, size: int) -> None:
        client = self.client_at(index)
        if client is not None:
            with self.loop.inside():
                client.pipe.read(size)

    @rule(name=names, key=keys, index=indexes)
    def publish_within_the_next_write(self, name: str, key: str, index: int) -> None:
        del index
        self.next_action = lambda: self.publish(name, key)

    @rule(index=indexes)
    def close_within_the_next_write(self, index: int) -> None:
        self.next_action = lambda: self.close(index)

    @rule()
    def iterate(self) -> None:
        self.loop.run_until_complete(self.nothing())


def test_each_client_receives_each_publication_once_or_is_notified() -> None:
    run_machine(ChannelMachine, variable="HUB_EXAMPLES", examples=60, steps=50)  # HUB_EXAMPLES=20000 for a long run

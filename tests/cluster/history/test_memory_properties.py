"""The history in memory against a model as plain as possible, and clients that leave and come back."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.machines import run_machine
from wsgateway.cluster.history import memory
from wsgateway.cluster.history.expiry import CHANNEL_BYTES
from wsgateway.cluster.history.memory import KEY_TTL, POSITION_TTL, MemoryHistory
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.frames import Position, Publication
from wsgateway.messages import Kind, Message

LIMIT = 20_000

CHANNELS = st.sampled_from("CDE")
SINCE = st.builds(Position, st.sampled_from(["", "", "e0", "e1", "e2", "e9"]), st.integers(-1, 12))


@dataclass(eq=False)
class Model:
    """A channel: everything that was published, and what of it is kept."""

    epoch: str
    all: list[Publication] = field(default_factory=list)
    kept: list[Publication] = field(default_factory=list)
    lost: int = 0  # the newest offset that is missing, and was not replaced
    published: float = 0.0
    idle: float = 0.0  # since when it has had no records, or the last subscription after that

    def drop_records(self, now: float) -> None:
        self.kept, self.lost, self.idle = [], len(self.all), now


@dataclass(eq=False)
class Client:
    """A client that knows the position of the newest publication that it has received, and which one that was."""

    channel: str
    is_here: bool = True
    since: Position | None = None
    newest: Publication | None = None
    values: dict[str, Publication] = field(default_factory=dict)


class MemoryMachine(RuleBasedStateMachine):
    namespace = ChannelSettings(history=3, history_ttl=60.0)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.epochs = 0
        self.history = MemoryHistory(LIMIT, now=lambda: self.now, new_epoch=self._new_epoch)
        self.models: dict[str, Model] = {}
        self.keys: dict[tuple[str, str], tuple[float, Position]] = {}
        self.clients: list[Client] = []
        self.texts = 0

    def _new_epoch(self) -> str:
        self.epochs += 1
        return f"e{self.epochs - 1}"

    # The model

    @property
    def is_latest_only(self) -> bool:
        return self.namespace.keep is Keep.LAST

    @property
    def ttl(self) -> float:
        return math.inf if self.namespace.history_ttl is None else self.namespace.history_ttl

    def _expire(self) -> None:
        position_ttl = math.inf if self.ttl == math.inf else POSITION_TTL
        for name, model in list(self.models.items()):
            if model.kept and model.published + self.ttl <= self.now:
                model.drop_records(self.now)
            if not model.kept and model.idle + position_ttl <= self.now:
                del self.models[name]
        self.keys = {key: entry for key, entry in self.keys.items() if entry[0] > self.now}

    def _use(self, name: str) -> Model:
        """Return the model of a channel, created with the epoch that the history will take next."""
        self._expire()
        model = self.models.setdefault(name, Model(f"e{self.epochs}"))
        if not model.kept:
            model.idle = self.now
        return model

    def _alive(self, publications: list[Publication]) -> list[Publication]:
        return [item for item in publications if item.expires is None or item.expires > self.now]

    def _evict(self, name: str) -> None:
        """Drop records as the history has to, by the bytes that it says it takes."""
        while self._bytes() > LIMIT:
            full = [model for model in self.models.values() if model.kept]
            oldest = min(full, key=lambda model: model.published)
            if oldest is not self.models[name]:
                oldest.drop_records(self.now)
            elif len(oldest.kept) > 1:
                oldest.lost = offset_of(oldest.kept.pop(0))
            else:
                oldest.drop_records(self.now)

    def _bytes(self) -> int:
        records = sum(memory._size_of(item) for model in self.models.values() for item in model.kept)
        keys = sum(memory.KEY_BYTES + len(f"{channel} {key}") for channel, key in self.keys)
        return records + keys + len(self.models) * (CHANNEL_BYTES + 1)

    # Rules

    @rule(
        channel=CHANNELS,
        key=st.sampled_from(["", "a", "b", "c", "d"]),
        size=st.sampled_from([0, 10, 10, 1000, 4000]),
        ttl=st.sampled_from([None, None, 5.0]),
        once=st.sampled_from(["", "", "k", "l"]),
    )
    def publish(self, channel: str, key: str, size: int, ttl: float | None, once: str) -> None:
        self.now += 0.001  # so that no two publications are of the same age
        self._expire()
        self.texts += 1
        message = Message(f"{self.texts} ".encode() + b"x" * size, Kind.TEXT)
        expires = None if ttl is None else self.now + ttl
        publication = Publication(message, channel, key=key, expires=expires)
        if (channel, once) in self.keys:
            repeated = self.history.append(publication, self.namespace, idempotency_key=once)
            assert repeated == (self.keys[channel, once][1], False)
            assert publication.position is None
            return
        model = self._use(channel)
        position = Position(model.epoch, len(model.all) + 1)
        assert self.history.append(publication, self.namespace, idempotency_key=once) == (position, True)
        assert publication.position == position
        model.all.append(publication)
        if self.is_latest_only:
            model.kept = [item for item in model.kept if item.key != key]
        model.kept.append(publication)
        if len(model.kept) > self.namespace.history:
            model.lost = offset_of(model.kept.pop(0))
        model.published = self.now
        if once:
            self.keys[channel, once] = (self.now + KEY_TTL, position)
        self._evict(channel)
        self._check_counts()
        self._deliver(publication)

    @rule(seconds=st.sampled_from([1.0, 4.999, 30.0, 59.0, 60.0, 250.0, POSITION_TTL - 60.0, POSITION_TTL]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self._expire()
        self.history.expire()
        self._check_counts()

    @rule(channel=CHANNELS)
    def forget(self, channel: str) -> None:
        model = self.models.get(channel)
        if model is not None and model.kept:
            model.drop_records(self.now)
        self.history.forget(channel)

    @rule(channel=CHANNELS)
    def ask_for_the_position(self, channel: str) -> None:
        model = self._use(channel)
        assert self.history.position(channel, self.namespace) == (model.epoch, len(model.all))

    @rule(channel=CHANNELS, limit=st.integers(0, 12), since=st.none() | SINCE, reverse=st.booleans())
    def read(self, channel: str, limit: int, since: Position | None, reverse: bool) -> None:
        model = self._use(channel)
        at, publications = self.history.read(channel, self.namespace, limit=limit, since=since, reverse=reverse)
        assert at == (model.epoch, len(model.all))
        alive = self._alive(model.kept)
        if since is None:
            expected = alive[::-1][:limit] if reverse else alive[max(0, len(alive) - limit) :]
        else:
            offset = since.offset if since.epoch in ("", model.epoch) else 0
            after = [item for item in alive if offset_of(item) > offset]
            before = [item for item in reversed(alive) if offset_of(item) < offset]
            expected = before[:limit] if reverse else after[:limit]
        assert publications == expected

    @rule(
        channel=CHANNELS,
        since=st.none() | SINCE,
        last=st.none() | st.integers(-1, 12),
        max_bytes=st.sampled_from([0, 30, 2500, 10**9]),
    )
    def recover(self, channel: str, since: Position | None, last: int | None, max_bytes: int) -> None:
        self._recover(channel, since, last, max_bytes)

    def _recover(
        self, channel: str, since: Position | None, last: int | None, max_bytes: int
    ) -> tuple[bool, Position, list[Publication]]:
        model = self._use(channel)
        recovery = self.history.recover(channel, self.namespace, since=since, last=last, max_bytes=max_bytes)
        recovered, at, publications = recovery
        alive = self._alive(model.kept)
        missed = None if since is None else [item for item in alive if offset_of(item) > since.offset]
        assert recovered == (
            since is not None
            and missed is not None
            and since.epoch in ("", model.epoch)
            and model.lost <= since.offset <= len(model.all)
            and payload(missed) <= max_bytes
        )
        if recovered:
            assert publications == missed
        else:
            count = len(alive) if self.is_latest_only else max(0, last or 0)
            newest = alive[max(0, len(alive) - count) :]
            while payload(newest) > max_bytes:
                newest.pop(0)
            assert publications == newest
        before = offset_of(publications[0]) - 1 if publications else len(model.all)
        assert at == (model.epoch, before)
        return recovery

    # Clients

    @rule(channel=CHANNELS, last=st.none() | st.integers(0, 5))
    def come(self, channel: str, last: int | None) -> None:
        if len(self.clients) < 5:
            client = Client(channel)
            self.clients.append(client)
            self._subscribe(client, last, 10**9, break_after=99)

    @rule(client=st.integers(0, 4))
    def leave(self, client: int) -> None:
        if client < len(self.clients):
            self.clients[client].is_here = False

    @rule(
        client=st.integers(0, 4),
        last=st.none() | st.integers(0, 5),
        max_bytes=st.sampled_from([2500, 10**9]),
        break_after=st.sampled_from([99, 99, 0, 1, 2]),
    )
    def come_back(self, client: int, last: int | None, max_bytes: int, break_after: int) -> None:
        if client < len(self.clients):
            self._subscribe(self.clients[client], last, max_bytes, break_after)

    def _subscribe(self, client: Client, last: int | None, max_bytes: int, break_after: int) -> None:
        """Subscribe. After some publications, the connection may break."""
        recovered, at, publications = self._recover(client.channel, client.since, last, max_bytes)
        model = self.models[client.channel]
        if not recovered:
            client.newest = None
            client.values.clear()
            if not publications and model.all:
                client.newest = model.all[-1]
        client.is_here = True
        client.since = at
        for publication in publications[:break_after]:
            self._receive(client, publication)
        if len(publications) > break_after:
            client.is_here = False
        else:
            assert offset_of(client.newest) <= len(model.all)
            self._check_complete(client, model)

    def _check_complete(self, client: Client, model: Model) -> None:
        """Nothing that is kept is unknown to a client that has started with all of it."""
        if self.is_latest_only:
            for publication in self._alive(model.kept):
                assert client.values.get(publication.key, publication) is publication

    def _deliver(self, publication: Publication) -> None:
        for client in self.clients:
            if client.is_here and client.channel == publication.channel:
                self._receive(client, publication)

    def _receive(self, client: Client, publication: Publication) -> None:
        """A client receives the successor of what it has, except for what is expired or was replaced."""
        newest, client.newest = client.newest, publication
        assert publication.position is not None
        client.since = publication.position
        client.values[publication.key] = publication
        if newest is None or newest.position is None or newest.position.epoch != publication.position.epoch:
            return
        model = self.models[publication.channel]
        between = model.all[newest.position.offset : publication.position.offset - 1]
        assert publication.position.offset > newest.position.offset
        for item in between:
            is_replaced = self.is_latest_only and any(other.key == item.key for other in model.all[offset_of(item) :])
            assert is_replaced or (item.expires is not None and item.expires <= self.now)

    def _check_counts(self) -> None:
        assert self.history.channels == len(self.models)
        assert self.history.bytes == self._bytes() <= LIMIT


def offset_of(publication: Publication | None) -> int:
    return 0 if publication is None or publication.position is None else publication.position.offset


def payload(publications: list[Publication]) -> int:
    return sum(len(item.payload) for item in publications)


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize(("count", "ttl"), [(1, 60.0), (3, 60.0), (8, None), (50, 86400.0)])
def test_the_history_is_what_the_model_is(count: int, ttl: float | None, keep: Keep) -> None:
    attributes: dict[str, Any] = {"namespace": ChannelSettings(history=count, history_ttl=ttl, keep=keep)}
    machine = type(f"History{count}{keep}", (MemoryMachine,), attributes)
    run_machine(machine, variable="RECOVERY_EXAMPLES", examples=40, steps=40)

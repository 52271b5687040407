"""Two processes follow a channel whose history is elsewhere, over a link that loses, repeats, and breaks, while the
history fails: no client misses a publication without being notified.

RECOVERY_EXAMPLES=12000 for a long run.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.machines import run_machine
from wsgateway.cluster.history.recovery import Wish
from wsgateway.cluster.history.replica import Arrival, Effects, Page, Replica, State
from wsgateway.frames import Position, Publication
from wsgateway.messages import Kind, Message

PROCESSES, CLIENTS = 2, 5

SEEN: Counter[str] = Counter()
"""How often what a test is about has happened, so that a test cannot pass because nothing happens."""

Record = tuple[int, Publication]


class Store:
    """A history elsewhere, as plain as possible: a log of everything, of which the newest is kept."""

    def __init__(self, history: int, is_latest_only: bool) -> None:
        self.history = history
        self.is_latest_only = is_latest_only
        self.log: list[Record] = []
        self.before: dict[Publication, object] = {}  # the publication before each one, a start before the first
        self.starts: dict[str, object] = {}
        self.epochs = 0
        self.texts = 0
        self.wipe()

    def wipe(self) -> None:
        self.log = []
        self.start: object = object()
        self._set_epoch()

    def renew(self, epoch: str) -> None:
        if epoch == self.epoch:
            self._set_epoch()

    def _set_epoch(self) -> None:
        self.epochs += 1
        self.epoch = f"e{self.epochs}"
        self.starts[self.epoch] = self.start

    @property
    def top(self) -> int:
        return len(self.log)

    def newest(self) -> object:
        return self.log[-1][1] if self.log else self.start

    def append(self, key: str) -> Arrival:
        self.texts += 1
        publication = Publication(Message(f"{self.texts}".encode(), Kind.TEXT), "c", key=key)
        self.before[publication] = self.newest()
        self.log.append((self.top + 1, publication))
        return Arrival(self.top - 1, self.top, self.epoch, publication)

    def kept(self) -> tuple[int, list[Record]]:
        """Return the offset above which nothing is missing, and the records that are kept."""
        values = {publication.key: (offset, publication) for offset, publication in self.log}
        records = sorted(values.values(), key=lambda record: record[0]) if self.is_latest_only else self.log
        if len(records) <= self.history:
            return 0, records
        return records[-self.history - 1][0], records[-self.history :]

    def read(self, above: int) -> Page:
        floor, records = self.kept()
        start = max(above, floor)
        entries = [(offset - 1, offset, publication) for offset, publication in records if offset > start]
        return Page(self.epoch, self.top, min(start, self.top), entries)

    def line(self, record: object) -> list[object]:
        """Return a record and all that came before it in the history, the newest first."""
        line = [record]
        while isinstance(record, Publication):
            record = self.before[record]
            line.append(record)
        return line


@dataclass
class Read:
    """A read of the history: asked for, then made, then answered."""

    above: int
    page: Page | None = None


@dataclass(eq=False)
class Client:
    """A client: where it is, and what it knows."""

    process: "Process | None" = None
    is_subscribed: bool = False
    read: Read | None = None
    since: Position | None = None
    last: int = 0
    newest: object = None  # the newest publication that it has seen, or the start of the log; None if it is new
    values: dict[str, Publication] = field(default_factory=dict)
    is_doubtful: bool = False  # it has what was lost in a failover, and nobody has noticed yet
    is_owed: bool = False  # somebody has noticed, so that it has to be notified

    def wish(self, is_latest_only: bool) -> Wish:
        return Wish(self.since, self.last, 10**6, is_latest_only)

    def start_over(self) -> None:
        self.values.clear()
        self.newest = self.since = None
        self.is_doubtful = self.is_owed = False


@dataclass(eq=False)
class Process:
    """A process: its replica of the channel, if it has one, and what is on the way to it."""

    replica: Replica | None = None
    wire: deque[Arrival] = field(default_factory=deque)
    past: deque[Arrival] = field(default_factory=lambda: deque(maxlen=4))
    read: Read | None = None
    is_linked: bool = True


class RecoveryMachine(RuleBasedStateMachine):
    history = 3
    is_latest_only = False

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(self.history, self.is_latest_only)
        self.processes = [Process() for _ in range(PROCESSES)]
        self.clients = [Client() for _ in range(CLIENTS)]

    @initialize(count=st.sampled_from([5, 9, 3, 1, 0]), above=st.integers(0, 5))
    def begin(self, count: int, above: int) -> None:
        self.publish("b", count)
        for client in range(CLIENTS - 1):
            self.come(client, client % PROCESSES, 0, above)
        for process in range(PROCESSES):
            self.work(process)

    # The history

    @rule(key=st.sampled_from("abcde"), count=st.sampled_from([1, 1, 1, 2, 5]))
    def publish(self, key: str, count: int) -> None:
        for number in range(count):
            arrival = self.store.append(key if number % 2 == 0 else "a")
            for process in self.processes:
                if process.is_linked and process.replica is not None:
                    process.wire.append(arrival)

    @rule(lost=st.sampled_from([2, 1, 3, 1, 5, 0]), keys=st.lists(st.sampled_from("abcde"), max_size=5))
    def fail(self, lost: int, keys: list[str]) -> None:
        """Lose everything, or fail over and lose the newest publications. Others follow before anybody has noticed.

        A failover breaks every link: what follows it comes from another server.
        """
        if lost:
            del self.store.log[-lost:]
            for process in range(PROCESSES):
                self.cut(process)
        else:
            self.store.wipe()
        for key in keys:
            self.publish(key, 1)

    # The link

    @rule(process=st.integers(0, PROCESSES - 1), count=st.sampled_from([1, 1, 3, 20]))
    def arrive(self, process: int, count: int) -> None:
        here = self.processes[process]
        for _ in range(count):
            if here.wire and here.replica is not None:
                arrival = here.wire.popleft()
                here.past.append(arrival)
                self._carry_out(here, here.replica.arrived(arrival))

    @rule(process=st.integers(0, PROCESSES - 1), index=st.integers(0, 5))
    def drop(self, process: int, index: int) -> None:
        wire = self.processes[process].wire
        if index < len(wire):
            del wire[index]

    @rule(process=st.integers(0, PROCESSES - 1), index=st.integers(0, 3), place=st.integers(0, 3))
    def duplicate(self, process: int, index: int, place: int) -> None:
        here = self.processes[process]
        if index < len(here.past) and here.is_linked:
            here.wire.insert(place, here.past[index])

    @rule(process=st.integers(0, PROCESSES - 1))
    def cut(self, process: int) -> None:
        here = self.processes[process]
        here.is_linked = False
        here.wire.clear()
        here.read = None
        for client in self.clients:
            if client.process is here:
                client.read = None

    @rule(process=st.integers(0, PROCESSES - 1))
    def restore(self, process: int) -> None:
        here = self.processes[process]
        if not here.is_linked:
            here.is_linked = True
            if here.replica is not None:
                self._carry_out(here, here.replica.restored())
                self._admit_waiting(here)

    # Reading

    @rule(process=st.integers(0, PROCESSES - 1))
    def make_reads(self, process: int) -> None:
        here = self.processes[process]
        for read in [here.read, *(client.read for client in self.clients if client.process is here)]:
            if read is not None and read.page is None and here.is_linked:
                read.page = self.store.read(read.above)

    @rule(process=st.integers(0, PROCESSES - 1))
    def answer_read(self, process: int) -> None:
        here = self.processes[process]
        replica, read = here.replica, here.read
        if replica is None or read is None or read.page is None:
            return
        here.read = None
        is_joining = replica.state is State.JOINING
        self._carry_out(here, replica.joined(read.page) if is_joining else replica.healed(read.page))
        self._admit_waiting(here)

    @rule(process=st.integers(0, PROCESSES - 1))
    def work(self, process: int) -> None:
        """Nothing is slow, and the link works."""
        self.restore(process)
        for _ in range(2):
            self.make_reads(process)
            self.answer_read(process)
            for client in range(CLIENTS):
                self.answer_read_of_client(client)
            self.arrive(process, 50)

    @rule(client=st.integers(0, CLIENTS - 1))
    def answer_read_of_client(self, client: int) -> None:
        here = self.clients[client]
        read, process = here.read, here.process
        if process is None or process.replica is None or process.replica.state is State.JOINING:
            return
        if read is not None and read.page is not None:
            here.read = None
            self._admit(here, process.replica, read.page)

    @rule(process=st.integers(0, PROCESSES - 1))
    def check(self, process: int) -> None:
        here = self.processes[process]
        if here.replica is not None and here.is_linked:
            self._carry_out(here, here.replica.check())

    # Clients

    @rule(
        client=st.integers(0, CLIENTS - 1),
        process=st.integers(0, PROCESSES - 1),
        last=st.sampled_from([0, 0, 1, 2, 9]),
        above=st.integers(0, 5),
    )
    def come(self, client: int, process: int, last: int, above: int) -> None:
        here, there = self.clients[client], self.processes[process]
        if here.process is not None or not there.is_linked:
            return
        here.process, here.last = there, last
        if there.replica is None:
            there.replica = Replica(limit=self.history, is_latest_only=self.is_latest_only)
            there.read = Read(0 if self.is_latest_only else max(0, self.store.top - 1 - above))
        self._admit_waiting(there)

    @rule(
        client=st.integers(0, CLIENTS - 1),
        process=st.integers(0, PROCESSES - 1),
        last=st.sampled_from([0, 0, 1, 2, 9]),
        above=st.integers(0, 5),
        keys=st.lists(st.sampled_from("abcde"), max_size=4),
    )
    def reconnect(self, client: int, process: int, last: int, above: int, keys: list[str]) -> None:
        self.leave(client)
        for key in keys:
            self.publish(key, 1)
        self.come(client, process, last, above)

    @rule(client=st.integers(0, CLIENTS - 1))
    def leave(self, client: int) -> None:
        here = self.clients[client]
        here.process = here.read = None
        here.is_subscribed = False

    @rule(process=st.integers(0, PROCESSES - 1))
    def retire(self, process: int) -> None:
        """Forget a channel that has lost its last subscriber."""
        here = self.processes[process]
        if not any(client.process is here for client in self.clients):
            here.replica = here.read = None
            here.wire.clear()
            here.past.clear()

    @rule(process=st.integers(0, PROCESSES - 1), keys=st.lists(st.sampled_from("abcde"), max_size=4))
    def roll(self, process: int, keys: list[str]) -> None:
        """Start a process again. Its clients come back, after another one that may know more than they do."""
        here = self.processes[process]
        clients = [number for number, client in enumerate(self.clients) if client.process is here]
        for client in clients:
            self.leave(client)
        self.retire(process)
        for key in keys:
            self.publish(key, 1)
        for client in [*range(CLIENTS), *clients]:
            self.come(client, process, 0, 0)

    def _admit_waiting(self, process: Process) -> None:
        """Subscribe the clients that wait until the channel has joined, or read what they need."""
        for client in self.clients:
            replica = process.replica
            if client.process is not process or client.is_subscribed or client.read is not None:
                continue
            if replica is None or replica.state is State.JOINING:
                return
            SEEN[f"admitted while {replica.state.value}"] += 1
            above = replica.above(client.wish(self.is_latest_only))
            if above is None:
                self._admit(client, replica, None)
            else:
                SEEN["read for a client"] += 1
                client.read = Read(above)

    def _admit(self, client: Client, replica: Replica, page: Page | None) -> None:
        recovery = replica.recover(client.wish(self.is_latest_only), 0.0, page)
        client.is_subscribed = True
        if client.since is not None:
            SEEN[f"recovered {recovery.recovered}{' with a read' if page else ''}"] += 1
        position = replica.position
        newest = replica.tail.at(position.offset) or self.store.starts[position.epoch]
        line = self.store.line(newest)
        if recovery.recovered:
            assert client.since is not None
            if client.newest not in line and not client.is_doubtful:
                SEEN["doubtful"] += 1
                client.is_doubtful = True
        else:
            if client.newest in line:
                assert not self._could_recover(client, replica, page)
            client.start_over()
            if not recovery.publications:
                client.newest = newest
        client.since = recovery.at
        for publication in recovery.publications:
            self._receive(client, publication, replica)
        assert client.since == position or recovery.publications
        client.since = position

    def _could_recover(self, client: Client, replica: Replica, page: Page | None) -> bool:
        """Return whether the tail, or a page that belongs to it, has all that this client has missed."""
        tail, since = replica.tail, client.since
        if since is None or since.epoch != tail.epoch or tail.top - since.offset > self.history:
            return False
        belongs = page is not None and page.epoch == tail.epoch and tail.floor < page.top
        newest = page.entries[-1][2] if page is not None and page.entries else None
        if page is not None and belongs and newest in self.store.line(tail.at(tail.top)):
            return page.start <= since.offset
        return tail.floor <= since.offset

    # Invariants

    def _carry_out(self, process: Process, effects: Effects) -> None:
        replica = process.replica
        assert replica is not None
        SEEN["lost" if effects.is_lost else "healed" if len(effects.publications) > 1 else "live"] += 1
        for client in self.clients:
            if client.process is process and client.is_subscribed:
                if effects.is_lost:
                    client.process = client.read = None
                    client.is_subscribed = False
                    client.start_over()
                for publication in effects.publications if client.is_subscribed else ():
                    self._receive(client, publication, replica)
                    client.since = replica.position  # the newest one that it will have received
        if effects.renew:
            SEEN["renewed"] += 1
            self.store.renew(effects.renew)
            for client in self.clients:
                if client.is_doubtful and client.since is not None and client.since.epoch == effects.renew:
                    client.is_owed = True
        if effects.read_above is not None:
            process.read = Read(effects.read_above)

    def _receive(self, client: Client, publication: Publication, replica: Replica) -> None:
        newest, client.newest = client.newest, publication
        client.values[publication.key] = publication
        if newest is None or client.is_doubtful:
            return
        if not self.is_latest_only:
            assert self.store.before[publication] is newest, "a gap, or one twice"
            return
        # A comparison of all values may show that they are right although the newest one was lost: see `settle`.
        line = self.store.line(publication)
        assert publication is not newest
        if newest in line:
            between = line[1 : line.index(newest)]
            later = self.store.line(replica.tail.at(replica.position.offset))
            for missed in between:
                assert isinstance(missed, Publication)
                newer = later[: later.index(missed)]
                assert any(isinstance(other, Publication) and other.key == missed.key for other in newer)

    @invariant()
    def what_waits_is_bounded(self) -> None:
        for process in self.processes:
            if process.replica is not None:
                assert len(process.replica.tail) <= self.history

    def teardown(self) -> None:
        """In the end all works again. Each client that was not notified has what the history has."""
        for process in range(PROCESSES):
            for _ in range(10):
                self.work(process)
        for _ in range(4):  # also the other process must find out what one has found out
            for process in range(PROCESSES):
                self.check(process)
                for _ in range(3):
                    self.work(process)
        for process_ in self.processes:
            assert process_.replica is None or process_.replica.state is State.LIVE
        for client_ in self.clients:
            if client_.process is None:
                continue
            assert client_.is_subscribed
            assert not client_.is_owed
            if not client_.is_doubtful:
                self._check_complete(client_)

    def _check_complete(self, client: Client) -> None:
        SEEN["complete"] += 1
        if not self.is_latest_only:
            assert client.newest is None or client.newest is self.store.newest()
            return
        if client.newest is None:
            return
        _, records = self.store.kept()
        kept = {publication.key: publication for _, publication in records}
        line = self.store.line(self.store.newest())
        for key, publication in client.values.items():
            assert kept.get(key, publication) is publication
            assert publication in line


def machine_of(count: int, is_latest_only: bool) -> type[RecoveryMachine]:
    attributes: dict[str, Any] = {"history": count, "is_latest_only": is_latest_only}
    return type(f"History{count}{'Last' if is_latest_only else 'All'}", (RecoveryMachine,), attributes)


@pytest.mark.parametrize("is_latest_only", [False, True], ids=["all", "last"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_client_misses_nothing_without_being_notified(count: int, is_latest_only: bool) -> None:
    SEEN.clear()
    run_machine(machine_of(count, is_latest_only), variable="RECOVERY_EXAMPLES", examples=50, steps=60)
    print(dict(SEEN))

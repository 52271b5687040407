"""One channel with a shared history: what it reads, delivers, and loses. The store is scripted, all else is real."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.clocks import jumping, pass_time
from wsgateway.cluster.brokers import Link
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.history.recovery import Wish
from wsgateway.cluster.history.replica import State
from wsgateway.cluster.history.store import Append, Request, StoredPage
from wsgateway.cluster.records import encode_record
from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.exceptions import BrokerError, HistoryError
from wsgateway.frames import Position, Publication
from wsgateway.hub.channel import Wanted
from wsgateway.hub.connection import Connection
from wsgateway.hub.shared_channel import GATHER, LARGE, SLICE, Mark, SharedChannel, Subscribers
from wsgateway.hub.shared_history import SharedHistory
from wsgateway.logs import GatewayLog
from wsgateway.messages import Kind, Message
from wsgateway.metrics import Metrics

LOG = GatewayLog("test")


def publication(number: int, time: float = 1e12) -> Publication:
    return Publication(Message(f"{number}".encode(), Kind.TEXT), "c", time=time)


class ScriptedStore:
    """A log of one channel. A read waits until `answer`, unless `is_slow` is False."""

    bytes = evicted = 0

    def __init__(self) -> None:
        self.bytes = self.evicted = 0
        self.epoch = "e"
        self.log: list[Publication] = []
        self.reads: list[Request] = []
        self.is_slow = False
        self.fails = 0
        self._go_on = asyncio.Event()

    def add(self, count: int = 1) -> list[tuple[int, Position, Publication]]:
        """Add publications, and return them as they are announced."""
        first = len(self.log)
        self.log += [publication(number) for number in range(first + 1, first + count + 1)]
        return [(n - 1, Position(self.epoch, n), self.log[n - 1]) for n in range(first + 1, len(self.log) + 1)]

    def answer(self) -> None:
        self._go_on.set()
        self._go_on = asyncio.Event()

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...
    async def forget(self, channel: str) -> None: ...

    def append(self, append: Append) -> asyncio.Future[tuple[Position, bool]]:
        assert append.channel == "c"
        return asyncio.get_running_loop().create_future()  # the publication is on its way

    async def renew(self, channel: str, epoch: str) -> None:
        assert channel == "c"
        if epoch == self.epoch:
            self.epoch += "2"

    async def read(self, requests: Sequence[Request]) -> list[StoredPage]:
        self.reads += requests
        if self.is_slow:
            await self._go_on.wait()
        if self.fails:
            self.fails -= 1
            raise HistoryError("the store does not answer")
        return [self._page(request) for request in requests]

    def _page(self, request: Request) -> StoredPage:
        top = len(self.log)
        start = max(0, top - request.most) if request.above is None else min(request.above, top)
        rows = [
            (offset - 1, offset, encode_record(self.log[offset - 1], node="a" * 8))
            for offset in range(start + 1, min(top, start + request.most) + 1)
        ]
        return StoredPage(self.epoch, top, start, rows)


class Here:
    """One process: a channel, its store, and what its subscribers have received."""

    def __init__(self, *, history: int = 10, subscribers: int = 1) -> None:
        self.store = ScriptedStore()
        self.metrics = Metrics()
        self.is_up = True
        self.delivered: list[str] = []
        self.marks: list[Mark | None] = []
        self.lost = 0
        self.subscribers = subscribers
        self.when_lost: Callable[[], None] = lambda: None
        cluster = Cluster(_no_link, gateway_id="g", broker="", local=None, metrics=self.metrics, log=LOG)
        self.history = SharedHistory(self.store, cluster, self.metrics, LOG)
        settings = ChannelSettings(history=history, history_ttl=60)
        subscribers_of = Subscribers(
            self._deliver, self._to_notify, self._lose, lambda: self.is_up, lambda _: self.subscribers
        )
        self.channel = SharedChannel("c", settings, self.history, subscribers_of, self.metrics, LOG)

    def _deliver(self, publication: Publication, mark: Mark | None) -> None:
        self.delivered.append(publication.payload.decode())
        self.marks.append(mark)

    def _to_notify(self, name: str) -> list[Any]:
        assert name == "c"
        return [None] * self.subscribers

    def _lose(self, conn: Connection, name: str) -> None:
        assert name == "c"
        self.lost += 1
        self.when_lost()

    def arrive(self, *arrivals: tuple[int, Position, Publication], mark: Mark | None = None) -> None:
        for prev, position, each in arrivals:
            each.position = position
            self.channel.arrived(prev, position, each, mark)


async def _no_link(topics: Sequence[str]) -> Link:
    raise BrokerError("there is none")


def wish(since: str | None, last: int | None = None) -> Wish:
    return Wish(None if since is None else Position.parse(since), last, 10**6, is_latest_only=False)


async def joined(count: int = 3, **options: Any) -> Here:
    here = Here(**options)
    here.store.add(count)
    await here.channel.join()
    assert here.channel.replica.state is State.LIVE
    return here


@jumping
async def test_a_gap_is_healed_and_each_publication_delivered_once() -> None:
    here = await joined()
    here.arrive(*here.store.add())
    here.store.add(2)
    here.arrive(*here.store.add())
    await pass_time(0.1)
    assert here.delivered == ["4", "5", "6", "7"]
    assert here.lost == 0
    assert here.metrics.gaps == {"healed": 1, "lost": 0}


@jumping
async def test_a_publication_that_waits_keeps_the_connection_that_does_not_receive_it() -> None:
    here = await joined()
    mark = Mark("a" * 8, "conn", 0)
    here.store.is_slow = True
    here.channel.check()
    here.arrive(*here.store.add(), mark=mark)
    await pass_time(0.1)
    assert here.delivered == []
    here.store.answer()
    await pass_time(0.1)
    assert list(zip(here.delivered, here.marks, strict=True)) == [("4", mark)]


@jumping
async def test_a_check_finds_what_was_missed() -> None:
    here = await joined()
    here.store.add(2)
    here.channel.check()
    await pass_time(0.1)
    assert here.delivered == ["4", "5"]


@jumping
async def test_subscribers_are_notified_if_the_history_was_lost() -> None:
    here = await joined(subscribers=3)
    here.store.log.clear()
    here.store.epoch = "other"
    here.arrive(*here.store.add())
    await pass_time(0.1)
    assert (here.lost, here.delivered) == (3, [])
    assert here.metrics.gaps == {"healed": 0, "lost": 1}
    here.arrive(*here.store.add())
    assert here.delivered == ["2"]


@jumping
async def test_publications_wait_until_many_subscribers_are_notified() -> None:
    here = await joined(subscribers=3 * SLICE)
    here.store.log.clear()
    here.store.epoch = "other"
    arrivals = here.store.add()
    states = []

    def when_lost() -> None:
        if here.lost == SLICE + 1:
            here.arrive(*here.store.add())
            states.append((here.channel.recover(wish(None), None), here.delivered[:]))

    here.when_lost = when_lost
    here.arrive(*arrivals)
    await pass_time(0.1)
    assert states == [(None, [])]
    assert (here.lost, here.delivered) == (3 * SLICE, ["2"])
    assert here.channel.recover(wish(None), None) is not None


@jumping
async def test_a_history_that_was_rewound_gets_another_epoch() -> None:
    here = await joined(count=5)
    del here.store.log[3:]
    here.channel.restored()
    await pass_time(0.1)
    assert (here.store.epoch, here.lost) == ("e2", 1)
    assert here.channel.replica.position == Position("e2", 3)


@jumping
async def test_a_read_that_fails_is_made_again_while_the_broker_is_available() -> None:
    here = await joined()
    here.store.add()
    here.store.fails = 3
    here.channel.check()
    await pass_time(5)
    assert here.delivered == ["4"]


@jumping
async def test_a_read_that_fails_is_made_again_when_the_link_is_restored() -> None:
    here = await joined()
    here.store.add()
    here.store.fails, here.is_up = 1, False
    here.channel.check()
    await pass_time(60)
    assert here.delivered == []
    here.is_up = True
    here.channel.restored()
    await pass_time(0.1)
    assert here.delivered == ["4"]


@jumping
async def test_a_channel_that_joins_while_the_link_is_lost_reads_again() -> None:
    here = Here()
    here.store.add(2)
    here.store.is_slow = True
    joining = asyncio.create_task(here.channel.join())
    await pass_time(0.1)
    here.channel.restored()
    here.store.add()
    here.store.answer()
    await pass_time(0.1)
    assert not joining.done()
    here.store.answer()
    await joining
    assert here.channel.replica.position == Position("e", 3)
    assert len(here.store.reads) == 2


@jumping
async def test_clients_that_need_the_same_page_share_one_read() -> None:
    here = await joined(count=8)
    here.store.reads.clear()
    here.store.is_slow = True
    waiting = [asyncio.create_task(here.channel.page_for(wish(f"e:{offset}"))) for offset in (2, 2, 3, 6)]
    await pass_time(0.1)
    here.store.answer()
    pages = await asyncio.gather(*waiting)
    assert len(here.store.reads) == 1
    recovery = here.channel.recover(wish("e:3"), pages[2])
    assert recovery is not None
    assert [each.payload for each in recovery.publications] == [b"4", b"5", b"6", b"7", b"8"]


@jumping
async def test_the_first_read_contains_what_the_waiting_clients_have_missed() -> None:
    here = Here()
    here.store.add(9)
    for since in ("e:7", "e:4"):
        here.channel.want(Wanted("c", Position.parse(since)))
    await here.channel.join()
    assert [(each.above, each.most) for each in here.store.reads] == [(4, MAX_HISTORY)]
    assert await here.channel.page_for(wish("e:4")) is None
    recovery = here.channel.recover(wish("e:4"), None)
    assert recovery is not None
    assert (recovery.recovered, len(recovery.publications)) == (True, 5)


@jumping
async def test_nothing_is_missing_if_the_history_keeps_more_than_this_process_knows() -> None:
    """As while a smaller `history` is not yet in force everywhere."""
    here = Here(history=3)
    here.store.add(9)
    here.channel.want(Wanted("c", Position.parse("e:2")))
    await here.channel.join()
    assert here.channel.replica.position == ("e", 9)
    recovery = here.channel.recover(wish("e:7"), None)
    assert recovery is not None
    assert [each.payload for each in recovery.publications] == [b"8", b"9"]


@jumping
async def test_a_client_with_a_position_above_all_others_does_not_hide_the_newest_publication() -> None:
    here = Here()
    here.store.add(3)
    here.channel.want(Wanted("c", Position.parse("e:900")))
    await here.channel.join()
    assert [(each.above, each.most) for each in here.store.reads] == [(900, MAX_HISTORY), (None, 1)]
    recovery = here.channel.recover(wish("e:900"), None)
    assert recovery is not None
    assert not recovery.recovered


@jumping
async def test_nobody_subscribes_while_the_broker_is_away() -> None:
    here = await joined()
    here.is_up = False
    with pytest.raises(HistoryError, match="the broker is unavailable"):
        await here.channel.page_for(wish(None))


@jumping
async def test_publications_older_than_the_history_are_not_recovered() -> None:
    here = Here()
    here.store.add()
    here.store.log.append(publication(2, time=1.0))  # long ago
    await here.channel.join()
    assert await here.channel.page_for(wish("e:1")) is not None
    assert not here.channel.replica.tail.newest(9)


@jumping
async def test_a_record_that_cannot_be_read_begins_the_page_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here()
    here.store.add(5)
    broken = here.store.log[1]
    monkeypatch.setattr(broken, "payload", b"\xff")  # text that is not UTF-8
    here.channel.want(Wanted("c", None, last=9))
    await here.channel.join()
    assert [offset for _, offset, _ in here.channel.replica.tail.newest(9)] == [3, 4, 5]
    assert here.metrics.broker_dropped["malformed"] == 1


@pytest.mark.parametrize(("subscribers", "waits"), [(LARGE, True), (LARGE - 1, False)])
@jumping
async def test_publications_of_this_process_are_written_together_to_many_subscribers(
    subscribers: int, waits: bool
) -> None:
    here = await joined(subscribers=subscribers)
    for number in (4, 5, 6):
        here.history.append(publication(number), here.channel.settings, idempotency_key="")
    first, second, third = here.store.add(3)
    here.arrive(first)
    assert here.delivered == ([] if waits else ["4"])
    here.arrive(second)
    await pass_time(2 * GATHER)
    assert here.delivered == ["4", "5"]
    here.arrive(third)
    await pass_time(2 * GATHER)
    assert here.delivered == ["4", "5", "6"]
    here.channel.close()


@jumping
async def test_a_single_publication_does_not_wait_for_others() -> None:
    here = await joined(subscribers=LARGE)
    here.history.append(publication(4), here.channel.settings, idempotency_key="")
    here.arrive(*here.store.add())
    assert here.delivered == ["4"]

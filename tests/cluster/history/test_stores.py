"""The contract of a history store, over every store with a real server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

import anyio
import pytest

from tests.cluster.history.stores import (
    GATEWAY,
    KEPT,
    LATEST,
    Announced,
    Backend,
    backend_at,
    entry,
    pages,
)
from tests.services import jetstream, redis, valkey
from wsgateway.cluster.brokers.ipc import take_proxy
from wsgateway.cluster.history.store import Request, StoredPage
from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.exceptions import HistoryError

STORES = ("memory", "ipc", "redis", "valkey", "nats")

SERVERS = {"redis": redis, "valkey": valkey, "nats": jetstream}


@pytest.fixture(scope="module", params=STORES)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "memory":
        yield ""
    elif request.param == "ipc":
        with TemporaryDirectory() as folder:
            proxy = take_proxy(Path(folder) / "ipc")
            assert proxy is not None
            yield f"ipc://{folder}/ipc"
            proxy.close()
    else:
        with SERVERS[request.param]() as service:
            yield service.url


@pytest.fixture
async def backend(url: str) -> AsyncIterator[Backend]:
    gateway = GATEWAY + token_hex(4)  # so that the streams of NATS begin with 1
    async with backend_at(url, gateway) as found:
        yield found


def supports(backend: Backend, settings: ChannelSettings) -> bool:
    """Whether the store can keep such a history: the settings refuse `keep = "last"` with NATS."""
    return settings.keep is Keep.ALL or not backend.is_nats


def in_order(backend: Backend, announced: list[Announced]) -> list[Announced]:
    """Announcements in the order of offsets, in which NATS announces them only nearly always."""
    return sorted(announced, key=lambda each: each[1].offset) if backend.is_nats else announced


async def records_of(backend: Backend, channel: str, settings: ChannelSettings = KEPT) -> list[bytes]:
    (page,) = await pages(await backend.open(), [Request(channel, settings, 0, MAX_HISTORY)])
    return [record for _, _, record in page.records]


# Appending


async def test_positions_count_from_1_in_one_epoch(backend: Backend) -> None:
    store, channel = await backend.open(), backend.channel()
    results = [await future for future in [store.append(entry(channel, b"x")) for _ in range(20)]]
    assert [at.offset for at, _ in results] == list(range(1, 21))
    assert all(is_new for _, is_new in results)
    assert len({at.epoch for at, _ in results}) == 1


async def test_8_writers_leave_no_hole(backend: Backend) -> None:
    stores, channel = [await backend.open() for _ in range(8)], backend.channel()
    listener = await backend.listen(channel)

    async def write(number: int) -> list[int]:
        offsets = []
        for index in range(50):
            futures = [
                stores[number].append(entry(channel, b"%d %d" % (number, index * 4 + part))) for part in range(4)
            ]
            offsets += [(await future)[0].offset for future in futures]
        return offsets

    written = await asyncio.gather(*[write(number) for number in range(8)])
    assert sorted([offset for offsets in written for offset in offsets]) == list(range(1, 1601))
    assert all(offsets == sorted(offsets) for offsets in written)
    announced = in_order(backend, await listener.next(1600))
    assert [(prev, at.offset) for prev, at, _ in announced] == [(offset - 1, offset) for offset in range(1, 1601)]
    for number in range(8):
        assert [record for _, _, record in announced if record.startswith(b"%d " % number)] == [
            b"%d %d" % (number, index) for index in range(200)
        ]
    assert await records_of(backend, channel) == [record for _, _, record in announced[-100:]]


async def test_the_announcements_of_each_channel_are_a_chain_and_those_that_are_read(backend: Backend) -> None:
    stores, channels = [await backend.open() for _ in range(3)], [backend.channel() for _ in range(3)]
    listeners = [await backend.listen(channel) for channel in channels]
    futures = [
        store.append(entry(channel, b"%d" % number)) for number in range(50) for store in stores for channel in channels
    ]
    await asyncio.gather(*futures)
    for channel, listener in zip(channels, listeners, strict=True):
        announced = in_order(backend, await listener.next(150))
        assert [prev for prev, _, _ in announced] == [0, *[at.offset for _, at, _ in announced[:-1]]]
        offsets = [at.offset for _, at, _ in announced]
        assert offsets == sorted(set(offsets))
        (page,) = await pages(stores[0], [Request(channel, KEPT, offsets[-60], 100)])
        assert list(page.records) == [(prev, at.offset, record) for prev, at, record in announced[-59:]]
        (newest,) = await pages(stores[1], [Request(channel, KEPT, None, 10)])
        assert list(newest.records) == list(page.records)[-10:]
        (kept,) = await pages(stores[2], [Request(channel, KEPT, 0, 100)])
        assert list(kept.records) == [(prev, at.offset, record) for prev, at, record in announced[-100:]]


async def test_writers_in_several_processes_leave_no_hole_and_publish_a_key_once(backend: Backend) -> None:
    if not backend.url:
        pytest.skip("history in memory belongs to one process")
    channel = backend.channel()
    listener = await backend.listen(channel)
    writer = str(Path(__file__).with_name("writer.py"))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, writer, backend.url, backend.gateway, channel, str(number), "300"
        )
        for number in range(2)
    ]
    with anyio.fail_after(30):
        assert [await process.wait() for process in processes] == [0] * 2
    announced = in_order(
        backend, await listener.next(4 * 300 + 10)
    )  # two stores each, and 10 keys that all four have used
    assert [at.offset for _, at, _ in announced] == list(range(1, 4 * 300 + 11))
    assert len({record for _, _, record in announced}) == 4 * 300 + 10


async def test_an_idempotency_key_publishes_once_from_all_nodes(backend: Backend) -> None:
    stores, channel = [await backend.open() for _ in range(4)], backend.channel()
    listener = await backend.listen(channel)
    futures = [
        store.append(entry(channel, b"%d" % number, idempotency_key="the key"))
        for number, store in enumerate(stores * 5)
    ]
    results = [await future for future in futures]
    assert sorted(is_new for _, is_new in results) == [False] * 19 + [True]
    assert len({at for at, _ in results}) == 1
    other, is_new = await stores[0].append(entry(channel, b"other", idempotency_key="the"))
    assert (other.offset, is_new) == (2, True)
    assert len(await listener.next(2)) == 2


async def test_an_idempotency_key_belongs_to_its_channel(backend: Backend) -> None:
    store = await backend.open()
    for channel in (backend.channel(), backend.channel()):
        assert (await store.append(entry(channel, b"x", idempotency_key="key")))[1]


@pytest.mark.parametrize("name", ["a", "{b}", "ü/…:%20", "a'\"\\", "{0}:x:h:y", "…" * 85])
@pytest.mark.parametrize("key", ["", "k", " \n\r\x00{}", "\ud800"])
async def test_names_and_keys_may_have_any_characters(backend: Backend, name: str, key: str) -> None:
    store, settings = await backend.open(), LATEST if supports(backend, LATEST) else ChannelSettings(history=1)
    channel = f"{backend.channel()}:{name}"
    first, _ = await store.append(entry(channel, b"1", settings, key=key, idempotency_key=key))
    second, is_new = await store.append(entry(channel, b"2", settings, key=key, idempotency_key=key))
    assert (second == first, is_new) == ((True, False) if key else (False, True))
    assert await records_of(backend, channel, settings) == [b"1" if key else b"2"]


@pytest.mark.parametrize("settings", [KEPT, LATEST])
async def test_records_may_have_any_bytes(backend: Backend, settings: ChannelSettings) -> None:
    if not supports(backend, settings):
        pytest.skip("NATS does not keep the newest of each key")
    store, channel = await backend.open(), backend.channel()
    listener = await backend.listen(channel)
    records = [b"", b"\n", b"\r\n$5\r\n", bytes(range(256)) * 2048, b"7\nseven"]
    for number, record in enumerate(records):
        await store.append(entry(channel, record, settings, key=str(number)))
    assert await records_of(backend, channel, settings) == records
    assert [record for _, _, record in await listener.next(len(records))] == records


async def test_what_is_announced_is_what_is_stored(backend: Backend) -> None:
    store, channel = await backend.open(), backend.channel()
    listeners = [await backend.listen(channel) for _ in range(3)]
    results = [await future for future in [store.append(entry(channel, b"%d" % number)) for number in range(50)]]
    (page,) = await pages(store, [Request(channel, KEPT, 0, 100)])
    for listener in listeners:
        announced = await listener.next(50)
        assert [(prev, at.offset, record) for prev, at, record in announced] == list(page.records)
        assert [at for _, at, _ in announced] == [at for at, _ in results]


# What is kept


async def test_only_the_newest_are_kept(backend: Backend) -> None:
    store, channel, settings = await backend.open(), backend.channel(), ChannelSettings(history=3)
    for number in range(1, 8):
        await store.append(entry(channel, b"%d" % number, settings))
    (page,) = await pages(store, [Request(channel, settings, 0, 100)])
    assert (page.top, page.start) == (7, 4)
    assert page.records == [(4, 5, b"5"), (5, 6, b"6"), (6, 7, b"7")]


async def test_records_expire_and_the_position_stays(backend: Backend) -> None:
    store = await backend.open()
    for settings in (
        ChannelSettings(history=3, history_ttl=0.2),
        ChannelSettings(history=3, history_ttl=0.2, keep=Keep.LAST),
    ):
        if not supports(backend, settings):
            continue
        channel = backend.channel()
        at, _ = await store.append(entry(channel, b"x", settings, key="a"))
        with anyio.fail_after(10):
            while (page := (await pages(store, [Request(channel, settings, 0, 100)]))[0]).records:
                await asyncio.sleep(0.01)  # only time makes it expire
        assert (page.epoch, page.top, page.start) == (at.epoch, 1, 1)
        after, _ = await store.append(entry(channel, b"y", settings, key="b"))
        assert (after.epoch, after.offset) == (at.epoch, 2)
        (page,) = await pages(store, [Request(channel, settings, 0, 100)])
        assert (page.start, page.records) == (1, [(1, 2, b"y")])


async def test_forget_drops_the_records_and_the_position_stays(backend: Backend) -> None:
    if backend.is_nats:
        pytest.skip("NATS forgets the position, too: test_nats.py")
    store = await backend.open()
    for settings in (KEPT, LATEST):
        channel = backend.channel()
        for number in range(5):
            at, _ = await store.append(entry(channel, b"%d" % number, settings, key=str(number)))
        await store.forget(channel)
        (page,) = await pages(store, [Request(channel, settings, 0, 100)])
        assert page == StoredPage(at.epoch, 5, 5, [])
        assert (await store.append(entry(channel, b"6", settings, key="1")))[0] == (at.epoch, 6)
        (page,) = await pages(store, [Request(channel, settings, 3, 100)])
        assert page == StoredPage(at.epoch, 6, 5, [(5, 6, b"6")])


async def test_the_newest_value_of_each_key_is_kept(backend: Backend) -> None:
    if not supports(backend, LATEST):
        pytest.skip("NATS does not keep the newest of each key")
    store, channel = await backend.open(), backend.channel()
    settings = ChannelSettings(history=3, keep=Keep.LAST)
    for number, key in enumerate("abacb", 1):
        await store.append(entry(channel, b"%d" % number, settings, key=key))
    (page,) = await pages(store, [Request(channel, settings, 0, 100)])
    assert (page.top, page.start) == (5, 0)  # nothing is missing, except what was replaced
    assert page.records == [(2, 3, b"3"), (3, 4, b"4"), (4, 5, b"5")]
    await store.append(entry(channel, b"6", settings, key="d"))
    (page,) = await pages(store, [Request(channel, settings, 0, 100)])
    assert (page.top, page.start) == (6, 3)
    assert [record for _, _, record in page.records] == [b"4", b"5", b"6"]


async def test_10_000_keys_are_kept(backend: Backend) -> None:
    if not supports(backend, LATEST):
        pytest.skip("NATS does not keep the newest of each key")
    store, channel = await backend.open(), backend.channel()
    settings = ChannelSettings(history=10_000, keep=Keep.LAST)
    for start in range(0, 10_100, 500):
        futures = [
            store.append(entry(channel, b"%d" % number, settings, key=f"key {number}"))
            for number in range(start, min(start + 500, 10_100))
        ]
        await asyncio.wait(futures)
    (page,) = await pages(store, [Request(channel, settings, 0, 10_000)])
    assert (page.top, page.start, len(page.records)) == (10_100, 100, 10_000)
    assert [record for _, _, record in page.records] == [b"%d" % number for number in range(100, 10_100)]


# Reading


@pytest.mark.parametrize("settings", [KEPT, LATEST])
async def test_a_page_begins_above_an_offset_or_ends_with_the_newest(
    backend: Backend, settings: ChannelSettings
) -> None:
    if not supports(backend, settings):
        pytest.skip("NATS does not keep the newest of each key")
    store, channel = await backend.open(), backend.channel()
    for number in range(1, 8):
        await store.append(entry(channel, b"%d" % number, settings, key=str(number)))

    async def page_of(above: int | None, most: int) -> tuple[int, bytes]:
        (page,) = await pages(store, [Request(channel, settings, above, most)])
        assert page.top == 7
        assert all(prev == offset - 1 and record == b"%d" % offset for prev, offset, record in page.records)
        return page.start, b"".join([record for _, _, record in page.records])

    assert await page_of(0, 100) == (0, b"1234567")
    assert await page_of(4, 100) == (4, b"567")
    assert await page_of(4, 2) == (4, b"56")
    assert await page_of(7, 100) == (7, b"")
    assert await page_of(2**63 - 1, 100) == (7, b"")
    assert await page_of(3, 0) == (3, b"")
    assert await page_of(None, 2) == (5, b"67")
    assert await page_of(None, 100) == (0, b"1234567")
    assert await page_of(None, 0) == (7, b"")


async def test_a_channel_gets_its_epoch_with_the_first_read(backend: Backend) -> None:
    one, two, channel = await backend.open(), await backend.open(), backend.channel()
    (page,) = await pages(one, [Request(channel, KEPT, None, 10)])
    assert (page.top, page.start, list(page.records)) == (0, 0, [])
    assert (await two.append(entry(channel, b"x")))[0] == (page.epoch, 1)


async def test_pages_have_the_order_of_the_requests(backend: Backend) -> None:
    store, channels = await backend.open(), [backend.channel() for _ in range(1200)]
    await asyncio.wait([store.append(entry(channel, channel.encode())) for channel in channels])
    found = await pages(store, [Request(channel, KEPT, 0, 100) for channel in channels])
    assert [record for page in found for _, _, record in page.records] == [channel.encode() for channel in channels]
    assert await pages(store, []) == []


# Renewing


async def test_renew_replaces_the_epoch_once(backend: Backend) -> None:
    if backend.is_nats:
        pytest.skip("NATS drops the records, too: test_nats.py")
    one, two, channel = await backend.open(), await backend.open(), backend.channel()
    at, _ = await one.append(entry(channel, b"x"))
    await asyncio.gather(one.renew(channel, at.epoch), two.renew(channel, at.epoch))
    (page,) = await pages(one, [Request(channel, KEPT, 0, 100)])
    assert page.epoch != at.epoch
    assert (page.top, page.records) == (1, [(0, 1, b"x")])
    await two.renew(channel, at.epoch)
    await two.renew(channel, "other")
    assert (await two.append(entry(channel, b"y")))[0] == (page.epoch, 2)


# Ending


async def test_a_store_may_be_closed_twice_and_refuses_then(backend: Backend) -> None:
    if not backend.url:
        pytest.skip("history in memory is closed with its process")
    before = asyncio.all_tasks()
    store, channel = await backend.open(), backend.channel()
    futures = [store.append(entry(channel, b"x")) for _ in range(100)]
    await store.aclose()
    await store.aclose()
    assert all(future.done() for future in futures)
    with pytest.raises(HistoryError, match="the history is closed"):
        await store.append(entry(channel, b"x"))
    with pytest.raises(HistoryError, match="the history is closed"):
        await pages(store, [Request(channel, KEPT, 0, 100)])
    assert not asyncio.all_tasks() - before


async def test_gateways_do_not_share_histories(backend: Backend) -> None:
    if not backend.url:
        pytest.skip("history in memory belongs to one gateway")
    async with backend_at(backend.url, gateway=GATEWAY + "x") as other:
        channel = backend.channel()
        await (await backend.open()).append(entry(channel, b"x"))
        assert await records_of(other, channel) == []

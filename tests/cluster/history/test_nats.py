"""What is particular to a history in JetStream of NATS: streams, holes, what they forget, and failures."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from secrets import token_hex

import anyio
import pytest

from tests.cluster.history.stores import GATEWAY, KEPT, Backend, backend_at, entry, pages
from tests.services import Process, jetstream, nats
from wsgateway.cluster.history import jetstream as connections
from wsgateway.cluster.history import stream_reader
from wsgateway.cluster.history.jetstream import JetStream
from wsgateway.cluster.history.store import Request, StoredPage
from wsgateway.config.channels import ChannelSettings
from wsgateway.exceptions import HistoryError

ALL = Request("c", KEPT, 0, 100)


@pytest.fixture(scope="module")
def shared() -> Iterator[Process]:
    with jetstream() as service:
        yield service


@pytest.fixture
async def backend(shared: Process) -> AsyncIterator[Backend]:
    async with backend_at(shared.url, GATEWAY + token_hex(4)) as found:
        yield found


@pytest.fixture
def server() -> Iterator[Process]:
    with jetstream() as service:
        yield service


async def test_forget_drops_the_records_and_the_position_and_the_epoch_stays(backend: Backend) -> None:
    store = await backend.open()
    listener = await backend.listen("c")
    for number in range(5):
        at, _ = await store.append(entry("c", b"%d" % number))
        await store.append(entry("other", b"%d" % number))
    await store.forget("c")
    assert await pages(store, [ALL]) == [StoredPage(at.epoch, 0, 0, [], is_blank=True)]
    after, _ = await store.append(entry("c", b"x"))
    assert after == (at.epoch, 11)
    assert (await listener.next(6))[-1] == (0, after, b"x")
    (page, other) = await pages(store, [ALL, Request("other", KEPT, 0, 100)])
    assert page == StoredPage(at.epoch, 11, 0, [(0, 11, b"x")])
    assert len(other.records) == 5


async def test_renew_drops_the_stream_once(backend: Backend) -> None:
    one, two = await backend.open(), await backend.open()
    at, _ = await one.append(entry("c", b"x"))
    await two.append(entry("c", b"y"))
    await asyncio.gather(one.renew("c", at.epoch), two.renew("c", at.epoch))
    (page,) = await pages(one, [ALL])
    assert page.epoch != at.epoch
    assert page == StoredPage(page.epoch, 0, 0, [], is_blank=True)
    await two.renew("c", at.epoch)
    await two.renew("c", "other")
    assert (await two.append(entry("c", b"z")))[0] == (page.epoch, 1)


async def test_a_node_that_did_not_know_of_the_renewal_goes_on(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TIMEOUT", 0.2)
    one, two = await backend.open(), await backend.open()
    at, _ = await one.append(entry("c", b"x"))
    await two.renew("c", at.epoch)
    with pytest.raises(HistoryError, match="because it was deleted"):
        await one.append(entry("c", b"y"))
    with pytest.raises(HistoryError, match="did not answer"):
        await pages(one, [ALL])
    (page,) = await pages(one, [ALL])
    assert page.epoch != at.epoch
    assert (await one.append(entry("c", b"y")))[0] == (page.epoch, 1)


async def test_other_limits_change_the_stream_of_a_namespace_and_not_its_epoch(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = ChannelSettings(history=2), ChannelSettings(history=4)
    monkeypatch.setattr("wsgateway.cluster.history.nats.NatsHistory._token", lambda self, settings: "0")
    one, two = await backend.open(), await backend.open()
    for number in range(4):
        at, _ = await one.append(entry("c", b"%d" % number, small))
    for number in range(4, 7):
        assert (await two.append(entry("c", b"%d" % number, large)))[0].epoch == at.epoch
    (page,) = await pages(two, [Request("c", large, 0, 100)])
    assert [record for _, _, record in page.records] == [b"3", b"4", b"5", b"6"]


async def test_a_page_of_many_bytes_begins_with_the_newest(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "MAX_PAGE_BYTES", 25)
    store = await backend.open()
    for _ in range(5):
        at, _ = await store.append(entry("c", b"x" * 10))
    assert await pages(store, [ALL]) == [StoredPage(at.epoch, 5, 3, [(3, 4, b"x" * 10), (4, 5, b"x" * 10)])]


async def test_a_page_has_no_hole_while_others_append(backend: Backend) -> None:
    settings = ChannelSettings(history=5)
    one, two = await backend.open(), await backend.open()

    async def write() -> None:
        for number in range(300):
            await one.append(entry("c", b"%d" % number, settings))

    writing = asyncio.create_task(write())
    while not writing.done():
        (page,) = await pages(two, [Request("c", settings, 0, 100)])
        records = [int(record) for _, _, record in page.records]
        assert records == list(range(records[0], records[0] + len(records))) if records else page.is_blank
    await writing


async def test_a_publication_that_is_too_large_is_refused(backend: Backend) -> None:
    store = await backend.open()
    with pytest.raises(HistoryError, match="max_payload"):
        await store.append(entry("c", b"x" * 2_000_000))
    assert (await store.append(entry("c", b"x")))[0].offset == 1


async def test_too_many_publications_are_refused(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_UNANSWERED", 10)
    store = await backend.open()
    futures = [store.append(entry("c", b"x")) for _ in range(20)]
    await asyncio.wait(futures)
    errors = [future.exception() for future in futures]
    assert errors[:10] == [None] * 10
    assert all("too many publications" in str(error) for error in errors[10:])


async def test_a_stream_of_another_program_with_the_same_subjects_is_reported(server: Process) -> None:
    other = JetStream(server.url)
    await other.ask_json("STREAM.CREATE.all", {"name": "all", "subjects": ["wsgateway.>"], "storage": "memory"})
    await other.aclose()
    async with backend_at(server.url) as backend:
        with pytest.raises(HistoryError, match="a stream of another program contains"):
            await (await backend.open()).append(entry("c", b"x"))


async def test_a_server_without_jetstream_is_reported() -> None:
    with nats() as server:
        async with backend_at(server.url) as backend:
            store = await backend.open()
            for attempt in (store.append(entry("c", b"x")), pages(store, [ALL]), store.forget("c")):
                with pytest.raises(HistoryError, match=r"has no JetStream .* start nats-server with -js"):
                    await attempt


async def test_a_server_that_is_away_is_reported(server: Process) -> None:
    async with backend_at(server.url) as backend:
        store = await backend.open()
        server.kill()
        with pytest.raises(HistoryError, match="cannot be reached"):
            await store.append(entry("c", b"x"))


async def test_a_server_killed_between_the_answers_fails_those_without_one(server: Process) -> None:
    async with backend_at(server.url) as backend:
        store = await backend.open()
        before, _ = await store.append(entry("c", b"x"))
        futures = [store.append(entry("c", b"x")) for _ in range(5000)]
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        server.kill()
        with anyio.fail_after(10):
            await asyncio.wait(futures)
        errors = [error for future in futures if (error := future.exception()) is not None]
        assert 0 < len(errors) < 5000
        assert all(isinstance(error, HistoryError) for error in errors)
        server.start()
        at, _ = await store.append(entry("c", b"x"))
        assert at.offset == 1  # it was restarted empty
        assert at.epoch != before.epoch
        assert await pages(store, [ALL]) == [StoredPage(at.epoch, 1, 0, [(0, 1, b"x")])]


async def test_a_server_that_does_not_answer_fails_appends_and_reads(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TIMEOUT", 0.2)
    async with backend_at(server.url) as backend:
        store = await backend.open()
        await store.append(entry("c", b"1"))
        server.stop()
        futures = [store.append(entry("c", b"x")) for _ in range(3)]
        with pytest.raises(HistoryError, match="did not answer"):
            await pages(store, [ALL])
        await asyncio.wait(futures)
        for future in futures:
            error = future.exception()
            assert isinstance(error, HistoryError)
            assert error.is_late
        server.go_on()
        assert (await store.append(entry("c", b"x")))[0].offset > 1

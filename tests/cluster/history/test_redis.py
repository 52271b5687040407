"""The history in Redis when the server is full, away, a replica, or takes away permissions. Real servers."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from tests.cluster.history.stores import GATEWAY, KEPT, LATEST, Backend, backend_at, entry, pages
from tests.services import Process, redis
from wsgateway.cluster.history import pipeline
from wsgateway.cluster.history import redis as history_redis
from wsgateway.cluster.history.scripts import keys_of
from wsgateway.cluster.history.store import HistoryStore, Request, StoredPage
from wsgateway.config.channels import ChannelSettings
from wsgateway.exceptions import HistoryError


@pytest.fixture(scope="module")
def shared() -> Iterator[Process]:
    """A server that no test changes for the others."""
    with redis() as service:
        yield service


@pytest.fixture
def server() -> Iterator[Process]:
    with redis() as service:
        yield service


@pytest.fixture
async def backend(shared: Process) -> AsyncIterator[Backend]:
    async with backend_at(shared.url) as found:
        yield found


@pytest.fixture(autouse=True)
async def unretrieved() -> AsyncIterator[None]:
    """No future is left with an exception that nobody has seen."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    yield
    gc.collect(1)  # the youngest objects; all would take 0.2 s for each test
    assert faults == []


async def error_of(store: HistoryStore, channel: str = "c") -> HistoryError:
    with anyio.fail_after(10), pytest.raises(HistoryError) as found:
        await store.append(entry(channel, b"x"))
    return found.value


def names_of(channel: str) -> list[str]:
    """The keys of a channel."""
    return [key.decode() for key in keys_of(GATEWAY, channel)]


# What was lost or evicted


async def test_an_evicted_list_looks_too_short(backend: Backend, shared: Process) -> None:
    store, channel = await backend.open(), backend.channel()
    for number in range(1, 6):
        at, _ = await store.append(entry(channel, b"%d" % number))
    shared.command("DEL", names_of(channel)[0])
    (page,) = await pages(store, [Request(channel, KEPT, 2, 100)])
    assert page == StoredPage(at.epoch, 5, 5, [])
    await store.append(entry(channel, b"6"))
    (page,) = await pages(store, [Request(channel, KEPT, 2, 100)])
    assert page == StoredPage(at.epoch, 6, 5, [(5, 6, b"6")])


@pytest.mark.parametrize("which", [0, 2])
async def test_evicted_values_or_their_order_look_too_few(backend: Backend, shared: Process, which: int) -> None:
    store, channel = await backend.open(), backend.channel()
    for number in range(1, 6):
        at, _ = await store.append(entry(channel, b"%d" % number, LATEST, key=str(number)))
    shared.command("DEL", names_of(channel)[which])
    (page,) = await pages(store, [Request(channel, LATEST, 2, 100)])
    assert page == StoredPage(at.epoch, 5, 5, [])
    await store.append(entry(channel, b"6", LATEST, key="1"))
    (page,) = await pages(store, [Request(channel, LATEST, 0, 100)])
    assert page == StoredPage(at.epoch, 6, 5, [(5, 6, b"6")])


@pytest.mark.parametrize("settings", [KEPT, LATEST])
@pytest.mark.parametrize("is_read_first", [True, False])
async def test_a_lost_position_begins_a_new_epoch_without_records(
    backend: Backend, shared: Process, settings: ChannelSettings, is_read_first: bool
) -> None:
    store, channel = await backend.open(), backend.channel()
    at, _ = await store.append(entry(channel, b"1", settings))
    await store.append(entry(channel, b"2", settings, key="k"))
    shared.command("DEL", names_of(channel)[1])
    if is_read_first:
        (page,) = await pages(store, [Request(channel, settings, 0, 100)])
        assert (page.top, page.start, page.records) == (0, 0, [])
    after, _ = await store.append(entry(channel, b"3", settings))
    assert after.offset == 1
    assert after.epoch != at.epoch
    (page,) = await pages(store, [Request(channel, settings, 0, 100)])
    assert page == StoredPage(after.epoch, 1, 0, [(0, 1, b"3")])


async def test_another_keep_begins_a_new_epoch(backend: Backend) -> None:
    store, channel, epochs = await backend.open(), backend.channel(), set()
    for settings in (KEPT, LATEST, KEPT, LATEST):
        at, _ = await store.append(entry(channel, b"x", settings, key="k"))
        assert at.offset == 1
        epochs.add(at.epoch)
        (page,) = await pages(store, [Request(channel, settings, 0, 100)])
        assert page == StoredPage(at.epoch, 1, 0, [(0, 1, b"x")])
    assert len(epochs) == 4


@pytest.mark.parametrize("settings", [KEPT, LATEST])
async def test_a_smaller_history_holds_from_the_next_publication_on(
    backend: Backend, settings: ChannelSettings
) -> None:
    store, channel = await backend.open(), backend.channel()
    for number in range(1, 9):
        await store.append(entry(channel, b"%d" % number, settings, key=str(number)))
    small = ChannelSettings(history=2, keep=settings.keep)
    await store.append(entry(channel, b"9", small, key="9"))
    (page,) = await pages(store, [Request(channel, small, 0, 100)])
    assert (page.top, page.start, page.records) == (9, 7, [(7, 8, b"8"), (8, 9, b"9")])


@pytest.mark.parametrize("settings", [KEPT, LATEST])
async def test_a_page_is_bounded_in_bytes_and_ends_with_the_newest(
    backend: Backend, settings: ChannelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_redis, "MAX_PAGE_BYTES", 1000)
    store, channel = await backend.open(), backend.channel()
    for number in range(1, 101):
        await store.append(entry(channel, b"%090d" % number, settings, key=str(number)))
    for above in (0, 50, None):
        (page,) = await pages(store, [Request(channel, settings, above, 10_000)])
        assert page.top == 100
        assert 5 < len(page.records) < 12
        assert page.start == page.records[0][0] == 100 - len(page.records)
        assert [int(record) for _, _, record in page.records] == list(range(page.start + 1, 101))
    await store.append(entry(channel, b"x" * 5000, settings, key="1"))
    (page,) = await pages(store, [Request(channel, settings, None, 10_000)])
    assert [len(record) for _, _, record in page.records] == [5000]  # one record is never too large


async def test_positions_without_a_time_limit_do_not_expire(backend: Backend, shared: Process) -> None:
    store, channel, other = await backend.open(), backend.channel(), backend.channel()
    await store.append(entry(channel, b"1", LATEST))
    await store.append(entry(other, b"1", KEPT))
    assert [shared.command("TTL", key) for key in names_of(channel)[:3]] == [b":-1\r\n"] * 3
    assert [shared.command("TTL", key) for key in names_of(other)[:2]] == [b":86400\r\n", b":172800\r\n"]


async def test_evicting_any_key_never_gives_a_wrong_page(server: Process) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    server.command("CONFIG", "SET", "maxmemory", "3mb")
    async with backend_at(server.url) as backend:
        store = await backend.open()
        for number in range(1, 31):
            for settings in (KEPT, LATEST):
                futures = [
                    store.append(entry(f"{settings.keep}{channel}", b"%01000d" % number, settings, key=str(number % 7)))
                    for channel in range(100)
                ]
                await asyncio.wait(futures)
        assert b"evicted_keys:0\r\n" not in server.command("INFO", "stats")
        for settings in (KEPT, LATEST):
            for page in await pages(store, [Request(f"{settings.keep}{n}", settings, 0, 100) for n in range(100)]):
                values = [(offset - page.top + 30, int(record)) for _, offset, record in page.records]
                assert all(offset == value for offset, value in values)
                if settings is KEPT and values:
                    assert [offset for _, offset, _ in page.records] == list(range(page.start + 1, page.top + 1))


# A server that refuses


async def test_a_full_server_refuses_with_a_sentence_and_nothing_is_half_done(server: Process) -> None:
    async with backend_at(server.url) as backend:
        store = await backend.open()
        await store.append(entry("c", b"1"))
        server.command("CONFIG", "SET", "maxmemory", "1")
        error = await error_of(store)
        assert "the server is full, raise its maxmemory or set maxmemory-policy to volatile-ttl" in str(error)
        assert not error.is_late
        await error_of(store, "new")
        (page,) = await pages(store, [Request("c", KEPT, 0, 100)])
        assert (page.top, [record for _, _, record in page.records]) == (1, [b"1"])
        old, new = await store.read([Request("c", KEPT, 0, 100), Request("new", KEPT, 0, 100)])
        assert old == page
        assert isinstance(new, HistoryError)
        other = await backend.open()  # a new connection is made as well
        await error_of(other)
        await store.forget("c")
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert (await store.append(entry("c", b"2")))[0].offset == 2


async def test_a_replica_refuses_and_its_connection_is_dropped(server: Process) -> None:
    async with backend_at(server.url) as backend:
        store = await backend.open()
        await store.append(entry("c", b"1"))
        server.command("REPLICAOF", "127.0.0.1", "1")
        error = await error_of(store)
        assert "the server is a replica now" in str(error)
        assert not error.is_late
        assert "the server is a replica now" in str(await error_of(store))
        with pytest.raises(HistoryError, match="the server is a replica now"):
            await pages(store, [Request("c", KEPT, 0, 100)])
        server.command("REPLICAOF", "NO", "ONE")
        assert (await store.append(entry("c", b"2")))[0].offset == 2


async def test_one_refused_command_does_not_fail_its_neighbors(backend: Backend, shared: Process) -> None:
    store, channels = await backend.open(), [backend.channel() for _ in range(5)]
    shared.command("SET", names_of(channels[2])[1], "x")
    futures = [store.append(entry(channel, b"x")) for channel in channels]
    await asyncio.wait(futures)
    errors = [future.exception() for future in futures]
    assert [error is None for error in errors] == [True, True, False, True, True]
    assert "another program uses a key" in str(errors[2])
    answers = await store.read([Request(channel, KEPT, 0, 100) for channel in channels])
    assert [isinstance(answer, HistoryError) for answer in answers] == [False, False, True, False, False]
    assert (await store.append(entry(channels[0], b"x")))[0].offset == 2


async def test_scripts_that_the_server_has_lost_are_sent_again(server: Process) -> None:
    async with backend_at(server.url) as backend:
        store = await backend.open()
        for number in range(3):
            futures = [store.append(entry("c", b"%d" % (number * 100 + index))) for index in range(100)]
            assert [(await future)[0].offset for future in futures] == list(range(number * 100 + 1, number * 100 + 101))
            assert len((await pages(store, [Request("c", KEPT, 0, 100)]))[0].records) == 100
            server.command("SCRIPT", "FLUSH")
            at, _ = await store.append(entry("d", b"x"))
            server.command("SCRIPT", "FLUSH")
            futures = [store.append(entry("d", b"y")), store.append(entry("d", b"z"))]
            await asyncio.gather(store.renew("d", at.epoch), store.forget("d"), *futures)
            server.command("SCRIPT", "FLUSH")


async def test_a_cancelled_caller_does_not_disturb_the_others(backend: Backend) -> None:
    store, channel = await backend.open(), backend.channel()
    futures = [store.append(entry(channel, b"%d" % number)) for number in range(10)]
    futures[3].cancel()
    await asyncio.wait(futures)
    assert [future.result()[0].offset for future in futures[4:]] == [5, 6, 7, 8, 9, 10]


# A server that is away


async def test_a_server_that_is_away_is_found_again_without_a_storm(server: Process) -> None:
    server.kill()
    async with backend_at(server.url) as backend:
        store = await backend.open()
        error = await error_of(store)
        assert re.search(
            r"the history in redis://127.0.0.1:\d+ is unavailable: .*(refused|Connect call failed)", str(error)
        )
        assert not error.is_late
        server.start()
        with anyio.fail_after(5):
            while True:
                try:
                    at, _ = await store.append(entry("c", b"x"))
                except HistoryError:
                    continue
                break
        assert at.offset == 1
        # two pipelines, this command, and the probe for the port
        connections = re.search(rb"total_connections_received:(\d+)", server.command("INFO", "stats"))
        assert connections is not None
        assert int(connections[1]) <= 8


async def test_attempts_to_connect_have_pauses(server: Process) -> None:
    server.kill()
    attempts = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    async with await asyncio.start_server(count, "127.0.0.1", server.port), backend_at(server.url) as backend:
        store = await backend.open()
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.55
        while loop.time() < end:
            await error_of(store)
        assert attempts <= 2 * 8


async def test_a_server_that_stops_answering_may_have_stored_it(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "TIMEOUT", 0.2)
    async with backend_at(server.url) as backend:
        store = await backend.open()
        await store.append(entry("c", b"1"))
        server.stop()
        error = await error_of(store)
        assert error.is_late
        assert "no answer within 0.2 s; it may have been stored" in str(error)
        error = await error_of(store)  # cannot connect: it was not sent
        assert not error.is_late
        assert "no answer within 0.2 s" in str(error)
        server.go_on()
        at, _ = await store.append(entry("c", b"2"))
        assert at.offset == 3


async def test_more_than_fits_fails_immediately(server: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMEOUT", 0.2)
    async with backend_at(server.url) as backend:
        store = await backend.open()
        server.stop()
        futures = [store.append(entry("c", b"x")) for _ in range(pipeline.MAX_WAITING + 5)]
        failed = [future for future in futures if future.done()]
        assert len(failed) == 5
        assert all("too many commands wait" in str(future.exception()) for future in failed)
        big = [store.append(entry("d", b"x" * 1024 * 1024)) for _ in range(40)]
        assert all(future.done() for future in big)
        with anyio.fail_after(10):
            await asyncio.wait(futures)
        assert all(isinstance(future.exception(), HistoryError) for future in futures)
        server.go_on()
        assert (await store.append(entry("e", b"x")))[0].offset == 1


async def test_a_server_killed_between_the_answers_fails_those_without_one(server: Process) -> None:
    async with backend_at(server.url) as backend:
        store = await backend.open()
        await store.append(entry("c", b"x"))
        futures = [store.append(entry("c", b"x")) for _ in range(5000)]
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        server.kill()
        with anyio.fail_after(10):
            await asyncio.wait(futures)
        errors = [error for future in futures if (error := future.exception()) is not None]
        assert 0 < len(errors) < 5000
        assert all(isinstance(error, HistoryError) for error in errors)
        assert not all(error.is_late for error in errors if isinstance(error, HistoryError))  # most were never sent
        server.start()
        at, _ = await store.append(entry("c", b"x"))
        assert at.offset == 1  # it was restarted empty
        (page,) = await pages(store, [Request("c", KEPT, 0, 100)])
        assert page == StoredPage(at.epoch, 1, 0, [(0, 1, b"x")])


async def test_an_idle_connection_that_was_dropped_is_replaced_unnoticed(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_IDLE", 0.0)
    async with backend_at(server.url) as backend:
        store = await backend.open()
        for number in range(1, 4):
            assert (await store.append(entry("c", b"x")))[0].offset == number
            assert (await pages(store, [Request("c", KEPT, 0, 100)]))[0].top == number
            server.command("CLIENT", "KILL", "TYPE", "normal")


async def test_the_log_has_an_outage_once(server: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wsgateway")
    server.kill()
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(backend_at(server.url))
        store = await backend.open()
        for _ in range(3):
            await error_of(store)
        server.start()
        await store.append(entry("c", b"x"))
        texts = [record.getMessage() for record in caplog.records]
        assert len([text for text in texts if "is unavailable" in text]) <= 2  # of the two connections
        assert any("is available again" in text for text in texts)


# Users and certificates

PERMISSIONS = (
    "~wsgateway:* resetchannels &wsgateway.* +publish +subscribe +unsubscribe +ping +eval +evalsha +hmget +hget +hset "
    "+hincrby +hlen +hdel +pexpire +expire +persist +rpush +ltrim +llen +lrange +zadd +zcard +zrange +zrangebyscore "
    "+zpopmin +unlink"
)
"""As in docs/how-to/processes.md."""


async def test_the_documentation_has_these_permissions() -> None:
    text = (Path(__file__).parents[3] / "docs" / "how-to" / "processes.md").read_text()
    assert PERMISSIONS in " ".join(text.replace("\\\n", " ").split())


OF_SCRIPTS = [word[1:] for word in PERMISSIONS.split() if word[0] == "+"][4:]


def url_of_user(server: Process, permissions: str) -> str:
    assert server.command("ACL", "SETUSER", "gateway", "reset", "on", ">secret", permissions).startswith(b"+OK")
    return server.url.replace("://", "://gateway:secret@")


@pytest.mark.parametrize("settings", [KEPT, LATEST, ChannelSettings(history=2, history_ttl=None)])
async def test_a_user_with_the_documented_permissions_can_do_everything(
    server: Process, settings: ChannelSettings
) -> None:
    async with backend_at(url_of_user(server, PERMISSIONS)) as backend:
        store, channel = await backend.open(), backend.channel()
        listener = await backend.listen(f"{channel}")
        for number in range(120):
            await store.append(entry(channel, b"x", settings, key=str(number), idempotency_key=str(number)))
        at, is_new = await store.append(entry(channel, b"x", settings, idempotency_key="1"))
        assert not is_new
        await store.renew(channel, at.epoch)
        await pages(store, [Request(channel, settings, above, 10) for above in (None, 3)])
        await store.forget(channel)
        assert len(await listener.next(120)) == 120


@pytest.mark.parametrize("name", OF_SCRIPTS)
async def test_a_missing_permission_is_named(shared: Process, name: str) -> None:
    permissions = " ".join(word for word in PERMISSIONS.split() if word != f"+{name}")
    async with backend_at(url_of_user(shared, permissions)) as backend:
        store, channel = await backend.open(), backend.channel()
        error = await error_of(store, channel)
        assert f"+{name}" in str(error) or f"'{name}'" in str(error)
        assert "secret" not in str(error)
        with pytest.raises(HistoryError, match=name):
            await pages(store, [Request(channel, KEPT, 0, 1)])
    assert shared.command("EXISTS", *names_of(channel)) == b":0\r\n"  # nothing is half done


@pytest.mark.parametrize(
    ("missing", "advice"), [("~wsgateway:*", "add ~wsgateway:*"), ("&wsgateway.*", "add &wsgateway.*")]
)
async def test_missing_keys_or_channels_are_named(shared: Process, missing: str, advice: str) -> None:
    permissions = " ".join(word for word in PERMISSIONS.split() if word != missing)
    async with backend_at(url_of_user(shared, permissions)) as backend:
        assert advice in str(await error_of(await backend.open()))


async def test_a_wrong_password_is_an_error_without_it(shared: Process) -> None:
    async with backend_at(url_of_user(shared, PERMISSIONS).replace("secret", "sesame")) as backend:
        error = str(await error_of(await backend.open()))
        assert "does not accept the user name or the password" in error
        assert "sesame" not in error


async def test_a_history_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    for name, blobs in (("key", [certificate.private_key_pem]), ("cert", certificate.cert_chain_pems)):
        (tmp_path / name).write_bytes(b"".join(blob.bytes() for blob in blobs))
    (tmp_path / "ca").write_bytes(authority.cert_pem.bytes())
    tls = ("--tls-port", "{port}", "--port", "0", "--tls-auth-clients", "no", "--tls-ca-cert-file", f"{tmp_path}/ca")
    files = ("--tls-cert-file", f"{tmp_path}/cert", "--tls-key-file", f"{tmp_path}/key")
    with redis(*tls, *files) as service:
        url = f"rediss://localhost:{service.port}"
        async with backend_at(f"{url}?ssl_ca_certs={tmp_path}/ca") as backend:
            store = await backend.open()
            assert (await store.append(entry("c", b"x" * 100_000)))[0].offset == 1
            assert len((await pages(store, [Request("c", KEPT, 0, 1)]))[0].records[0][2]) == 100_000
        async with backend_at(url) as backend:
            assert "certificate verify failed" in str(await error_of(await backend.open()))

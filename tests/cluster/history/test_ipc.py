"""The history of `ipc://` with real sockets: the server beside the proxy, and its clients."""

import asyncio
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq

from tests.clocks import block, jumping, pass_time
from wsgateway.cluster.brokers import Link, opener, release
from wsgateway.cluster.brokers.ipc import Proxy, take_proxy
from wsgateway.cluster.history.ipc import MAX_ASKED, MAX_WAITING, PATIENCE, TIMEOUT, IpcHistory
from wsgateway.cluster.history.requests import MAX_RECORD, VERSION, Answer, encode_answer
from wsgateway.cluster.history.store import Append, Request, parse_announcement
from wsgateway.config.channels import ChannelSettings
from wsgateway.exceptions import HistoryError
from wsgateway.frames import Position
from wsgateway.logs import GatewayLog

SETTINGS = ChannelSettings(history=100)
MEBIBYTE = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ipc"


@pytest.fixture
def proxy(folder: Path) -> Iterator[Proxy]:
    found = take_proxy(folder)
    assert found is not None
    yield found
    found.close()


@asynccontextmanager
async def history(folder: Path, gateway: str = "g", history_bytes: int = MEBIBYTE) -> AsyncIterator[IpcHistory]:
    store = IpcHistory(f"ipc://{folder}", gateway=gateway, history_bytes=history_bytes, log=GatewayLog(gateway))
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


def publication(
    record: bytes, channel: str = "c", *, settings: ChannelSettings = SETTINGS, key: str = "", once: str = ""
) -> Append:
    return Append(channel, f"topic.{channel}", record, settings, key, once)


async def read(store: IpcHistory, channel: str = "c", above: int | None = 0) -> list[tuple[int, bytes]]:
    (page,) = await store.read([Request(channel, SETTINGS, above, 10_000)])
    return [(offset, record) for _, offset, record in page.records]


@asynccontextmanager
async def listening(folder: Path, *topics: str) -> AsyncIterator[Link]:
    """Yield a link whose subscriptions are in force."""
    open_link = opener(f"ipc://{folder}")
    link = await open_link(topics)
    try:
        for topic in topics:
            with anyio.fail_after(5):
                while True:
                    await link.publish([(topic, b"there?")])
                    with anyio.move_on_after(0.05):
                        await link.receive()
                        break
        yield link
    finally:
        await link.aclose()
        await release(open_link)


SERVER = """
import sys
from pathlib import Path
from wsgateway.cluster.brokers.ipc import take_proxy
proxy = take_proxy(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the proxy of `folder` in a process of its own."""
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


@contextmanager
def scripted_server(folder: Path) -> Iterator[zmq.Socket[bytes]]:
    """Yield a socket that takes the place of the history server."""
    folder.mkdir(mode=0o700)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.set(zmq.LINGER, 0)
        router.bind(f"ipc://{folder / 'history'}")
        yield router


async def next_request(router: zmq.Socket[bytes]) -> tuple[bytes, list[Any], list[bytes]]:
    """Return the client, the header, and the records of the next request. Needs no time of the event loop."""
    while not router.poll(1):
        await asyncio.sleep(0)  # one iteration of the event loop, in which the request may be sent
    client, header, *records = router.recv_multipart()
    return client, json.loads(header), records


async def done(future: asyncio.Future[Any]) -> None:
    while not future.done():
        await asyncio.sleep(0)  # one iteration of the event loop, in which an answer may arrive


async def test_a_publication_has_a_position_and_is_announced_before_the_answer(folder: Path, proxy: Proxy) -> None:
    async with listening(folder, "topic.c") as link, history(folder) as store:
        at, is_new = await store.append(publication(b"one"))
        assert (at.offset, is_new) == (1, True)
        with anyio.fail_after(5):
            announced = [data for _, data in await link.receive() if data != b"there?"]
        assert [parse_announcement(data) for data in announced] == [(0, at, b"one")]
        assert await read(store) == [(1, b"one")]


async def test_all_appends_of_an_iteration_are_stored_in_the_order_of_the_calls(folder: Path, proxy: Proxy) -> None:
    async with history(folder) as store:
        futures = [store.append(publication(b"%d" % number)) for number in range(1, 51)]
        with anyio.fail_after(5):
            positions = [at for at, _ in await asyncio.gather(*futures)]
        assert [at.offset for at in positions] == list(range(1, 51))
        assert await read(store) == [(number, b"%d" % number) for number in range(1, 51)]


async def test_when_the_process_with_the_server_ends_another_takes_over_with_a_new_epoch(folder: Path) -> None:
    first = take_proxy(folder)
    assert first is not None
    async with history(folder) as store:
        before, _ = await store.append(publication(b"one"))
        first.close()
        second = take_proxy(folder)
        assert second is not None
        try:
            with anyio.fail_after(5):
                (page,) = await store.read([Request("c", SETTINGS, 0, 100)])
                assert (page.top, page.records) == (0, [])
                after, _ = await store.append(publication(b"two"))
            assert after == Position(page.epoch, 1)
            assert page.epoch != before.epoch
        finally:
            second.close()


# A server that is not there, or does not answer


@jumping
async def test_without_a_server_nothing_was_stored(tmp_path: Path) -> None:
    async with history(tmp_path / "nobody") as store:
        future = store.append(publication(b"one"))
        await pass_time(TIMEOUT + 1)
        with pytest.raises(HistoryError, match="cannot be reached") as error:
            await future
        assert not error.value.is_late
        with pytest.raises(HistoryError, match="cannot be reached"):
            await read(store)


@jumping
async def test_an_append_that_was_sent_may_have_been_stored_and_nothing_overtakes_it(folder: Path) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            sent = store.append(publication(b"one"))
            client, (_, number, *_), records = await next_request(router)
            assert records == [b"one"]
            waiting = store.append(publication(b"two"))
            await pass_time(TIMEOUT + 1)
            with pytest.raises(HistoryError, match="not answered within 5 s; it may have been stored") as error:
                await sent
            assert error.value.is_late
            with pytest.raises(HistoryError, match="does not answer") as error:
                await waiting
            assert not error.value.is_late
            third = store.append(publication(b"three"))
            assert not router.poll(10)  # it is not sent before the first is answered
            router.send_multipart([client, encode_answer(Answer(number, "", [(1, "e", True)]))])
            client, (_, number, *_), records = await next_request(router)
            assert records == [b"three"]
            router.send_multipart([client, encode_answer(Answer(number, "", [(2, "e", True)]))])
            await done(third)
            assert third.result() == (Position("e", 2), True)


@jumping
async def test_an_event_loop_that_was_blocked_still_gets_its_answer(folder: Path) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            future = store.append(publication(b"one"))
            client, (_, number, *_), _ = await next_request(router)
            block(TIMEOUT + 1)
            await asyncio.sleep(0)  # the timer runs
            assert not future.done()
            router.send_multipart([client, encode_answer(Answer(number, "", [(1, "e", True)]))])
            await done(future)
            assert future.result() == (Position("e", 1), True)


@jumping
async def test_a_server_that_never_answers_is_connected_to_again(folder: Path) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            lost = store.append(publication(b"one"))
            first, _, _ = await next_request(router)
            await pass_time(TIMEOUT + PATIENCE)
            assert isinstance(lost.exception(), HistoryError)
            waiting = store.append(publication(b"two"))
            await pass_time(TIMEOUT)
            assert isinstance(waiting.exception(), HistoryError)
            again = store.append(publication(b"three"))
            client, (_, number, *_), records = await next_request(router)
            assert client != first
            assert records == [b"three"]
            router.send_multipart([client, encode_answer(Answer(number, "", [(1, "e", True)]))])
            await done(again)


@jumping
async def test_what_comes_while_a_request_is_answered_forms_the_next(folder: Path) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            first = [store.append(publication(b"%d" % number)) for number in range(3)]
            client, (_, number, *_), records = await next_request(router)
            assert records == [b"0", b"1", b"2"]
            for record in (b"3", b"4"):
                first.append(store.append(publication(record)))
                await asyncio.sleep(0)  # the next iteration
            router.send_multipart([client, encode_answer(Answer(number, "", [(n, "e", True) for n in range(3)]))])
            _, _, records = await next_request(router)
            assert records == [b"3", b"4"]


@jumping
async def test_a_request_that_the_server_refuses_fails_with_its_reason(folder: Path) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            future = store.append(publication(b"one"))
            client, (_, number, *_), _ = await next_request(router)
            old = json.dumps([VERSION + 1, number, "it uses version 2, restart all processes", [], 0, 0])
            router.send_multipart([client, old.encode()])
            await done(future)
            with pytest.raises(HistoryError, match="restart all processes") as error:
                await future
            assert not error.value.is_late


@jumping
async def test_a_request_that_was_sent_when_the_gateway_stops_may_have_been_stored(folder: Path) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            future = store.append(publication(b"one"))
            await next_request(router)
        with pytest.raises(HistoryError, match="has stopped") as error:
            await future
        assert error.value.is_late


@pytest.mark.parametrize(
    "results", ["[]", "[[1]]", '[[1, "e", true], [2, "e", true]]', "[null]", "5", "[[1, 2, 3, 4]]", "[{}]"]
)
@jumping
async def test_results_that_do_not_fit_fail_the_request(folder: Path, results: str) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            future = store.append(publication(b"one"))
            client, (_, number, *_), _ = await next_request(router)
            router.send_multipart([client, b"garbage"])
            router.send_multipart([client, b'[1, 999, "", [], 0, 0]'])
            router.send_multipart([client, b'[1, %d, "", %b, 0, 0]' % (number, results.encode()), b"a record"])
            await pass_time(TIMEOUT + 1)
            assert isinstance(future.exception(), HistoryError)


async def test_the_process_with_the_server_is_killed_and_another_takes_over(folder: Path) -> None:
    with other_process(folder) as process:
        async with history(folder) as store:
            before, _ = await store.append(publication(b"one"))
            stop(process)
            sent = store.append(publication(b"two"))
            await asyncio.sleep(0)  # it is sent at the end of this iteration
            waiting = store.append(publication(b"three"))
            process.kill()
            with anyio.fail_after(5):
                with pytest.raises(HistoryError, match="has ended") as error:
                    await sent
                assert error.value.is_late
                process.wait()
                with other_process(folder):
                    after, _ = await waiting
                    assert after.offset == 1
                    assert after.epoch != before.epoch


@jumping
async def test_a_process_with_the_server_that_is_stopped_for_a_while_stores_in_order(folder: Path) -> None:
    with other_process(folder) as process:
        async with history(folder) as store:
            first = store.append(publication(b"one"))
            await done(first)
            stop(process)
            late = store.append(publication(b"two"))
            await pass_time(TIMEOUT + 1)
            with pytest.raises(HistoryError, match="not answered") as error:
                await late
            assert error.value.is_late
            third = store.append(publication(b"three"))
            process.send_signal(signal.SIGCONT)
            await done(third)
            assert third.result()[0].offset == 3
            stored = asyncio.ensure_future(read(store))
            await done(stored)
            assert stored.result() == [(1, b"one"), (2, b"two"), (3, b"three")]


# Limits


@jumping
async def test_appends_and_reads_that_wait_are_bounded(tmp_path: Path) -> None:
    async with history(tmp_path / "nobody") as store:
        waiting = [store.append(publication(b"x")) for _ in range(MAX_WAITING)]
        with pytest.raises(HistoryError, match="too many"):
            await store.append(publication(b"x"))
        large = [asyncio.ensure_future(read(store, "c" * 250)) for _ in range(MAX_WAITING + 1)]
        await asyncio.sleep(0)  # they begin
        await asyncio.sleep(0)  # the last one fails
        assert large[-1].done()
        await pass_time(TIMEOUT + 1)
        assert all(future.done() for future in waiting + large)
        assert isinstance(large[-1].exception(), HistoryError)
        assert all(isinstance(task.exception(), HistoryError) for task in large)


@jumping
async def test_reads_that_are_not_answered_are_bounded(folder: Path) -> None:
    with scripted_server(folder) as router:
        async with history(folder) as store:
            reads = [asyncio.ensure_future(read(store)) for _ in range(MAX_ASKED + 5)]
            for _ in range(MAX_ASKED):
                await next_request(router)
            assert not router.poll(10)
            await pass_time(TIMEOUT + 1)
            assert all(isinstance(task.exception(), HistoryError) for task in reads)


async def test_the_largest_record_passes_and_a_larger_one_is_refused(folder: Path, proxy: Proxy) -> None:
    async with listening(folder, "topic.c") as link, history(folder, history_bytes=64 * MEBIBYTE) as store:
        record = b"x" * MAX_RECORD
        at, _ = await store.append(publication(record))
        with pytest.raises(HistoryError, match="too large"):
            await store.append(publication(record + b"x"))
        with pytest.raises(HistoryError, match="too large"):
            await store.append(publication(b"x", key="k" * MAX_RECORD))
        with anyio.fail_after(10):
            announced = [data for _, data in await link.receive() if data != b"there?"]
        assert [parse_announcement(data) for data in announced] == [(0, at, record)]
        assert await read(store) == [(1, record)]


async def test_pages_that_do_not_fit_into_one_answer_are_asked_for_again(folder: Path, proxy: Proxy) -> None:
    async with history(folder, history_bytes=64 * MEBIBYTE) as store:
        for number in range(10):
            await store.append(publication(b"x" * MEBIBYTE, f"c{number}"))
        pages = await store.read([Request(f"c{number % 10}", SETTINGS, 0, 10) for number in range(30)])
        assert [[record for _, _, record in page.records] for page in pages] == [[b"x" * MEBIBYTE]] * 30


async def test_names_and_keys_arrive_as_they_are(folder: Path, proxy: Proxy) -> None:
    async with history(folder) as store:
        for name in ("ä€\U0001f600", '"\\', "c" * 255):
            await store.append(publication(b"", name, key="\ud800\0", once="\udfff"))
            assert await read(store, name) == [(1, b"")]


# The process with the server


def is_free(folder: Path) -> bool:
    """Whether no proxy runs."""
    proxy = take_proxy(folder)
    if proxy is not None:
        proxy.close()
    return proxy is not None


async def test_the_histories_outlive_a_link_that_is_lost(folder: Path) -> None:
    open_link = opener(f"ipc://{folder}")
    first = await open_link(["topic.c"])
    async with history(folder) as store:
        at, _ = await store.append(publication(b"one"))
        await first.aclose()
        second = await open_link(["topic.c"])
        assert not is_free(folder)
        assert await store.append(publication(b"two")) == (Position(at.epoch, 2), True)
        await second.aclose()
    await release(open_link)
    assert is_free(folder)


async def test_the_proxy_ends_when_neither_links_nor_their_opener_are_in_use(folder: Path) -> None:
    link = await opener(f"ipc://{folder}")(["topic.c"])
    gc.collect()
    assert not is_free(folder)
    await link.aclose()
    del link
    gc.collect()
    assert is_free(folder)


@pytest.mark.parametrize("removed", ["in", "out", "history", ""])
async def test_the_next_link_has_a_new_proxy_if_a_cleaner_of_temporary_files_was_there(
    folder: Path, removed: str
) -> None:
    open_link = opener(f"ipc://{folder}")
    link = await open_link(["topic.c"])
    await link.aclose()
    if removed:
        (folder / removed).unlink()
    else:
        folder.rename(folder.with_name("old"))
    link = await open_link(["topic.c"])
    async with history(folder) as store:
        at, _ = await store.append(publication(b"one"))
        assert at.offset == 1
    await link.aclose()
    await release(open_link)
    assert is_free(folder)


def leftovers() -> tuple[int, int]:
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


async def test_a_closed_history_leaves_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = leftovers()
    proxy = take_proxy(folder)
    assert proxy is not None
    async with history(folder) as store:
        await store.append(publication(b"one"))
        waiting: list[asyncio.Future[Any]] = [store.append(publication(b"three"))]
        waiting.append(store.append(publication(b"three")))
    await store.aclose()
    for future in waiting:
        with pytest.raises(HistoryError, match="has stopped"):
            await future
    store.append(publication(b"nobody waits for it"))
    with pytest.raises(HistoryError, match="is closed"):
        await store.append(publication(b"four"))
    proxy.close()
    proxy.close()
    del waiting, future, store
    gc.collect()
    assert leftovers() == before
    assert not caplog.records


EXIT = """
import asyncio, gc, sys
from pathlib import Path
from wsgateway.cluster.brokers.ipc import take_proxy
from wsgateway.cluster.history.ipc import IpcHistory
from wsgateway.cluster.history.store import Append
from wsgateway.config.channels import ChannelSettings
from wsgateway.logs import GatewayLog

async def main(folder):
    proxy = take_proxy(Path(folder))
    store = IpcHistory(f"ipc://{folder}", gateway="g", history_bytes=1000, log=GatewayLog("g"))
    await store.start()
    await store.append(Append("c", "t", b"one", ChannelSettings(history=1)))
    store.append(Append("c", "t", b"two", ChannelSettings(history=1)))

asyncio.run(main(sys.argv[1]))
gc.collect()
"""


def test_a_process_that_closes_nothing_ends(folder: Path) -> None:
    command = [sys.executable, "-X", "dev", "-c", EXIT, str(folder)]
    ended = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


async def test_garbage_does_not_end_the_server(folder: Path, proxy: Proxy) -> None:
    async with history(folder) as store:
        at, _ = await store.append(publication(b"one"))
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
        ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 1000, greeting[:20], greeting, greeting + ready[:9]):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(folder / "history"))
                raw.sendall(data)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(folder / "history"))
            raw.sendall(greeting + ready + b"\x03" + (2**62).to_bytes(8) + b"half a frame")
            with zmq.Context() as context:
                for kind in (zmq.REQ, zmq.SUB, zmq.PUSH, zmq.DEALER):
                    with context.socket(kind) as other:
                        other.set(zmq.LINGER, 100)
                        other.connect(f"ipc://{folder / 'history'}")
                        if kind == zmq.DEALER:
                            other.send_multipart([b""] * 1000)
                            other.send_multipart([b"[1]", os.urandom(1000)])
                            other.send(os.urandom(10))
                            with anyio.fail_after(5):
                                while not other.poll(1):
                                    await asyncio.sleep(0)  # until the server answers
                            assert json.loads(other.recv())[2]
        with anyio.fail_after(5):
            assert await store.append(publication(b"two")) == (Position(at.epoch, 2), True)


async def test_a_client_that_floods_and_reads_nothing_does_not_stop_the_others(folder: Path) -> None:
    with other_process(folder) as process, zmq.Context() as context, context.socket(zmq.DEALER) as flood:
        async with history(folder, history_bytes=64 * MEBIBYTE) as store:
            for _ in range(4):
                await store.append(publication(b"x" * MEBIBYTE, "large"))
            flood.set(zmq.LINGER, 0)
            flood.set(zmq.SNDHWM, 100_000)
            flood.set(zmq.RCVHWM, 1)
            flood.connect(f"ipc://{folder / 'history'}")
            item = '["large", 100, 86400, "all", 0, 10]'
            for _ in range(2000):
                flood.send(f'[1, 1, "read", "g", {64 * MEBIBYTE}, [{item}]]'.encode())
            with anyio.fail_after(30):
                for number in range(1, 101):
                    at, _ = await store.append(publication(b"x"))
                    assert at.offset == number
            status = Path(f"/proc/{process.pid}/status").read_text()
            kilobytes = int(status.partition("VmHWM:")[2].split()[0])
            assert kilobytes < 400 * 1024  # 16 answers of 4 MiB wait at most, and as much again in the client's pipe


async def test_two_gateways_share_a_folder(folder: Path, proxy: Proxy) -> None:
    async with history(folder, "one") as one, history(folder, "two") as two:
        await one.append(publication(b"one"))
        await two.append(publication(b"two"))
        assert (await read(one), await read(two)) == ([(1, b"one")], [(1, b"two")])
        await one.forget("c")
        assert (await read(one), await read(two)) == ([], [(1, b"two")])


async def test_a_thousand_clients(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 1000 if hard >= 4096 else 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        with other_process(folder), zmq.Context() as context:
            context.set(zmq.MAX_SOCKETS, 2000)
            clients = [context.socket(zmq.DEALER) for _ in range(count)]
            for number, client in enumerate(clients):
                client.set(zmq.LINGER, 0)
                client.connect(f"ipc://{folder / 'history'}")
                item = json.dumps([f"c{number % 10}", "t\0", 10_000, 60, "all", "", ""])
                client.send_multipart([f'[1, {number}, "append", "g", {MEBIBYTE}, [{item}]]'.encode(), b"x"])
            offsets = []
            for number, client in enumerate(clients):
                assert client.poll(20_000)
                _, answered, error, ((offset, _, is_new),), *_ = json.loads(client.recv())
                assert (answered, error, is_new) == (number, "", True)
                offsets.append(offset)
                client.close()
            assert sorted(offsets) == sorted(list(range(1, count // 10 + 1)) * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

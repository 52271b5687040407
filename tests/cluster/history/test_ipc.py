"""The history of `ipc://` with real sockets: the server beside the proxy, and its clients."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from wsgateway.cluster.brokers import Link, opener
from wsgateway.cluster.brokers.ipc import Proxy, take_proxy
from wsgateway.cluster.history.ipc import IpcHistory
from wsgateway.cluster.history.store import Append, Request, parse_announcement
from wsgateway.config.channels import ChannelSettings
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
    link = await opener(f"ipc://{folder}")(topics)
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

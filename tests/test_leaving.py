"""A node that stops while others serve: what proxies still send on their idle connections is answered."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.processes import serving
from tests.raw import Raw, connect, post
from wsgateway import Gateway
from wsgateway.testing import serve


@asynccontextmanager
async def leaving(broker: str | None = None) -> AsyncIterator[tuple[AsyncExitStack, str]]:
    """A gateway, which has a peer where there is a broker, and the stack that stops its server."""
    gateway = Gateway(id="chat", broker=broker, local_access=True)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(gateway))
        with anyio.fail_after(30):
            while gateway.inspector.has_running_peers is not bool(broker):
                await anyio.sleep(0.01)  # nothing reports a new peer
        yield stack, url


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """One over which another process serves the gateway too."""
    url = f"ipc://{tmp_path / 'ipc'}"
    with serving("--id", "chat", "--broker", url, "--no-admin-enabled", cwd=tmp_path) as peer:
        yield url
        assert peer.terminate() == 0


async def idle(url: str) -> Raw:
    """A connection on which one request was answered."""
    raw = await connect(url)
    assert await ask(raw) == (200, False)
    return raw


async def ask(raw: Raw) -> tuple[int, bool]:
    """Post a message; the status, and whether the response is the last one."""
    await raw.send(post({"message": "hi"}))
    head = await raw.receive_until(b"\r\n\r\n")
    size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await raw.receive_exactly(int(size.partition(b":")[2]))
    return int(head.split()[1]), b"connection: close" in head.lower()


async def refused(url: str) -> None:
    """Wait until nothing listens any more."""
    with anyio.fail_after(30):
        while True:
            try:
                await (await connect(url)).stream.aclose()
            except OSError:
                return
            await anyio.sleep(0.01)  # nothing reports that the server has closed its socket


async def test_a_post_on_an_idle_connection_is_answered_and_the_last_one(broker: str) -> None:
    async with leaving(broker) as (stack, url):
        async with await idle(url) as one, await idle(url) as two, anyio.create_task_group() as tasks:
            tasks.start_soon(stack.aclose)
            await refused(url)
            for raw in (one, two):
                assert await ask(raw) == (200, True)
                with pytest.raises(anyio.EndOfStream):
                    await raw.receive_some()


async def test_a_post_on_a_connection_without_a_request_is_answered_too(broker: str) -> None:
    async with leaving(broker) as (stack, url):
        async with await connect(url) as raw, anyio.create_task_group() as tasks:
            tasks.start_soon(stack.aclose)
            await refused(url)
            assert await ask(raw) == (200, True)


async def test_the_only_node_closes_idle_connections_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.server.serving.POOL_GRACE", 3600.0)  # a constant: it would never end
    async with leaving() as (stack, url):
        async with await idle(url) as raw:
            with anyio.fail_after(30):
                await stack.aclose()
            with pytest.raises(anyio.EndOfStream):
                await raw.receive_some()


async def test_an_idle_connection_holds_up_the_end_for_a_limited_time(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgateway.server.serving.POOL_GRACE", 0.2)  # a constant, so that the test is quick
    async with leaving(broker) as (stack, url):
        async with await idle(url):
            with anyio.fail_after(30):
                await stack.aclose()

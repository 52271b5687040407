"""`POST /emulation` in another process than the stream: gateways that share a broker, and workers on one port."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import pytest

from tests.emulated import KINDS, OPTIONS, Emulated
from tests.ports import free_port
from tests.processes import serving
from tests.raw import connect, post
from tests.services import BROKERS, Service, broker
from tests.test_shared_channels import nodes
from wsgateway import Event, MessageEvent
from wsgateway.testing import RecordingListener

RPC = {"id": 2, "rpc": {}}


@pytest.fixture(scope="module", params=BROKERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with TemporaryDirectory() as folder, broker(request.param, Path(folder) / "ipc") as found:
        yield found


@pytest.fixture
async def http() -> Any:
    headers = {"connection": "close"}  # a server that stops waits for idle connections
    async with httpx.AsyncClient(timeout=20, headers=headers) as client:
        yield client


class Sent(RecordingListener):
    """Records what clients send, and broadcasts nothing. The first message waits for `may_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = asyncio.Event()

    async def on_message(self, event: MessageEvent) -> None:
        self.record("on_message", event.message)
        event.connections = []
        await self.may_go.wait()

    @property
    def messages(self) -> list[Any]:
        return [value for name, value in self.events if name == "on_message"]


def send(data: Any) -> dict[str, Any]:
    return {"send": {"data": data}}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_post_that_arrives_in_another_process_reaches_its_stream(
    service: Service, kind: str, http: httpx.AsyncClient
) -> None:
    async with nodes(service.url, 2, channels={}, **OPTIONS) as [(_, url1), (two, url2)]:
        stream = await Emulated.open(url2, kind)
        assert (stream.node, stream.session.partition(".")[0]) == (two.cluster.node, two.cluster.node)
        for number in range(2, 30):
            answer = await stream.post(http, {**RPC, "id": number}, url=url1 if number % 2 else url2)
            assert (answer.status_code, answer.content) == (204, b"")
        assert [(await stream.reply())["id"] for _ in range(2, 30)] == [*range(2, 30)]
        guesses: list[tuple[dict[str, str], int]] = [
            ({"session": "x"}, 204),
            ({"session": stream.session[:-1]}, 204),
            ({"node": "x"}, 404),
            ({"node": "00000000"}, 404),
        ]
        for fields, status in guesses:
            assert (await stream.post(http, RPC, url=url1, **fields)).status_code == status
        await stream.aclose()


async def test_posts_keep_their_order_in_another_process_while_the_inbox_is_full(service: Service) -> None:
    listener = Sent()
    async with nodes(service.url, 2, channels={}, listener=listener, **OPTIONS) as [(_, url1), (_, url2)]:
        stream = await Emulated.open(url2)
        async with AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(await connect(url1)) for _ in range(100)]
            for number, raw in enumerate(raws):
                body = {"session": stream.session, "node": stream.node, "data": json.dumps(send(number))}
                await raw.send(post(body, path="/emulation"))
                if number < 30:
                    await raw.receive_until(b"204 No Content")
            listener.may_go.set()
            for raw in raws[30:]:
                await raw.receive_until(b"204 No Content")
        await listener.wait_for("on_message", 100)
        assert sorted(listener.messages) == [*range(100)]
        assert listener.messages[:30] == [*range(30)]
        await stream.aclose()


async def test_a_post_to_a_full_inbox_in_another_process_is_429(service: Service, http: httpx.AsyncClient) -> None:
    listener = Sent()
    options = {**OPTIONS, "handshake_timeout": 0.5, "hook_timeout": 30}
    async with nodes(service.url, 2, channels={}, listener=listener, **options) as [(_, url1), (_, url2)]:
        stream = await Emulated.open(url2)
        statuses = []
        for number in range(40):
            statuses.append((await stream.post(http, send(number), url=url1)).status_code)
            if statuses[-1] != 204:
                break
        assert statuses[-1] == 429
        listener.may_go.set()
        await listener.wait_for("on_message", len(statuses) - 1)
        await stream.aclose()


async def test_a_process_that_drains_still_answers_204(service: Service, http: httpx.AsyncClient) -> None:
    class Slow(Sent):
        async def on_client_close(self, event: Event) -> None:
            self.record("on_client_close", None)
            await self.may_go.wait()

    listener = Slow()
    async with nodes(service.url, 2, channels={}, listener=listener, drain=20, **OPTIONS) as [one, two]:
        (_, url1), (gateway2, url2) = one, two
        stream, other = await Emulated.open(url2), await Emulated.open(url1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway2.stop)
            await listener.wait_for("on_client_close")
            for url in (url1, url2):
                assert (await stream.post(http, RPC, url=url)).status_code == 204
            assert (await other.post(http, RPC, url=url2)).status_code == 204  # which passes it on
            assert (await other.reply())["id"] == 2
            listener.may_go.set()
        with anyio.fail_after(10):
            while (await stream.post(http, RPC, url=url1)).status_code != 404:  # once it has left
                pass
        await stream.aclose()
        await other.aclose()


async def test_workers_on_one_port_and_one_that_is_killed(tmp_path: Path, http: httpx.AsyncClient) -> None:
    flags = [
        "--workers",
        "2",
        "--admin-port",
        str(free_port()),
        "--protocols",
        "centrifuge",
        "--handshake-timeout",
        "2",
    ]
    with serving(*flags, cwd=tmp_path) as served:
        streams: dict[str, Emulated] = {}
        with anyio.fail_after(30):
            while len(streams) < 2:
                stream = await Emulated.open(served.url)
                if stream.node in streams:
                    await stream.aclose()
                else:
                    streams[stream.node] = stream
        for stream in streams.values():
            for number in range(2, 14):  # each on a socket of its own, so that both processes get some
                async with httpx.AsyncClient(timeout=20) as one:
                    assert (await stream.post(one, {**RPC, "id": number})).status_code == 204
            assert [(await stream.reply())["id"] for _ in range(2, 14)] == [*range(2, 14)]
        async with httpx.AsyncClient(timeout=20) as local:  # without the header, which a proxy adds
            info = (await local.get(f"http://127.0.0.1:{flags[3]}/api/gateways/default/nodes")).json()
        pids = {node["id"]: node["pid"] for node in info["nodes"] if node["state"] == "running"}
        (gone, stream), (_, other) = streams.items()
        os.kill(pids[gone], signal.SIGKILL)
        with anyio.fail_after(20):
            while True:  # the sockets of the process that was killed are reset
                try:
                    async with httpx.AsyncClient(timeout=20) as one:
                        status = (await stream.post(one, RPC)).status_code
                except httpx.TransportError:
                    continue
                assert status in (404, 503)
                if status == 404:
                    break
        assert (await other.post(http, {**RPC, "id": 50})).status_code == 204
        assert (await other.reply())["id"] == 50
        for each in streams.values():
            await each.aclose()

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


async def owner_of(http: httpx.AsyncClient, url: str) -> str:
    """The node that answers on the connection of a client."""
    node: str = (await http.get(url + "/info")).json()["node"]
    return node


async def test_workers_on_one_port_of_which_one_hangs_and_is_killed(tmp_path: Path) -> None:
    admin = free_port()
    flags = ("--protocols", "centrifuge", "--handshake-timeout", "1", "--local-access", "--admin-port", str(admin))
    with serving("--workers", "2", *flags, cwd=tmp_path) as served:
        async with AsyncExitStack() as stack:
            callers: dict[str, httpx.AsyncClient] = {}
            streams: dict[str, Emulated] = {}
            with anyio.fail_after(30):
                while len(callers) < 2:
                    caller = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
                    callers.setdefault(await owner_of(caller, served.url), caller)
                while len(streams) < 2:
                    stream = await Emulated.open(served.url)
                    stack.push_async_callback(stream.aclose)
                    streams.setdefault(stream.node, stream)
            for stream in streams.values():
                for number in range(2, 12):
                    for place, caller in enumerate(callers.values()):
                        answer = await stream.post(caller, {**RPC, "id": number * 2 + place})
                        assert answer.status_code == 204
                assert [(await stream.reply())["id"] for _ in range(4, 24)] == [*range(4, 24)]

            async with httpx.AsyncClient() as http:
                nodes = (await http.get(f"http://127.0.0.1:{admin}/api/gateways/default/nodes")).json()["nodes"]
            (gone, stream), (alive, other) = streams.items()
            (pid,) = (node["pid"] for node in nodes if node["id"] == gone)
            caller = callers[alive]
            os.kill(pid, signal.SIGSTOP)
            assert (await stream.post(caller, RPC)).status_code == 503
            os.kill(pid, signal.SIGKILL)
            with anyio.fail_after(20):
                while (await stream.post(caller, RPC)).status_code != 404:
                    await anyio.sleep(0.05)  # the other process notices it in its own time
            assert (await other.post(caller, {**RPC, "id": 50})).status_code == 204
            assert (await other.reply())["id"] == 50

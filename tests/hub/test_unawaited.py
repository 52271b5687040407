"""A send or close without await is named in the log, in development mode; otherwise nothing is different."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from starlette._utils import is_async_callable
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.routing import Mount, Route

from tests.processes import environment
from wsgateway import Connection, Event, Gateway
from wsgateway.hub.watched import WatchedConnection
from wsgateway.testing import Client, RecordingListener, serve

HERE = Path(__file__).name


class Forgetful:
    async def on_message(self, event: Event) -> None:
        assert event.conn is not None
        if event.message == "send":
            event.conn.send("x")  # type: ignore[unused-coroutine]  # the mistake that is tested
        elif event.message == "close":
            event.conn.close()  # type: ignore[unused-coroutine]
        elif event.message == "push":
            event.gateway.send("x")  # type: ignore[unused-coroutine]
        elif event.message == "stop":
            event.gateway.stop()  # type: ignore[unused-coroutine]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("message", "call"),
    [("send", "conn.send"), ("close", "conn.close"), ("push", "gateway.send"), ("stop", "gateway.stop")],
)
async def test_the_line_names_the_call_and_where_it_is(
    message: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(listener=Forgetful, verbose=True)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send(message)
        assert await ann.receive() == message
        (conn,) = gateway.connections
    (line,) = [line for line in caplog.messages if "without await" in line]
    owner = f"[default] [{conn.id}] " if call.startswith("conn") else "[default] "
    assert line.startswith(f"{owner}{call} was called without await in Forgetful.on_message ({HERE}:")
    assert f"write `await {call}(...)`" in line
    number = int(line.partition(f"{HERE}:")[2].partition(")")[0])
    assert f"event.{call}(" in Path(__file__).read_text().splitlines()[number - 1]


async def test_what_is_awaited_in_any_way_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            conn = event.conn
            assert conn is not None
            event.message = None
            await conn.send("awaited")
            await asyncio.create_task(conn.send("task"))
            await asyncio.gather(conn.send("gathered"), asyncio.wait_for(conn.send("in time"), 5))
            task = asyncio.ensure_future(conn.send("never"))
            task.cancel()
            await asyncio.wait({task})
            await conn.close()

    async with serve(Gateway(listener=Listener, verbose=True)) as url, Client(url) as ann:
        await ann.send("go")
        assert {await ann.receive() for _ in range(4)} == {"awaited", "task", "gathered", "in time"}
        assert (await ann.closed())[0] == 1000
    assert "without await" not in caplog.text


async def test_frameworks_take_them_for_coroutine_functions() -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder, verbose=True)

    async def push(request: object) -> Response:
        return Response(background=BackgroundTask(gateway.send, "in the background"))

    app = Starlette(routes=[Mount("/live", gateway), Route("/push", push)], lifespan=gateway.lifespan)
    async with serve(app) as url, Client(url, "/live/ws") as ann:
        (conn,) = gateway.connections
        functions: list[Callable[..., object]] = [conn.send, conn.close, gateway.send, gateway.stop]
        assert all(is_async_callable(function) for function in functions)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /push HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await ann.receive() == "in the background"
        writer.close()
        await writer.wait_closed()
        assert await reader.read()


@pytest.mark.skipif(
    sys.flags.dev_mode, reason="python -X dev wraps the methods, and this test is about methods that are not wrapped"
)
async def test_outside_development_mode_they_are_plain_coroutine_functions() -> None:
    gateway = Gateway()
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        await ann.receive()
        (conn,) = gateway.connections
        assert type(conn) is Connection
        assert all(map(inspect.iscoroutinefunction, (conn.send, conn.close, gateway.send)))
        assert "send" not in vars(gateway)


async def test_a_watched_connection_is_as_good_as_any() -> None:
    gateway = Gateway(verbose=True)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        await ann.receive()
        (conn,) = gateway.connections
        assert type(conn) is WatchedConnection
        sent = await gateway.send("to one", connections=[conn])
        assert (sent.queued, await ann.receive()) == (1, "to one")
        assert await anyio.to_thread.run_sync(conn.send_from_thread, "from a thread")
        assert await ann.receive() == "from a thread"


SCRIPT = """
import asyncio
from wsgateway import Gateway

async def main():
    async with Gateway().lifespan():
        pass
    gateway = Gateway()
    gateway.send("x")

asyncio.run(main())
"""


@pytest.mark.parametrize(("environ", "count"), [({"PYTHONDEVMODE": "1"}, 1), ({}, 0)])
def test_python_development_mode_is_enough(environ: dict[str, str], count: int) -> None:
    env = environment({"PYTHONWARNINGS": "default", **environ})
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=60)
    line = "[default] gateway.send was called without await in main (<string>:9), so it did nothing"
    assert done.stderr.count(line) == count
    assert "was never awaited" in done.stderr  # Python's own warning

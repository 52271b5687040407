"""Calls from another event loop or thread than the gateway's: refused before anything is changed, or safe."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from wsgateway import Connection, Event, Gateway, GatewayNotRunning, send_gateway_message
from wsgateway.publisher import Publisher
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client, RecordingListener, serve


async def run_lifespan(gateway: Gateway) -> None:
    async with gateway.lifespan():
        pass


GATEWAY_CALLS: dict[str, Callable[[Gateway], Awaitable[object]]] = {
    "send": lambda gateway: gateway.send("x"),
    "start": lambda gateway: gateway.start(),
    "stop": lambda gateway: gateway.stop(),
    "restart": lambda gateway: gateway.restart(),
    "lifespan": run_lifespan,
    "send_gateway_message": lambda gateway: send_gateway_message(gateway.id, {"message": "x"}),
}

CONNECTION_CALLS: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "send": lambda conn: conn.send("x"),
    "close": lambda conn: conn.close(4000),
}


def run_elsewhere(call: Callable[[], Awaitable[object]]) -> object:
    """What `asyncio.run` does in a thread that has no loop, as in a `def` hook or route."""

    async def called() -> object:
        return await call()

    return asyncio.run(called())


def instead_of(name: str) -> str:
    return "send_from_thread" if name.startswith("send") else "run_coroutine_threadsafe"


@pytest.mark.parametrize("name", GATEWAY_CALLS)
async def test_a_gateway_refuses_another_loop_and_goes_on(name: str) -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder, id="elsewhere")
    async with serve(gateway) as url, Client(url) as ann:
        await recorder.wait_for("on_client_open")
        with pytest.raises(RuntimeError, match=instead_of(name)):
            await anyio.to_thread.run_sync(run_elsewhere, lambda: GATEWAY_CALLS[name](gateway))
        assert recorder.events == [("on_client_open", "")]
        assert (gateway.state, gateway.metrics.queued) == ("running", 0)
        await gateway.send("still here")
        assert await ann.receive() == "still here"


@pytest.mark.parametrize("name", CONNECTION_CALLS)
async def test_a_connection_refuses_another_loop_and_goes_on(name: str) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        assert await ann.receive() == "hi"
        (conn,) = gateway.connections
        with pytest.raises(RuntimeError, match=instead_of(name)):
            await anyio.to_thread.run_sync(run_elsewhere, lambda: CONNECTION_CALLS[name](conn))
        assert conn.is_open
        assert (conn.messages_out, conn.queued_messages) == (1, 0)
        assert await conn.send("still here")
        assert await ann.receive() == "still here"


async def test_the_error_of_a_def_hook_says_what_to_use() -> None:
    class Listener:
        def on_message(self, event: Event) -> None:
            assert event.conn is not None
            for call in (lambda: event.conn.send("x"), lambda: event.conn.close(), lambda: event.gateway.send("x")):
                try:
                    run_elsewhere(call)
                except RuntimeError as exc:
                    event.conn.send_from_thread(str(exc))

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        await ann.send("go")
        assert "conn.send_from_thread" in str(await ann.receive())
        assert "async def hook" in str(await ann.receive())
        assert "gateway.send_from_thread" in str(await ann.receive())


@contextmanager
def paused() -> Iterator[tuple[asyncio.Runner, Gateway, Connection]]:
    """A gateway with a connection, on a loop of this thread that does not run at the moment."""
    gateway, conns = Gateway(), list[Connection]()

    async def connect() -> None:
        await gateway.start()
        scope: dict[str, Any] = {"type": "websocket", "path": "/ws", "headers": []}
        events = iter([{"type": "websocket.connect"}])

        async def receive() -> Any:
            return next(events, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            pass

        tasks.append(asyncio.create_task(gateway(scope, receive, send)))
        with anyio.fail_after(10):
            while not gateway.connections:
                await anyio.sleep(0)  # one iteration of the event loop
        conns.extend(gateway.connections)

    tasks: list[asyncio.Task[None]] = []
    with asyncio.Runner() as runner:
        runner.run(connect())
        yield runner, gateway, conns[0]


def test_a_loop_of_the_same_thread_that_is_paused_is_another_loop() -> None:
    with paused() as (runner, gateway, conn):
        calls: dict[Callable[[], Awaitable[object]], str] = {
            lambda: gateway.send("x"): "send_from_thread",
            lambda: conn.send("x"): "send_from_thread",
            lambda: gateway.stop(): "run_coroutine_threadsafe",
        }
        for call, instead in calls.items():
            with pytest.raises(RuntimeError, match=instead):
                run_elsewhere(call)
        runner.run(gateway.stop())
    assert gateway.state == "stopped"


def test_a_thread_does_not_wait_for_a_loop_that_does_not_run() -> None:
    with paused() as (runner, gateway, conn):
        for send in (gateway.send_from_thread, conn.send_from_thread):
            with pytest.raises(RuntimeError, match="event loop has ended"):
                send("x")
        runner.run(gateway.stop())


def test_a_thread_gets_an_error_if_the_loop_was_closed() -> None:
    with paused() as (_, gateway, conn):
        pass
    with pytest.raises(GatewayNotRunning):
        gateway.send_from_thread("x")
    with pytest.raises(RuntimeError, match="event loop has ended"):
        conn.send_from_thread("x")
    with pytest.raises(RuntimeError, match="send_from_thread"):
        run_elsewhere(lambda: conn.send("x"))


def test_a_thread_that_waits_gets_an_error_if_the_loop_ends() -> None:
    waiting = threading.Event()

    class Listener:
        async def on_message(self, event: Event) -> None:
            waiting.set()
            await anyio.sleep_forever()  # hangs, until the loop ends

    gateway = Gateway(listener=Listener)
    caught: list[BaseException] = []

    def send() -> None:
        try:
            gateway.send_from_thread("x")
        except BaseException as exc:
            caught.append(exc)

    async def main() -> None:
        await gateway.start()
        thread.start()
        await asyncio.to_thread(waiting.wait, 10)

    thread = threading.Thread(target=send)
    asyncio.run(main())
    thread.join(10)
    assert [str(exc) for exc in caught] == [str(caught[0])]
    assert "event loop has ended" in str(caught[0])


async def test_send_from_thread_on_the_loop_says_what_to_do() -> None:
    gateway = Gateway()
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        await ann.receive()
        (conn,) = gateway.connections
        calls: dict[str, Callable[[], object]] = {
            "gateway.send": lambda: gateway.send_from_thread("x"),
            "gateway.publish": lambda: gateway.publish_from_thread("x"),
            "gateway.request": lambda: gateway.request_from_thread(conn.id, "x"),
            "conn.send": lambda: conn.send_from_thread("x"),
            "conn.request": lambda: conn.request_from_thread("x"),
        }
        for method, call in calls.items():
            with pytest.raises(RuntimeError) as caught:
                call()
            assert str(caught.value) == (
                f"{method}_from_thread was called on the event loop, where it would wait for itself: "
                f"write await {method}(...)"
            )


async def test_a_stopped_gateway_may_move_to_another_loop() -> None:
    gateway = Gateway()
    async with gateway.lifespan():
        pass
    await anyio.to_thread.run_sync(asyncio.run, run_lifespan(gateway))
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        assert await ann.receive() == "hi"


async def test_two_starts_on_a_loop_wait_for_each_other_after_a_move() -> None:
    gateway = Gateway()

    async def start_twice() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.start)
            tasks.start_soon(gateway.start)
        await gateway.stop()

    await start_twice()
    await anyio.to_thread.run_sync(asyncio.run, start_twice())
    await start_twice()


async def test_a_supervisor_refuses_another_loop(tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_text("[gateways.chat]\nport = 0\n")
    async with Supervisor(file) as supervisor:
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: supervisor.start("chat"),
            lambda: supervisor.stop("chat"),
            lambda: supervisor.restart("chat"),
            lambda: supervisor.roll("chat"),
            lambda: supervisor.roll_all(),
            lambda: supervisor.drain(),
            lambda: supervisor.create("prices", {}),
            lambda: supervisor.edit("chat", {"echo_sender": False}),
            lambda: supervisor.delete("chat"),
            lambda: supervisor.reload(),
        )
        for call in calls:
            with pytest.raises(RuntimeError, match="the one that the supervisor runs on"):
                await anyio.to_thread.run_sync(run_elsewhere, call)
        assert [found.id for found in supervisor.all()] == ["chat"]
        assert supervisor.state("chat") == "running"
    assert file.read_text() == "[gateways.chat]\nport = 0\n"


async def test_a_publisher_refuses_another_loop(tmp_path: Path) -> None:
    async with Publisher(f"ipc://{tmp_path}/ipc") as publisher:
        with pytest.raises(RuntimeError, match=r"publisher\.send"):
            await anyio.to_thread.run_sync(run_elsewhere, lambda: publisher.asend("x"))

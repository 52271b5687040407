"""States, lifespan, the registry, and mounting into other applications."""

import asyncio
import gc
import weakref

import anyio
import anyio.to_thread
import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from wsgateway import (
    Event,
    Gateway,
    GatewayNotFound,
    GatewayNotRunning,
    MessageEvent,
    OpenEvent,
    Sent,
    Settings,
    StartError,
    send_gateway_message,
)
from wsgateway.testing import Client, RecordingListener, serve


async def test_start_stop_and_restart_may_be_called_in_any_state() -> None:
    gateway = Gateway()
    assert gateway.state == "stopped"
    await gateway.stop()
    await gateway.start()
    await gateway.start()
    assert gateway.state == "running"
    await gateway.restart()
    assert gateway.state == "running"
    await gateway.stop()
    await gateway.stop()
    assert gateway.state == "stopped"


async def test_two_starts_at_once_make_one_listener() -> None:
    made: list[int] = []

    class Listener:
        def __init__(self) -> None:
            made.append(1)

        async def on_start(self, event: Event) -> None:
            await anyio.sleep(0)  # the other starts come meanwhile

    gateway = Gateway(listener=Listener)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(gateway.start)
    assert made == [1]
    await gateway.stop()


async def test_an_on_start_that_raises_fails_the_gateway_which_can_be_started_again() -> None:
    class Listener:
        broken = True

        async def on_start(self, event: Event) -> None:
            if Listener.broken:
                raise LookupError("no database")

    gateway = Gateway(listener=Listener)
    with pytest.raises(StartError, match="no database"):
        await gateway.start()
    assert gateway.state == "failed"
    assert "no database" in gateway.failure
    with pytest.raises(GatewayNotRunning):
        await gateway.send("x")
    Listener.broken = False
    await gateway.start()
    assert (gateway.state, gateway.failure) == ("running", "")
    await gateway.stop()


async def test_what_on_start_begins_may_send_at_once() -> None:
    sent: list[Sent] = []

    class Listener:
        async def on_start(self, event: Event) -> None:
            sent.append(await event.gateway.send("nobody is there yet"))
            self.task = asyncio.create_task(self.later(event))

        async def later(self, event: Event) -> None:
            sent.append(await event.gateway.send("nor now"))

    gateway = Gateway(listener=Listener)
    async with gateway.lifespan():
        with anyio.fail_after(5):
            while len(sent) < 2:
                await anyio.sleep(0)  # one iteration of the event loop
    assert sent == [Sent(0, 0, 0)] * 2
    assert gateway.metrics.hook_errors == {}


async def test_an_on_start_that_hangs_fails() -> None:
    class Listener:
        async def on_start(self, event: Event) -> None:
            await anyio.sleep_forever()  # hangs, until hook_timeout

    with pytest.raises(StartError, match="hook_timeout"):
        await Gateway(listener=Listener, hook_timeout=0.05).start()


async def test_an_on_stop_that_raises_does_not_keep_it_running(caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        async def on_stop(self, event: Event) -> None:
            raise LookupError

    gateway = Gateway(listener=Listener)
    await gateway.start()
    await gateway.stop()
    assert gateway.state == "stopped"
    assert "on_stop failed" in caplog.text


async def test_a_stop_gives_up_what_outlives_the_drain() -> None:
    class Listener(RecordingListener):
        async def on_message(self, event: MessageEvent) -> None:
            await super().on_message(event)
            await anyio.sleep_forever()  # outlives the drain

    listener = Listener()
    gateway = Gateway(listener=listener, hook_timeout=1000, drain=0.2)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("x")
        await ann.send("never handled")
        await listener.wait_for("on_message")
        with anyio.fail_after(5):
            await gateway.stop()
        assert listener.count("on_message") == 1
        assert listener.count("on_client_close") == 1


async def test_one_id_runs_once_in_a_process_without_regard_to_case() -> None:
    one, other = Gateway(id="Shop"), Gateway(id="shop")
    await one.start()
    with pytest.raises(StartError, match="another gateway with id"):
        await other.start()
    await one.stop()
    await other.start()
    await other.stop()


async def test_send_gateway_message_finds_it_by_id() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            event.message = [event.message, event.data]

    gateway = Gateway(id="Stocks", listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        assert await send_gateway_message(" STOCKS ", {"message": "up", "by": 3}) == Sent(1, 1, 0)
        assert await ann.receive_json() == ["up", {"by": 3}]
    with pytest.raises(GatewayNotRunning):
        await send_gateway_message("stocks", {"message": "up"})
    with pytest.raises(GatewayNotFound, match=r"no gateway with id \[bonds\]"):
        await send_gateway_message("bonds", {"message": "up"})


async def test_the_registry_keeps_no_gateway_alive() -> None:
    gateway = Gateway(id="short-lived")
    await gateway.start()
    await gateway.stop()
    gone = weakref.ref(gateway)
    del gateway
    gc.collect()
    assert gone() is None
    with pytest.raises(GatewayNotFound):
        await send_gateway_message("short-lived", {"message": "x"})


async def test_settings_or_options_but_not_both() -> None:
    assert Gateway(settings=Settings(id="a")).id == Gateway(id="a").id
    assert Gateway(RecordingListener).settings.listener is RecordingListener
    with pytest.raises(TypeError):
        Gateway(settings=Settings(), id="a")


async def test_in_fastapi_a_route_pushes_and_a_def_route_pushes_from_its_thread() -> None:
    gateway = Gateway()
    app = FastAPI(lifespan=gateway.lifespan)

    @app.post("/orders/{order}")
    async def order(order: str) -> dict[str, int]:
        sent = await gateway.send({"order": order})
        return {"reached": sent.queued}

    @app.post("/threads/{order}")
    def threaded(order: str) -> dict[str, int]:
        return {"reached": gateway.send_from_thread({"thread": order}).queued}

    app.mount("/live", gateway)
    async with serve(app) as url, Client(url, "/live/ws") as ann, httpx.AsyncClient() as http:
        assert (await http.post(url + "/orders/7")).json() == {"reached": 1}
        assert await ann.receive_json() == {"order": "7"}
        assert (await http.post(url + "/threads/8")).json() == {"reached": 1}
        assert await ann.receive_json() == {"thread": "8"}
    assert gateway.state == "stopped"


async def test_two_gateways_in_one_application() -> None:
    chat, stocks = Gateway(id="chat"), Gateway(id="stocks")
    app = Starlette(routes=[Mount("/chat", chat), Mount("/stocks", stocks)])
    async with chat.lifespan(app), stocks.lifespan(app), serve(app) as url:
        async with Client(url, "/chat/ws") as ann, Client(url, "/stocks/ws") as bob:
            await chat.send("for ann")
            await stocks.send("for bob")
            assert [await ann.receive(), await bob.receive()] == ["for ann", "for bob"]


async def test_a_thousand_sends_from_threads_arrive() -> None:
    gateway = Gateway()
    async with serve(gateway) as url, Client(url) as ann:

        def work(thread: int) -> None:
            for number in range(100):
                gateway.send_from_thread([thread, number])

        async with anyio.create_task_group() as tasks:
            for thread in range(10):
                tasks.start_soon(anyio.to_thread.run_sync, work, thread)
        received = [await ann.receive_json() for _ in range(1000)]
    for thread in range(10):
        assert [number for sender, number in received if sender == thread] == list(range(100))


async def test_nothing_is_left_after_many_connections() -> None:
    class Listener(RecordingListener):
        async def on_client_open(self, event: OpenEvent) -> None:
            connections.append(weakref.ref(event.conn))
            await super().on_client_open(event)

    connections: list[weakref.ref[object]] = []
    recorder = Listener()
    gateway = Gateway(listener=recorder)
    async with serve(gateway) as url:
        before = len(asyncio.all_tasks())
        for _ in range(50):
            async with Client(url) as ann:
                await ann.send("x")
                await ann.receive()
        await recorder.wait_for("on_client_close", 50)
        with anyio.fail_after(5):
            while len(asyncio.all_tasks()) > before:
                await anyio.sleep(0.01)  # nothing reports the end of the server's tasks
        gc.collect()
        assert len(connections) == 50
        assert not [found for found in connections if found() is not None]


async def test_a_call_does_not_start_a_gateway_because_no_client_would_be_connected_to_it() -> None:
    gateway = Gateway(channels={"news": {}})
    calls = [
        gateway.send("x"), gateway.publish("x"), gateway.disconnect(user="ann"), gateway.subscribe("news", user="ann"),
        gateway.presence("news"), anyio.to_thread.run_sync(gateway.send_from_thread, "x"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(GatewayNotRunning, match=r"lifespan=gateway\.lifespan, or send from another process with"):
            await call
    assert gateway.state == "stopped"
    await gateway.start()
    await gateway.stop()
    with pytest.raises(GatewayNotRunning, match=r"is not running$"):
        await gateway.send("z")


async def test_a_start_that_was_cancelled_can_be_begun_again() -> None:
    waits = [True]

    class Listener:
        async def on_start(self, event: Event) -> None:
            if waits:
                waits.clear()
                await anyio.sleep(60)  # it is cancelled

    gateway = Gateway(listener=Listener)
    with anyio.move_on_after(0.05):
        await gateway.start()
    assert gateway.state == "stopped"
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hi")
        assert await ann.receive() == "hi"


async def test_a_stop_that_was_cancelled_is_finished() -> None:
    class Listener:
        async def on_client_close(self, event: Event) -> None:
            await anyio.sleep(60)  # it is abandoned

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url:
        async with Client(url):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(gateway.stop(), 0.05)
            assert gateway.state == "stopped"
            with anyio.fail_after(5):
                while gateway.connections:
                    await anyio.sleep(0.01)  # nothing reports the end of an abandoned stop
        await gateway.start()
        async with Client(url) as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gateway.stop(), 0.05)


async def test_a_property_in_the_place_of_a_hook_fails_the_start_and_is_not_evaluated() -> None:
    class Listener:
        @property
        def on_message(self) -> None:
            raise LookupError("no such table")

    gateway = Gateway(listener=Listener)
    with pytest.raises(StartError, match=r"on_message of .*Listener is a property"):
        await gateway.start()
    assert gateway.state == "failed"

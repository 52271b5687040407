"""Hooks: order, time limits, failures. Each on the gateway's own server, with real clients."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from wsgateway import (
    Connection,
    Event,
    Gateway,
    GatewayNotRunning,
    HookError,
    MessageError,
    OpenEvent,
    Refused,
    Sent,
)
from wsgateway.listeners.event import MessageEvent
from wsgateway.listeners.runner import MAX_CLOSE_HOOKS
from wsgateway.testing import Client, RecordingListener, serve


class Echo:
    """Answers the sender only."""

    async def on_message(self, event: Event) -> None:
        if event.conn:
            event.connections = [event.conn]


async def test_hooks_of_one_connection_run_in_order_and_others_do_not_wait() -> None:
    release = anyio.Event()
    seen: list[tuple[str, Any]] = []

    class Listener:
        async def on_client_open(self, event: Event) -> None:
            assert event.conn
            if event.conn.path == "/ws/slow":
                await release.wait()
            seen.append(("open", event.conn.path))

        async def on_message(self, event: Event) -> None:
            seen.append(("message", event.message))

        async def on_client_close(self, event: Event) -> None:
            assert event.conn
            seen.append(("close", event.conn.path))

    async with serve(Gateway(listener=Listener)) as url:
        async with Client(url, "/ws/slow") as slow, Client(url, "/ws/fast") as fast:
            await slow.send("from slow")
            await fast.send("from fast")
            assert await fast.receive() == "from fast"
            assert await slow.receive() == "from fast"
            assert seen == [("open", "/ws/fast"), ("message", "from fast")]
            release.set()
            assert await fast.receive() == "from slow"
    order = [event for event in seen if event[1] in ("/ws/slow", "from slow")]
    assert order == [("open", "/ws/slow"), ("message", "from slow"), ("close", "/ws/slow")]


FAILURES: dict[str, Callable[[], BaseException]] = {
    "Exception": lambda: ValueError("boom"),
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": lambda: asyncio.CancelledError(),
    "group": lambda: ExceptionGroup("several", [ValueError("boom")]),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
}


@pytest.mark.parametrize("kind", ["async", "def"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_hook_that_raises_costs_only_its_own_event(
    failure: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []

    class Listener(Echo):
        async def on_message(self, event: Event) -> None:
            await super().on_message(event)
            if event.message == "bad":
                raise FAILURES[failure]()

        async def on_error(self, event: Event, exception: BaseException) -> None:
            errors.append(exception)

    class Threaded:
        def on_message(self, event: Event) -> None:
            if event.message == "bad":
                raise FAILURES[failure]()

        def on_error(self, event: Event, exception: BaseException) -> None:
            errors.append(exception)

    gateway = Gateway(listener=Listener if kind == "async" else Threaded)
    async with serve(gateway) as url, Client(url) as ann:
        for message in ("good", "bad", "good again"):
            await ann.send(message)
        assert [await ann.receive(), await ann.receive()] == ["good", "good again"]
    assert [type(error) for error in errors] == [type(FAILURES[failure]())]
    assert gateway.metrics.hook_errors == {"on_message": 1}
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info
    assert "[default]" in record.getMessage()


@pytest.mark.parametrize("kind", ["async", "def", "swallows"])
async def test_a_hook_that_outlives_its_limit_is_given_up(kind: str) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            while event.message == "hang":
                try:
                    await anyio.sleep_forever()  # hangs until it is cancelled
                except asyncio.CancelledError:
                    if kind == "async" or stop.is_set():
                        raise

        def on_error(self, event: Event, exception: BaseException) -> None:
            errors.append(exception)

    class Threaded(Listener):
        def on_message(self, event: Event) -> None:  # type: ignore[override]  # hooks are either
            if event.message == "hang":
                stop.wait(20)

    gateway = Gateway(listener=Threaded if kind == "def" else Listener, hook_timeout=0.2)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("hang")
        await ann.send("next")
        assert await ann.receive() == "next"
        assert [type(error) for error in errors] == [TimeoutError]
        stop.set()
        for task in asyncio.all_tasks():
            if "perform" in repr(task):
                task.cancel()


async def test_on_error_that_raises_is_logged_and_ends_there(caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.message == "bad":
                raise ValueError

        async def on_error(self, event: Event, exception: BaseException) -> None:
            raise LookupError

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("bad")
        await ann.send("good")
        assert await ann.receive() == "good"
    assert gateway.metrics.hook_errors == {"on_message": 1, "on_error": 1}


@pytest.mark.parametrize("connections", [5, "abc", b"abc", 1.5, object()])
async def test_connections_that_are_no_list_are_an_error_of_the_hook(connections: Any) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            event.connections = connections if event.message == "bad" else None

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("bad")
        await ann.send("good")
        assert await ann.receive() == "good"
    assert gateway.metrics.hook_errors == {"on_message": 1}


@pytest.mark.parametrize("message", [object(), "\ud800", float("nan"), {"deep": {1, 2}}])
async def test_a_message_that_cannot_be_encoded_is_an_error_of_the_hook(message: Any) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.message == "bad":
                event.message = message

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("bad")
        await ann.send("good")
        assert await ann.receive() == await bob.receive() == "good"
    assert gateway.metrics.hook_errors == {"on_message": 1}


async def test_recipients_are_each_once_in_order_and_the_unknown_are_skipped() -> None:
    everybody: list[Connection] = []

    class Listener:
        async def on_client_open(self, event: Event) -> None:
            assert event.conn
            everybody.append(event.conn)

        async def on_message(self, event: Event) -> None:
            bob = everybody[1]
            wanted: list[Any] = [bob.id, bob, "unknown", None, 7, [], bob]
            event.connections = (item for item in wanted)

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        assert await gateway.send("x") == Sent(1, 1, 0)
        assert await bob.receive() == "x"
        await bob.send("last")
        assert await bob.receive() == "last"
        assert gateway.metrics.skipped_recipients == 8
        with anyio.move_on_after(0.05) as nothing:
            await ann.socket.recv()
        assert nothing.cancelled_caught


async def test_an_empty_list_is_nobody_and_none_is_nothing() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.message == "nobody":
                event.connections = []
            if event.message == "nothing":
                event.message = None

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        assert await gateway.send("nobody") == await gateway.send("nothing") == Sent(0, 0, 0)
        assert await gateway.send("all") == Sent(1, 1, 0)
        assert await ann.receive() == "all"


async def test_a_closed_connection_is_no_recipient_and_takes_nothing() -> None:
    left: list[Connection] = []

    class Listener(RecordingListener):
        async def on_client_open(self, event: OpenEvent) -> None:
            assert event.conn
            left.append(event.conn)
            await super().on_client_open(event)

        async def on_message(self, event: Event) -> None:
            event.connections = left
            assert not await left[0].send("to nobody")

    listener = Listener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        async with Client(url):
            await listener.wait_for("on_client_open")
        await listener.wait_for("on_client_close")
        assert await gateway.send("x") == Sent(0, 0, 0)
        assert gateway.metrics.hook_errors == {}


async def test_echo_sender_false_leaves_the_sender_out_unless_named() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.message == "named" and event.conn:
                event.connections = [event.conn]

    async with serve(Gateway(listener=Listener, echo_sender=False)) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("others")
        assert await bob.receive() == "others"
        await ann.send("named")
        assert await ann.receive() == "named"


async def test_the_default_hook_times_and_tasks_work() -> None:
    """Hooks whose first line is a timeout, a cancel scope, a task group, a lock."""
    lock = asyncio.Lock()

    class Listener:
        async def on_message(self, event: Event) -> None:
            async with asyncio.timeout(5), asyncio.TaskGroup() as tasks, lock:
                tasks.create_task(asyncio.sleep(0))  # any task
            with anyio.move_on_after(5):
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep, 0)
            with anyio.move_on_after(0.01) as expired:
                await anyio.sleep_forever()  # until the scope cancels it
            assert expired.cancelled_caught
            assert asyncio.current_task() is not None

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("x")
        assert await ann.receive() == "x"
    assert gateway.metrics.hook_errors == {}


async def test_gateway_send_in_a_hook_runs_on_message_again_without_conn() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.conn:
                assert await event.gateway.send("extra") == Sent(1, 1, 0)
            elif event.message == "extra":
                event.message = "extra, rewritten"

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        await ann.send("own")
        assert [await ann.receive(), await ann.receive()] == ["extra, rewritten", "own"]


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_endless_nesting_raises(kind: str) -> None:
    depths: list[str] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            depths.append(event.message)
            await event.gateway.send(event.message + "x")

    class Threaded:
        def on_message(self, event: Event) -> None:
            depths.append(event.message)
            event.gateway.send_from_thread(event.message + "x")

    gateway = Gateway(listener=Listener if kind == "async" else Threaded)
    async with gateway.lifespan():
        with pytest.raises(HookError):
            await gateway.send("x")
    assert depths[-1] == "x" * 9


async def test_threads_send_and_the_loop_may_not() -> None:
    class Listener:
        def on_message(self, event: Event) -> None:
            if event.conn:
                assert event.conn.send_from_thread("direct")
                assert event.gateway.send_from_thread("by the gateway") == Sent(1, 1, 0)

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("own")
        assert [await ann.receive() for _ in range(3)] == ["direct", "by the gateway", "own"]
        with pytest.raises(RuntimeError, match=r"await gateway\.send"):
            gateway.send_from_thread("from the loop")
    with pytest.raises(GatewayNotRunning):
        gateway.send_from_thread("stopped")
    assert gateway.metrics.hook_errors == {}


@pytest.mark.parametrize("hook", ["on_client_open", "on_message", "on_client_close"])
async def test_a_hook_may_stop_its_own_gateway(hook: str) -> None:
    recorder = RecordingListener()

    async def stop(event: Event) -> None:
        await event.gateway.stop()
        recorder.record(hook, event.message)

    setattr(recorder, hook, stop)
    gateway = Gateway(listener=recorder)
    async with serve(gateway) as url:
        async with Client(url) as ann:
            if hook == "on_message":
                await ann.send("x")
            if hook != "on_client_close":
                assert (await ann.closed())[0] == 1012
        with anyio.fail_after(5):
            while gateway.state != "stopped":
                await anyio.sleep(0.01)  # nothing reports a new state
    assert recorder.count("on_client_close") == 1


async def test_a_hook_may_restart_its_own_gateway() -> None:
    class Listener(RecordingListener):
        async def on_start(self, event: Event) -> None:
            self.record("on_start", None)

        async def on_message(self, event: Event) -> None:
            await event.gateway.restart()

    listener = Listener()
    async with serve(Gateway(listener=listener)) as url:
        async with Client(url) as ann:
            await ann.send("x")
            assert (await ann.closed())[0] == 1012
        await listener.wait_for("on_start", 2)
        async with Client(url) as ann:
            await listener.wait_for("on_client_open", 2)


async def test_first_open_and_last_close() -> None:
    class Listener(RecordingListener):
        async def on_first_open(self, event: Event) -> None:
            self.record("on_first_open", None)

        async def on_last_close(self, event: Event) -> None:
            self.record("on_last_close", None)

    recorder = Listener()
    async with serve(Gateway(listener=recorder)) as url:
        for _ in range(2):
            async with Client(url) as ann, Client(url):
                await ann.send("x")
                await ann.receive()
            await recorder.wait_for("on_last_close", _ + 1)
    names = [hook for hook, _ in recorder.events if hook in ("on_first_open", "on_last_close")]
    assert names == ["on_first_open", "on_last_close"] * 2


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("x"), 500), (SystemExit(), 500), (Refused(429, "later"), 429)]
)
async def test_a_handshake_hook_that_raises_lets_nobody_in(error: BaseException, status: int) -> None:
    class Listener(RecordingListener):
        async def on_handshake(self, event: Event) -> None:
            raise error

    listener = Listener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        with pytest.raises(Exception, match=f"HTTP {status}"):
            async with Client(url):
                pass
        assert len(gateway.connections) == 0
    assert listener.count("on_client_open") == listener.count("on_client_close") == 0


async def test_a_handshake_hook_that_hangs_is_503() -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            await anyio.sleep_forever()  # hangs, until hook_timeout

    async with serve(Gateway(listener=Listener, hook_timeout=0.1)) as url:
        with pytest.raises(Exception, match="HTTP 503"):
            async with Client(url):
                pass


async def test_closing_in_the_handshake_says_to_raise_refused(caplog: pytest.LogCaptureFixture) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn
            await event.conn.close()

    async with serve(Gateway(listener=Listener)) as url:
        with pytest.raises(Exception, match="HTTP 500"):
            async with Client(url):
                pass
    assert "raise Refused" in caplog.text


async def test_close_takes_only_codes_that_a_server_may_send() -> None:
    problems: list[str] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            assert event.conn
            for code, reason in ((1005, ""), (1006, ""), (2000, ""), (5000, ""), (1000, "é" * 62)):
                try:
                    await event.conn.close(code, reason)
                except ValueError as exc:
                    problems.append(str(exc))
            assert event.conn.is_open
            await event.conn.close(1000, "é" * 61)
            await event.conn.close(4000, "a second call does nothing")

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        await ann.send("x")
        assert await ann.closed() == (1000, "é" * 61)
    assert len(problems) == 5


async def test_conn_send_says_what_cannot_be_encoded() -> None:
    raised: list[str] = []

    class Listener:
        async def on_client_open(self, event: Event) -> None:
            assert event.conn
            for message in ("\ud800", object(), float("inf")):
                with pytest.raises(MessageError) as error:
                    await event.conn.send(message)
                raised.append(str(error.value))
            assert not await event.conn.send(None)
            assert await event.conn.send({"fine": True})

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        assert await ann.receive_json() == {"fine": True}
    assert len(raised) == 3


async def test_data_and_connections_of_a_send_reach_the_hook() -> None:
    seen: list[Any] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            seen.append((event.conn, event.message, event.connections, event.data))

    gateway = Gateway(listener=Listener)
    async with gateway.lifespan():
        await gateway.send("x", connections=["a"], data={"room": 7})
        await gateway.send("y")
    assert seen == [(None, "x", ["a"], {"room": 7}), (None, "y", None, {})]


async def test_a_send_waits_for_a_hook_that_waits_and_may_be_cancelled() -> None:
    release, begun = anyio.Event(), anyio.Event()
    results: list[Sent] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            if event.message == "slow":
                begun.set()
                await release.wait()

    gateway = Gateway(listener=Listener)

    async def send() -> None:
        results.append(await gateway.send("slow"))

    async with gateway.lifespan():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            with anyio.move_on_after(0.05) as scope:
                await gateway.send("slow")
            assert scope.cancelled_caught
            await begun.wait()
            assert await gateway.send("fast") == Sent(0, 0, 0)
            assert results == []
            release.set()
        assert results == [Sent(0, 0, 0)]
    assert gateway.metrics.hook_errors == {}


async def test_every_on_message_gets_a_message_event() -> None:
    kinds: list[type] = []

    class Listener:
        async def on_client_open(self, event: Event) -> None:
            kinds.append(type(event))

        async def on_message(self, event: Event) -> None:
            kinds.append(type(event))

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("x")
        await ann.receive()
        await gateway.send("x")
    assert kinds == [OpenEvent, MessageEvent, MessageEvent]


async def test_a_connection_is_one_object_with_a_state_and_a_hash() -> None:
    seen: set[Connection] = set()

    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn
            event.conn.user = "ann"
            event.conn.state.room = 7
            seen.add(event.conn)

        async def on_message(self, event: Event) -> None:
            assert event.conn
            seen.add(event.conn)
            event.message = [event.conn.user, event.conn.state["room"], event.conn in event.gateway.connections]

        async def on_client_close(self, event: Event) -> None:
            assert event.conn
            seen.add(event.conn)

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        await ann.send("x")
        assert await ann.receive_json() == ["ann", 7, True]
    assert len(seen) == 1
    assert len(next(iter(seen)).id) == 22


async def test_a_full_inbox_pauses_reading_and_loses_nothing() -> None:
    release = anyio.Event()

    class Listener:
        async def on_message(self, event: Event) -> None:
            await release.wait()

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        for number in range(200):
            await ann.send(str(number))
        release.set()
        assert [await ann.receive() for _ in range(200)] == [str(number) for number in range(200)]


async def test_what_has_waited_is_handled_without_recursion() -> None:
    """Hundreds of calls wait behind one hook, and each ends at once when it is their turn."""
    release = anyio.Event()
    opens: list[int] = []

    class Listener(RecordingListener):
        async def on_first_open(self, event: Event) -> None:
            opens.append(1)
            if len(opens) == 1:
                await release.wait()

        async def on_last_close(self, event: Event) -> None:
            opens.append(-1)

    listener = Listener()
    gateway = Gateway(listener=listener, hook_timeout=60)
    async with serve(gateway) as url:
        for number in range(300):
            async with Client(url):
                pass
            await listener.wait_for("on_client_close", number + 1)
        release.set()
        with anyio.fail_after(10):
            while len(opens) < 600:
                await anyio.sleep(0.01)  # a list that the hook fills
    assert opens == [1, -1] * 300
    assert gateway.metrics.hook_errors == {}


class Closing:
    """Counts its hooks for a close, which wait for `release`."""

    def __init__(self) -> None:
        self.release = anyio.Event()
        self.running = self.most = 0
        self.closed: list[str] = []

    async def on_client_close(self, event: Event) -> None:
        assert event.conn
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.release.wait()
        finally:
            self.running -= 1
            self.closed.append(event.conn.id)


async def stop_with_150_clients(gateway: Gateway, closing: Closing) -> None:
    async with serve(gateway) as url, contextlib.AsyncExitStack() as stack:
        for _ in range(150):
            await stack.enter_async_context(Client(url))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.stop)
            with anyio.fail_after(10):
                while closing.running < MAX_CLOSE_HOOKS or gateway.connections:
                    await anyio.sleep(0.01)  # nothing reports these figures
            if gateway.settings.drain == 30:
                closing.release.set()


async def test_a_drain_calls_only_so_many_hooks_for_a_close_at_once_and_each_exactly_once() -> None:
    closing = Closing()
    await stop_with_150_clients(Gateway(closing), closing)
    assert closing.most == MAX_CLOSE_HOOKS
    assert len(closing.closed) == len(set(closing.closed)) == 150


async def test_those_that_still_wait_when_the_drain_is_over_are_called_all_the_same() -> None:
    closing = Closing()
    await stop_with_150_clients(Gateway(closing, drain=0.5), closing)
    assert len(closing.closed) == len(set(closing.closed)) == 150


async def test_a_hook_for_a_close_that_runs_when_the_drain_is_over_may_end() -> None:
    ended: list[bool] = []

    class Listener:
        async def on_client_close(self, event: Event) -> None:
            await anyio.sleep(0.5)  # longer than drain
            ended.append(True)

    async with serve(Gateway(Listener, drain=0.1)) as url, Client(url):
        pass
    assert ended == [True]


async def test_a_hook_for_a_close_that_waited_is_followed_by_its_on_error() -> None:
    failed: list[str] = []

    class Failing(Closing):
        async def on_client_close(self, event: Event) -> None:
            await super().on_client_close(event)
            raise ValueError("boom")

        async def on_error(self, event: Event, exception: BaseException) -> None:
            assert event.conn
            failed.append(event.conn.id)

    closing = Failing()
    await stop_with_150_clients(Gateway(closing), closing)
    assert sorted(failed) == sorted(closing.closed)
    assert len(failed) == 150


async def test_without_a_drain_hooks_for_a_close_wait_for_nobody() -> None:
    closing = Closing()
    async with serve(Gateway(closing)) as url:
        for _ in range(MAX_CLOSE_HOOKS + 10):
            async with Client(url):
                pass
        with anyio.fail_after(10):
            while closing.running < MAX_CLOSE_HOOKS + 10:
                await anyio.sleep(0.01)  # nothing reports a new count
        closing.release.set()

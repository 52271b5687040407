"""A blocked event loop: the log names the code that blocks it, and no client is closed for it."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from tests.cli.test_main import hidden_uvloop
from tests.hub.test_connection import stalled
from tests.processes import serving
from tests.servers import OwnServer
from wsgateway import Event, Gateway
from wsgateway.gateway.watchdog import Watchdog
from wsgateway.logs import LineFormatter
from wsgateway.metrics import Metrics
from wsgateway.testing import Client


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.01)  # nothing reports these figures


def dogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "wsgateway watchdog"]


def hold_up(said: list[str]) -> None:
    """Block this thread until the watchdog has complained once more."""
    before = len(said)
    # The sleep blocks the loop, which the watchdog has to notice. Its line is compared with the logged stack.
    while len(said) == before:
        time.sleep(0.01)


class Lines(logging.Handler):
    """What the watchdog says, from whichever thread."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        if "event loop" in record.getMessage():
            self.said.append(self.format(record))


@pytest.fixture
def lines() -> "Lines":
    return Lines()


@pytest.fixture
def said(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    logger = logging.getLogger("wsgateway")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, lines])  # until the test ends
    return lines.said


async def test_a_blocked_loop_is_logged_once_with_the_stack_of_the_code_that_blocks_it(said: list[str]) -> None:
    metrics = Metrics()
    dog = Watchdog(asyncio.get_running_loop(), seconds=0.05)
    dog.watch(metrics)
    hold_up(said)
    time.sleep(0.3)  # still the same block
    assert len(said) == 1
    assert re.search(
        r" ERROR +the event loop has been blocked for \d\.\d s by hold_up \(\S+test_watchdog.py:\d+\)", said[0]
    )
    stack = said[0].splitlines()[1:]
    assert all(line.startswith("    ") for line in stack)
    assert stack[-1].strip() == "time.sleep(0.01)"
    await until(lambda: metrics.blocked_loops)
    assert (metrics.blocked_loops, len(said)) == (1, 2)
    assert metrics.blocked_seconds > 0.3
    assert "the event loop runs again, it was blocked for" in said[1]
    dog.unwatch(metrics)


async def test_each_block_is_logged(said: list[str]) -> None:
    metrics = Metrics()
    dog = Watchdog(asyncio.get_running_loop(), seconds=0.05)
    dog.watch(metrics)
    for number in (1, 2):
        hold_up(said)
        await until(lambda number=number: metrics.blocked_loops == number)  # type: ignore[misc]  # a default of its own
    assert len(said) == 4
    dog.unwatch(metrics)


async def test_a_busy_loop_is_not_a_blocked_one(said: list[str]) -> None:
    metrics = Metrics()
    dog = Watchdog(asyncio.get_running_loop(), seconds=0.3)
    dog.watch(metrics)
    for _ in range(40):
        time.sleep(0.02)  # shorter than what counts as a block
        await anyio.sleep(0)  # one iteration of the event loop
    assert said == []
    dog.unwatch(metrics)


async def test_gateways_of_one_loop_share_a_thread_which_ends_with_the_last() -> None:
    await until(lambda: not dogs())
    one, two = Gateway(id="one"), Gateway(id="two")
    await one.start()
    await two.start()
    assert len(dogs()) == 1
    await one.stop()
    assert len(dogs()) == 1
    await two.stop()
    await until(lambda: not dogs())


def test_the_thread_ends_with_its_loop() -> None:
    metrics = Metrics()

    async def main() -> None:
        Watchdog(asyncio.get_running_loop(), seconds=0.05).watch(metrics)

    asyncio.run(main())
    for thread in dogs():
        thread.join(10)
    assert dogs() == []


async def test_a_gateway_counts_what_blocks_its_loop(said: list[str]) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            await anyio.sleep(0)  # an await, so that a task runs the hook
            hold_up(said)  # as time.sleep would

    gateway = Gateway(Listener)
    async with OwnServer()(gateway) as url, Client(url) as ann:
        await ann.send("x")
        assert await ann.receive() == "x"
        await until(lambda: gateway.metrics.blocked_loops)
        assert "in on_message" in said[0]


async def test_a_client_that_could_not_be_written_to_meanwhile_is_not_slow() -> None:
    gateway = Gateway(send_timeout=0.5)
    async with OwnServer()(gateway) as url, stalled(url) as sock:
        for _ in range(200):
            await gateway.send("x" * 60_000)
            if next(iter(gateway.connections)).queued_messages:
                break
        time.sleep(2)  # the block
        for _ in range(3):
            await anyio.lowlevel.checkpoint()  # what was due meanwhile comes before what the client does
        with anyio.move_on_after(1):
            while True:
                await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
        assert gateway.metrics.too_slow == 0
        assert len(gateway.connections) == 1


BLOCKING = """
import time
class Listener:
    async def on_message(self, event):
        time.sleep(3)  # the block
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_hook_that_sleeps_on_the_loop_costs_nobody_the_connection(tmp_path: Path, loop: str) -> None:
    (tmp_path / "listener.py").write_text(BLOCKING)
    env = {} if loop == "uvloop" else {"PYTHONPATH": str(hidden_uvloop(tmp_path))}
    options = ("--listener", "listener.py:Listener", "--ping-interval", "1", "--pong-timeout", "1")
    with serving(*options, cwd=tmp_path, env=env) as served:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(served.url)) for _ in range(50)]
            for number in range(2):  # the second time everybody has been pinged since the first
                await clients[0].send(str(number))
                assert {await client.receive() for client in clients} == {str(number)}
            for client in clients:
                with anyio.fail_after(10):
                    await (await client.socket.ping())
        assert served.terminate() == 0
    assert re.search(
        r"ERROR +the event loop has been blocked for 1\.\d s by on_message \(\S+listener\.py:5\)", served.stderr
    )
    assert served.stderr.count("has been blocked") == served.stderr.count("the event loop runs again") == 2
    assert "    time.sleep(3)" in served.stderr

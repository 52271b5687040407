"""When a client is pinged, and when it is disconnected without a pong: by a clock that jumps, then on real sockets."""

import gc

import anyio
import pytest

from tests.clocks import block, jumping, jumping_loop, pass_time
from tests.pipes import Pipe
from tests.raw import Raw, handshake, masked
from tests.servers import OwnServer
from wsgateway import Gateway, Settings
from wsgateway.gateway.running import Ticker
from wsgateway.gateway.wheel import tick_for
from wsgateway.server.keepalive import GRACE, Ping, Pinged
from wsgateway.testing import RecordingListener
from wsgateway.transports.native import RefusedClient
from wsgateway.transports.takeover import Timers

SETTINGS = Settings(ping_interval=25, pong_timeout=8)

TICK = tick_for(8)

OVERDUE = 25 + 8 + TICK
"""Seconds until a client that never answers is disconnected: `GRACE` is less than a tick."""


class Recorded(Pinged):
    """Keeps when a ping is written and when it is aborted."""

    def __init__(self, timers: Timers) -> None:
        super().__init__(Pipe(10**9), RefusedClient(), SETTINGS, timers, connections=set())
        self.write = self._write
        self.pings: list[tuple[float, bytes]] = []
        self.aborted_at: float | None = None

    def _write(self, data: bytes) -> None:
        assert data[:2] == b"\x89\x04"
        self.pings.append((jumping_loop().time(), data[2:]))

    def _finish(self, code: int, reason: str) -> None: ...

    def abort(self) -> None:
        self.aborted_at = jumping_loop().time()


@jumping
async def test_a_client_that_answers_is_pinged_an_interval_after_each_pong() -> None:
    client = Recorded(Ticker(TICK).wheel)
    for _ in range(2):
        await pass_time(26)
        assert client.take_pong(client.pings[-1][1])
    assert [at for at, _ in client.pings] == [25, 51]
    client.stop_pings()


@jumping
async def test_a_client_without_a_pong_is_disconnected() -> None:
    client = Recorded(Ticker(TICK).wheel)
    await pass_time(60)
    assert client.aborted_at == OVERDUE
    client.stop_pings()


@jumping
async def test_a_pong_in_the_last_moment_counts() -> None:
    client = Recorded(Ticker(TICK).wheel)
    await pass_time(OVERDUE - TICK / 2)
    assert client.take_pong(client.pings[-1][1])
    await pass_time(1)
    assert client.aborted_at is None
    client.stop_pings()


@jumping
async def test_only_the_payload_of_the_last_ping_answers_it_and_only_once() -> None:
    client = Recorded(Ticker(TICK).wheel)
    assert not client.take_pong(b"")
    await pass_time(26)
    payload = client.pings[-1][1]
    assert not client.take_pong(b"xxxxx")
    assert client.take_pong(payload)
    assert not client.take_pong(payload)
    client.stop_pings()


@jumping
async def test_no_pong_is_overdue_while_the_client_is_not_read_from() -> None:
    client = Recorded(Ticker(TICK).wheel)
    await pass_time(26)
    client.is_paused = True
    client.expect_delay()
    await pass_time(100)
    assert client.aborted_at is None
    client.is_paused = False
    await pass_time(3 * 8)
    assert client.aborted_at is not None
    client.stop_pings()


@jumping
async def test_a_short_pause_gives_one_more_timeout() -> None:
    client = Recorded(Ticker(TICK).wheel)
    await pass_time(26)
    client.expect_delay()
    await pass_time(60)
    assert client.aborted_at == OVERDUE + 8
    client.stop_pings()


@jumping
async def test_a_congested_client_is_pinged_later() -> None:
    client = Recorded(Ticker(TICK).wheel)
    client.is_congested = True
    await pass_time(30)
    client.is_congested = False
    await pass_time(25)
    assert [at for at, _ in client.pings] == [50]
    client.stop_pings()


@jumping
async def test_nothing_is_sent_or_awaited_after_stop() -> None:
    for seconds in (10, 30):  # before the ping, and before its pong
        client = Recorded(Ticker(TICK).wheel)
        await pass_time(seconds)
        count = len(client.pings)
        client.stop_pings()
        client.stop_pings()
        await pass_time(100)
        assert len(client.pings) == count
        assert client.aborted_at is None


@jumping
async def test_a_client_is_never_disconnected_early_and_at_most_two_ticks_late() -> None:
    ticker = Ticker(TICK)
    clients: list[tuple[float, Recorded]] = []
    for _ in range(50):
        clients.append((jumping_loop().time(), Recorded(ticker.wheel)))
        await pass_time(0.0123)
    await pass_time(60)
    for opened_at, client in clients:
        assert len(client.pings) == 1
        pinged_at = client.pings[0][0]
        assert 25 <= pinged_at - opened_at <= 25 + TICK
        assert client.aborted_at is not None
        assert 8 + GRACE <= client.aborted_at - pinged_at <= 8 + GRACE + 2 * TICK


@jumping
async def test_a_pong_that_waited_while_the_loop_was_blocked_counts() -> None:
    client = Recorded(Ticker(TICK).wheel)
    await pass_time(26)
    block(100)
    await pass_time(GRACE)  # reads what waits in the socket
    assert client.aborted_at is None
    assert client.take_pong(client.pings[-1][1])
    await pass_time(26)
    assert len(client.pings) == 2
    client.stop_pings()


@jumping
async def test_each_ping_has_a_payload_of_its_own() -> None:
    ticker = Ticker(TICK)
    clients = [Recorded(ticker.wheel) for _ in range(20)]
    for _ in range(5):
        await pass_time(26)
        for client in clients:
            assert client.take_pong(client.pings[-1][1])
    payloads = {payload for client in clients for _, payload in client.pings}
    assert len(payloads) == 100
    ticker.stop()


# Real sockets, on both event loops

on_both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
serve = OwnServer()


def kept_for_pings() -> list[object]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), (Pinged, Ping, Ticker))]


async def answer(client: Raw, count: int) -> None:
    """Answer `count` pings, which are all that the client receives."""
    for _ in range(count):
        ping = await client.receive_exactly(6)
        assert ping[:2] == b"\x89\x04"
        await client.send(masked(0x8A, ping[2:]))


@on_both_loops
async def test_of_many_clients_only_those_that_do_not_answer_are_disconnected() -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener, ping_interval=0.1, pong_timeout=1)) as url:
        clients = [(await handshake(url))[0] for _ in range(60)]
        async with anyio.create_task_group() as tasks:
            for client in clients[::2]:
                tasks.start_soon(answer, client, 15)
        await listener.wait_for("on_client_close", 30)
        assert listener.count("on_client_close") == 30
        for client in clients:
            await client.stream.aclose()


@on_both_loops
async def test_a_pong_with_an_old_payload_answers_nothing() -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener, ping_interval=0.05, pong_timeout=0.1)) as url:
        client, _ = await handshake(url)
        async with client:
            old = await client.receive_exactly(6)
            await client.send(masked(0x8A, old[2:]))
            await client.receive_exactly(6)
            await client.send(masked(0x8A, old[2:]))
            await listener.wait_for("on_client_close")
    assert listener.events[-1] == ("on_client_close", 1006)


@on_both_loops
async def test_a_gateway_that_stops_forgets_the_pings_that_are_not_answered() -> None:
    gc.collect()
    before = {id(thing) for thing in kept_for_pings()}  # which earlier tests have left
    gateway = Gateway(ping_interval=0.05, pong_timeout=600)
    async with serve(gateway) as url:
        clients = [(await handshake(url))[0] for _ in range(5)]
        for client in clients:
            assert (await client.receive_exactly(6))[:2] == b"\x89\x04"
            await client.send(masked(0x88, b"\x03\xe8"))
            assert await client.receive_all() == b"\x88\x02\x03\xe8"
            await client.stream.aclose()
        late, _ = await handshake(url)
        await late.receive_exactly(6)
        await gateway.stop()
        await late.stream.aclose()
    gc.collect()
    assert [thing for thing in kept_for_pings() if id(thing) not in before] == []


@on_both_loops
async def test_pings_go_on_after_a_restart() -> None:
    gateway = Gateway(ping_interval=0.05, pong_timeout=600)
    async with serve(gateway) as url:
        before, _ = await handshake(url)
        await before.receive_exactly(6)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.restart)
            assert (await before.receive_exactly(4))[2:] == b"\x03\xf4"  # 1012
            await before.stream.aclose()
        after, _ = await handshake(url)
        async with after:
            await answer(after, 3)


@on_both_loops
async def test_each_gateway_of_a_process_pings_in_its_own_interval() -> None:
    often, rarely = Gateway(id="often", ping_interval=0.05), Gateway(id="rarely", ping_interval=600)
    async with serve(often) as often_url, serve(rarely) as rarely_url:
        silent, _ = await handshake(rarely_url)
        pinged, _ = await handshake(often_url)
        async with silent, pinged:
            await answer(pinged, 5)
            await silent.send(masked(0x81, b"hi"))
            assert await silent.receive_exactly(4) == b"\x81\x02hi"

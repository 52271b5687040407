"""When a client is pinged, and when it is disconnected without a pong, by a clock that jumps."""

import asyncio
from collections.abc import Callable

from tests.clocks import jumping, pass_time
from wsgateway import Settings
from wsgateway.server.keepalive import GRACE, Keepalive

SETTINGS = Settings(ping_interval=25, pong_timeout=8)

OVERDUE = 25 + 8 + GRACE
"""Seconds until a client that never answers is disconnected."""


class RecordingWire:
    """A `Wire` that keeps when it was written to and aborted."""

    def __init__(self) -> None:
        self.write: Callable[[bytes], None] = self._write
        self.is_congested = self.is_paused = self.deflates = False
        self.pings: list[tuple[float, bytes]] = []
        self.aborted_at: float | None = None

    def _write(self, data: bytes) -> None:
        assert data[:2] == b"\x89\x04"
        self.pings.append((asyncio.get_running_loop().time(), data[2:]))

    def unwritten(self) -> int:
        return 0

    def read_on(self) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None:
        self.aborted_at = asyncio.get_running_loop().time()


@jumping
async def test_a_client_that_answers_is_pinged_an_interval_after_each_pong() -> None:
    wire = RecordingWire()
    keepalive = Keepalive(wire, SETTINGS)
    for _ in range(2):
        await pass_time(26)
        assert keepalive.take_pong(wire.pings[-1][1])
    assert [at for at, _ in wire.pings] == [25, 51]
    keepalive.stop()


@jumping
async def test_a_client_without_a_pong_is_disconnected() -> None:
    wire = RecordingWire()
    keepalive = Keepalive(wire, SETTINGS)
    await pass_time(60)
    assert wire.aborted_at == OVERDUE
    keepalive.stop()


@jumping
async def test_a_pong_in_the_last_moment_counts() -> None:
    wire = RecordingWire()
    keepalive = Keepalive(wire, SETTINGS)
    await pass_time(OVERDUE - GRACE / 2)
    assert keepalive.take_pong(wire.pings[-1][1])
    await pass_time(1)
    assert wire.aborted_at is None
    keepalive.stop()


@jumping
async def test_only_the_payload_of_the_last_ping_answers_it_and_only_once() -> None:
    wire = RecordingWire()
    keepalive = Keepalive(wire, SETTINGS)
    assert not keepalive.take_pong(b"")
    await pass_time(26)
    payload = wire.pings[-1][1]
    assert not keepalive.take_pong(b"xxxxx")
    assert keepalive.take_pong(payload)
    assert not keepalive.take_pong(payload)
    keepalive.stop()


@jumping
async def test_no_pong_is_overdue_while_the_client_is_not_read_from() -> None:
    wire = RecordingWire()
    keepalive = Keepalive(wire, SETTINGS)
    await pass_time(26)
    wire.is_paused = True
    keepalive.paused()
    await pass_time(100)
    assert wire.aborted_at is None
    wire.is_paused = False
    await pass_time(3 * 8)
    assert wire.aborted_at is not None
    keepalive.stop()


@jumping
async def test_a_short_pause_gives_one_more_timeout() -> None:
    wire = RecordingWire()
    keepalive = Keepalive(wire, SETTINGS)
    await pass_time(26)
    keepalive.paused()
    await pass_time(60)
    assert wire.aborted_at == OVERDUE + 8
    keepalive.stop()


@jumping
async def test_a_congested_client_is_pinged_later() -> None:
    wire = RecordingWire()
    keepalive = Keepalive(wire, SETTINGS)
    wire.is_congested = True
    await pass_time(30)
    wire.is_congested = False
    await pass_time(25)
    assert [at for at, _ in wire.pings] == [50]
    keepalive.stop()


@jumping
async def test_nothing_is_sent_or_awaited_after_stop() -> None:
    for seconds in (10, 30):  # before the ping, and before its pong
        wire = RecordingWire()
        keepalive = Keepalive(wire, SETTINGS)
        await pass_time(seconds)
        count = len(wire.pings)
        keepalive.stop()
        keepalive.stop()
        await pass_time(100)
        assert len(wire.pings) == count
        assert wire.aborted_at is None

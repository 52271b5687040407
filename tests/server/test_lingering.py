"""How long a client has to read what was written to it before its connection ends, by a clock that jumps."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from tests.clocks import jumping, pass_time
from wsgateway.config.grace import LINGER
from wsgateway.server.lingering import QUIET, LingeringTransport, ProgressTimer, QuietClose


class RecordingTransport:
    """A transport whose client reads when the test says so, and which keeps how it was closed."""

    def __init__(self, sock: socket.socket) -> None:
        self.unread = 100
        self.ends: list[tuple[str, float]] = []
        self._sock = sock

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._sock

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return bool(self.ends)

    def close(self) -> None:
        self.ends.append(("closed", asyncio.get_running_loop().time()))

    def abort(self) -> None:
        self.ends.append(("aborted", asyncio.get_running_loop().time()))


@pytest.fixture
def transport() -> Iterator[RecordingTransport]:
    here, there = socket.socketpair()
    with here, there:
        yield RecordingTransport(here)


@jumping
async def test_a_client_that_reads_nothing_is_noticed(transport: RecordingTransport) -> None:
    timer = ProgressTimer(asyncio.get_running_loop(), transport, transport.abort)
    timer.start(30)
    timer.start(1)  # it runs already
    await pass_time(100)
    assert transport.ends == [("aborted", 30)]


@jumping
async def test_a_client_that_reads_a_little_has_as_long_again(transport: RecordingTransport) -> None:
    timer = ProgressTimer(asyncio.get_running_loop(), transport, transport.abort)
    timer.start(30)
    await pass_time(29)
    transport.unread -= 1
    await pass_time(100)
    assert transport.ends == [("aborted", 60)]


@jumping
async def test_a_cancelled_timer_can_be_started_again(transport: RecordingTransport) -> None:
    timer = ProgressTimer(asyncio.get_running_loop(), transport, transport.abort)
    timer.start(30)
    timer.cancel()
    timer.cancel()
    await pass_time(100)
    assert transport.ends == []
    timer.start(5)
    await pass_time(100)
    assert transport.ends == [("aborted", 105)]


def test_the_response_cycle_closes_with_what_it_was_given(transport: RecordingTransport) -> None:
    closes: list[str] = []
    lingering = LingeringTransport(transport, lambda: closes.append("lingering"))
    lingering.close()
    assert closes == ["lingering"]
    assert not lingering.is_closing()


@jumping
async def test_a_client_that_broke_the_protocol_is_closed_once_it_is_quiet(transport: RecordingTransport) -> None:
    connections: set[object] = set()
    protocol = QuietClose(transport, connections)
    assert connections == {protocol}
    await pass_time(QUIET / 2)
    protocol.data_received(b"x")
    await pass_time(QUIET * 0.9)
    assert transport.ends == []
    await pass_time(QUIET)
    assert transport.ends == [("closed", QUIET * 1.5)]
    protocol.connection_lost(None)
    assert connections == set()
    await pass_time(2 * LINGER)
    assert len(transport.ends) == 1


@jumping
async def test_a_client_that_broke_the_protocol_and_is_never_quiet_is_aborted(transport: RecordingTransport) -> None:
    protocol = QuietClose(transport, set())
    while not transport.ends:
        await pass_time(QUIET / 2)
        protocol.data_received(b"x")
    assert transport.ends == [("aborted", LINGER)]
    protocol.connection_lost(None)

"""How long a client has to read what was written to it before its connection ends, by a clock that jumps."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from tests.clocks import jumping, pass_time
from wsgateway.config.grace import LINGER
from wsgateway.server.lingering import MAX_JOINED, QUIET, ProgressTimer, QuietClose, ResponseTransport


class RecordingTransport:
    """A transport whose client reads when the test says so, and which keeps how it was closed."""

    def __init__(self, sock: socket.socket) -> None:
        self.unread = 100
        self.ends: list[tuple[str, float]] = []
        self.writes: list[bytes] = []
        self._sock = sock

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._sock

    def write(self, data: bytes) -> None:
        self.writes.append(data)

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


def response_transport(transport: RecordingTransport) -> ResponseTransport:
    """The transport of responses, whose linger is an entry in `ends` of `transport`."""
    return ResponseTransport(transport, asyncio.get_running_loop(), lambda: transport.ends.append(("lingering", 0)))


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def test_the_head_of_a_response_is_written_with_its_body(transport: RecordingTransport) -> None:
    responses = response_transport(transport)
    for body in (b"a", b""):
        responses.write(HEAD)
        responses.write(body)
    responses.write(b"b")
    await asyncio.sleep(0)  # one iteration, whose end flushes
    assert transport.writes == [HEAD + b"a", HEAD, b"b"]


async def test_a_head_without_a_body_is_written_at_the_end_of_the_iteration(transport: RecordingTransport) -> None:
    responses = response_transport(transport)
    responses.write(HEAD)
    assert transport.writes == []
    await asyncio.sleep(0)  # one iteration, whose end flushes
    responses.write(b"late")
    assert transport.writes == [HEAD, b"late"]


async def test_an_interim_response_is_written_immediately(transport: RecordingTransport) -> None:
    responses = response_transport(transport)
    responses.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_a_large_body_is_not_copied(transport: RecordingTransport) -> None:
    responses = response_transport(transport)
    body = b"x" * (MAX_JOINED + 1)
    responses.write(HEAD)
    responses.write(body)
    assert transport.writes == [HEAD, body]
    assert transport.writes[1] is body


async def test_a_body_may_be_a_view_and_begin_as_a_head_does(transport: RecordingTransport) -> None:
    responses = response_transport(transport)
    responses.write(HEAD)
    for part in (HEAD, HEAD, b"end"):
        responses.write(memoryview(part))  # type: ignore[arg-type]  # uvicorn writes what an application gives
    await asyncio.sleep(0)  # one iteration, whose end flushes
    assert b"".join(transport.writes) == HEAD * 3 + b"end"


async def test_what_waits_is_written_before_the_lingering_close(transport: RecordingTransport) -> None:
    responses = response_transport(transport)
    responses.write(HEAD)
    responses.close()
    assert transport.writes == [HEAD]
    assert transport.ends == [("lingering", 0)]
    assert responses.is_closing()


async def test_nothing_is_written_to_a_closed_connection(transport: RecordingTransport) -> None:
    responses = response_transport(transport)
    responses.write(HEAD)
    transport.abort()
    await asyncio.sleep(0)  # one iteration, whose end flushes
    assert transport.writes == []


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

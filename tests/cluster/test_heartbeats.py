"""Heartbeats, silence, and what is concluded from it, by a clock that jumps."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.clocks import block, jumping, pass_time
from wsgateway.cluster import envelopes
from wsgateway.cluster.asking import Answering, Asks
from wsgateway.cluster.envelopes import Answer, Ask, Envelope, Heartbeat, Info
from wsgateway.cluster.heartbeats import ANSWERING, HEARTBEAT, PING_TIMEOUT, REPORT, Heartbeats, Reports
from wsgateway.cluster.nodes import LEASE, SILENCE, Nodes
from wsgateway.cluster.pulse import Pulse
from wsgateway.exceptions import BrokerError
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics

A, B = "a" * 8, "b" * 8
INFO = Info(host="h", pid=1, version="1", age=0.0, state="running")
LOG = GatewayLog("test")


class Watch:
    """The node A, which knows the node B. What A sends returns to it, and B answers, unless they are cut."""

    def __init__(self, answering: Answering = ANSWERING) -> None:
        self.is_up = True
        self.is_cut = False
        self.returns = True
        self.sent: list[Heartbeat] = []
        self.asked = 0
        self.reports = 0
        self.events: list[tuple[str, float]] = []
        self.nodes = Nodes()
        self._a = self._asks(A, {})
        self._b = self._asks(B, answering)
        self.heartbeats = Heartbeats(
            A,
            self.nodes,
            self._a,
            Reports(
                send=self._send,
                report=self._report,
                lost=lambda node_id: self._note("lost"),
                absent=lambda node_id: self._note("absent"),
                present=lambda node_id: self._note("present"),
            ),
            is_up=lambda: self.is_up,
            is_serving=True,
            metrics=Metrics(),
            log=LOG,
        )

    def _asks(self, node: str, answering: Answering) -> Asks:
        return Asks(
            node,
            self.nodes,
            answering=answering,
            publish=self._publish,
            is_up=lambda: self.is_up,
            timeout=1,
            log=LOG,
        )

    def _note(self, what: str) -> None:
        self.events.append((what, now()))

    def _report(self) -> None:
        self.reports += 1

    def _send(self, data: bytes) -> None:
        envelope = envelopes.decode(data)
        assert isinstance(envelope, Heartbeat)
        self.sent.append(envelope)
        if self.returns:
            asyncio.get_running_loop().call_soon(self.heartbeats.echoes.discard, data)

    def _publish(self, node_id: str, make: Callable[[int], Envelope]) -> bool:
        envelope = make(1)
        if isinstance(envelope, Ask):
            self.asked += 1
        if not self.is_cut:
            handle: Any = self._a.handle_answer if isinstance(envelope, Answer) else self._b.handle
            asyncio.get_running_loop().call_soon(handle, envelope)
        return True

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def watch(**options: Any) -> AsyncIterator[Watch]:
    watch = Watch(**options)
    watch.heartbeats.start()
    watch.heartbeats.add(B, INFO)
    try:
        yield watch
    finally:
        assert await watch.heartbeats.aclose()
        assert not await watch.heartbeats.aclose()


@jumping
async def test_a_heartbeat_is_sent_every_second_and_a_report_every_ten() -> None:
    async with watch() as one:
        await pass_time(2 * REPORT + 0.1)
        assert len(one.sent) - one.asked == pytest.approx(2 * REPORT / HEARTBEAT, abs=2)
        assert len({heartbeat.mark for heartbeat in one.sent}) == len(one.sent)
        assert {(heartbeat.origin, heartbeat.seq, heartbeat.info) for heartbeat in one.sent} == {(A, 0, None)}
        assert one.reports == 3


@jumping
async def test_a_node_that_is_silent_and_does_not_answer_is_absent_after_five_seconds() -> None:
    async with watch() as one:
        await pass_time(0.7)
        one.heartbeats.touch(B)
        one.is_cut, last = True, now()
        await pass_time(20)
        assert one.names == ["present", "absent"]
        assert one.events[1][1] - last == pytest.approx(SILENCE + PING_TIMEOUT, abs=0.01)
        assert (one.asked, one.nodes.get(B) is not None) == (1, True)


@jumping
async def test_an_absent_node_is_lost_after_its_lease_and_present_with_its_next_heartbeat() -> None:
    async with watch() as one:
        one.is_cut = True
        await pass_time(LEASE + 1)
        assert one.names == ["present", "absent", "lost"]
        one.heartbeats.touch(B)
        assert one.names[3:] == ["present"]
        assert one.nodes.is_present(B)


@pytest.mark.parametrize("answering", [ANSWERING, {}], ids=["answers", "does not know the question"])
@jumping
async def test_a_node_that_sends_no_heartbeat_but_answers_is_present(answering: Answering) -> None:
    async with watch(answering=answering) as one:
        await pass_time(2 * LEASE)
        assert one.names == ["present"]
        assert one.asked == pytest.approx(2 * LEASE / SILENCE, abs=2)


@jumping
async def test_nothing_is_concluded_while_the_broker_is_slow() -> None:
    async with watch() as one:
        one.is_cut, one.returns = True, False
        await pass_time(LEASE - 2)
        assert one.names == ["present"]
        assert one.asked > 5
        one.returns = True
        await pass_time(1.5 * PING_TIMEOUT)
        assert one.names == ["present", "absent"]


@jumping
async def test_nothing_is_concluded_while_the_broker_is_unavailable_and_silence_begins_anew() -> None:
    async with watch() as one:
        one.is_cut, one.is_up = True, False
        await pass_time(20)
        one.is_up, since = True, now()
        await pass_time(SILENCE + PING_TIMEOUT - 0.6)
        assert one.names == ["present"]
        await pass_time(1.2)
        assert one.names == ["present", "absent"]
        assert one.events[-1][1] - since == pytest.approx(SILENCE + PING_TIMEOUT, abs=0.51)


@jumping
async def test_a_process_that_was_blocked_concludes_nothing_from_what_it_has_not_read() -> None:
    async with watch() as one:
        one.is_cut = True
        block(10)
        await pass_time(SILENCE - 0.1)
        assert (one.names, one.asked) == (["present"], 0)


@jumping
async def test_a_process_that_was_blocked_while_it_asked_asks_again() -> None:
    async with watch() as one:
        one.is_cut = True
        await pass_time(SILENCE + 0.1)
        assert one.asked == 1
        block(10)
        await pass_time(0.1)
        assert one.names == ["present"]
        await pass_time(SILENCE + PING_TIMEOUT)
        assert one.names == ["present", "absent"]


# The thread


class Recorder:
    """A link that keeps what it is given, and cannot be opened at first."""

    max_payload = 1000

    def __init__(self) -> None:
        self.opened = 0
        self.topics: list[str] = []
        self.sent: list[tuple[str, bytes]] = []

    async def open(self, topics: Any) -> Any:
        self.opened += 1
        if self.opened == 1:
            raise BrokerError("not yet")
        self.topics += topics
        return self

    async def publish(self, batch: Any) -> None:
        self.sent += batch

    async def aclose(self) -> None:
        self.topics.append("closed")


async def test_a_thread_sends_heartbeats_until_the_loop_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.cluster.pulse.INTERVAL", 0.02)
    recorder = Recorder()
    pulse = Pulse(recorder.open, A, "all", unused="unused", log=LOG)
    thread = None
    for _ in range(100):  # the loop is blocked
        pulse.begin(asyncio.get_running_loop())
        assert thread in (None, pulse._thread)
        thread = pulse._thread
        if len(recorder.sent) > 2:
            break
        assert thread is not None
        thread.join(0.05)
    assert thread is not None
    await asyncio.to_thread(thread.join, 10)
    assert recorder.topics == ["unused", "closed"]
    assert {topic for topic, _ in recorder.sent} == {"all"}
    assert envelopes.decode(recorder.sent[0][1]) == Heartbeat(1, A, 0, None)


def test_a_thread_ends_if_the_loop_was_closed() -> None:
    recorder = Recorder()
    loop = asyncio.new_event_loop()
    loop.close()
    pulse = Pulse(recorder.open, A, "all", unused="unused", log=LOG)
    pulse.begin(loop)
    assert pulse._thread is not None
    pulse._thread.join(10)
    assert recorder.opened == 0

"""A Centrifuge session without a socket, while `on_handshake` decides about its client."""

import asyncio

import pytest

from tests.protocols.test_session import Made
from wsgateway import HandshakeEvent, Refused
from wsgateway.protocols.centrifuge.session import CentrifugeSession

CONNECT = '{"id":1,"connect":{}}'


class Deciding:
    """An `on_handshake` that waits until `decide`, and raises `error` if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.is_decided = asyncio.Event()

    async def on_handshake(self, event: HandshakeEvent) -> None:
        await self.is_decided.wait()
        if self.error is not None:
            raise self.error


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)  # an iteration of the event loop, in which what is due runs


def connecting(listener: Deciding) -> Made:
    made = Made(listener, kind=CentrifugeSession, handshake_timeout=10)
    made.session.expect_connect({})
    assert made.session.received(CONNECT, len(CONNECT))
    return made


def pass_by(made: Made, seconds: float) -> None:
    made.wheel.advance(asyncio.get_running_loop().time() + seconds, 100)


async def test_a_client_whose_connect_is_decided_is_not_stale() -> None:
    made = connecting(listener := Deciding())
    pass_by(made, 20)
    listener.is_decided.set()
    await settled()
    assert made.session.outbox.closing is None
    assert made.session.is_open
    pass_by(made, 40)
    assert made.session.outbox.closing is None


async def test_a_client_that_was_refused_is_closed_after_a_while() -> None:
    made = connecting(listener := Deciding(Refused(403)))
    listener.is_decided.set()
    await settled()
    assert made.session.outbox.closing is None
    pass_by(made, 20)
    assert made.session.outbox.closing == (3502, "")


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_client_that_is_closed_meanwhile_is_not_reported_as_refused(is_gone: bool) -> None:
    made = connecting(listener := Deciding())
    if is_gone:
        made.session.finished(1006, "")
    else:
        made.session.outbox.close(1012, "")
    listener.is_decided.set()
    await settled()
    assert not made.session.is_open
    assert made.refused == []
    pass_by(made, 20)


async def test_commands_that_take_long_do_not_run_in_one_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    made = connecting(listener := Deciding())
    listener.is_decided.set()
    await settled()
    made.session.outbox.clear()
    monkeypatch.setattr("wsgateway.protocols.centrifuge.session.TURN", -1)
    frame = "\n".join(f'{{"id":{number},"ping":{{}}}}' for number in range(2, 5))
    assert made.session.received(frame, len(frame))
    assert made.session.outbox.messages == 2  # the first of the frame, and one more
    await settled()
    assert made.session.outbox.messages == 3

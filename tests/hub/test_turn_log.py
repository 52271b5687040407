"""What is sent in one iteration of the event loop: one write for each connection, in the order of sending."""

import asyncio
from itertools import pairwise

import pytest

from tests.connections import connected, hub_of, outboxes, text, unconnected
from wsgateway import Gateway, Sent
from wsgateway.hub.audience import Audience
from wsgateway.hub.turn_log import SLICE
from wsgateway.messages import Message
from wsgateway.transports.framing import PLAIN


def written(messages: list[Message]) -> bytes:
    return b"".join(message.encoded(PLAIN) for message in messages)


async def test_whatever_it_is_sent_by_a_connection_gets_one_write_in_the_order_of_sending() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 4)
    conns = [conn for conn, _ in made]
    ann, bob, eve, dan = outboxes(conns)
    room = Audience(PLAIN)
    for outbox in (ann, bob, eve):
        assert hub.add(outbox, room)
    one, two, three, four, five, six = (text(f"message {number}") for number in range(6))
    assert hub.deliver(one, hub.everybody) == Sent(4, 4, 0)
    assert hub.deliver(two, room, but=bob) == Sent(2, 2, 0)
    assert hub.deliver(three, hub.everybody, but=ann) == Sent(3, 3, 0)
    assert hub.deliver_to(four, [conns[1], conns[3].id, "unknown"]) == Sent(2, 2, 0)
    assert bob.put(five)
    assert hub.deliver(six, room, but=dan) == Sent(3, 3, 0)  # who is no member
    assert [writes for _, writes in made] == [[], [], [], []]
    await asyncio.sleep(0)  # one iteration of the event loop
    expected = [[one, two, six], [one, three, four, five, six], [one, two, three, six], [one, three, four]]
    assert [writes for _, writes in made] == [[written(messages)] for messages in expected]
    assert [conn.messages_out for conn in conns] == [3, 5, 4, 3]
    assert dan.put(one)
    assert made[3][1][1:] == [written([one])]  # at once, because nothing is waiting


async def test_consecutive_messages_to_the_same_recipients_are_one_run() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 3)
    named: list[object] = [made[0][0], made[1][0]]
    messages = [text(str(number)) for number in range(4)]
    assert [hub.deliver_to(message, named) for message in messages[:2]] == [Sent(2, 2, 0)] * 2
    assert len(hub._turn.runs) == 1
    outboxes(conn for conn, _ in made)[1].buffer()  # the second is no fast member any more
    assert hub.deliver_to(messages[2], named) == Sent(2, 2, 0)
    named.append(made[2][0])  # the list of the listener is its own
    assert hub.deliver_to(messages[3], named) == Sent(3, 3, 0)
    hub.flush()
    assert made[0][1] == [written(messages)]
    assert made[1][1] == [written(messages[:2])]
    assert made[1][0].queued_messages == 2
    assert made[2][1] == [written(messages[3:])]
    assert [conn.messages_out + conn.queued_messages for conn, _ in made] == [4, 4, 1]


@pytest.mark.parametrize("is_sent_before", [False, True])
async def test_a_small_audience_does_not_wait_for_a_large_one(is_sent_before: bool) -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 4 * SLICE)
    room = Audience(PLAIN)
    members = made[-10:]  # the large fan-out comes to them last
    for outbox in outboxes(conn for conn, _ in members):
        assert hub.add(outbox, room)
    to_all, to_room = text("all"), text("room")
    if is_sent_before:
        hub.deliver(to_all, hub.everybody)
        await asyncio.sleep(0)  # one iteration of the event loop: the fan-out begins
        assert [writes for _, writes in members] == [[]] * 10
        hub.deliver(to_room, room)
    else:
        hub.deliver(to_all, hub.everybody)
        hub.deliver(to_room, room)
    await asyncio.sleep(0)  # one iteration of the event loop
    assert [b"".join(writes) for _, writes in members] == [written([to_all, to_room])] * 10
    assert sum(bool(writes) for _, writes in made) <= 2 * SLICE + 10
    while hub.is_writing:
        await asyncio.sleep(0)  # one iteration of the event loop
    for _, writes in made[:-10]:
        assert b"".join(writes) == written([to_all])


async def test_a_fan_out_serves_connections_in_turn_while_more_is_sent() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 3 * SLICE)
    counts = []
    for number in range(12):
        hub.deliver(text(str(number)), hub.everybody)
        await asyncio.sleep(0)  # one iteration of the event loop
        counts.append(sum(bool(writes) for _, writes in made))
    assert counts[-1] == len(made)  # nobody starves
    assert all(after - before <= 2 * SLICE for before, after in pairwise(counts))
    while hub.is_writing:
        await asyncio.sleep(0)  # one iteration of the event loop
    for _, writes in made:
        assert b"".join(writes) == written([text(str(number)) for number in range(12)])


async def test_short_messages_do_not_pile_up_in_one_iteration() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    ((_, writes),) = connected(gateway, hub, 1)
    for _ in range(5000):
        hub.deliver(text(""), hub.everybody)
        assert sum(len(run.messages) for run in hub._turn.runs) <= 1024
    hub.flush()
    assert b"".join(writes) == written([text("")]) * 5000


async def test_long_messages_are_not_copied_for_each_connection() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, SLICE + 5)
    message = text("x" * 100_000)
    for _ in range(3):
        hub.deliver(message, hub.everybody)
    while hub.is_writing:
        await asyncio.sleep(0)  # one iteration of the event loop
    for _, writes in made:
        assert [part is message.encoded(PLAIN) for part in writes] == [True] * 3


async def test_a_write_that_raises_costs_nobody_else_a_message() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    first, broken = connected(gateway, hub, 2), unconnected(gateway)

    def fail(data: bytes) -> None:
        raise RuntimeError(f"{len(data)} bytes")

    hub.join(broken[0])
    broken[1].direct(fail)
    last = connected(gateway, hub, 2)
    hub.deliver(text("x"), hub.everybody)
    with pytest.raises(RuntimeError):
        hub.flush()
    while hub.is_writing:
        await asyncio.sleep(0)  # one iteration of the event loop
    assert [writes for _, writes in first + last] == [[written([text("x")])]] * 4

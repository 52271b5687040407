"""What is sent in one iteration of the event loop: one write for each connection, in the order of sending."""

import asyncio
import gc
import sys
import weakref
from itertools import pairwise

import pytest

from tests.connections import Wakeless, connected, hub_of, outboxes, text, unconnected
from wsgateway import Gateway
from wsgateway.hub.audience import Audience
from wsgateway.hub.fan_out import SLICE
from wsgateway.hub.hub import Hub
from wsgateway.messages import Deliveries, Message
from wsgateway.transports.framing import PLAIN


def written(messages: list[Message]) -> bytes:
    return b"".join(message.encoded(PLAIN) for message in messages)


async def written_all(hub: Hub) -> None:
    """Wait until everything is written, at most so many iterations as the largest fan-out here takes."""
    for _ in range(100):
        if not hub.is_writing:
            return
        await asyncio.sleep(0)  # one iteration of the event loop
    pytest.fail("it is never written")


async def test_each_connection_gets_one_write_in_the_order_of_sending() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 4)
    conns = [conn for conn, _ in made]
    ann, bob, eve, dan = outboxes(conns)
    room = Audience(PLAIN)
    for outbox in (ann, bob, eve):
        assert hub.add(outbox, room)
    one, two, three, four, five, six = (text(f"message {number}") for number in range(6))
    assert hub.deliver(one, hub.everybody) == Deliveries(4, 4, 0)
    assert hub.deliver(two, room, but=bob) == Deliveries(2, 2, 0)
    assert hub.deliver(three, hub.everybody, but=ann) == Deliveries(3, 3, 0)
    assert hub.deliver_to(four, [conns[1], conns[3].id, "unknown"]) == Deliveries(2, 2, 0)
    assert bob.put(five)
    assert hub.deliver(six, room, but=dan) == Deliveries(3, 3, 0)  # dan is not a member
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
    messages = [text(str(number)) for number in range(5)]
    assert [hub.deliver_to(message, named) for message in messages[:2]] == [Deliveries(2, 2, 0)] * 2
    assert len(hub._turn.runs) == 1
    named.append(made[2][0])  # the list belongs to the listener
    assert hub.deliver_to(messages[2], named) == Deliveries(3, 3, 0)
    assert len(hub._turn.runs) == 2
    made[1][0]._outbox.buffer()  # the second is no fast member any more
    assert hub.deliver_to(messages[3], named) == Deliveries(3, 3, 0)
    made[0][0]._outbox.close(1000, "")
    assert hub.deliver_to(messages[4], named) == Deliveries(2, 2, 0)
    hub.flush()
    assert b"".join(made[0][1]) == written(messages[:4])
    assert b"".join(made[1][1]) == written(messages[:3])
    assert made[1][0].queued_messages == 2
    assert made[2][1] == [written(messages[2:])]
    assert [conn.messages_out + conn.queued_messages for conn, _ in made] == [4, 5, 3]
    assert gateway.metrics.messages_out == 10
    assert gateway.metrics.bytes_out == 10


async def test_many_named_recipients_do_not_pile_up_in_one_iteration() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 200)
    for number in range(100):
        hub.deliver_to(text("x"), [conn for conn, _ in made[number:]])
        assert sum(run.audience.fast_count for run in hub._turn.runs) <= 64 * 1024 // 40 + 200
    hub.flush()
    assert [conn.messages_out for conn, _ in made] == [min(number + 1, 100) for number in range(200)]
    assert [len(b"".join(writes)) // 3 for _, writes in made] == [conn.messages_out for conn, _ in made]


async def test_broadcasts_during_a_large_fan_out_are_joined_behind_it() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 5 * SLICE)
    messages = [text(str(number)) for number in range(4)]
    hub.deliver(messages[0], hub.everybody)
    await asyncio.sleep(0)  # one iteration of the event loop: the fan-out begins
    for message in messages[1:]:
        hub.deliver(message, hub.everybody)
        await asyncio.sleep(0)  # one iteration of the event loop
    await written_all(hub)
    assert [writes for _, writes in made] == [[written(messages[:1]), written(messages[1:])]] * len(made)


async def test_what_is_sent_when_a_loop_ends_does_not_stop_the_next_one() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    connected(gateway, hub, 2)
    hub.deliver(text("never written"), hub.everybody)
    hub.abandon()
    assert not hub.is_writing
    ((conn, writes),) = connected(gateway, hub, 1)
    hub.deliver(text("x"), hub.everybody)
    await asyncio.sleep(0)  # one iteration of the event loop
    assert (writes, conn.messages_out) == ([written([text("x")])], 1)


async def test_a_fan_out_keeps_no_connection_alive() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, SLICE + 10)
    outbox = made[-1][0]._outbox
    hub.deliver(text("x"), hub.everybody)
    hub.deliver(text("y"), hub.everybody, but=outbox)
    hub.flush()
    outbox.put(text("z"))
    await written_all(hub)
    for conn, _ in made:
        conn._outbox.close(1000, "")
    references = [weakref.ref(conn) for conn, _ in made]
    owners = sys.getrefcount(outbox)
    made.clear()
    del conn
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []
    assert sys.getrefcount(outbox) < owners  # its connection is gone
    assert [item for item in gc.get_referrers(outbox) if isinstance(item, (tuple, dict, set, list))] == []


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
    await written_all(hub)
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
    await written_all(hub)
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
    message, short = text("x" * 100_000), text("short")
    for _ in range(3):
        hub.deliver(message, hub.everybody)
    hub.deliver_to(short, [conn for conn, _ in made[1:]])
    hub.deliver(message, hub.everybody)
    await written_all(hub)
    for number, (_, writes) in enumerate(made):
        assert [part is message.encoded(PLAIN) for part in writes if len(part) > 1000] == [True] * 4
        assert b"".join(writes) == written([message] * 3 + [short] * bool(number) + [message])


@pytest.mark.parametrize("count", [2, SLICE])
async def test_a_write_that_raises_costs_nobody_else_a_message(count: int) -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    first, broken = connected(gateway, hub, count), unconnected(gateway)
    room = Audience(PLAIN)

    def fail(data: bytes) -> None:
        raise RuntimeError(f"{len(data)} bytes")

    hub.join(broken[0])
    broken[1].direct(fail)
    last = connected(gateway, hub, count)
    for outbox in (broken[1], last[0][0]._outbox):
        hub.add(outbox, room)
    hub.deliver(text("x"), hub.everybody)
    hub.deliver(text("y"), room)
    with pytest.raises(RuntimeError):
        hub.flush()
    await written_all(hub)
    assert b"".join(last[0][1]) == written([text("x"), text("y")])
    for _, writes in first + last[1:]:
        assert writes == [written([text("x")])]


async def test_a_connection_whose_write_raises_is_closed_all_the_same() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    woken: list[str] = []

    class Waking(Wakeless):
        def wake(self) -> None:
            woken.append("woken")

    conn, outbox = unconnected(gateway, Waking())

    def fail(data: bytes) -> None:
        raise RuntimeError(f"{len(data)} bytes")

    hub.join(conn)
    outbox.direct(fail)
    hub.deliver(text("x"), hub.everybody)
    with pytest.raises(RuntimeError):
        outbox.close(4000, "")
    assert (woken, conn.is_open, len(hub.connections)) == (["woken"], False, 0)

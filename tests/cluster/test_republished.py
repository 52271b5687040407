"""The copies of stored messages, in the order in which they were stored."""

import random

from wsgateway.cluster.brokers import republished
from wsgateway.cluster.brokers.republished import Copy, Order


def copies(*pairs: tuple[int, int], stream: str = "s") -> list[Copy]:
    return [Copy(stream, prev, offset, b"%d" % offset) for prev, offset in pairs]


def test_copies_in_order_are_passed_on_at_once() -> None:
    order = Order()
    for copy in copies((0, 3), (3, 4), (4, 9)):
        assert order.arrived("t", copy) == [copy]
        assert not order


def test_a_copy_waits_for_earlier_ones() -> None:
    order, (a, b, c, d) = Order(), copies((0, 1), (1, 5), (5, 7), (7, 8))
    assert order.arrived("t", a) == [a]
    assert order.arrived("t", c) == []
    assert order.arrived("t", d) == []
    assert order.arrived("other", c) == [c]  # nothing is known of this topic
    assert order
    assert order.arrived("t", b) == [b, c, d]
    assert not order


def test_any_order_becomes_the_right_one() -> None:
    chance = random.Random(1)
    for _ in range(200):
        order = Order()
        first, *rest = copies(*[(number, number + 1) for number in range(30)])
        passed = order.arrived("t", first)
        chance.shuffle(rest)
        for copy in rest:
            passed += order.arrived("t", copy)
        assert [copy.offset for copy in passed] == [*range(1, 31)]
        assert not order


def test_copies_that_have_waited_in_vain_are_released_in_order() -> None:
    order, (a, b, c, d) = Order(), copies((0, 1), (3, 5), (5, 7), (7, 8))
    order.arrived("t", a)
    order.arrived("t", c)
    order.arrived("t", b)
    assert order.release() == [("t", b), ("t", c)]
    assert order.release() == []
    assert order.arrived("t", d) == [d]


def test_copies_of_another_stream_old_ones_and_the_first_after_a_purge_do_not_wait() -> None:
    order = Order()
    for copy in [*copies((0, 9)), *copies((1, 2), (2, 3)), *copies((0, 12)), *copies((4, 5), stream="new")]:
        assert order.arrived("t", copy) == [copy]


def test_what_waits_is_limited_and_forgotten() -> None:
    order = Order()
    order.arrived("t", copies((0, 1))[0])
    many = copies(*[(n, n + 1) for n in range(5, 6 + republished.MAX_HELD)])
    found = [order.arrived("t", copy) for copy in many]
    assert found == [[]] * republished.MAX_HELD + [many]
    order.arrived("t", copies((9000, 9001))[0])
    order.forget("t")
    assert not order

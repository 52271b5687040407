"""The counts of numbered publications: remembered for a while, and requests that come before their publication."""

from wsgateway.cluster.tally import KEPT, MAX_KEPT, PATIENCE, Tallies
from wsgateway.messages import Deliveries

FIVE = Deliveries(5, 4, 1)
ONE = ("a" * 8, 1)


def test_counts_are_found_once_after_their_publication_has_arrived() -> None:
    tallies = Tallies()
    assert tallies.find(ONE, 0.0) is None
    assert not tallies.add(ONE, FIVE, 0.0)
    assert tallies.find(("b" * 8, 1), 0.1) is None
    assert tallies.find(ONE, 0.1) == FIVE
    assert tallies.find(ONE, 0.1) is None


def test_a_request_waits_for_its_publication() -> None:
    tallies = Tallies()
    tallies.wait(ONE, "room", 0.0)
    assert tallies.expire(PATIENCE - 0.1) == []
    assert tallies.add(ONE, FIVE, PATIENCE - 0.1)
    assert not tallies.has_requests
    assert not tallies.add(ONE, FIVE, PATIENCE)  # a publication that is published twice


def test_a_request_does_not_wait_for_ever() -> None:
    tallies = Tallies()
    tallies.wait(ONE, "room", 0.0)
    tallies.wait(("b" * 8, 7), "other", 0.2)
    assert tallies.expire(PATIENCE) == [(ONE, "room")]
    assert tallies.has_requests
    assert tallies.expire(PATIENCE + 0.3) == [(("b" * 8, 7), "other")]
    assert not tallies.has_requests


def test_counts_are_forgotten_after_a_while() -> None:
    tallies = Tallies()
    tallies.add(ONE, FIVE, 0.0)
    assert tallies.find(ONE, KEPT) is None


def test_only_the_newest_are_kept() -> None:
    tallies = Tallies()
    for number in range(MAX_KEPT + 1):
        tallies.add(("a" * 8, number), FIVE, 0.0)
        tallies.wait(("b" * 8, number), "room", 0.0)
    assert tallies.find(("a" * 8, 0), 0.1) is None
    assert tallies.find(("a" * 8, 1), 0.1) == FIVE
    assert len(tallies.expire(PATIENCE)) == MAX_KEPT

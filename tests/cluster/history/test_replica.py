"""A channel whose history is elsewhere, row by row. `test_recovery_properties` has all rows in any order."""

from collections.abc import Sequence

import pytest

from wsgateway.cluster.history import replica as module
from wsgateway.cluster.history.recovery import Wish
from wsgateway.cluster.history.replica import Arrival, Effects, Page, Replica, State
from wsgateway.frames import Position, Publication
from wsgateway.messages import Kind, Message

NOTHING = Effects()


def publication(offset: int, key: str = "", server: str = "") -> Publication:
    return Publication(Message(f"{server}{offset}".encode(), Kind.TEXT), "c", key=key)


LOG = [publication(offset, "ab"[offset % 2]) for offset in range(20)]
OTHERS = [publication(offset, "ab"[offset % 2], "other") for offset in range(20)]
"""What another server has at the same offsets after a failover."""


def page(first: int, last: int, epoch: str = "e", log: Sequence[Publication] = LOG) -> Page:
    entries = [(offset - 1, offset, log[offset]) for offset in range(first, last + 1)]
    return Page(epoch, last, first - 1, entries)


def arrival(offset: int, epoch: str = "e", log: Sequence[Publication] = LOG) -> Arrival:
    return Arrival(offset - 1, offset, epoch, log[offset])


def live(first: int, last: int, *, limit: int = 10, is_latest_only: bool = False) -> Replica:
    replica = Replica(limit=limit, is_latest_only=is_latest_only)
    assert not any(replica.joined(page(first, last)).publications)
    assert (replica.state, replica.position) == (State.LIVE, ("e", last))
    return replica


def healing(first: int, last: int, *, limit: int = 10, is_latest_only: bool = False) -> Replica:
    """Return a replica that has read from the publication at its position on."""
    replica = live(first, last, limit=limit, is_latest_only=is_latest_only)
    assert replica.check() == Effects(read_above=last - 1)
    assert replica.state is State.HEALING
    return replica


def texts(publications: Sequence[Publication]) -> list[str]:
    return [publication.payload.decode() for publication in publications]


# Joining


def test_what_arrives_while_joining_is_handled_after_the_first_page() -> None:
    replica = Replica(limit=10, is_latest_only=False)
    assert [replica.arrived(arrival(offset)) for offset in (4, 5, 6)] == [NOTHING] * 3
    assert replica.joined(page(3, 5)) == Effects(publications=(LOG[6],))
    assert replica.position == ("e", 6)


def test_a_channel_that_was_joining_starts_again_when_the_link_is_restored() -> None:
    replica = Replica(limit=10, is_latest_only=False)
    replica.arrived(arrival(9))
    assert replica.restored() == Effects(read_above=0)
    assert replica.joined(page(3, 5)) == NOTHING
    assert replica.state is State.LIVE


def test_more_than_can_be_set_aside_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ASIDE", 2)
    replica = Replica(limit=10, is_latest_only=False)
    for offset in (6, 7, 8):
        replica.arrived(arrival(offset))
    assert replica.joined(page(3, 5)) == Effects(publications=(LOG[6], LOG[7]))
    assert replica.arrived(arrival(9)) == Effects(read_above=6)


# Live


def test_what_follows_is_delivered() -> None:
    replica = live(3, 5)
    assert replica.arrived(arrival(6)) == Effects(publications=(LOG[6],))
    assert replica.position == ("e", 6)


def test_what_follows_nothing_that_is_kept_is_delivered() -> None:
    replica = live(1, 5)
    assert replica.arrived(Arrival(0, 9, "e", LOG[9])) == Effects(publications=(LOG[9],))
    assert replica.arrived(Arrival(9, 12, "e", LOG[12])) == Effects(publications=(LOG[12],))
    assert replica.position == ("e", 12)
    assert replica.arrived(Arrival(0, 11, "e", LOG[11])).read_above == 9  # older, and unknown


def test_a_history_that_has_dropped_the_position_too_is_no_loss() -> None:
    replica = healing(1, 5)
    assert replica.arrived(Arrival(0, 9, "e", LOG[9])) == NOTHING
    assert replica.healed(Page("e", 0, 0, [], is_blank=True)) == Effects(publications=(LOG[9],))
    assert replica.position == ("e", 9)


def test_duplicates_are_dropped() -> None:
    replica = live(3, 5)
    assert [replica.arrived(arrival(offset)) for offset in (3, 5, 4)] == [NOTHING] * 3


def test_what_is_from_the_epoch_before_is_dropped() -> None:
    replica = healing(3, 5)
    assert replica.healed(page(1, 2, "f")) == Effects(read_above=0)
    assert replica.healed(page(1, 2, "f")) == Effects(is_lost=True)
    assert replica.arrived(arrival(6)) == NOTHING
    assert replica.arrived(arrival(3, "f")) == Effects(publications=(LOG[3],))


@pytest.mark.parametrize(
    "arrived", [arrival(7), arrival(6, "f"), arrival(2), arrival(5, log=OTHERS), arrival(1, "f")], ids=str
)
def test_anything_else_is_healed(arrived: Arrival) -> None:
    replica = live(3, 5)
    assert replica.arrived(arrived) == Effects(read_above=4)
    assert replica.state is State.HEALING
    assert replica.arrived(arrival(6)) == replica.check() == NOTHING


# Healing


def test_what_was_missed_is_delivered_before_what_was_set_aside() -> None:
    replica = healing(3, 5)
    replica.arrived(arrival(8))
    replica.arrived(arrival(9))
    assert texts(replica.healed(page(5, 8)).publications) == ["6", "7", "8", "9"]
    assert (replica.state, replica.position) == (State.LIVE, ("e", 9))


def test_nothing_was_missed() -> None:
    replica = healing(3, 5)
    assert replica.healed(page(5, 5)) == NOTHING
    assert replica.state is State.LIVE


def test_records_that_are_all_too_old_are_no_loss() -> None:
    replica = healing(3, 5)
    assert replica.healed(Page("e", 5, 5, [])) == NOTHING
    empty = Replica(limit=10, is_latest_only=False)
    empty.joined(Page("e", 5, 5, []))
    assert empty.check() == Effects(read_above=0)
    assert empty.healed(Page("e", 5, 5, [])) == NOTHING


def test_the_first_publications_of_a_channel_are_healed() -> None:
    replica = Replica(limit=10, is_latest_only=False)
    replica.joined(Page("e", 0, 0, []))
    assert replica.arrived(arrival(2)) == Effects(read_above=0)
    assert texts(replica.healed(page(1, 2)).publications) == ["1", "2"]


@pytest.mark.parametrize("answer", [page(4, 4), page(5, 5, log=OTHERS), page(5, 7, log=OTHERS)], ids=str)
def test_a_history_that_was_rewound_gets_another_epoch(answer: Page) -> None:
    replica = healing(3, 5)
    assert replica.healed(answer) == Effects(renew="e", read_above=0)
    assert replica.restored() == Effects(renew="e", read_above=0)  # nobody knows whether the first renewal arrived
    replica.arrived(arrival(8, "f", OTHERS))
    assert replica.healed(page(1, 7, "f", OTHERS)) == Effects(is_lost=True, publications=(OTHERS[8],))
    assert (replica.state, replica.position) == (State.LIVE, ("f", 8))


def test_after_a_renewal_the_next_page_is_a_new_start_whatever_it_is() -> None:
    replica = healing(3, 5)
    replica.healed(page(4, 4))
    assert replica.healed(page(1, 4)) == Effects(is_lost=True)
    assert replica.position == ("e", 4)
    assert replica.check() == Effects(read_above=3)


@pytest.mark.parametrize(
    "answer",
    [page(6, 8), page(7, 8), page(5, 8, "f"), Page("e", 9, 4, page(5, 8).entries), Page("e", 8, 8, [])],
    ids=["the position is not kept", "a hole", "another epoch", "the top is missing", "empty"],
)
def test_what_cannot_be_healed_is_lost(answer: Page) -> None:
    replica = healing(3, 5)
    assert replica.healed(answer) == Effects(read_above=0)
    everything = answer if answer.epoch == "f" else page(7, 8)
    assert replica.healed(everything) == Effects(is_lost=True)
    assert (replica.state, replica.position) == (State.LIVE, (everything.epoch, 8))


def test_a_hole_inside_a_page_is_a_loss() -> None:
    replica = healing(3, 5)
    entries = [entry for entry in page(5, 8).entries if entry[1] != 7]
    assert replica.healed(Page("e", 8, 4, entries)) == Effects(read_above=0)


def test_what_was_set_aside_is_from_before_a_failover_once_the_link_is_restored() -> None:
    replica = healing(3, 5)
    replica.arrived(arrival(6))
    assert replica.restored() == Effects(read_above=4)
    assert replica.healed(page(5, 5)) == NOTHING


def test_something_that_does_not_fit_after_a_page_is_read_with_all_that_follows() -> None:
    replica = healing(3, 5)
    for offset in (6, 8, 9):
        replica.arrived(arrival(offset))
    assert replica.healed(page(5, 5)) == Effects(publications=(LOG[6],), read_above=5)
    assert texts(replica.healed(page(6, 9)).publications) == ["7", "8", "9"]


# Only the newest publication of each key


def values(first: int, last: int, start: int = 0) -> Page:
    return page(first, last)._replace(start=start)


def test_newer_values_are_delivered_after_a_gap() -> None:
    replica = healing(4, 5, is_latest_only=True)
    assert texts(replica.healed(values(5, 6, start=4)).publications) == ["6"]


def test_values_that_were_all_replaced_are_compared_with_all_there_are() -> None:
    replica = Replica(limit=10, is_latest_only=True)
    replica.joined(values(4, 5))
    replica.check()
    assert replica.healed(values(8, 9, start=4)) == Effects(read_above=0)
    assert texts(replica.healed(values(8, 9)).publications) == ["8", "9"]


def test_values_of_which_nothing_can_be_compared_are_lost_where_some_were_dropped() -> None:
    replica = healing(4, 5, is_latest_only=True)
    assert replica.healed(values(8, 9, start=4)) == Effects(read_above=0)
    assert replica.healed(values(8, 9, start=3)) == Effects(is_lost=True)


def test_a_value_that_is_not_the_one_delivered_is_found() -> None:
    replica = Replica(limit=10, is_latest_only=True)
    replica.joined(values(4, 5))
    replica.check()
    replica.healed(values(7, 7, start=4))
    entries = [(3, 4, OTHERS[4]), (6, 7, OTHERS[7])]
    assert replica.healed(Page("e", 7, 0, entries)) == Effects(renew="e", read_above=0)


def test_a_key_that_the_history_never_had_is_found() -> None:
    replica = Replica(limit=10, is_latest_only=True)
    replica.joined(values(4, 5))
    replica.check()
    replica.healed(values(7, 7, start=4))
    assert replica.healed(Page("e", 7, 0, [(6, 7, OTHERS[7])])) == Effects(renew="e", read_above=0)


# Clients


def wish(since: int | None, last: int | None = None, epoch: str = "e") -> Wish:
    return Wish(None if since is None else Position(epoch, since), last, 10**6, is_latest_only=False)


def test_a_client_is_recovered_from_the_tail() -> None:
    replica = live(3, 5)
    assert replica.above(wish(3)) is None
    recovery = replica.recover(wish(3), 0.0)
    assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (True, ("e", 3), ["4", "5"])


def test_a_client_from_before_the_tail_is_recovered_with_a_page_and_never_beyond_the_position() -> None:
    replica = live(5, 6)
    assert replica.above(wish(2)) == 2
    recovery = replica.recover(wish(2), 0.0, page(3, 9))
    assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (True, ("e", 2), ["3", "4", "5", "6"])


@pytest.mark.parametrize(
    "answer",
    [page(3, 9, "f"), page(3, 9, log=OTHERS), page(3, 4), page(4, 9), page(6, 9)],
    ids=["another epoch", "other publications", "nothing in common", "too late", "later than the tail"],
)
def test_a_page_that_does_not_belong_to_the_tail_recovers_nothing(answer: Page) -> None:
    replica = live(5, 6)
    assert not replica.recover(wish(2), 0.0, answer).recovered


def test_more_than_the_history_is_not_recovered() -> None:
    assert not live(5, 6, limit=3).recover(wish(2), 0.0, page(3, 6)).recovered


@pytest.mark.parametrize(
    ("asked", "above"),
    [
        (wish(None), None),
        (wish(None, 2), None),
        (wish(None, 3), 0),
        (wish(2, epoch="f"), None),
        (wish(9), None),
        (wish(-1), None),
        (wish(4, 9), None),
        (wish(2, 9, epoch=""), 2),
    ],
    ids=str,
)
def test_a_page_is_only_read_for_what_the_tail_does_not_have(asked: Wish, above: int | None) -> None:
    assert live(5, 6).above(asked) == above


def test_a_tail_that_is_full_or_begins_with_the_first_publication_is_enough() -> None:
    assert live(5, 6, limit=2).above(wish(None, 9)) is None
    assert live(1, 6).above(wish(None, 9)) is None


def test_the_newest_are_completed_by_a_page() -> None:
    assert texts(live(5, 6).recover(wish(None, 3), 0.0, page(1, 9)).publications) == ["4", "5", "6"]

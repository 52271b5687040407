"""The numbers of envelopes."""

import pytest

from wsgateway.cluster.sequences import MAX_LOST, MAX_REMEMBERED, Sequences
from wsgateway.exceptions import EnvelopeError


@pytest.fixture
def sequences() -> Sequences:
    return Sequences(lasting="all")


def test_a_number_counts_once_it_was_sent(sequences: Sequences) -> None:
    assert [sequences.next("all"), sequences.next("all")] == [1, 1]
    sequences.sent("all", 1)
    assert [sequences.next("all"), sequences.next("other")] == [2, 1]


def test_the_lasting_topic_is_never_forgotten(sequences: Sequences) -> None:
    sequences.sent("all", 7)
    for number in range(MAX_REMEMBERED + 10):
        sequences.sent(f"topic {number}", 1)
    assert [sequences.next("all"), sequences.next("topic 0")] == [8, 1]


def test_a_gap_is_what_was_lost(sequences: Sequences) -> None:
    assert [sequences.lost_before("a", "all", number) for number in (5, 6, 9)] == [0, 0, 2]


def test_a_duplicate_is_recognized_by_origin_and_topic(sequences: Sequences) -> None:
    sequences.lost_before("a", "all", 5)
    assert sequences.lost_before("b", "all", 5) + sequences.lost_before("a", "room", 5) == 0
    with pytest.raises(EnvelopeError, match="double"):
        sequences.lost_before("a", "all", 5)


def test_a_number_far_too_large_is_refused_and_not_remembered(sequences: Sequences) -> None:
    sequences.lost_before("a", "all", 1)
    with pytest.raises(EnvelopeError, match="malformed"):
        sequences.lost_before("a", "all", MAX_LOST + 2)
    assert sequences.lost_before("a", "all", 2) == 0


def test_a_node_that_has_left_is_forgotten(sequences: Sequences) -> None:
    sequences.sent("a's", 3)
    sequences.lost_before("a", "all", 5)
    sequences.forget("a", sent="a's", received=("all", "other"))
    assert (sequences.next("a's"), sequences.lost_before("a", "all", 1)) == (1, 0)

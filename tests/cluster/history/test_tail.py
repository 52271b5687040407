"""The tail of a channel, against a list."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgateway.cluster.history.tail import Tail


class Item(NamedTuple):
    key: str
    size: int


ITEMS = st.builds(Item, st.sampled_from("abcd"), st.integers(1, 9))


def tail_of(limit: int, *, is_latest_only: bool = False, top: int = 0) -> Tail[Item]:
    key_of = (lambda item: item.key) if is_latest_only else None
    return Tail("e", top, limit=limit, size_of=lambda item: item.size, key_of=key_of)


def filled(count: int, limit: int = 100, *, is_latest_only: bool = False) -> Tail[Item]:
    tail = tail_of(limit, is_latest_only=is_latest_only)
    for offset in range(1, count + 1):
        tail.append(offset - 1, offset, Item(str(offset % 3), offset))
    return tail


def offsets(entries: object) -> list[int] | None:
    assert entries is None or isinstance(entries, list)
    return None if entries is None else [entry[1] for entry in entries]


@pytest.mark.parametrize(
    ("since", "expected"), [(5, []), (3, [4, 5]), (2, [3, 4, 5]), (1, None), (0, None), (6, None), (-1, None)]
)
def test_since_returns_what_follows_or_none_if_some_of_it_is_missing(since: int, expected: list[int] | None) -> None:
    assert offsets(filled(5, limit=3).since(since)) == expected


def test_a_position_between_two_publications_is_none_of_the_channel() -> None:
    tail = tail_of(5)
    tail.append(0, 4, Item("a", 1))
    tail.append(4, 9, Item("a", 1))
    assert [offsets(tail.since(offset)) for offset in (0, 3, 4, 8, 9)] == [[4, 9], None, [9], None, []]


def test_the_newest_item_of_each_key_is_kept() -> None:
    tail = filled(7, is_latest_only=True)
    assert offsets(tail.newest(9)) == [5, 6, 7]
    assert [offsets(tail.since(offset)) for offset in (0, 5, 7, 8)] == [[5, 6, 7], [6, 7], [], None]
    assert tail.bytes == 5 + 6 + 7


def test_a_value_that_was_dropped_is_missing_and_one_that_was_replaced_is_not() -> None:
    tail = tail_of(2, is_latest_only=True)
    for offset, key in enumerate("abac", 1):
        tail.append(offset - 1, offset, Item(key, 1))
    assert offsets(tail.newest(9)) == [3, 4]
    assert [offsets(tail.since(offset)) for offset in (0, 1, 2, 3)] == [None, None, [3, 4], [4]]


def test_after_clear_only_the_position_itself_misses_nothing() -> None:
    tail = filled(5)
    tail.clear()
    assert (tail.top, tail.bytes, len(tail)) == (5, 0, 0)
    assert [offsets(tail.since(offset)) for offset in (4, 5, 6)] == [None, [], None]


def test_newest_returns_at_most_what_is_kept() -> None:
    assert [offsets(filled(5, limit=3).newest(count)) for count in (0, 2, 10**20, -1)] == [[], [4, 5], [3, 4, 5], []]


def test_an_item_is_found_only_at_its_own_offset() -> None:
    tail = filled(5, limit=3)
    assert tail.at(4) == Item("1", 4)
    assert tail.at(6) is None
    assert tail.at(2) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 6), st.booleans(), st.lists(ITEMS | st.sampled_from(["drop", "clear"]), max_size=30))
def test_a_tail_is_what_a_list_would_be(limit: int, is_latest_only: bool, steps: list[Item | str]) -> None:
    tail = tail_of(limit, is_latest_only=is_latest_only)
    kept: list[tuple[int, Item]] = []
    top = floor = 0
    for step in steps:
        if isinstance(step, Item):
            tail.append(top, top + 1, step)
            top += 1
            kept = [pair for pair in kept if not is_latest_only or pair[1].key != step.key] + [(top, step)]
        elif step == "clear":
            tail.clear()
            kept, floor = [], top
        elif kept:
            tail.drop_oldest()
            floor = kept.pop(0)[0]
        if len(kept) > limit:
            floor = kept.pop(0)[0]
        assert (tail.top, tail.bytes, len(tail)) == (top, sum(item.size for _, item in kept), len(kept))
        for offset in range(-1, top + 2):
            expected = [number for number, _ in kept if number > offset] if floor <= offset <= top else None
            assert offsets(tail.since(offset)) == expected
            assert [entry[1] for entry in tail.after(offset)] == [number for number, _ in kept if number > offset]
            assert [entry[1] for entry in tail.before(offset)] == [n for n, _ in reversed(kept) if n < offset]
            assert tail.at(offset) == dict(kept).get(offset)
        assert offsets(tail.newest(3)) == [number for number, _ in kept[-3:]]

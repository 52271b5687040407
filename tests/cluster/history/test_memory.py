"""The history of channels in memory, by examples. A model is in `test_memory_properties`."""

import math
from itertools import count
from typing import Any

import pytest

from wsgateway.cluster.history.memory import (
    KEY_TTL,
    MAX_SHARE,
    POSITION_TTL,
    MemoryHistory,
)
from wsgateway.cluster.history.recovery import Recovery
from wsgateway.config.channels import ChannelSettings
from wsgateway.frames import Position, Publication
from wsgateway.messages import Kind, Message

MEBIBYTE = 1024 * 1024


class Store:
    """A history whose clock is a number, and channels that have the settings of one namespace."""

    def __init__(self, limit_bytes: int = MEBIBYTE, **settings: Any) -> None:
        self.now = 1000.0
        self.settings = ChannelSettings(**{"history": 10, "history_ttl": 60.0} | settings)
        epochs = count()
        self.history = MemoryHistory(limit_bytes, now=lambda: self.now, new_epoch=lambda: f"e{next(epochs)}")

    def publish(
        self, text: str = "m", channel: str = "c", *, key: str = "", ttl: float = math.inf, once: str = ""
    ) -> tuple[Position, bool]:
        expires = None if ttl == math.inf else self.now + ttl
        publication = Publication(Message(text.encode(), Kind.TEXT), channel, key=key, expires=expires)
        return self.history.append(publication, self.settings, idempotency_key=once)

    def position(self, channel: str = "c") -> Position:
        return self.history.position(channel, self.settings)

    def recover(
        self, since: Position | None, channel: str = "c", *, last: int | None = None, max_bytes: int = 10**9
    ) -> Recovery:
        return self.history.recover(channel, self.settings, since=since, last=last, max_bytes=max_bytes)

    def read(self, limit: int = 100, since: Position | None = None, *, reverse: bool = False) -> list[str]:
        _, publications = self.history.read("c", self.settings, limit=limit, since=since, reverse=reverse)
        return texts(publications)


def texts(publications: list[Publication]) -> list[str]:
    return [publication.payload.decode() for publication in publications]


def filled(number: int, **settings: Any) -> Store:
    store = Store(**settings)
    for offset in range(1, number + 1):
        store.publish(str(offset))
    return store


def at(offset: int, epoch: str = "e0") -> Position:
    return Position(epoch, offset)


# Positions


def test_positions_count_from_one_in_the_epoch_of_the_channel() -> None:
    store = Store()
    assert store.position() == at(0)
    assert [store.publish(), store.publish()] == [(at(1), True), (at(2), True)]
    assert store.publish(channel="other") == (at(1, "e1"), True)
    assert store.position() == at(2)


def test_a_position_without_records_is_remembered_a_day_after_the_last_subscription() -> None:
    store = Store()
    store.position()
    store.now += POSITION_TTL - 1
    assert store.position() == at(0)
    store.now += POSITION_TTL - 1
    assert store.recover(at(0)).recovered
    store.now += POSITION_TTL
    store.history.expire()
    assert (store.history.channels, store.history.bytes) == (0, 0)
    assert store.position() == at(0, "e1")


def test_a_position_outlives_the_records_by_a_day() -> None:
    store = filled(3)
    store.now += 60
    store.history.expire()
    store.now += POSITION_TTL - 1
    assert store.position() == at(3)


def test_a_history_without_a_time_limit_has_a_position_without_one() -> None:
    store = filled(3, history_ttl=None, keep="last")
    store.position("empty")
    store.history.forget("c")
    store.now += 1000 * POSITION_TTL
    store.history.expire()
    assert store.position() == at(3)
    assert store.history.channels == 2


# Recovery


@pytest.mark.parametrize("epoch", ["e0", ""])
def test_what_was_missed_is_recovered(epoch: str) -> None:
    store = filled(5)
    recovery = store.recover(at(3, epoch))
    assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (True, at(3), ["4", "5"])


def test_a_client_that_has_missed_nothing_is_recovered() -> None:
    assert filled(5).recover(at(5)) == (True, at(5), [])


@pytest.mark.parametrize("since", [at(6), at(2**63 - 1), at(2**70), at(-1), at(3, "other"), at(4), None])
def test_a_new_start_is_the_newest_last(since: Position | None) -> None:
    store = filled(15) if since == at(4) else filled(5)
    recovery = store.recover(since, last=2)
    newest = ["14", "15"] if since == at(4) else ["4", "5"]
    assert (recovery.recovered, texts(recovery.publications)) == (False, newest)
    assert str(recovery.at.offset + 1) == newest[0]
    assert store.recover(since) == (False, store.position(), [])


def test_a_position_that_is_garbled_is_not_recovered() -> None:
    store = filled(5)
    recovery = store.history.recover("c", store.settings, since=at(5), is_garbled=True, last=None, max_bytes=100)
    assert recovery == (False, at(5), [])


@pytest.mark.parametrize("last", [0, -1, None])
def test_without_last_a_new_start_is_empty(last: int | None) -> None:
    assert filled(5).recover(None, last=last) == (False, at(5), [])


def test_last_takes_what_there_is() -> None:
    recovery = filled(3).recover(None, last=2**63)
    assert (recovery.at, texts(recovery.publications)) == (at(0), ["1", "2", "3"])


def test_what_does_not_fit_is_not_recovered_and_the_newest_are_cut() -> None:
    store = Store()
    for letter in "abcd":
        store.publish(letter * 10)
    assert store.recover(at(0), max_bytes=40).recovered
    assert not store.recover(at(0), max_bytes=39).recovered
    recovery = store.recover(at(0), last=3, max_bytes=29)
    assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (False, at(2), ["c" * 10, "d" * 10])


def test_publications_past_their_ttl_are_left_out_and_count_as_delivered() -> None:
    store = Store()
    for number, ttl in enumerate((5.0, 50.0, 5.0, 50.0), 1):
        store.publish(str(number), ttl=ttl)
    store.now += 5
    recovery = store.recover(at(0))
    assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (True, at(1), ["2", "4"])
    assert texts(store.recover(None, last=2).publications) == ["2", "4"]
    assert store.recover(at(2)).at == at(3)
    store.now += 50
    assert store.recover(at(2)) == (True, at(4), [])


def test_a_client_below_a_forgotten_history_starts_over() -> None:
    store = filled(5)
    store.history.forget("c")
    assert store.recover(at(5)) == (True, at(5), [])
    assert store.recover(at(4), last=5) == (False, at(5), [])
    store.publish("6")
    assert texts(store.recover(at(5)).publications) == ["6"]
    store.history.forget("unknown")
    assert store.history.channels == 1


# Only the newest publication of each key


def test_a_new_client_gets_all_values_whatever_last_is() -> None:
    store = Store(keep="last")
    for offset, key in enumerate("abcba", 1):
        store.publish(str(offset), key=key)
    for last in (None, 0, 1, 9):
        recovery = store.recover(None, last=last)
        assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (False, at(2), ["3", "4", "5"])


def test_newer_values_are_recovered() -> None:
    store = Store(keep="last")
    for offset, key in enumerate("abcba", 1):
        store.publish(str(offset), key=key)
    recovery = store.recover(at(3))
    assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (True, at(3), ["4", "5"])
    assert store.recover(at(0)).recovered
    assert not store.recover(at(3, "other")).recovered


def test_a_client_that_has_missed_a_value_above_the_limit_starts_over() -> None:
    store = Store(keep="last", history=2)
    for key in "abc":
        store.publish(key, key=key)
    recovery = store.recover(at(0))
    assert (recovery.recovered, recovery.at, texts(recovery.publications)) == (False, at(1), ["b", "c"])
    assert store.recover(at(1)).recovered


def test_publications_without_a_key_share_one_value() -> None:
    store = filled(5, keep="last")
    assert texts(store.recover(None).publications) == ["5"]


# Time


def test_the_time_of_a_history_counts_from_the_last_publication() -> None:
    store = filled(1)
    store.now += 59
    store.publish("2")
    store.now += 59
    assert store.recover(at(0)).recovered
    store.now += 1
    assert not store.recover(at(0)).recovered
    assert store.recover(at(2)).recovered


# Idempotency


def test_a_key_publishes_once_in_its_channel() -> None:
    store = Store()
    first = store.publish("a", once="k")
    store.publish("b")
    assert store.publish("c", once="k") == (first[0], False)
    assert store.publish("d", channel="other", once="k") == (at(1, "e1"), True)
    assert store.publish("e", once="other") == (at(3), True)
    assert store.read() == ["a", "b", "e"]


def test_a_key_is_remembered_for_300_s() -> None:
    store = Store()
    store.publish(once="k")
    store.now += KEY_TTL - 1
    assert store.publish(once="k") == (at(1), False)
    store.now += 1
    assert store.publish(once="k") == (at(2), True)


def test_a_long_key_takes_no_more_than_its_hash() -> None:
    store = Store()
    store.publish(once="k" * MEBIBYTE)
    size = store.history.bytes
    assert store.publish(once="k" * MEBIBYTE) == (at(1), False)
    assert store.publish(once="k" * (MEBIBYTE - 1) + "l") == (at(2), True)
    assert store.publish(once="\ud800" * 100) == (at(3), True)
    assert size < 2500


def test_many_keys_take_a_quarter_and_drop_the_oldest_keys() -> None:
    store = Store(limit_bytes=100_000)
    store.publish("a")
    for number in range(1000):
        store.publish(channel="other", once=str(number))
    assert store.history.bytes < 100_000 / MAX_SHARE + 20_000
    assert store.publish(channel="other", once="999")[1] is False
    assert store.publish(channel="other", once="0")[1] is True
    assert store.read() == ["a"]


# Reading


def test_the_newest_are_read_in_order() -> None:
    store = filled(5)
    assert store.read(3) == ["3", "4", "5"]
    assert store.read(3, reverse=True) == ["5", "4", "3"]
    assert store.read(2**64) == ["1", "2", "3", "4", "5"]
    assert store.read(0) == store.read(-1) == []


def test_reading_forward_and_backward_from_a_position() -> None:
    store = filled(5)
    assert store.read(2, at(1)) == ["2", "3"]
    assert store.read(2, at(5)) == []
    assert store.read(2, at(4), reverse=True) == ["3", "2"]
    assert store.read(2, at(1), reverse=True) == []


def test_reading_from_a_position_of_another_epoch_begins_with_the_oldest() -> None:
    store = filled(5)
    assert store.read(2, at(9, "other")) == ["1", "2"]
    assert store.read(2, at(9, "other"), reverse=True) == []


def test_reading_from_a_position_above_the_channel_s() -> None:
    store = filled(5)
    assert store.read(2, at(2**63 - 1)) == []
    assert store.read(2, at(2**63 - 1), reverse=True) == ["5", "4"]


def test_reading_leaves_out_what_is_past_its_ttl_and_fills_up() -> None:
    store = Store()
    for number, ttl in enumerate((50.0, 5.0, 5.0, 50.0), 1):
        store.publish(str(number), ttl=ttl)
    store.now += 5
    assert store.read(2) == ["1", "4"]


def test_reading_returns_the_position() -> None:
    store = filled(5)
    assert store.history.read("c", store.settings, limit=0) == (at(5), [])
    assert store.history.read("new", store.settings, limit=5) == (at(0, "e1"), [])


# Bounds


def test_above_the_limit_the_channel_with_the_oldest_publication_loses_its_records() -> None:
    store = Store(limit_bytes=10_000)
    for channel in ("a", "b", "a", "c"):
        store.now += 1
        store.publish("x" * 1000, channel)
    assert store.history.evicted == 1
    assert not store.recover(at(0, "e1"), "b").recovered
    assert store.recover(at(1, "e1"), "b").recovered
    assert store.recover(at(0), "a").recovered
    assert store.recover(at(0, "e2"), "c").recovered


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_the_oldest_publication_counts_whatever_the_time_of_its_history_is(order: list[str]) -> None:
    store = Store(limit_bytes=10_000)
    for channel in [*order, "c"]:
        store.now += 1
        store.settings = ChannelSettings(history=10, history_ttl=600 if channel == "a" else 60)
        store.publish("x" * 1300, channel)
    kept = {channel: store.recover(at(0, f"e{number}"), channel) for number, channel in enumerate([*order, "c"])}
    assert [recovery.recovered for recovery in kept.values()] == [False, True, True]


def test_the_only_channel_loses_its_oldest_records() -> None:
    store = Store(limit_bytes=10_000, history=100)
    for number in range(10):
        store.publish(str(number) * 1000)
    assert store.history.bytes <= 10_000
    assert store.history.evicted == 7
    assert [text[0] for text in store.read()] == ["7", "8", "9"]
    assert not store.recover(at(6)).recovered
    assert store.recover(at(7)).recovered


def test_a_publication_above_the_limit_is_not_kept() -> None:
    store = Store(limit_bytes=10_000)
    assert store.publish("x" * 20_000) == (at(1), True)
    assert store.history.bytes < 1000
    assert store.recover(at(1)).recovered
    assert not store.recover(at(0)).recovered


def test_many_names_take_a_quarter_and_drop_the_oldest_positions() -> None:
    store = Store(limit_bytes=100_000)
    store.publish("kept")
    for number in range(1000):
        store.now += 0.001
        store.position(f"name {number}")
    assert store.history.bytes < 100_000 / MAX_SHARE + 3000
    assert store.position("name 999") == at(0, "e1000")
    assert store.position("name 0") == at(0, "e1001")
    assert store.read() == ["kept"]


def test_a_channel_that_gains_and_loses_records_drops_no_other_position() -> None:
    store = Store(limit_bytes=100_000)
    store.position("other")
    for _ in range(200):
        store.publish()
        store.history.forget("c")
    assert store.position("other") == at(0)


def test_nothing_is_left_when_all_time_is_over() -> None:
    store = Store(limit_bytes=50_000)
    for number in range(300):
        store.now += 1
        store.publish(str(number), f"c{number % 7}", once=str(number))
        store.position(f"empty {number}")
    store.now += POSITION_TTL + 60
    store.history.expire()
    store.now += POSITION_TTL
    store.history.expire()
    assert (store.history.channels, store.history.bytes) == (0, 0)

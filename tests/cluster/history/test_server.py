"""The history server of `ipc://` without sockets: what it answers, and what it publishes."""

import json
import math
import random
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgateway.cluster.history.requests import (
    MAX_ITEMS,
    MAX_RECORD,
    PAGE_BYTES,
    VERSION,
    Answer,
    KnownSettings,
    RequestError,
    decode_answer,
    encode_header,
    item_of_append,
    item_of_read,
)
from wsgateway.cluster.history.server import MAX_GATEWAYS, HistoryServer
from wsgateway.cluster.history.store import Append, Request, parse_announcement
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.values import Keep
from wsgateway.frames import Position

MEBIBYTE = 1024 * 1024
SETTINGS = ChannelSettings(history=10)


class Server:
    """A server whose clock is a number."""

    def __init__(self, history_bytes: int = MEBIBYTE) -> None:
        self.now = 1000.0
        self.history_bytes = history_bytes
        epochs = count()
        self.server = HistoryServer(now=lambda: self.now, new_epoch=lambda: f"e{next(epochs)}")
        self.parcels: list[list[bytes]] = []

    def ask(self, operation: str, *items: str, records: tuple[bytes, ...] = (), gateway: str = "g") -> Answer:
        return self.ask_raw(encode_header(7, operation, gateway, self.history_bytes, items), *records)

    def ask_raw(self, *frames: bytes) -> Answer:
        (header, *self.records), self.parcels = self.server.answer(frames)
        return decode_answer(header)

    def append(
        self,
        *records: bytes,
        channel: str = "c",
        settings: ChannelSettings = SETTINGS,
        key: str = "",
        once: str = "",
        gateway: str = "g",
    ) -> list[Any]:
        items = [item_of_append(Append(channel, "", record, settings, key, once), f"t.{channel}") for record in records]
        answer = self.ask("append", *items, records=records, gateway=gateway)
        assert not answer.error
        return answer.results

    def read(
        self,
        channel: str = "c",
        above: int | None = 0,
        most: int = 100,
        *,
        settings: ChannelSettings = SETTINGS,
        gateway: str = "g",
    ) -> tuple[str, int, int, list[tuple[int, bytes]]]:
        answer = self.ask("read", item_of_read(Request(channel, settings, above, most)), gateway=gateway)
        assert not answer.error
        ((epoch, top, start, offsets),) = answer.results
        return epoch, top, start, [(offset, record) for (_, offset), record in zip(offsets, self.records, strict=True)]


def test_publications_are_numbered_announced_and_read() -> None:
    server = Server()
    assert server.append(b"one", b"two") == [[1, "e0", True], [2, "e0", True]]
    (parcel,) = server.parcels  # on one topic, so they travel together
    assert parcel[0] == b"t.c"
    assert [parse_announcement(data) for data in parcel[1:]] == [
        (0, Position("e0", 1), b"one"),
        (1, Position("e0", 2), b"two"),
    ]
    assert server.read() == ("e0", 2, 0, [(1, b"one"), (2, b"two")])


@pytest.mark.parametrize(
    ("above", "most", "start", "offsets"),
    [
        (0, 100, 5, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        (7, 100, 7, [8, 9, 10, 11, 12, 13, 14, 15]),
        (7, 2, 7, [8, 9]),
        (15, 100, 15, []),
        (99, 100, 15, []),
        (None, 100, 5, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        (None, 2, 13, [14, 15]),
        (None, 0, 15, []),
    ],
)
def test_a_page_begins_where_nothing_is_missing(above: int | None, most: int, start: int, offsets: list[int]) -> None:
    server = Server()
    server.append(*[b"%d" % number for number in range(1, 16)])
    page = server.read(above=above, most=most)
    assert page == ("e0", 15, start, [(offset, b"%d" % offset) for offset in offsets])


def test_of_each_key_the_newest_is_kept() -> None:
    server, settings = Server(), ChannelSettings(history=3, keep=Keep.LAST)
    for key in "abcadb":
        server.append(key.encode(), settings=settings, key=key)
    assert server.read(settings=settings) == ("e0", 6, 3, [(4, b"a"), (5, b"d"), (6, b"b")])
    assert server.read(above=None, most=1, settings=settings) == ("e0", 6, 5, [(6, b"b")])


def test_the_same_idempotency_key_publishes_once() -> None:
    server = Server()
    assert server.append(b"one", once="k") == [[1, "e0", True]]
    assert server.append(b"two", once="k") == [[1, "e0", False]]
    assert server.parcels == []
    assert server.append(b"three", b"three", once="m") == [[2, "e0", True], [2, "e0", False]]
    assert server.append(b"other", channel="d", once="k") == [[1, "e1", True]]


def test_a_broken_epoch_is_replaced_once() -> None:
    server = Server()
    server.append(b"one")
    for _ in range(3):
        assert not server.ask("renew", json.dumps(["c", "e0"])).error
    assert server.read() == ("e1", 1, 0, [(1, b"one")])
    assert not server.ask("renew", json.dumps(["unknown", "e0"])).error


def test_after_forget_the_position_stays() -> None:
    server = Server()
    server.append(b"one", b"two")
    assert not server.ask("forget", json.dumps("c"), json.dumps("unknown")).error
    assert server.read() == ("e0", 2, 2, [])


def test_gateways_do_not_share_channels() -> None:
    server = Server()
    server.append(b"mine")
    assert server.append(b"other", gateway="h") == [[1, "e1", True]]
    assert server.read() == ("e0", 1, 0, [(1, b"mine")])
    assert server.read(gateway="h") == ("e1", 1, 0, [(1, b"other")])


def test_changed_settings_apply_from_the_next_request_on() -> None:
    server = Server()
    server.append(*[b"%d" % number for number in range(1, 11)])
    server.append(b"11", settings=ChannelSettings(history=3))
    assert server.read(settings=ChannelSettings(history=3))[2:] == (8, [(9, b"9"), (10, b"10"), (11, b"11")])
    server.append(b"12", settings=ChannelSettings(history=4))
    assert server.read(settings=ChannelSettings(history=4))[2] == 8
    short = ChannelSettings(history=4, history_ttl=1.0)
    server.read(settings=short)
    server.now += 2
    assert server.read(settings=short) == ("e0", 12, 12, [])
    last = ChannelSettings(history=4, keep=Keep.LAST)
    assert server.read(settings=last) == ("e1", 0, 0, [])  # the numbering has started again


def test_whatever_the_settings_were_nothing_is_left_when_all_has_expired() -> None:
    server, generator = Server(history_bytes=200_000), random.Random(1)
    kinds = [
        ChannelSettings(history=history, history_ttl=ttl, keep=keep)
        for history in (1, 3, 10)
        for ttl in (1.0, 60.0)
        for keep in Keep
    ]
    for number in range(3000):
        settings, channel = generator.choice(kinds), f"c{generator.randrange(20)}"
        match generator.randrange(8):
            case 0:
                server.read(channel, settings=settings)
            case 1:
                server.ask("forget", json.dumps(channel))
            case 2:
                server.ask("renew", json.dumps([channel, f"e{generator.randrange(50)}"]))
            case _:
                key, once = generator.choice("abc"), generator.choice(("", f"{number % 50}"))
                server.append(b"x" * generator.randrange(3000), channel=channel, settings=settings, key=key, once=once)
        server.now += generator.choice((0, 0, 0.3))
        assert 0 <= server.ask("forget").bytes <= 200_000
    for seconds in (400, 2 * 86400):  # the records and keys, then the positions
        server.now += seconds
        server.server.expire()
    assert server.ask("forget").bytes == 0


def test_records_and_gateways_whose_time_is_over_are_dropped() -> None:
    server = Server()
    server.append(b"x" * 1000, settings=ChannelSettings(history=10, history_ttl=5.0), once="k")
    server.now += 6
    server.server.expire()
    assert server.ask("forget").bytes < 1000
    server.now += 10 * 86400
    server.server.expire()
    assert server.ask("forget").bytes == 0
    assert server.read()[0] == "e1"


def test_a_changed_history_bytes_applies_from_the_next_append_on() -> None:
    server = Server(history_bytes=8 * MEBIBYTE)
    for number in range(100):
        server.append(b"x" * 50_000, channel=f"c{number}")
    assert server.ask("forget").bytes > 4 * MEBIBYTE
    server.history_bytes = MEBIBYTE
    server.append(b"x")
    answer = server.ask("forget")
    assert answer.bytes <= MEBIBYTE
    assert answer.evicted > 50


def test_a_record_larger_than_history_bytes_is_published_and_not_kept() -> None:
    server = Server(history_bytes=MEBIBYTE)
    assert server.append(b"x" * MAX_RECORD) == [[1, "e0", True]]
    assert len(server.parcels[0][1]) > MAX_RECORD
    assert server.read() == ("e0", 1, 1, [])


def test_an_answer_has_no_more_pages_than_fit() -> None:
    server = Server(history_bytes=64 * MEBIBYTE)
    for number in range(12):
        server.append(b"x" * MEBIBYTE, channel=f"c{number}")
    items = [item_of_read(Request(f"c{number}", SETTINGS, 0, 10)) for number in range(12)]
    assert len(server.ask("read", *items).results) == PAGE_BYTES // MEBIBYTE
    server.append(*[b"x" * MEBIBYTE] * 10, channel="large")
    items.insert(0, item_of_read(Request("large", SETTINGS, 0, 10)))
    assert len(server.ask("read", *items).results) == 1  # a page is never cut
    assert len(server.records) == 10


# Garbage


def test_a_client_of_another_version_is_told_both_versions() -> None:
    server = Server()
    answer = server.ask_raw(json.dumps([VERSION + 1, 9, "append", "something new"]).encode())
    assert answer.number == 9
    assert f"version {VERSION} " in answer.error
    assert f"version {VERSION + 1}" in answer.error
    assert decode_answer(json.dumps([VERSION + 1, 9, "too old", [], 0, 0]).encode()).error == "too old"


def test_elements_that_a_newer_version_appends_are_ignored() -> None:
    server = Server()
    item = ["c", "t.c", 10, 60.0, "all", "", "", "new"]
    answer = server.ask_raw(json.dumps([VERSION, 1, "append", "g", MEBIBYTE, [item], {"new": 1}]).encode(), b"record")
    assert answer.results == [[1, "e0", True]]


BAD: dict[int, tuple[Any, ...]] = {
    0: (None, 1, "", "x" * 256, ["c"]),
    1: (None, 5, "", "t" * 1025, "\ud800"),
    2: (None, 0, -1, 10_001, 1.5, "10", [], math.nan, 10**30),
    3: (0, -1, "x", [], 1e300, math.nan, math.inf),
    4: (None, "none", 1, []),
    5: (None, 1, []),
    6: (None, 1, {}),
}
GOOD = ["c", "t.c", 10, 60.0, "all", "", ""]


@pytest.mark.parametrize(
    "item",
    [
        None,
        "text",
        [],
        GOOD[:6],
        {"channel": "c"},
        *([*GOOD[:place], value, *GOOD[place + 1 :]] for place, values in BAD.items() for value in values),
    ],
)
def test_a_bad_append_is_refused_and_none_of_its_request_is_added(item: Any) -> None:
    server = Server()
    header = json.dumps([VERSION, 3, "append", "g", MEBIBYTE, [GOOD, item]]).encode()
    answer = server.ask_raw(header, b"one", b"two")
    assert (answer.number, answer.error) == (3, "it cannot read the request")
    assert server.parcels == []
    assert server.read()[1] == 0


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xff\xfe"],
        [b"[" * 100_000],
        [b"1" * 10_000],
        [b"[" + b"9" * 5000 + b"]"],
        [b"null"],
        [b"{}"],
        [b"[1]"],
        [b'[1, 2, "append", "g", 1000, []]', b"a record too many"],
        [b'[1, 2, "append", "g", -1, []]'],
        [b'[1, 2, "append", "g", 1e400, []]'],
        [b'[1, 2, "append", 5, 1000, []]'],
        [b'[1, 2, "drop", "g", 1000, []]'],
        [b'[1, 2, "renew", "g", 1000, [1]]'],
        [b'[1, 2, "renew", "g", 1000, ["abc"]]'],
        [b'[1, 2, "renew", "g", 1000, [["c", []]]]'.replace(b'"c"', b"5")],
        [b'[1, 2, "forget", "g", 1000, [null]]'],
        [b'[1, 2, "read", "g", 1000, [["c", 10, 60, "all", -1, 10]]]'],
        [b'[1, 2, "read", "g", 1000, [["c", 10, 60, "all", 9223372036854775808, 10]]]'],
        [b'[1, 2, "read", "g", 1000, [["c", 10, 60, "all", true, 10]]]'],
        [b'[1, 2, "read", "g", 1000, [["c", 10, 60, "all", 0, -1]]]'],
        [b'[1, 2, "read", "g", 1000, [["c", 10, 60, "all", 0, null]]]'],
        [b'[1, [], "read", "g", 1000, []]'],
        [f'[1, 2, "forget", "g", 1000, {json.dumps(["c"] * (MAX_ITEMS + 1))}]'.encode()],
    ],
)
def test_garbage_is_answered_with_an_error(frames: list[bytes]) -> None:
    server = Server()
    server.append(b"one")
    assert server.ask_raw(*frames).error
    assert server.parcels == []
    assert server.read() == ("e0", 1, 0, [(1, b"one")])


def test_a_record_that_would_not_pass_through_the_proxy_is_refused() -> None:
    server = Server()
    item = item_of_append(Append("c", "", b"", SETTINGS), "t")
    assert server.ask("append", item, records=(b"x" * (MAX_RECORD + 1),)).error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["c", "all"]),
    lambda children: st.lists(children, max_size=8),
    max_leaves=20,
)


@given(
    st.sampled_from(["append", "read", "renew", "forget"]),
    st.lists(JSON, max_size=4),
    st.lists(st.binary(max_size=5), max_size=4),
)
def test_no_items_raise(operation: str, items: list[Any], records: list[bytes]) -> None:
    header = json.dumps([VERSION, 2, operation, "g", MEBIBYTE, items]).encode()
    assert "failed" not in Server().ask_raw(header, *records).error


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_no_frames_raise(frames: list[bytes]) -> None:
    assert "failed" not in Server().ask_raw(*frames).error


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'[1, 2, "", {}]', b'[2, 2, "", [], 0, 0]', b"[" * 100_000])
def test_an_answer_that_cannot_be_read_is_an_error(data: bytes) -> None:
    with pytest.raises(RequestError):
        decode_answer(data)


# Bounds


def test_the_number_of_gateways_is_bounded() -> None:
    server = Server()
    for number in range(MAX_GATEWAYS):
        assert not server.ask("forget", gateway=f"g{number}").error
    assert "use another folder" in server.ask("forget", gateway="one more").error
    server.server.expire()  # none of them has a channel
    assert not server.ask("forget", gateway="one more").error


def test_the_number_of_different_settings_is_bounded() -> None:
    server = Server()
    for number in range(KnownSettings.MAX_KNOWN):
        server.append(b"x", settings=ChannelSettings(history=10, history_ttl=100.0 + number))
    item = item_of_append(Append("c", "", b"", ChannelSettings(history=10, history_ttl=99.0)), "t")
    assert server.ask("append", item, records=(b"",)).error
    server.append(b"x", settings=ChannelSettings(history=10, history_ttl=100.0))


def test_memory_is_bounded_whatever_is_published() -> None:
    server, generator = Server(history_bytes=MEBIBYTE), random.Random(1)
    for number in range(3000):
        server.append(
            b"x" * generator.choice((0, 100, 10_000)),
            channel=f"c{generator.randrange(500)}",
            key="k" * generator.choice((0, 255)),
            once=f"once {number}" * generator.choice((1, 100)),
        )
        if number % 100 == 0:
            for other in range(100):
                server.read(f"only read {number} {other}")
        assert server.ask("forget").bytes <= MEBIBYTE

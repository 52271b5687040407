import gc
import json
import sys
from typing import Any

import pytest

from wsgateway.exceptions import MessageError
from wsgateway.frames import Publication, RefusedFrame
from wsgateway.messages import MAX_DEPTH, Kind, Message, decode_json, encode
from wsgateway.protocols.lines import LINES
from wsgateway.protocols.sse import SSE
from wsgateway.protocols.v1 import V1Encoding
from wsgateway.transports.framing import PLAIN, FramedFormat, PlainFormat


class Shouting(str):
    """A text whose characters are not what `str()` returns."""

    __slots__ = ()

    def __str__(self) -> str:
        return "SHOUTING"


@pytest.mark.parametrize(
    ("message", "payload", "kind"),
    [
        ("as it stands", b"as it stands", Kind.TEXT),
        ("", b"", Kind.TEXT),
        ("5", b"5", Kind.TEXT),
        (Shouting("quiet"), b"quiet", Kind.TEXT),
        (b"\x00\xff", b"\x00\xff", Kind.BYTES),
        (bytearray(b"x"), b"x", Kind.BYTES),
        (memoryview(b"x"), b"x", Kind.BYTES),
        ({"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'.encode(), Kind.JSON),
        (5, b"5", Kind.JSON),
        (False, b"false", Kind.JSON),
        ({}, b"{}", Kind.JSON),
    ],
)
def test_a_message_is_encoded_by_its_kind(message: Any, payload: bytes, kind: Kind) -> None:
    encoded = encode(message)
    assert encoded is not None
    assert (encoded.payload, encoded.kind) == (payload, kind)


class Counting(PlainFormat):
    """A wire format that counts its calls."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.calls = 0

    def message(self, message: Message) -> bytes:
        return self.prefix + message.payload

    def wire(self, message: Message) -> bytes:
        self.calls += 1
        return self.message(message)


def test_a_message_is_encoded_once_for_each_wire_format() -> None:
    message, formats = Message(b"x", Kind.TEXT), [Counting(b"1"), Counting(b"2"), Counting(b"")]
    for _ in range(3):
        assert [message.encoded(form) for form in formats] == [b"1x", b"2x", b"x"]
    assert [form.calls for form in formats] == [1, 1, 1]


def test_none_is_no_message() -> None:
    assert encode(None) is None


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "message", ["\ud800", {"a": "\udfff"}, {"\ud800": 1}, float("nan"), [float("inf")], object(), {1, 2}, endless()]
)
def test_what_cannot_be_encoded_is_said_once(message: Any) -> None:
    with pytest.raises(MessageError):
        encode(message)


@pytest.mark.parametrize("value", [None, True, 1.5, -0.0, "é\u2028\x00", [], {"a": {"b": []}}, "\U0001f600", 10**4299])
def test_json_comes_back_as_it_went(value: Any) -> None:
    assert decode_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"-1e999",
        b"1" * 4301,
        b'"\\ud800"',
        b'"\\uDFFF"',
        b'{"\\ud800": 1}',
        b"\xef\xbb\xbf1",
        b"'x'",
        b"[" * 100_000,
    ],
)
def test_bad_json_is_refused(body: bytes) -> None:
    with pytest.raises(MessageError):
        decode_json(body)


def test_nesting_is_limited() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    encode(decode_json(deepest))
    with pytest.raises(MessageError, match="deeper"):
        decode_json(b"[" + deepest + b"]")
    decode_json(b"[" + b"[],{}," * 10_000 + b"0]")


def test_a_publication_keeps_only_the_form_that_was_used_last() -> None:
    publication = Publication(Message(b"x" * 10_000, Kind.TEXT), "room:1")
    for wire_format in (PLAIN, FramedFormat(V1Encoding()), SSE.wire_format, LINES.wire_format):
        assert b"x" * 10_000 in publication.encoded(wire_format)
    assert sum(map(sys.getsizeof, gc.get_referents(publication))) < 25_000  # its payload, and one form


def test_a_refusal_counts_the_name_that_the_client_has_made_up() -> None:
    assert len(RefusedFrame("x" * 60_000, 400, "no name").payload) > 60_000  # else outbox_bytes does not bound it

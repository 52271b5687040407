import json
from typing import Any

import pytest

from wsgateway.exceptions import MessageError
from wsgateway.messages import MAX_DEPTH, decode_json, encode


@pytest.mark.parametrize(
    ("message", "payload", "text"),
    [
        ("as it stands", b"as it stands", "as it stands"),
        ("", b"", ""),
        (b"\x00\xff", b"\x00\xff", None),
        (bytearray(b"x"), b"x", None),
        (memoryview(b"x"), b"x", None),
        ({"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'.encode(), '{"a":[1,null,"é"]}'),
        (0, b"0", "0"),
        (False, b"false", "false"),
        ({}, b"{}", "{}"),
    ],
)
def test_a_message_becomes_a_frame(message: Any, payload: bytes, text: str | None) -> None:
    frame = encode(message)
    assert frame is not None
    assert (frame.payload, frame.text) == (payload, text)


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

"""The framing of messages, read by websockets' own parser."""

import os
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from wsgateway.messages import Kind, Message
from wsgateway.protocols.sse import SSE
from wsgateway.transports.framing import COMPRESS_FROM, DEFLATED, PLAIN

SIZES = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 200_000]


def frames_in(data: bytes, *, deflate: bool) -> list[Frame]:
    protocol = Protocol(CLIENT, max_size=None)
    if deflate:
        protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    protocol.receive_data(data)
    frames: list[Any] = protocol.events_received()
    return frames


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("size", SIZES)
def test_a_message_is_one_frame_of_its_kind(size: int, kind: Kind) -> None:
    for payload in (b"x" * size, os.urandom(size).hex()[:size].encode()):
        message = Message(payload, kind)
        for form, deflate in ((PLAIN, False), (DEFLATED, True)):
            (frame,) = frames_in(message.encoded(form), deflate=deflate)
            assert (bytes(frame.data), frame.fin) == (payload, True)
            assert frame.opcode is (Opcode.BINARY if kind is Kind.BYTES else Opcode.TEXT)


def test_only_what_becomes_smaller_is_compressed() -> None:
    for payload in (b"x" * (COMPRESS_FROM - 1), os.urandom(10_000)):
        message = Message(payload, Kind.BYTES)
        assert message.encoded(DEFLATED) == message.encoded(PLAIN)
    long = Message(b"x" * COMPRESS_FROM, Kind.BYTES)
    assert len(long.encoded(DEFLATED)) < len(long.encoded(PLAIN))


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (Message("é".encode(), Kind.TEXT), "é"),
        (Message(b"[1]", Kind.JSON), "[1]"),
        (Message(b"\xff", Kind.BYTES), b"\xff"),
    ],
)
def test_on_asgi_a_message_is_text_or_bytes(message: Message, content: str | bytes) -> None:
    assert PLAIN.message(message) == content


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        (b'"\\u00e9"', "é"),
        (b'\t"a\\nb" ', "a\nb"),
        (b' {"a":1}', ' {"a":1}'),
        (b"5", "5"),
        (b'"', '"'),
    ],
)
def test_text_that_was_written_as_json_has_no_quotation_marks(payload: bytes, content: str) -> None:
    message = Message(payload, Kind.JSON)
    assert PLAIN.message(message) == content
    for form, deflate in ((PLAIN, False), (DEFLATED, True)):
        (frame,) = frames_in(message.encoded(form), deflate=deflate)
        assert bytes(frame.data) == content.encode()
    assert (
        SSE.wire_format.message(message)
        == b"".join([b"data: %b\n" % line for line in content.encode().split(b"\n")]) + b"\n"
    )

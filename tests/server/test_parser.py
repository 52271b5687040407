"""Where frames end, however they are spread over reads."""

from random import Random

import pytest

from tests.raw import masked
from wsgateway.server.parser import FrameCutter

FRAMES = [
    masked(0x81, b""),
    masked(0x89, b"ping"),
    masked(0x01, b"x" * 125),
    masked(0x80, b"x" * 126),
    masked(0x82, b"x" * 65_535),
    masked(0x82, b"x" * 65_536),
    b"\x81\x05plain",  # unmasked, which the parser refuses
    masked(0x88, b"\x03\xe8"),
]


@pytest.mark.parametrize("seed", range(50))
def test_each_frame_ends_where_the_next_begins(seed: int) -> None:
    random = Random(seed)
    frames = random.choices(FRAMES, k=20)
    data, ends, position = b"".join(frames), [], 0
    for frame in frames:
        position += len(frame)
        ends.append(position)
    cutter, found, offset = FrameCutter(), [], 0
    while offset < len(data):
        part = data[offset : offset + random.choice((1, 2, 3, 7, 20, 5_000, 100_000))]
        at = 0
        while at < len(part):
            at = cutter.cut(part, at)
            if cutter.is_between_frames:
                found.append(offset + at)
        offset += len(part)
    assert found == ends


@pytest.mark.parametrize("length", [2**62, 2**63, 2**64 - 1])
def test_a_length_that_nobody_can_keep_costs_nothing(length: int) -> None:
    cutter = FrameCutter()
    assert cutter.cut(b"\x82\xff" + length.to_bytes(8) + b"mask" + b"x" * 50, 0) == 64
    assert not cutter.is_between_frames

"""Makes a PNG picture smaller: at most 256 colors, and the best compression. Reads what Chromium writes."""

import struct
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def reduced(png: bytes, *, max_height: int) -> bytes:
    """Return the first `max_height` rows of `png`, with a palette. A rare color becomes the nearest one.

    `png` has 8 bits per channel, and no interlacing.
    """
    width, channels, rows = _decoded(png)
    rows = rows[:max_height]
    height = len(rows)
    colors = [tuple(row[place : place + 3]) for row in rows for place in range(0, width * channels, channels)]
    counted = Counter(colors)
    palette = [color for color, _ in counted.most_common(256)]
    places = {color: place for place, color in enumerate(palette)}
    for color in counted:
        if color not in places:
            places[color] = min(range(256), key=lambda place: _distance(palette[place], color))
    indexes = bytes(places[color] for color in colors)
    lines = b"".join(b"\0" + indexes[start : start + width] for start in range(0, width * height, width))
    return SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(value for color in palette for value in color)),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _decoded(png: bytes) -> tuple[int, int, list[bytearray]]:
    """Return the width, the number of channels, and the bytes of each row."""
    data, place = b"", len(SIGNATURE)
    width = channels = 0
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        content = png[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, _, _, color = struct.unpack(">IIBB", content[:10])
            channels = {2: 3, 6: 4}[color]
        elif kind == b"IDAT":
            data += content
        place += length + 12
    stride = width * channels
    lines = zlib.decompress(data)
    rows, before = [], bytearray(stride)
    for start in range(0, len(lines), stride + 1):
        before = _unfiltered(lines[start], bytearray(lines[start + 1 : start + 1 + stride]), before, channels)
        rows.append(before)
    return width, channels, rows


def _unfiltered(kind: int, row: bytearray, above: bytearray, channels: int) -> bytearray:
    """Return the row without its filter (PNG 9.2): none, sub, up, average, or Paeth."""
    for place in range(len(row)) if kind else ():
        left = row[place - channels] if place >= channels else 0
        corner = above[place - channels] if place >= channels else 0
        up = above[place]
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        else:
            guess = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
        row[place] = (row[place] + guess) & 255
    return row

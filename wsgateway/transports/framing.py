"""The framing of messages on a WebSocket (RFC 6455 5.2), plain and compressed (RFC 7692). Does no I/O."""

import zlib

from wsgateway.messages import Kind, Message

COMPRESS_FROM = 128
"""Bytes of the shortest message that is compressed, because a shorter one hardly becomes smaller."""

_EMPTY_BLOCK = b"\x00\x00\xff\xff"
"""The end of a compressed message, which is not sent (RFC 7692 7.2.1)."""

_BYTES = Kind.BYTES  # faster to read than an attribute of an enum on Python 3.11

_TEXT, _BINARY, _COMPRESSED = 0x81, 0x82, 0x40
"""First bytes of an unfragmented frame, and the flag for a compressed one (RFC 7692 6)."""

_TEXT_HEADS = tuple(bytes((_TEXT, size)) for size in range(126))
_BINARY_HEADS = tuple(bytes((_BINARY, size)) for size in range(126))


def frame(first: int, data: bytes) -> bytes:
    """Return `data` as one unmasked frame. `first` is its first byte, of flags and opcode (RFC 6455 5.2)."""
    size = len(data)
    if size < 126:
        return bytes((first, size)) + data
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2) + data
    return bytes((first, 127)) + size.to_bytes(8) + data


class PlainFormat:
    """Each message is one unfragmented WebSocket message with the payload as it is."""

    def message(self, message: Message) -> str | bytes:
        return message.payload if message.kind is _BYTES else message.payload.decode()

    def wire(self, message: Message) -> bytes:
        payload = message.payload
        size = len(payload)
        if size < 126:
            return (_BINARY_HEADS if message.kind is _BYTES else _TEXT_HEADS)[size] + payload
        return frame(_BINARY if message.kind is _BYTES else _TEXT, payload)


class DeflatedFormat(PlainFormat):
    """The same for clients that negotiated compression without context takeover (RFC 7692 7.2.1).

    A message that would not become smaller is not compressed, which the RFC allows.
    """

    def wire(self, message: Message) -> bytes:
        payload = message.payload
        if len(payload) >= COMPRESS_FROM:
            deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            data = (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_EMPTY_BLOCK)
            if len(data) < len(payload):
                return frame(_COMPRESSED | (_BINARY if message.kind is _BYTES else _TEXT), data)
        return super().wire(message)


PLAIN = PlainFormat()
DEFLATED = DeflatedFormat()

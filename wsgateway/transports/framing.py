"""The framing of messages on a WebSocket (RFC 6455 5.2), also compressed (RFC 7692), and on a stream (RFC 9112 7.1).

Does no I/O.
"""

import zlib
from dataclasses import dataclass, field
from typing import Protocol

from wsgateway.frames import CloseFrame, SubscribedFrame
from wsgateway.messages import QUOTE, Kind, Message, OnLoss, unquoted

COMPRESS_FROM = 128
"""Bytes of the shortest message that is compressed, because a shorter one hardly becomes smaller."""

_EMPTY_BLOCK = b"\x00\x00\xff\xff"
"""The end of a compressed message, which is not sent (RFC 7692 7.2.1)."""

_JSON, _BYTES = Kind.JSON, Kind.BYTES  # faster to read than an attribute of an enum on Python 3.11

_TEXT, _BINARY, _COMPRESSED = 0x81, 0x82, 0x40
"""First bytes of an unfragmented frame, and the flag for a compressed one (RFC 7692 6)."""

_TEXT_HEADS = tuple(bytes((_TEXT, size)) for size in range(126))
_BINARY_HEADS = tuple(bytes((_BINARY, size)) for size in range(126))


class Encoding(Protocol):
    """Encodes messages for one client protocol, before their framing. Each protocol has one stateless object."""

    def content(self, message: Message) -> str | bytes | None:
        """Return the content of one WebSocket message, event, or line; None if such clients receive nothing."""


def frame(first: int, data: bytes) -> bytes:
    """Return `data` as one unmasked frame. `first` is its first byte, of flags and opcode (RFC 6455 5.2)."""
    size = len(data)
    if size < 126:
        return bytes((first, size)) + data
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2) + data
    return bytes((first, 127)) + size.to_bytes(8) + data


def deflated(first: int, data: bytes) -> bytes:
    """Return `data` as one frame, compressed without context takeover (RFC 7692 7.2.1).

    Data that would not become smaller is not compressed, which the RFC allows.
    """
    if len(data) >= COMPRESS_FROM:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        small = (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_EMPTY_BLOCK)
        if len(small) < len(data):
            return frame(_COMPRESSED | first, small)
    return frame(first, data)


class _Format:
    """What most wire formats have in common."""

    on_loss = OnLoss.NOTIFIES

    def carries(self, message: Message) -> bool:
        del message
        return True

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        return code, reason


class PlainFormat(_Format):
    """Each message is one unfragmented WebSocket message with the payload as it is.

    Of the gateway's own notifications, a plain client receives only the reply to a subscription.
    """

    def message(self, message: Message) -> str | bytes | None:
        if message.is_control:
            reply = message.reply if isinstance(message, SubscribedFrame) else None
            return None if reply is None else self.message(reply)
        if message.kind is _BYTES:
            return message.payload
        return (unquoted(message.payload) if message.kind is _JSON else message.payload).decode()

    def wire(self, message: Message) -> bytes:
        if message.is_control:
            reply = message.reply if isinstance(message, SubscribedFrame) else None
            return b"" if reply is None else self.wire(reply)
        payload = message.payload
        if message.kind is _JSON and payload[:1] <= QUOTE:
            payload = unquoted(payload)
        size = len(payload)
        if size < 126:
            return (_BINARY_HEADS if message.kind is _BYTES else _TEXT_HEADS)[size] + payload
        return frame(_BINARY if message.kind is _BYTES else _TEXT, payload)


class DeflatedFormat(PlainFormat):
    """The same for clients that negotiated compression without context takeover."""

    def wire(self, message: Message) -> bytes:
        if message.is_control:
            return super().wire(message)
        payload = unquoted(message.payload) if message.kind is _JSON else message.payload
        return deflated(_BINARY if message.kind is _BYTES else _TEXT, payload)


class FramedFormat(_Format):
    """The content that an encoding writes, as one unfragmented WebSocket message."""

    def __init__(self, encoding: Encoding, *, deflates: bool = False) -> None:
        self._encoding = encoding
        self._frame = deflated if deflates else frame

    def message(self, message: Message) -> str | bytes | None:
        return self._encoding.content(message)

    def wire(self, message: Message) -> bytes:
        content = self._encoding.content(message)
        if content is None:
            return b""
        if isinstance(content, str):
            return self._frame(_TEXT, content.encode())
        return self._frame(_BINARY, content)


LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked response (RFC 9112 7.1)."""


def chunk(content: str | bytes | None) -> bytes:
    """Return `content` as one chunk. Empty bytes for none, because an empty chunk would end the response."""
    if not content:
        return b""
    data = content.encode() if isinstance(content, str) else content
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkedFormat(_Format):
    """The content that an encoding writes, as one chunk of an HTTP/1.1 response (RFC 9112 7.1)."""

    def __init__(self, encoding: Encoding, *, on_loss: OnLoss = OnLoss.NOTIFIES) -> None:
        self._encoding = encoding
        self.on_loss = on_loss

    def message(self, message: Message) -> str | bytes | None:
        return self._encoding.content(message)

    def wire(self, message: Message) -> bytes:
        return chunk(self._encoding.content(message))


@dataclass(frozen=True, slots=True)
class StreamKind:
    """One kind of stream. `name` is that of its transport, `wire_format` writes its messages as chunks.

    `beat` is the content that shows that the stream is alive, `heartbeat` the same as a chunk. Both are empty if the
    protocol sends pings. `first` is the content with which the response begins, so that a server or a proxy that holds
    the head back until then sends it.
    """

    name: str
    content_type: bytes
    beat: bytes
    wire_format: ChunkedFormat
    first: bytes = b""
    heartbeat: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "heartbeat", chunk(self.beat))

    def last_content(self, code: int, reason: str) -> bytes:
        """Return the content of the last chunk."""
        content = self.wire_format.message(CloseFrame(code, reason)) or b""
        return content.encode() if isinstance(content, str) else content

    def end(self, code: int, reason: str) -> bytes:
        """Return the last chunk, and the end of the response."""
        return chunk(self.last_content(code, reason)) + LAST_CHUNK


PLAIN = PlainFormat()
DEFLATED = DeflatedFormat()

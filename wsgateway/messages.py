"""Messages, encoded once and shared by all recipients, and the only decoder of JSON text. No I/O."""

import json
import re
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from wsgateway.encoding import ENCODER, to_json
from wsgateway.exceptions import MessageError

MAX_DEPTH = 256
"""Nested arrays and objects. Deeper JSON is refused, so that no listener causes a `RecursionError`."""

COMPRESS_FROM = 128
"""Bytes of the shortest message that is compressed, because a shorter one hardly becomes smaller."""

MAX_DIGITS = 4300
"""Digits of an integer, the default limit of `int()`, because converting longer ones takes quadratic time."""

_EMPTY_BLOCK = b"\x00\x00\xff\xff"
"""The end of a compressed message, which is not sent (RFC 7692 7.2.1)."""

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class Message:
    """One outgoing message: its bytes `payload`, and its `text`, None for a binary message."""

    __slots__ = ("_deflated", "_wire", "payload", "text")

    def __init__(self, payload: bytes, text: str | None = None) -> None:
        self.payload = payload
        self.text = text
        self._wire: bytes | None = None
        self._deflated: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The message as one unfragmented, unmasked WebSocket frame (RFC 6455 5.2), made once."""
        if self._wire is None:
            self._wire = _framed(0x81 if self.text is not None else 0x82, self.payload)
        return self._wire

    @property
    def deflated(self) -> bytes:
        """`wire` for clients that negotiated compression without context takeover (RFC 7692 7.2.1), made once.

        A message that would not become smaller is not compressed, which the RFC allows.
        """
        if self._deflated is None:
            self._deflated = self.wire
            if len(self.payload) >= COMPRESS_FROM:
                deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
                data = (deflate.compress(self.payload) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_EMPTY_BLOCK)
                if len(data) < len(self.payload):
                    self._deflated = _framed(0xC1 if self.text is not None else 0xC2, data)
        return self._deflated


class Sent(NamedTuple):
    """The result of one message: how many `recipients` were chosen, and for how many it was `queued` or `dropped`.

    The counts are those of the `nodes` that answered in time. They are `complete` if every node did.
    """

    recipients: int
    queued: int
    dropped: int
    nodes: int = 1
    complete: bool = True


def _framed(first: int, data: bytes) -> bytes:
    """Return `data` as one unmasked frame. `first` is its first byte, of flags and opcode (RFC 6455 5.2)."""
    size = len(data)
    if size < 126:
        return bytes((first, size)) + data
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2) + data
    return bytes((first, 127)) + size.to_bytes(8) + data


def encode(message: object) -> Message | None:
    """Return `message` encoded; None for None.

    A `str` is text as is, `bytes` are binary, any other value is JSON text as `encoding.to_json` writes it. Raise
    `MessageError` if it cannot be encoded.
    """
    try:
        if type(message) is str:
            return Message(message.encode(), message)
        if type(message) is bytes:
            return Message(message)
        if message is None:
            return None
        if isinstance(message, str):
            text = str.__str__(message)  # the characters, whatever `__str__` of the subclass returns
            return Message(text.encode(), text)
        if isinstance(message, (bytes, bytearray, memoryview)):
            return Message(bytes(message))
        text = ENCODER.encode(message)
        return Message(text.encode(), text)
    except UnicodeEncodeError as exc:
        if isinstance(message, str):
            raise MessageError(
                f"the message holds a lone surrogate, {exc.object[exc.start]!a}, at character {exc.start}, which is "
                f'not text: remove it, for example with text.encode(errors="replace").decode()'
            ) from exc
    except (TypeError, ValueError, RecursionError):
        pass
    text = to_json(message)
    return Message(text.encode(), text)


def decode_json(body: bytes) -> Any:
    """Return the JSON value in `body`, which is UTF-8. A value that could not be encoded as JSON again is refused.

    Raise `MessageError` for text that is not JSON (RFC 8259), `NaN`, numbers outside the range of a double or with
    more than `MAX_DIGITS` digits, lone surrogates, and nesting deeper than `MAX_DEPTH`.
    """
    try:
        value = _DECODER.decode(body.decode())
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
            _check_depth(value)
        if _SURROGATE_ESCAPE.search(body):
            ENCODER.encode(value).encode()
    except UnicodeDecodeError as exc:
        raise MessageError(f"the body is not UTF-8: byte {exc.start} is 0x{body[exc.start]:02x}") from exc
    except UnicodeEncodeError as exc:
        raise MessageError(f"the body holds a lone surrogate, {exc.object[exc.start]!a}, which is not text") from exc
    except json.JSONDecodeError as exc:
        raise MessageError(f"the body is not JSON: {exc}") from exc
    except RecursionError as exc:
        raise MessageError(f"the body is nested deeper than {MAX_DEPTH}") from exc
    return value


def _refuse_constant(name: str) -> None:
    raise MessageError(f"the body holds {name}, which is not a JSON number")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise MessageError(f"the body holds the number {digits[:40]}, which is too large")
    return value


def _short_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise MessageError(f"the body holds an integer of {len(digits)} digits, {MAX_DIGITS} are allowed")
    return int(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_short_int)


def _check_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise MessageError(f"the body is nested deeper than {MAX_DEPTH}")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

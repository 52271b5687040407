"""Messages, encoded once and shared by all recipients, and the only decoder of JSON text. No I/O."""

import enum
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from wsgateway.encoding import ENCODER, to_json
from wsgateway.exceptions import MessageError
from wsgateway.limits import SlowPolicy

MAX_DEPTH = 256
"""Nested arrays and objects. Deeper JSON is refused, so that no listener causes a `RecursionError`."""

MAX_DIGITS = 4300
"""Digits of an integer, the default limit of `int()`, because converting longer ones takes quadratic time."""

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class Kind(enum.Enum):
    """The kind of a payload. It is sent to other nodes, because the JSON value `5` is not the text `"5"`."""

    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"


_TEXT, _JSON, _BYTES = Kind  # faster to read than attributes of an enum on Python 3.11


class OnLoss(enum.Enum):
    """What a connection does when one of its subscriptions has missed publications."""

    NOTIFIES = enum.auto()
    """The client is notified, and may subscribe again."""
    CLOSES = enum.auto()
    """It closes, because the client can subscribe only by connecting again."""
    CLOSES_FOR_SERVER = enum.auto()
    """It closes if the application has subscribed the client, which would not subscribe again by itself."""


class WireFormat(Protocol):
    """Encodes messages for the clients of one protocol. Each format is one stateless object, compared by identity."""

    on_loss: OnLoss

    def carries(self, message: "Message") -> bool:
        """Return whether clients of this format can receive `message`, which the application sends."""

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return the code and the reason that clients of this format receive instead of `code` and `reason`."""

    def message(self, message: "Message") -> str | bytes | None:
        """Return the content of one WebSocket message, or None if clients of this format receive nothing."""

    def wire(self, message: "Message") -> bytes:
        """Return the same for the socket, with its framing. Empty bytes if clients of this format receive nothing."""


class Message:
    """One outgoing message: its bytes `payload`, and their `kind`. The payload of a text or of JSON is UTF-8."""

    __slots__ = ("_bytes", "_format", "_others", "kind", "payload")

    # Attributes of some subclasses only. They are class attributes, so that a plain message does not pay for them.

    name: str = ""
    """The name of an event, for client protocols that show one."""

    is_control: bool = False
    """Whether the gateway itself sends it, not the application."""

    policy: SlowPolicy | None = None
    """What happens if it does not fit into an outbox. None means the `slow_policy` of the gateway."""

    expires: float | None = None
    """Time from which on it is no longer sent, in seconds of the monotonic clock."""

    slot: tuple[str, str] | None = None
    """Messages with the same slot replace each other in the outbox of a slow client."""

    def __init__(self, payload: bytes, kind: Kind) -> None:
        self.payload = payload
        self.kind = kind
        self._format: WireFormat | None = None  # the first one used
        self._bytes = b""  # in that format
        self._others: dict[WireFormat, bytes] | None = None

    def encoded(self, wire_format: WireFormat) -> bytes:
        """Return this message in `wire_format`. It is encoded once for each format in use."""
        if self._format is wire_format:
            return self._bytes
        if self._format is None:
            data = self._bytes = wire_format.wire(self)
            self._format = wire_format
            return data
        if self._others is None:
            self._others = {}
        if wire_format not in self._others:
            self._others[wire_format] = wire_format.wire(self)
        return self._others[wire_format]

    def parts(self) -> "tuple[Message, ...]":
        """Return the messages that it consists of."""
        return (self,)


NULL = Message(b"null", Kind.JSON)
"""JSON's null, as which None is sent where an answer or its request has to be sent."""


class Deliveries(NamedTuple):
    """How many `recipients` one message has, and for how many it was `queued` or `dropped`.

    The counts are those of the `nodes` that answered in time. They are `complete` if every node did.
    """

    recipients: int
    queued: int
    dropped: int
    nodes: int = 1
    complete: bool = True


class Sent(NamedTuple):
    """The result of `send` or `publish`.

    The first five fields count recipients, as in `Deliveries`. They are None for `publish`, although their type is
    `int`, so that callers of `send` need no check. `at` is the position of the message, `EPOCH:OFFSET`, None if it is
    not in a history. `is_new` is False if its idempotency key was used before. Then nothing is sent, and `at` is the
    position of the first message with that key.
    """

    recipients: int
    queued: int
    dropped: int
    nodes: int = 1
    complete: bool = True
    at: str | None = None
    is_new: bool = True


class Subscribed(NamedTuple):
    """The result of subscribing a connection to a channel.

    `at` is the position before the first publication that follows, None without a history. `recovered` is whether
    every publication that the client has missed follows.
    """

    at: str | None
    recovered: bool


QUOTE = b'"'
"""The first byte of JSON that is text. White space, which may be before it, is smaller, everything else larger."""


def unquoted(payload: bytes) -> bytes:
    """Return the text in `payload`, which is JSON, or `payload` if it is not text.

    A Centrifuge client writes text as JSON, which other clients of its kind receive unchanged.
    """
    if payload[:1] > QUOTE or not payload.lstrip().startswith(QUOTE):
        return payload
    try:
        value: str = json.loads(payload)
        return value.encode()
    except ValueError:  # it comes from another node
        return payload


def encode(message: object) -> Message | None:
    """Return the encoded `message`, or None for None.

    A `str` is text as is, `bytes` are binary, any other value is JSON text as `encoding.to_json` writes it. Raise
    `MessageError` if it cannot be encoded.
    """
    try:
        if type(message) is str:
            return Message(message.encode(), _TEXT)
        if type(message) is bytes:
            return Message(message, _BYTES)
        if message is None:
            return None
        if isinstance(message, str):
            text = str.__str__(message)  # the characters, whatever `__str__` of the subclass returns
            return Message(text.encode(), _TEXT)
        if isinstance(message, (bytes, bytearray, memoryview)):
            return Message(bytes(message), _BYTES)
        return Message(ENCODER.encode(message).encode(), _JSON)
    except UnicodeEncodeError as exc:
        if isinstance(message, str):
            raise MessageError(
                f"the message contains a lone surrogate, {exc.object[exc.start]!a}, at character {exc.start}, which is "
                f'not text: remove it, for example with text.encode(errors="replace").decode()'
            ) from exc
    except (TypeError, ValueError, RecursionError):
        pass
    return Message(to_json(message).encode(), _JSON)


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
        raise MessageError(f"the body contains a lone surrogate, {exc.object[exc.start]!a}, which is not text") from exc
    except json.JSONDecodeError as exc:
        raise MessageError(f"the body is not JSON: {exc}") from exc
    except RecursionError as exc:
        raise MessageError(f"the body is nested deeper than {MAX_DEPTH}") from exc
    return value


def _refuse_constant(name: str) -> None:
    raise MessageError(f"the body contains {name}, which is not a JSON number")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise MessageError(f"the body contains the number {digits[:40]}, which is too large")
    return value


def _short_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise MessageError(f"the body contains an integer of {len(digits)} digits, {MAX_DIGITS} are allowed")
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

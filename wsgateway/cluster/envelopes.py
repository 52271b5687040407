"""What crosses between the processes of a gateway: MessagePack arrays with a version, checked when they arrive. Knows
neither brokers nor what is done with them."""

from typing import Annotated, Any

import msgspec

from wsgateway.exceptions import EnvelopeError
from wsgateway.limits import MAX_NODES

VERSION = 1

MAX_ENVELOPE = 16 * 1024 * 1024
"""Bytes of one envelope; a larger one is neither sent nor read."""

NODE_ID = 8
"""Characters of a node's id, of which every id of its connections begins, with a point behind."""

MAX_IDS = 500_000
"""Connection ids in one envelope. An id has 31 characters, so that more of them do not fit into one."""

MAX_ERROR = 1000
"""Characters of the reason why another process has not done something."""

_HEX = "0123456789abcdef"

Id = Annotated[str, msgspec.Meta(pattern=rf"\A[{_HEX}]{{{NODE_ID}}}\Z")]
"""A node's id. It becomes part of a topic, a key and a line of the log."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Age = Annotated[float, msgspec.Meta(ge=0, le=2**33)]
Name = Annotated[str, msgspec.Meta(max_length=255, pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself. `age` is seconds since it began."""

    host: Name
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**32)]
    version: Name
    age: Age
    state: Name
    connections: Count = 0
    messages_in: Count = 0
    messages_out: Count = 0
    dropped: Count = 0
    slow: Count = 0
    errors: Count = 0


class _Envelope(msgspec.Struct, array_like=True, frozen=True):
    """Begins with tag, version, origin: `origin_of` reads it without decoding. `seq` counts the origin's envelopes on
    one topic, so that with it each has an id, and a receiver sees what is lost and what is there twice."""

    version: int
    origin: Annotated[str, msgspec.Meta(min_length=NODE_ID, max_length=NODE_ID)]  # `decode` checks that it is an `Id`
    seq: Count


class Delivery(_Envelope, frozen=True, tag=1):
    """A message for clients: for all, or for those of `ids` that the reader has. `ask` wants an `Ack`, 0 does not."""

    payload: bytes
    is_text: bool
    ids: Annotated[list[str], msgspec.Meta(max_length=MAX_IDS)] | None = None
    ask: Count = 0


class Ack(_Envelope, frozen=True, tag=2):
    """What became of a message in one process."""

    ask: Count
    recipients: Count
    queued: Count
    dropped: Count


class Heartbeat(_Envelope, frozen=True, tag=3):
    """The origin lives; one that only publishes has no `info`. `is_new`: it wants to be told who else lives."""

    info: Info | None
    is_new: bool = False


class Leave(_Envelope, frozen=True, tag=4):
    """`node` has gone: the origin itself, or a process that the origin has seen die."""

    node: Id


class Ask(_Envelope, frozen=True, tag=5):
    """Something for one process to do, which it answers."""

    ask: Count
    operation: Annotated[str, msgspec.Meta(max_length=100)]
    arguments: dict[str, Any]


class Answer(_Envelope, frozen=True, tag=6):
    """What came of an `Ask`; `error` is empty if it could be done."""

    ask: Count
    value: Any
    error: Annotated[str, msgspec.Meta(max_length=MAX_ERROR)] = ""


class Here(_Envelope, frozen=True, tag=7):
    """Told to one that is new: the origin lives too, and knows `peers`."""

    info: Info
    peers: Annotated[list[Id], msgspec.Meta(max_length=MAX_NODES)]


Direct = Ack | Ask | Answer | Here
"""What goes to one process, on a topic of its own. The rest goes to all."""

Envelope = Delivery | Heartbeat | Leave | Direct

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)

_ORIGIN = slice(4, 4 + NODE_ID)  # after the heads of array, tag, version and text, one byte each


def encode(envelope: Envelope) -> bytes:
    """Raises `EnvelopeError` if it is too large, or holds what MessagePack cannot carry."""
    try:
        data = _encoder.encode(envelope)
    except (TypeError, OverflowError, ValueError) as exc:
        raise EnvelopeError("malformed", str(exc)) from exc
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError("size", f"{len(data)} bytes, at most {MAX_ENVELOPE} are sent")
    return data


def decode(data: bytes) -> Envelope:
    """Raises `EnvelopeError` for all that is no envelope of this version."""
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError("size", f"{len(data)} bytes, at most {MAX_ENVELOPE} are read")
    try:
        envelope = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise EnvelopeError("malformed", str(exc)) from exc
    if envelope.origin.strip(_HEX):  # a quarter of what the pattern costs, and here it is paid for each message
        raise EnvelopeError("malformed", f"the origin {envelope.origin!r} is not the id of a node")
    if envelope.version != VERSION:
        raise EnvelopeError("version", f"version {envelope.version}, this process speaks {VERSION}")
    return envelope


def origin_of(data: bytes) -> bytes:
    """The origin's id in an encoded envelope; anything for what is none."""
    return data[_ORIGIN]

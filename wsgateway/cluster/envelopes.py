"""The envelopes that the nodes of a gateway send each other: MessagePack arrays with a version, checked on arrival.

Knows neither brokers nor what is done with an envelope.
"""

from typing import Annotated, Any, Literal

import msgspec

from wsgateway.exceptions import EnvelopeError
from wsgateway.frames import NamedMessage, check_event_name
from wsgateway.messages import Kind, Message

VERSION = 1

MAX_ENVELOPE = 16 * 1024 * 1024
"""Bytes of one envelope. A larger one is neither sent nor read."""

NODE_ID = 8
"""Length of a node id, in characters. A connection id consists of its node's id, a dot, and a random part."""

MAX_IDS = 500_000
"""Connection ids in one envelope. An id has 31 characters, so more of them would not fit anyway."""

MAX_ERROR = 1000
"""Characters of the reason why a node has refused a request."""

MAX_NODES = 500
"""Other nodes of one gateway that are known, including those that were lost or left recently."""

_HEX = "0123456789abcdef"

Id = Annotated[str, msgspec.Meta(pattern=rf"\A[{_HEX}]{{{NODE_ID}}}\Z")]
"""A node id. It becomes part of a topic, a key, and a line of the log."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Age = Annotated[float, msgspec.Meta(ge=0, le=2**33)]
Name = Annotated[str, msgspec.Meta(max_length=255, pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a node about itself. `age` is seconds since its process began."""

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
    """The base of all envelopes. Begins with tag, version, and origin, which `origin_of` reads without decoding.

    `seq` counts the origin's envelopes on one topic, so a receiver notices lost and repeated ones.
    """

    version: int
    origin: Annotated[str, msgspec.Meta(min_length=NODE_ID, max_length=NODE_ID)]  # `decode` checks that it is an `Id`
    seq: Count


class Delivery(_Envelope, frozen=True, tag=1):
    """A message for all connections of a node, or for those with `ids`. Unless `ask` is 0, it asks for an `Ack`.

    Fields are only ever appended, because a node of an older version ignores those that it does not know, and a newer
    one uses their defaults. Therefore JSON has a field of its own. `name` is the name of an event.
    """

    payload: bytes
    is_text: bool
    ids: Annotated[list[str], msgspec.Meta(max_length=MAX_IDS)] | None = None
    ask: Count = 0
    is_json: bool = False
    name: str = ""


class Ack(_Envelope, frozen=True, tag=2):
    """The number of recipients that a message had in one node."""

    ask: Count
    recipients: Count
    queued: Count
    dropped: Count


class Heartbeat(_Envelope, frozen=True, tag=3):
    """The origin is alive. With `is_new`, it asks every node for `Here`.

    `info` is its report about itself. It is None if the origin only publishes, and in most heartbeats of a node. `seq`
    is 0 where it is None, because such a heartbeat may overtake other envelopes; `mark` then distinguishes it. It is 0
    if the event loop of the origin is blocked, and a thread sends the heartbeat.
    """

    info: Info | None
    is_new: bool = False
    mark: Count = 0


class Leave(_Envelope, frozen=True, tag=4):
    """`node` has left: the origin itself, or a process that the origin has seen dying."""

    node: Id


class Ask(_Envelope, frozen=True, tag=5):
    """A question to one node, which answers it."""

    ask: Count
    question: Annotated[str, msgspec.Meta(max_length=100)]
    arguments: dict[str, Any]


class Answer(_Envelope, frozen=True, tag=6):
    """The answer to an `Ask`. `error` is empty if the node has answered."""

    ask: Count
    value: Any
    error: Annotated[str, msgspec.Meta(max_length=MAX_ERROR)] = ""


class Here(_Envelope, frozen=True, tag=7):
    """The answer to a new node: the origin is alive, and knows `peers`."""

    info: Info
    peers: Annotated[list[Id], msgspec.Meta(max_length=MAX_NODES)]


ConnId = Annotated[str, msgspec.Meta(max_length=64)]

MemberRow = Annotated[tuple[str, ...], msgspec.Meta(min_length=3, max_length=4)]
"""A member of a channel: the id, the user, and the info, which is JSON. The fourth is its `conn_info`, if it has one.
"""


class Record(_Envelope, frozen=True, tag=8):
    """A publication of a channel, on the channel's topic. With a history, its position stands before it.

    `seq` is 0, because a broker does not repeat messages, and offsets show those that are lost. `kind` is that of a
    `Kind`. `time` and `expires` are in seconds since the epoch. `sender` are the id, the user, and the info (JSON) of
    the member that has sent it. `but` is the id of a connection that does not receive it. Unless `number` is 0, the
    nodes remember the counts for a `Tally`.
    """

    channel: Name
    payload: bytes
    kind: Literal["text", "json", "bytes"]
    time: float = 0.0
    name: str = ""
    key: str = ""
    tags: dict[str, str] | None = None
    sender: MemberRow | None = None
    expires: float | None = None
    but: str = ""
    number: Count = 0


class Tally(_Envelope, frozen=True, tag=9):
    """A request to all nodes for an `Ack` of the origin's publication `ask` to `channel`."""

    channel: Name
    ask: Count


MAX_ROWS = 10_000
"""Members in one envelope."""


class Membership(_Envelope, frozen=True, tag=10):
    """Members that have joined a channel or left it in the origin's process, on the channel's topic; `seq` is 0.

    `number` counts the changes of the origin over all channels. `prev` is the number of the change before it in this
    channel, 0 if the origin had no members.
    """

    channel: Name
    joined: Annotated[list[MemberRow], msgspec.Meta(max_length=MAX_ROWS)]
    left: Annotated[list[ConnId], msgspec.Meta(max_length=MAX_ROWS)]
    prev: Count
    number: Count


class ToUser(_Envelope, frozen=True, tag=11):
    """A message for every connection of `user`. `ask` and `name` as in `Delivery`.

    A `Delivery` does not have the user, because a node of an older version would send it to every connection.
    """

    user: str
    payload: bytes
    kind: Kind
    ask: Count = 0
    name: str = ""


class Forgotten(_Envelope, frozen=True, tag=12):
    """The history of `channel` was dropped, on the channel's topic; `seq` is 0."""

    channel: Name


Direct = Ack | Ask | Answer | Here
"""Envelopes for one node, on a topic of its own. The others go to all nodes."""

OfChannel = Record | Membership | Forgotten
"""Envelopes on the topic of a channel. Their `seq` is 0."""

Unnumbered = OfChannel | Heartbeat
"""Envelopes whose `seq` may be 0."""

Envelope = Delivery | ToUser | Tally | Heartbeat | Leave | OfChannel | Direct

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)

_ORIGIN = slice(4, 4 + NODE_ID)  # after the heads of array, tag, version and text, one byte each


def encode(envelope: Envelope) -> bytes:
    """Return `envelope` as bytes. Raise `EnvelopeError` if it is too large, or MessagePack cannot encode it."""
    try:
        data = _encoder.encode(envelope)
    except (TypeError, OverflowError, ValueError) as exc:
        raise EnvelopeError("malformed", str(exc)) from exc
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError("size", f"{len(data)} bytes, at most {MAX_ENVELOPE} are sent")
    return data


def decode(data: bytes) -> Envelope:
    """Return the envelope in `data`. Raise `EnvelopeError` unless it is a valid one of this version."""
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError("size", f"{len(data)} bytes, at most {MAX_ENVELOPE} are read")
    try:
        envelope = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise EnvelopeError("malformed", str(exc)) from exc
    if envelope.origin.strip(_HEX):  # for each message, so faster than the pattern of `Id`
        raise EnvelopeError("malformed", f"the origin {envelope.origin!r} is not the id of a node")
    if envelope.version != VERSION:
        raise EnvelopeError("version", f"version {envelope.version}, this process uses {VERSION}")
    return envelope


def origin_of(data: bytes) -> bytes:
    """Return the origin's id in an encoded envelope; arbitrary bytes if `data` is not an envelope."""
    return data[_ORIGIN]


def message_of(payload: bytes, kind: Kind, name: str) -> Message:
    """Return the message of an envelope. Raise `EnvelopeError` if its text is not UTF-8, or its name not that of an
    event."""
    try:
        if kind is not Kind.BYTES and not payload.isascii():
            payload.decode()
        if name:
            check_event_name(name)
            return NamedMessage(payload, kind, name)
    except ValueError as exc:
        raise EnvelopeError("malformed", str(exc)) from exc
    return Message(payload, kind)

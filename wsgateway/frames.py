"""Publications of channels, and the notifications that the gateway sends about subscriptions.

Each is a `Message`, which a wire format encodes once for all recipients. No I/O.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from wsgateway.closing import may_reconnect
from wsgateway.limits import SlowPolicy
from wsgateway.messages import Kind, Message, WireFormat
from wsgateway.text import short

MAX_OFFSET = 2**63 - 1

_POSITION = re.compile(r"([A-Za-z0-9]{0,32}):([0-9]{1,19})")


MAX_EVENT_NAME = 255
"""Bytes of the name of an event. The name of a channel has the same limit."""


RESERVED_NAMES = frozenset({"open", "close", "error", "subscribed", "unsubscribed", "joined", "left", "base64"})
"""Names of the events that the gateway or the browser adds to an event stream. With such a name, a client's message
could end the stream of another client."""


def check_event_name(name: object) -> None:
    """Raise `ValueError` unless `name` is empty or a name that every client protocol can carry."""
    check_request_name(name)
    if name in RESERVED_NAMES:
        raise ValueError(f"name is {name!r}, which is reserved for event streams, use another name")


def check_request_name(name: object) -> None:
    """Raise `ValueError` unless `name` is empty or one that a request can have, which is never sent to a stream."""
    if not isinstance(name, str):
        raise TypeError(f"name is {short(name)}, use a str")
    check_utf8("name", name)
    if len(name.encode()) > MAX_EVENT_NAME or not name.isprintable() or " " in name or "*" in name:
        raise ValueError(f"name is {short(name)}, use at most 255 bytes of printable characters without spaces and *")


def check_utf8(what: str, text: str) -> None:
    """Raise `ValueError` if `text` contains half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} contains half of a surrogate pair, which is not text") from None


class Position(NamedTuple):
    """A place in the history of one channel. Its text is `EPOCH:OFFSET`.

    `offset` numbers the publications of the channel, from 1. `epoch` changes when the numbering begins again. In
    a position that a client sends, an empty epoch matches any.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the position in `text`, or None if `text` is not a position."""
        match = _POSITION.fullmatch(text) if len(text) <= 64 else None
        if match is None or int(match[2]) > MAX_OFFSET:
            return None
        return cls(match[1], int(match[2]))


class Member(NamedTuple):
    """A connection in a channel, as other members see it.

    `user` is its `user_id`. `info` is the JSON value that `on_subscribe` has set, or None. `conn_info` is the claim
    `info` of the token with which it has connected, or None.
    """

    id: str
    user: str
    info: object = None
    conn_info: object = None

    def fields(self) -> dict[str, object]:
        """Return it as a JSON object. `conn_info` is left out unless it is set."""
        fields: dict[str, object] = {"id": self.id, "user": self.user, "info": self.info}
        if self.conn_info is not None:
            fields["conn_info"] = self.conn_info
        return fields


class Presence(NamedTuple):
    """The `members` of a channel. They are `complete` if every node has answered."""

    members: list[Member]
    complete: bool = True


class Counts(NamedTuple):
    """How many `connections` of how many `users` a channel has. They are `complete` if every node has answered."""

    connections: int
    users: int
    complete: bool = True


class NamedMessage(Message):
    """A message with the name of an event, for client protocols that show one."""

    __slots__ = ("name",)

    def __init__(self, payload: bytes, kind: Kind, name: str) -> None:
        super().__init__(payload, kind)
        self.name = name


class Publication(NamedMessage):
    """A message published to a channel.

    `position` is set by the history, None without one. `time` is in seconds since the epoch. `key` matters where only
    the newest publication of each key is kept. `tags` belong to the application. `sender` is the member that sent it,
    None if the application did. `expires` is in seconds of the monotonic clock, None if it never expires.
    """

    __slots__ = ("channel", "expires", "key", "policy", "position", "sender", "slot", "tags", "time")

    def __init__(
        self,
        message: Message,
        channel: str,
        *,
        name: str = "",
        key: str = "",
        tags: Mapping[str, str] | None = None,
        time: float = 0.0,
        expires: float | None = None,
        sender: Member | None = None,
        policy: SlowPolicy | None = None,
        is_latest_only: bool = False,
    ) -> None:
        """`policy` applies if it does not fit into an outbox; None means the `slow_policy` of the gateway.

        With `is_latest_only`, it replaces an older publication with the same key in the outbox of a slow client.
        """
        super().__init__(message.payload, message.kind, name)
        self.channel = channel
        self.key = key
        self.tags = tags
        self.time = time
        self.expires = expires
        self.sender = sender
        self.policy = policy
        self.slot = (channel, key) if is_latest_only else None
        self.position: Position | None = None

    def __repr__(self) -> str:
        return f"<Publication {self.channel!r} {self.at} {self.kind.value} of {len(self.payload)} bytes>"

    def encoded(self, wire_format: WireFormat) -> bytes:
        """Return this message in `wire_format`. Only the format used last is kept, because a history keeps many."""
        if self._format is not wire_format:
            self._bytes = wire_format.wire(self)
            self._format = wire_format
        return self._bytes

    @property
    def at(self) -> str | None:
        """Its position in the history, `EPOCH:OFFSET`, None without one."""
        return None if self.position is None else str(self.position)

    @property
    def message(self) -> Any:
        """The message: `str` for text, `bytes`, or the JSON value."""
        match self.kind:
            case Kind.TEXT:
                return self.payload.decode()
            case Kind.BYTES:
                return self.payload
            case Kind.JSON:
                return json.loads(self.payload)


class Bundle(Message):
    """Several messages for one connection. An outbox counts them as one, so that it accepts all or drops all."""

    __slots__ = ("_parts",)

    policy: SlowPolicy | None = SlowPolicy.DISCONNECT

    def __init__(self, parts: Sequence[Message]) -> None:
        super().__init__(b"".join([part.payload for part in parts]), Kind.TEXT)
        self._parts = tuple(parts)

    def encoded(self, wire_format: WireFormat) -> bytes:
        return b"".join([part.encoded(wire_format) for part in self._parts])

    def parts(self) -> tuple[Message, ...]:
        return self._parts


class Control(Message):
    """A notification of the gateway itself. `slow_policy` never drops it, because the client would wait for it.

    `ident` is the id of the command that it answers, None if it does not answer a command.
    """

    __slots__ = ("ident",)

    is_control = True
    policy: SlowPolicy | None = SlowPolicy.DISCONNECT

    def __init__(self, payload: bytes = b"", *, ident: int | None = None) -> None:
        super().__init__(payload, Kind.TEXT)
        self.ident = ident


class SubscribedFrame(Control):
    """A subscription has begun.

    `at` is the position before the first publication that follows, None without a history. `members` is a JSON array,
    None without `presence`.
    """

    __slots__ = ("at", "channel", "members", "recovered", "reply")

    def __init__(
        self,
        channel: str,
        *,
        at: Position | None,
        recovered: bool,
        reply: Message | None = None,
        members: bytes | None = None,
        ident: int | None = None,
    ) -> None:
        super().__init__((b"" if reply is None else reply.payload) + (members or b""), ident=ident)
        self.channel = channel
        self.at = at
        self.recovered = recovered
        self.reply = reply
        self.members = members


class UnsubscribedFrame(Control):
    """A subscription has ended. From code 2500 on, the client may subscribe again, without a position."""

    __slots__ = ("channel", "code", "reason")

    def __init__(self, channel: str, code: int, reason: str, *, ident: int | None = None) -> None:
        super().__init__(reason.encode(), ident=ident)
        self.channel = channel
        self.code = code
        self.reason = reason


class RefusedFrame(Control):
    """A command was refused with `status`. `channel` is None if the command does not name one."""

    __slots__ = ("channel", "reason", "status")

    def __init__(self, channel: str | None, status: int, reason: str, *, ident: int | None = None) -> None:
        text = reason.encode(errors="replace")  # a hook may have put half of a surrogate pair into it
        super().__init__((channel or "").encode() + text, ident=ident)  # so that it counts in an outbox
        self.channel = channel
        self.status = status
        self.reason = text.decode()


class AcceptedFrame(Control):
    """A client's message was accepted. `at` is its position, None if it is not in a history."""

    __slots__ = ("at",)

    def __init__(self, at: Position | None, *, ident: int | None) -> None:
        super().__init__(ident=ident)
        self.at = at


class RequestFrame(Control):
    """A request of the server. `ident` is its own id, which is independent of those of the client's commands."""

    __slots__ = ("message", "name")

    def __init__(self, ident: int, name: str, message: Message) -> None:
        super().__init__(message.payload + name.encode(), ident=ident)  # so that it counts in an outbox
        self.name = name
        self.message = message


class ReplyFrame(Control):
    """The answer to a request of the client. `reply` is None for JSON's null."""

    __slots__ = ("reply",)

    def __init__(self, reply: Message | None, *, ident: int) -> None:
        super().__init__(b"" if reply is None else reply.payload, ident=ident)
        self.reply = reply


class PresenceFrame(Control):
    """A member has joined a channel, or has left it."""

    __slots__ = ("channel", "has_left", "member")

    policy = None  # the same as of a publication, because one is sent for each member

    def __init__(self, channel: str, member: Member, *, has_left: bool) -> None:
        super().__init__()
        self.channel = channel
        self.member = member
        self.has_left = has_left


class OpenFrame(Control):
    """The first event of a stream: the id of its connection, and the secret of its session."""

    __slots__ = ("conn_id", "secret")

    def __init__(self, conn_id: str, secret: str) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.secret = secret


class ExpiresFrame(Control):
    """The connection expires after `seconds`, or never if they are None, unless the client sends a new token."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: int | None, *, ident: int | None = None) -> None:
        super().__init__(ident=ident)
        self.seconds = seconds


class CloseFrame(Control):
    """The last event of a stream, with a code and a reason as in a WebSocket close frame."""

    __slots__ = ("code", "reason")

    def __init__(self, code: int, reason: str) -> None:
        super().__init__()
        self.code = code
        self.reason = reason

    def fields(self) -> dict[str, object]:
        """Return code, reason, and whether the client may reconnect, as a JSON object.

        If the reason is a JSON object, as in a shutdown, its members replace them and may add when to reconnect.
        """
        fields: dict[str, object] = {"code": self.code, "reason": self.reason, "reconnect": may_reconnect(self.code)}
        if self.reason.startswith("{"):
            try:
                details = json.loads(self.reason)
            except ValueError:
                return fields
            if isinstance(details, dict):
                fields |= {name: details[name] for name in ("reason", "reconnect", "retry_after_ms") if name in details}
        return fields


class History(NamedTuple):
    """The `publications` of a channel, and `at`, the position of its newest one, `EPOCH:OFFSET`.

    `at` is None if the channel has no history.
    """

    publications: list[Publication]
    at: str | None

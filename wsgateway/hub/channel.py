"""One channel in this process: its subscribers, and what is kept of each. Knows no history and no other channel."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from wsgateway.cluster.history.replica import Page
from wsgateway.config.channels import ChannelSettings
from wsgateway.encoding import ENCODER
from wsgateway.exceptions import MessageError
from wsgateway.frames import Member, Position, Publication, SubscribedFrame
from wsgateway.hub.audience import Audience
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.hub.outbox import Outbox
from wsgateway.hub.roster import encode_member
from wsgateway.messages import Message


def copy_info(info: object) -> Any:
    """Return a copy of `info`, which its owner may change later. Raise `MessageError` unless it is a JSON value."""
    return None if info is None else json.loads(info_json(info))


def info_json(info: object) -> str:
    """Return `info` as JSON. Raise `MessageError` unless it is a JSON value."""
    try:
        text = ENCODER.encode(info)
        text.encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise MessageError(f"info is not a JSON value: {exc}") from exc
    return text


class Wanted(NamedTuple):
    """A client's request to subscribe to `channel`.

    `since` is the client's position; `is_garbled` is true if it sent text that is not a position. `last` is the number
    of newest publications to send if nothing is recovered.
    """

    channel: str
    since: Position | None = None
    is_garbled: bool = False
    last: int | None = None
    ident: int | None = None


class Grant(NamedTuple):
    """The values that `on_subscribe` has set for one subscription.

    `reply` is sent with the answer. If `loaded_at` is a position, the reply is the state at that position. With
    `must_recover`, nothing was loaded because the client could recover from its own position. `after` is the count of
    revocations when the hook was called, None if it was not. `page` is a part of the shared history that the recovery
    needs.
    """

    info: object = None
    reply: Message | None = None
    loaded_at: Position | None = None
    must_recover: bool = False
    after: int | None = None
    page: Page | None = None


NOTHING = Grant()


Answer = Callable[[SubscribedFrame, Sequence[Publication]], None]
"""Sends a client the answer to its request to subscribe, and the publications that follow it."""


class Watcher(Protocol):
    """Is notified when subscriptions begin and end. Implemented by the dispatcher of a running gateway."""

    def unsubscribed(self, conn: Connection, channel: str, code: int, reason: str) -> None:
        """Handle that a subscription has ended. Called exactly once for each."""

    def first_subscribed(self, channel: str) -> None: ...
    def last_unsubscribed(self, channel: str) -> None: ...


class Outdated(Exception):  # noqa: N818  the caller refuses the client
    """The client has to try again.

    The history no longer contains every publication since the call of `load`, the application has ended the
    subscription while `on_subscribe` ran, the subscribers of the channel are being notified of a loss, or so much time
    has passed since `ready` that the channel is no longer followed.
    """


class Channel(Audience):
    """The subscribers of one channel in this process.

    `is_announced` is whether `on_first_subscribe` was called for it. `infos` contains the values that `on_subscribe`
    has set, `by_code` the subscribers that the application has subscribed, and `members` each member as a JSON object,
    if the channel has `presence`. Each is None while it would be empty. `published` is the time of the last publication
    since the first subscription, None before it.
    """

    __slots__ = ("by_code", "infos", "is_announced", "members", "name", "published", "settings")

    def __init__(self, name: str, settings: ChannelSettings, hub: Hub) -> None:
        super().__init__(hub.everybody.plain)
        self.name = name
        self.settings = settings
        self.is_announced = False
        self.infos: dict[Outbox, object] | None = None
        self.by_code: set[Outbox] | None = None
        self.members: dict[Outbox, bytes] | None = None
        self.published: float | None = None  # in seconds of the monotonic clock

    def member(self, conn: Connection) -> Member:
        """Return `conn` as other members see it."""
        info = None if self.infos is None else self.infos.get(conn._outbox)
        return Member(conn.id, conn.user_id, info, conn._conn_info)

    def show(self, conn: Connection) -> Member:
        """Add `conn` to `members`, and return it as other members see it."""
        member = self.member(conn)
        self.members = self.members or {}
        self.members[conn._outbox] = encode_member(member)
        return member

    def members_json(self, others: Iterable[bytes]) -> bytes:
        """Return `members`, and those in other nodes, as a JSON array."""
        return b"[%b]" % b",".join([*(self.members or {}).values(), *others])

    def forget(self, outbox: Outbox) -> bool:
        """Forget what is kept of a former subscriber. Return whether it was among `members`."""
        if self.infos is not None:
            self.infos.pop(outbox, None)
        if self.by_code is not None:
            self.by_code.discard(outbox)
        return self.members is not None and self.members.pop(outbox, None) is not None

    def outboxes(self) -> Iterator[Outbox]:
        """Yield the outbox of each subscriber."""
        for _, members in self.by_format():
            yield from members
        yield from self.slow or ()

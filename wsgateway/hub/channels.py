"""The channels of one gateway in this process: subscriptions, members, and publications. Knows no hooks.

A channel is an audience with a name, and exists while it has subscribers. Everything here is synchronous, so nothing is
published between two steps of a subscription.
"""

from collections.abc import Collection, Mapping

from wsgateway.closing import STATE_LOST
from wsgateway.cluster.history.memory import MemoryHistory
from wsgateway.cluster.history.recovery import Recovery
from wsgateway.cluster.history.replica import Page
from wsgateway.config.namespaces import Namespaces
from wsgateway.config.settings import Settings
from wsgateway.exceptions import HistoryError, TooManyChannels
from wsgateway.frames import (
    Bundle,
    Member,
    Position,
    PresenceFrame,
    Publication,
    SubscribedFrame,
    UnsubscribedFrame,
    check_utf8,
)
from wsgateway.hub.channel import NOTHING, Answer, Channel, Grant, Outdated, Wanted, Watcher, copy_info
from wsgateway.hub.connection import Connection
from wsgateway.hub.following import Following
from wsgateway.hub.hub import Hub
from wsgateway.hub.revocations import Revocations
from wsgateway.messages import Message, OnLoss, Subscribed
from wsgateway.metrics import Metrics
from wsgateway.text import short

LOST = 2500
"""The code of a subscription that has ended because publications were missed. The client may subscribe again."""


def check_unsubscribe(code: int, reason: str) -> None:
    """Raise `ValueError` unless a subscription may end with `code` and `reason`."""
    if isinstance(code, bool) or not isinstance(code, int) or not 2000 <= code <= 2999:
        raise ValueError(f"a subscription ends with a code from 2000 to 2999, not {code!r}")
    if not isinstance(reason, str):
        raise ValueError(f"the reason is {reason!r}, use a str")
    check_utf8("reason", reason)


class Channels:
    """The channels of one gateway that have subscribers in this process, and their history."""

    def __init__(self, hub: Hub, settings: Settings, metrics: Metrics, history: MemoryHistory) -> None:
        self.namespaces = Namespaces(settings.channels)
        self.history = history
        self.revocations = Revocations()
        self.watcher: Watcher | None = None
        self.following: Following | None = None
        """The channels that are shared with other nodes, while a gateway with a broker runs."""

        self._hub = hub
        self._settings = settings
        self._metrics = metrics
        self._by_name: dict[str, Channel] = {}
        self._returning: dict[Connection, set[str]] = {}  # channels that the application has subscribed it to
        hub.left = self._left_hub

    def find(self, name: str) -> Channel | None:
        """Return the channel, or None if it has no subscribers here."""
        return self._by_name.get(name)

    @property
    def by_name(self) -> Mapping[str, Channel]:
        return self._by_name

    def names_of(self, conn: Connection) -> tuple[str, ...]:
        """Return the channels of `conn`, in the order of subscribing."""
        return tuple(each.name for each in conn._outbox.audiences if isinstance(each, Channel))

    def is_subscribed(self, conn: Connection, name: str) -> bool:
        channel = self._by_name.get(name)
        return channel is not None and channel in conn._outbox.audiences

    def is_by_code(self, conn: Connection, name: str) -> bool:
        """Return whether the application has subscribed `conn` to a channel."""
        channel = self._by_name.get(name)
        return channel is not None and channel.by_code is not None and conn._outbox in channel.by_code

    def subscribers(self, name: str) -> list[Connection]:
        """Return the subscribers of a channel in this process."""
        channel = self._by_name.get(name)
        if channel is None:
            return []
        conns = (self._hub.connections.get(outbox.id) for outbox in channel.outboxes())
        return [conn for conn in conns if conn is not None]

    def count_of(self, name: str) -> int:
        """Return how many subscribers a channel has in this process."""
        channel = self._by_name.get(name)
        return 0 if channel is None else channel.fast_count + len(channel.slow or ())

    def _holders(self, name: str) -> list[Connection]:
        """Return the connections that are subscribed to a channel, or may subscribe again without `on_subscribe`."""
        returning = [conn for conn, names in self._returning.items() if name in names]
        return [*self.subscribers(name), *returning]

    def abandon(self) -> None:
        """Forget every channel without calling anybody, because the event loop was closed."""
        self._by_name.clear()
        self._returning.clear()
        self.following = None
        self._metrics.channels = self._metrics.subscriptions = 0

    # Subscriptions

    def check_room(self, conn: Connection) -> None:
        """Raise `ChannelError` if `conn` may not have another channel."""
        self.check_count(len(conn._outbox.audiences) or 1)  # one of them is every connection

    def check_count(self, count: int) -> None:
        """Raise `ChannelError` if a connection may not have `count` channels."""
        most = self._settings.max_channels
        if count > most:
            raise TooManyChannels(f"a connection may have at most {most} channels (max_channels)")

    def may_return(self, conn: Connection, name: str) -> bool:
        """Return whether the client may subscribe again without `on_subscribe`, after the application did so."""
        return name in self._returning.get(conn, ())

    def subscribe(
        self,
        conn: Connection,
        wanted: Wanted,
        grant: Grant = NOTHING,
        *,
        by_code: bool = False,
        answer: Answer | None = None,
    ) -> SubscribedFrame | None:
        """Subscribe `conn`, send it the answer and the missed publications, with `answer` if given, and return it.

        Return None if it is closed. If it is subscribed already, it receives both again. Raise `ChannelError` if there
        is no such channel or the connection has too many, and `Outdated`.
        """
        settings = self.namespaces.find(wanted.channel)
        outbox = conn._outbox
        while (channel := self._by_name.get(wanted.channel)) is not None and channel.is_pending:
            self._hub.flush()  # the calls that it causes happen before the subscription
        if not outbox.is_open:
            return None
        if not self.is_subscribed(conn, wanted.channel):
            self._check_revoked(conn, wanted.channel, grant)
            self.check_room(conn)
        if channel is None:
            if self.following is not None and not self.following.has(wanted.channel):
                raise Outdated
            channel = Channel(wanted.channel, settings, self._hub)
        frame, publications = self._answer(channel, wanted, grant)
        is_new = self._hub.add(outbox, channel)
        if is_new:
            if channel.name not in self._by_name:
                self._by_name[channel.name] = channel
                self._metrics.channels += 1
                if self.following is not None:
                    self.following.retain(channel.name)
            self._metrics.subscriptions += 1
            if grant.info is not None:
                channel.infos = channel.infos or {}
                channel.infos[outbox] = grant.info
            if by_code or self.may_return(conn, channel.name):
                channel.by_code = channel.by_code or set()
                channel.by_code.add(outbox)
                self._forget_return(conn, channel.name)
        if answer is not None:
            answer(frame, publications)
        else:
            outbox.put(Bundle([frame, *publications]) if publications else frame)
        if is_new and outbox.is_open and settings.presence:
            self._announce_joined(channel, conn)
        if is_new:
            self._announce(channel)
        return frame

    def _announce(self, channel: Channel) -> None:
        """Report once that a channel has subscribers, unless its only subscriber was closed as too slow."""
        if self.watcher is None or channel.is_announced or self._by_name.get(channel.name) is not channel:
            return
        channel.is_announced = True
        self.watcher.first_subscribed(channel.name)

    def _check_revoked(self, conn: Connection, name: str, grant: Grant) -> None:
        after = grant.after
        if after is not None and self.revocations.has(name, conn_id=conn.id, user=conn.user_id, after=after):
            raise Outdated

    def _answer(self, channel: Channel, wanted: Wanted, grant: Grant) -> tuple[SubscribedFrame, list[Publication]]:
        settings = channel.settings
        if not settings.history:
            return self._frame(channel, wanted, grant, None), []
        is_loaded = grant.loaded_at is not None
        recovery = self._recover(
            wanted if grant.loaded_at is None else Wanted(wanted.channel, grant.loaded_at), grant.page
        )
        if (is_loaded or grant.must_recover) and not recovery.recovered:
            raise Outdated
        if not is_loaded and (wanted.since is not None or wanted.is_garbled):
            self._metrics.recoveries[recovery.recovered] += 1
        return self._frame(channel, wanted, grant, recovery), recovery.publications

    def _frame(self, channel: Channel, wanted: Wanted, grant: Grant, recovery: Recovery | None) -> SubscribedFrame:
        following = self.following
        others = () if following is None else following.presence.rows(channel.name)
        members = channel.members_json(others) if channel.settings.presence else None
        return SubscribedFrame(
            channel.name,
            at=None if recovery is None else recovery.at,
            recovered=recovery is not None and recovery.recovered and grant.loaded_at is None,
            reply=grant.reply,
            members=members,
            ident=wanted.ident,
        )

    def _recover(self, wanted: Wanted, page: Page | None) -> Recovery:
        """Return the recovery of a client. Raise `Outdated` if it cannot be decided now."""
        if self.following is not None:
            recovery = self.following.recover(wanted, page)
            if recovery is None:
                raise Outdated
            return recovery
        return self.history.recover(
            wanted.channel,
            self.namespaces.find(wanted.channel),
            since=wanted.since,
            is_garbled=wanted.is_garbled,
            last=wanted.last,
            max_bytes=self._settings.outbox_bytes,
        )

    def can_recover(self, wanted: Wanted, page: Page | None) -> bool:
        """Return whether every publication since the position of a client can be sent to it.

        `page` is what `ready` has returned.
        """
        return wanted.since is not None and self._recover(wanted, page).recovered

    def position(self, name: str) -> Position:
        """Return the position of a channel with a history. Raise `Outdated` if it has none in this process."""
        if self.following is None:
            return self.history.position(name, self.namespaces.find(name))
        position = self.following.position(name)
        if position is None:
            raise Outdated
        return position

    async def ready(self, wanted: Wanted) -> Page | None:
        """Wait until a subscription can begin, and return the page of the history that it needs.

        Without a broker, it can begin at once. Raise `HistoryError` if a shared history is unavailable.
        """
        return None if self.following is None else await self.following.ready(wanted)

    def to_notify(self, name: str) -> list[Connection]:
        """Return the subscribers of a channel whose protocol can notify them that they have missed publications."""
        frame = UnsubscribedFrame(name, LOST, "")
        return [conn for conn in self.subscribers(name) if frame.encoded(conn._outbox.wire_format)]

    def lose(self, conn: Connection, name: str) -> bool:
        """End a subscription because publications were missed. The client may subscribe again, without a position.

        A client that would not subscribe again by itself is closed.
        """
        if conn._outbox.wire_format.on_loss is OnLoss.CLOSES_FOR_SERVER and self.is_by_code(conn, name):
            conn._outbox.close(STATE_LOST, "")
            return True
        return self.unsubscribe(conn, name, LOST, "publications were missed")

    def end(self, name: str, code: int, reason: str, *, ids: Collection[str] | None = None, user: str = "") -> int:
        """End subscriptions for the application: those of connections with `ids`, of a `user`, or else all.

        Return their number. A client whose `on_subscribe` runs meanwhile has to ask again. Raise `ChannelError` if
        there can be no such channel, and `ValueError` for a code or reason that cannot be sent.
        """
        self.namespaces.find(name)
        check_unsubscribe(code, reason)
        if code < LOST:
            self.revocations.add(name, ids=ids, user=user)
        conns = self._holders(name) if ids is None and not user else self._hub.select(ids, user)
        return sum([self.unsubscribe(conn, name, code, reason) for conn in conns])

    def unsubscribe(self, conn: Connection, name: str, code: int, reason: str, *, ident: int | None = None) -> bool:
        """End a subscription, and notify the client. Return False if `conn` is not subscribed.

        Below code 2500, a client that may subscribe again without `on_subscribe` loses this permission.
        """
        if code < LOST:
            self._forget_return(conn, name)
        outbox = conn._outbox
        while (channel := self._by_name.get(name)) is not None and channel.is_pending:
            self._hub.flush()
        if channel is None or channel not in outbox.audiences:
            return False
        frame = UnsubscribedFrame(name, code, reason, ident=ident)
        if not outbox.has_space(frame):
            outbox.close_too_slow()  # which ends all of its subscriptions, before `on_client_close`
            return True
        self._hub.remove(outbox, channel)
        if code >= LOST and channel.by_code is not None and outbox in channel.by_code:
            self._returning.setdefault(conn, set()).add(name)
        outbox.put(frame)
        self._left(conn, channel, code, reason)
        if code >= LOST and outbox.wire_format.on_loss is OnLoss.CLOSES:
            outbox.close(STATE_LOST, "a subscription was lost")
        return True

    def _forget_return(self, conn: Connection, name: str) -> None:
        names = self._returning.get(conn)
        if names is not None:
            names.discard(name)
            if not names:
                del self._returning[conn]

    def _left_hub(self, conn: Connection, audiences: tuple[object, ...]) -> None:
        """Handle that `conn`, which was in `audiences` besides `everybody`, has left the hub."""
        code, reason = conn._outbox.closing or (1006, "")
        self._returning.pop(conn, None)
        for channel in audiences:
            if isinstance(channel, Channel):
                self._left(conn, channel, code, reason)

    def _left(self, conn: Connection, channel: Channel, code: int, reason: str) -> None:
        self._metrics.subscriptions -= 1
        if conn._session is not None:
            conn._session.unsubscribed(channel.name)
        is_empty = channel.is_empty and self._by_name.get(channel.name) is channel
        if is_empty:
            del self._by_name[channel.name]
            self._metrics.channels -= 1
            if self.following is not None:
                self.following.linger(channel.name)
        member = channel.member(conn)
        if channel.forget(conn._outbox):
            if self.following is not None:
                self.following.presence.changed(channel.name, conn.id, None)
            if not is_empty:
                self._hub.deliver(PresenceFrame(channel.name, member, has_left=True), channel)
        if self.watcher is not None:
            if is_empty and channel.is_announced:  # before `on_unsubscribe`, which may subscribe another connection
                self.watcher.last_unsubscribed(channel.name)
            self.watcher.unsubscribed(conn, channel.name, code, reason)

    # By the application

    async def subscribe_now(
        self,
        conn: Connection,
        channel: str,
        *,
        info: object = None,
        since: str | None = None,
        reply: Message | None = None,
    ) -> Subscribed:
        """Subscribe `conn` for the application, and send it `reply` with the answer.

        Raise `ChannelError`, `TypeError`, `ValueError`, or `HistoryError`.
        """
        if since is not None and not isinstance(since, str):
            raise TypeError(f"since is {short(since)}, use a position, EPOCH:OFFSET")
        position = None if since is None else Position.parse(since)
        if since is None and self.is_subscribed(conn, channel):  # the client needs no answer
            at = str(self.position(channel)) if self.namespaces.find(channel).history else None
            return Subscribed(at, False)
        wanted = Wanted(channel, position, since is not None and position is None)
        grant = Grant(copy_info(info), reply)
        if self.following is not None:
            self.namespaces.find(channel)
            after = self.revocations.count
            grant = grant._replace(page=await self.following.ready(wanted), after=after)
        try:
            frame = self.subscribe(conn, wanted, grant, by_code=True)
        except Outdated:
            raise HistoryError(f"the channel {short(channel)} has changed meanwhile, try again") from None
        if frame is None:
            return Subscribed(None, False)
        return Subscribed(None if frame.at is None else str(frame.at), frame.recovered)

    def unsubscribe_now(self, conn: Connection, channel: str, code: int, reason: str) -> bool:
        """End a subscription for the application, as `end` does. Return False if `conn` is not subscribed."""
        return self.end(channel, code, reason, ids=[conn.id]) > 0

    # Members

    def members(self, name: str) -> list[Member]:
        """Return the members of a channel in this process."""
        channel = self._by_name.get(name)
        return [] if channel is None else [channel.member(conn) for conn in self.subscribers(name)]

    def _announce_joined(self, channel: Channel, conn: Connection) -> None:
        member = channel.show(conn)
        if self.following is not None:
            self.following.presence.changed(channel.name, conn.id, member)
        self._hub.deliver(PresenceFrame(channel.name, member, has_left=False), channel)

"""Answers what a Centrifuge client asks about a channel: its members, and its history. Knows no sockets."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from wsgateway import frames
from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.exceptions import HistoryError, Refusal, Refused
from wsgateway.frames import MAX_OFFSET, Member, Position, Publication
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection
from wsgateway.hub.roster import member_in
from wsgateway.listeners.event import EventGateway
from wsgateway.listeners.subscriptions import find_namespace
from wsgateway.messages import Message, WireFormat
from wsgateway.protocols.centrifuge.codes import ErrorCode, Failed
from wsgateway.protocols.centrifuge.commands import History, Presence, PresenceStats, position_of
from wsgateway.protocols.centrifuge.replies import Fields, client_info
from wsgateway.protocols.session import unstored

Query = Presence | PresenceStats | History

SLICE = 500
"""Members or publications that are converted in one iteration of the event loop."""

FEW = 50
"""Items of an answer up to which it is converted without serving other clients first."""

ENTRY = 100
"""Bytes that a member or a publication takes in an answer besides its payload."""

T = TypeVar("T")
R = TypeVar("R")


class Queries:
    """Answers the queries of one client."""

    __slots__ = ("_channels", "_conn", "_gateway", "_max_bytes")

    def __init__(self, gateway: EventGateway, channels: Channels, conn: Connection, *, max_bytes: int) -> None:
        """An answer contains at most `max_bytes` of payload, or a single publication."""
        self._gateway = gateway
        self._channels = channels
        self._conn = conn
        self._max_bytes = max_bytes

    async def answer(self, query: Query) -> tuple[Fields, int]:
        """Return the fields of the reply, and about how many bytes they take. Raise `Refused`."""
        match query:
            case Presence():
                self._check(query.channel, needs_presence=True)
                members = await self._members(query.channel)
                infos = await _converted(members, client_info)
                fields = {member.id: info for member, info in zip(members, infos, strict=True)}
                size = sum(len(part.payload) for info in infos for part in info.values() if isinstance(part, Message))
                return {"presence": fields}, size + ENTRY * len(members)
            case PresenceStats():
                self._check(query.channel, needs_presence=True)
                members = await self._members(query.channel)
                return {"num_clients": len(members), "num_users": len({member.user for member in members})}, 0
            case History():
                settings = self._check(query.channel, needs_presence=False)
                try:
                    return await self._history(query, settings)
                except HistoryError as exc:
                    raise unstored(exc) from exc

    async def _members(self, channel: str) -> list[Member]:
        """Return the members of a channel in all processes.

        If this process has subscribers, they are those whose joins and leaves it has received, so a member of whom the
        client was notified is never missing. Otherwise all processes are asked.
        """
        following = self._channels.following
        if following is None or self._channels.find(channel) is None:
            return (await self._gateway.presence(channel)).members
        others = await _converted(list(following.presence.rows(channel)), member_in)
        return [*self._channels.members(channel), *others]

    def _check(self, channel: str, *, needs_presence: bool) -> ChannelSettings:
        """Return the settings of `channel`. Raise `Refused` unless the client may query it."""
        settings = find_namespace(self._channels, channel)
        if needs_presence and not settings.presence:
            raise Failed(ErrorCode.PERMISSION_DENIED)
        may = settings.public and "subscribe" in settings.clients
        if not may and not self._channels.is_subscribed(self._conn, channel):
            raise Refused.of(Refusal(403, "query", f"subscribe to {channel} before you query it"))
        return settings

    async def _history(self, query: History, settings: ChannelSettings) -> tuple[Fields, int]:
        since = None if query.since is None else (query.since.epoch, query.since.offset)
        publications, at = await read_history(
            self._gateway.history, query.channel, settings, limit=query.limit, since=since, is_backward=query.reverse
        )
        fits = self._fitting(publications, self._conn._outbox.wire_format)
        size = sum(len(each.payload) for each in fits) + ENTRY * len(fits)
        if len(fits) > FEW:
            await asyncio.sleep(0)  # serves others between two long answers
        return {"publications": fits, "epoch": at.epoch, "offset": at.offset}, size

    def _fitting(self, publications: list[Publication], wire_format: WireFormat) -> list[Publication]:
        """Return the first of `publications` that the client can receive and that fit into one answer."""
        left, fits = self._max_bytes, list[Publication]()
        for publication in publications:
            left -= len(publication.payload)
            if left < 0 and fits:
                break
            if wire_format.carries(publication):
                fits.append(publication)
        return fits


async def read_history(
    read: Callable[..., Awaitable[frames.History]],
    channel: str,
    settings: ChannelSettings,
    *,
    limit: int,
    since: tuple[str, int] | None,
    is_backward: bool,
) -> tuple[list[Publication], Position]:
    """Return publications of a channel with `settings`, and its position. `read` is `Gateway.history`. Raise `Failed`.

    `since` is an epoch, of which the empty one is any, and an offset. With a `limit` below 0, there is none.
    """
    if not settings.history:
        raise Failed(ErrorCode.NOT_AVAILABLE, f"the channel {channel} keeps no history")
    if since is None:
        position = None if is_backward else Position("", 0)  # the oldest first
    elif not 0 <= since[1] <= MAX_OFFSET or (is_backward and not since[1]):
        raise Failed(ErrorCode.BAD_REQUEST, "since: the offset is out of range, or there is nothing before it")
    else:
        position = position_of(*since)
        if position is None:
            raise Failed(ErrorCode.UNRECOVERABLE_POSITION, "since: no history has this epoch")
    most = min(limit, MAX_HISTORY) if limit >= 0 else MAX_HISTORY
    start = None if position is None else str(position)
    history = await read(channel, limit=most, since=start, reverse=is_backward)
    at = Position.parse(history.at or "")
    assert at is not None, "the channel has a history"
    if position is not None and position.epoch not in ("", at.epoch):
        raise Failed(ErrorCode.UNRECOVERABLE_POSITION, "since: the epoch of the channel is another one")
    return history.publications, at


async def _converted(items: Sequence[T], convert: Callable[[T], R]) -> list[R]:
    """Return what `convert` returns for each of `items`, and serve others meanwhile."""
    converted: list[R] = []
    for start in range(0, len(items), SLICE):
        if len(items) > FEW:
            await asyncio.sleep(0)  # serves others between two slices
        converted += map(convert, items[start : start + SLICE])
    return converted

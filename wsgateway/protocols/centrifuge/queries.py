"""Answers what a Centrifuge client asks about a channel: its members, and its history. Knows no sockets."""

from wsgateway.config.channels import MAX_HISTORY, ChannelSettings
from wsgateway.exceptions import HistoryError, Refusal, Refused
from wsgateway.frames import Position, Publication
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection
from wsgateway.listeners.event import EventGateway
from wsgateway.listeners.subscriptions import find_namespace
from wsgateway.messages import WireFormat
from wsgateway.protocols.centrifuge.codes import ErrorCode, Failed
from wsgateway.protocols.centrifuge.commands import History, Presence, PresenceStats, position_of
from wsgateway.protocols.centrifuge.replies import Fields, client_info, publication_fields
from wsgateway.protocols.session import unstored

Query = Presence | PresenceStats | History


class Queries:
    """Answers the queries of one client."""

    __slots__ = ("_channels", "_conn", "_gateway", "_max_bytes")

    def __init__(self, gateway: EventGateway, channels: Channels, conn: Connection, *, max_bytes: int) -> None:
        """An answer contains at most `max_bytes` of payload, or a single publication."""
        self._gateway = gateway
        self._channels = channels
        self._conn = conn
        self._max_bytes = max_bytes

    async def answer(self, query: Query) -> Fields:
        """Return the fields of the reply. Raise `Refused`."""
        match query:
            case Presence():
                self._check(query.channel, needs_presence=True)
                members = (await self._gateway.presence(query.channel)).members
                return {"presence": {member.id: client_info(member) for member in members}}
            case PresenceStats():
                self._check(query.channel, needs_presence=True)
                counts = await self._gateway.presence_counts(query.channel)
                return {"num_clients": counts.connections, "num_users": counts.users}
            case History():
                settings = self._check(query.channel, needs_presence=False)
                if not settings.history:
                    raise Failed(ErrorCode.NOT_AVAILABLE)
                try:
                    return await self._history(query)
                except HistoryError as exc:
                    raise unstored(exc) from exc

    def _check(self, channel: str, *, needs_presence: bool) -> ChannelSettings:
        """Return the settings of `channel`. Raise `Refused` unless the client may query it."""
        settings = find_namespace(self._channels, channel)
        if needs_presence and not settings.presence:
            raise Failed(ErrorCode.PERMISSION_DENIED)
        may = settings.public and "subscribe" in settings.clients
        if not may and not self._channels.is_subscribed(self._conn, channel):
            raise Refused.of(Refusal(403, "query", f"subscribe to {channel} before you query it"))
        return settings

    async def _history(self, query: History) -> Fields:
        since = query.since
        limit = min(query.limit, MAX_HISTORY) if query.limit >= 0 else MAX_HISTORY
        position: Position | None = None
        if since is not None:
            position = position_of(since.epoch, since.offset)
            if position is None or (query.reverse and not since.offset):
                raise Failed(ErrorCode.BAD_REQUEST)
        elif not query.reverse:
            position = Position("", 0)  # the oldest first
        history = await self._gateway.history(
            query.channel, limit=limit, since=None if position is None else str(position), reverse=query.reverse
        )
        at = Position.parse(history.at or "")
        assert at is not None
        if position is not None and position.epoch not in ("", at.epoch):
            raise Failed(ErrorCode.UNRECOVERABLE_POSITION)
        fits = self._fitting(history.publications, self._conn._outbox.wire_format)
        return {"publications": [publication_fields(each) for each in fits], "epoch": at.epoch, "offset": at.offset}

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

"""Connects the transport of one client to the hub and the listener, in any protocol. Knows neither sockets nor ASGI."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from wsgateway.auth.claims import SubscriptionOptions
from wsgateway.closing import EXPIRED, TOO_MANY, TRY_AGAIN, UNAUTHORIZED
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ChannelError, ConnectionClosed, HistoryError, Refusal, Refused, TokenRefused
from wsgateway.frames import Position, check_request_name
from wsgateway.hub.channel import Answer, Grant, Outdated, Wanted
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.hub.outbox import Outbox
from wsgateway.hub.shared_history import Appended
from wsgateway.limits import Bucket
from wsgateway.listeners.dispatcher import Dispatcher
from wsgateway.listeners.event import EventGateway
from wsgateway.listeners.handshake import NO_INTRODUCTION, Handshake, Introduction
from wsgateway.listeners.inbox import Inbox
from wsgateway.messages import NULL, Message, encode
from wsgateway.protocols.commands import Subscribe
from wsgateway.protocols.expiry import Expiry
from wsgateway.protocols.identity import Identity
from wsgateway.protocols.query import NOTHING, Asked
from wsgateway.protocols.requests import MAX_REQUESTS, Requests
from wsgateway.transports.peer import MAX_FRAMES, ClientTransport
from wsgateway.transports.takeover import Timers

TOO_MANY_REQUESTS = Refused.of(
    Refusal(429, "request", f"{MAX_REQUESTS} of your requests are open, which is the maximum")
)

STOPPING = Refusal(503, "stopping", "the gateway is shutting down, try again later", "not-running")


def unstored(error: HistoryError) -> Refused:
    """Return the refusal of a message that a shared history has not stored."""
    unknown = ", it may have been stored" if error.is_late else ""
    return Refused.of(Refusal(503, "history", f"the history is unavailable, try again later{unknown}"))


def outcome_of(appending: asyncio.Future[Appended]) -> Position | Refused | None:
    """Return the position of a message that a shared history has stored, or the refusal if it has not.

    Return None for an unexpected error, which the history itself reports.
    """
    error = HistoryError("the gateway is stopping") if appending.cancelled() else appending.exception()
    if isinstance(error, HistoryError):
        return unstored(error)
    return None if error is not None else appending.result()[0]


@dataclass(frozen=True, slots=True)
class SessionParts:
    """The parts that all sessions of one gateway share.

    `ended` is called when an accepted session has finished, and `refused` when a client is refused after its handshake
    was accepted.
    """

    gateway: EventGateway
    hub: Hub
    channels: Channels
    dispatcher: Dispatcher
    settings: Settings
    timers: Timers
    identity: Identity
    ended: "Callable[[Session], None]"
    refused: Callable[[Mapping[str, Any], Refused, Connection], None]


class Session:
    """A connection and its inbox, from the handshake to `on_client_close`. Implements `transports.peer.Peer`.

    The protocol calls `handshake` and `open`. `on_client_close` is called exactly once after `open`. The size and the
    rate of messages are checked here only. (The native server closes a client before it reads a frame that is too
    large.)"""

    too_many = "too many messages"
    """The reason of a close with 3013."""

    __slots__ = (
        "_after",
        "_expiry",
        "_granted",
        "_inbox",
        "_parts",
        "_rate",
        "_requests",
        "_transport",
        "conn",
        "is_accepted",
        "is_open",
        "outbox",
    )

    def __init__(self, conn: Connection, outbox: Outbox, transport: ClientTransport, parts: SessionParts) -> None:
        self.conn = conn
        self.outbox = outbox
        self.is_accepted = False
        self.is_open = False
        self._transport = transport
        self._parts = parts
        self._after = 0  # the count of revocations when `on_handshake` was called
        self._expiry: Expiry | None = None
        self._granted: list[tuple[Wanted, Grant, bool]] | None = None
        self._inbox = Inbox()
        self._requests: Requests | None = None
        rate = parts.settings.message_rate
        self._rate = Bucket(rate, parts.settings.message_burst, time.monotonic()) if rate else None
        transport.attach(self, outbox)

    # From the handshake to the end

    async def handshake(
        self,
        scope: Mapping[str, Any],
        *,
        introduction: Introduction = NO_INTRODUCTION,
        asked: Asked = NOTHING,
        asks_now: bool = True,
    ) -> Handshake:
        """Check the token, call `on_handshake`, then, if `asks_now`, `on_subscribe` for each channel in the URL.

        Return the choices of `on_handshake`, with the channels of the token. Raise `Refused`; the cause of the refusal
        of a token is a `TokenRefused`.
        """
        dispatcher = self._parts.dispatcher
        self._after = self._parts.channels.revocations.count
        subs: Mapping[str, SubscriptionOptions] = {}
        if self._parts.identity.is_required:
            check_channel = dispatcher.subscriptions.check_token_channel
            introduction, subs = await self._parts.identity.introduce(
                self.conn, introduction, check_channel=check_channel, closes=self._is_closed_by_refusal
            )
        chosen = await dispatcher.handshake(self.conn, self._inbox, scope, introduction)
        if subs:
            chosen = chosen._replace(channels=tuple(dict.fromkeys((*subs, *chosen.channels))))
        channels = chosen.channels
        asks = asked.channels if asks_now else ()
        if channels or asks:
            self._granted = await self._grants(channels, asks, asked, subs)
        if self.outbox.closing is not None:
            raise Refused.of(STOPPING)
        return chosen

    @property
    def _is_closed_by_refusal(self) -> bool:
        """Whether a refusal closes the WebSocket, because a page cannot read a status, or it is accepted already."""
        return self.is_accepted or (self.conn.transport == "websocket" and "origin" in self.conn.headers)

    async def _grants(
        self,
        channels: tuple[str, ...],
        asks: tuple[Subscribe, ...],
        asked: Asked,
        subs: Mapping[str, SubscriptionOptions],
    ) -> list[tuple[Wanted, Grant, bool]]:
        """Return the granted requests: those of the token and of `on_handshake`, then those of the URL.

        `subs` has the options of those of the token. Raise `Refused`.
        """
        granted = []
        for name in channels:
            position = asked.since.get(name)
            wanted = Wanted(name, position, name in asked.since and position is None)
            grant = Grant(after=self._after)
            if name in subs:
                grant = grant._replace(info=subs[name].info, reply=encode(subs[name].data))
            granted.append((wanted, grant, True))
        if asks or subs:
            self._check_count(channels, asked)
        for each in asks:
            if each.wanted.channel not in channels:
                grant = await self._parts.dispatcher.authorize(self.conn, self._inbox, each.wanted, each.data)
                granted.append((each.wanted, grant, False))
        if self._parts.channels.following is not None:
            granted = await self._parts.dispatcher.subscriptions.ready_all(granted)
        return granted

    def _check_count(self, channels: tuple[str, ...], asked: Asked) -> None:
        try:
            self._parts.channels.check_count(len({*channels, *(each.wanted.channel for each in asked.channels)}))
        except ChannelError as exc:
            raise Refused.of(Refusal(403, "subscribe", str(exc))) from None

    def abort(self) -> None:
        """Close the socket now, and discard the messages that wait to be written."""
        self._transport.abort()

    def open(self) -> None:
        """Make the client a recipient, subscribe it to the granted channels, then call `on_client_open`."""
        self.is_accepted = self.is_open = True
        parts = self._parts
        parts.hub.join(self.conn)
        self.conn._session = self
        parts.dispatcher.entered(self.conn, self._inbox)
        revocations, conn = parts.channels.revocations, self.conn
        is_old = revocations.count != self._after
        if is_old and revocations.has("", conn_id=conn.id, user=conn.user_id, after=self._after):
            self.outbox.close(TRY_AGAIN, "the user was disconnected meanwhile")
        if self._granted is not None:
            granted, self._granted = self._granted, None
            for wanted, grant, by_code in granted:
                self._enter(wanted, grant, by_code=by_code)
        if conn.expires_at is not None:
            self.expiry_changed()
        parts.dispatcher.opened(self.conn, self._inbox)

    # Expiry

    def expiry_changed(self, *, ident: int | None = None) -> None:
        """Expire at `conn.expires_at`, which was set, by the command `ident` unless it is None."""
        if not self.is_open or self.outbox.closing is not None:
            return
        self._report_expiry(ident)
        if self._expiry is None:
            expired = partial(self._parts.dispatcher.expired, self.conn, self._inbox)
            ended = partial(self.outbox.close, EXPIRED, "connection expired")
            self._expiry = Expiry(self._parts.timers, expired=expired, ended=ended)
        self._expiry.cancel()
        if self.conn.expires_at is not None:
            self._expiry.set(self.conn.expires_at)

    def _report_expiry(self, ident: int | None) -> None:
        """Notify the client of when the connection expires, if its protocol can."""

    def unsubscribed(self, channel: str) -> None:
        """Handle that a subscription of the client has ended. Implements `hub.connection.ConnectionSession`."""

    async def refresh(self, token: str, *, ident: int | None = None) -> bool:
        """Renew the connection with `token`. Return whether it is valid, and close the connection if it is not.

        `ident` is the id of the command with the token, if it has one. Raise `Refused` if the keys are unavailable, and
        `RuntimeError` if no key is configured.
        """
        try:
            await self._parts.identity.renew(self.conn, token)
        except TokenRefused as exc:
            is_expired = exc.is_expired or exc.is_over
            code, reason = (EXPIRED, "connection expired") if is_expired else (UNAUTHORIZED, exc.reason)
            self.outbox.close(code, reason)
            return False
        self.expiry_changed(ident=ident)
        return True

    def _enter(self, wanted: Wanted, grant: Grant, *, by_code: bool) -> None:
        try:
            answer = self._answer_for(wanted, grant)
            self._parts.channels.subscribe(self.conn, wanted, grant, by_code=by_code, answer=answer)
        except Outdated:
            self.outbox.close(TRY_AGAIN, "the channel has changed meanwhile")
        except ChannelError:  # a hook of another subscription has subscribed the client to more
            self.outbox.close(TRY_AGAIN, "too many channels")

    def _answer_for(self, wanted: Wanted, grant: Grant) -> Answer | None:
        """Return what sends the client the beginning of a subscription, None for the usual way."""
        del wanted, grant
        return None

    def finished(self, code: int, reason: str) -> None:
        """Leave the hub, then call `on_client_close`, with `code` and `reason` unless this side has closed first."""
        closing = self.outbox.end(code, reason)
        if self._expiry is not None:
            self._expiry.cancel()
        if self.is_open:
            self.is_open = False
            self._parts.hub.leave(self.outbox)  # which calls `closing`
            self.conn._session = None
            self._parts.dispatcher.closed(self.conn, self._inbox, *closing)
        self._parts.ended(self)

    # What the client sends

    def received(self, message: str | bytes, size: int) -> bool:
        """Handle a message of `size` bytes. Drop it if the close has begun.

        Return False if the inbox is full. The transport then resumes reading once the inbox has space. The size is
        checked before the rate, as on the native server.
        """
        if self.outbox.closing is not None:
            return True
        if size > self._parts.settings.max_message_size:
            self.outbox.close(1009, "message too big")
        elif self._inbox.is_full and not self._may_overfill():
            self._inbox.when_space(self._transport.resume)
            return False
        elif self._rate is not None and not self._rate.allows(time.monotonic()):
            self.outbox.close(TOO_MANY, self.too_many)
        else:
            self._handle(message, size)
        return True

    @abstractmethod
    def _handle(self, message: str | bytes, size: int) -> None:
        """Handle a message that the limits allow."""

    def counted(self, *, is_fragment: bool = False) -> None:
        """Count a control frame or a fragment as a message, and close a client that exceeds `message_rate`."""
        # a client that sends too many fragments is closed with 1008, which is more precise than 3013
        overdraft = MAX_FRAMES if is_fragment else 0
        if self._rate is not None and not self._rate.allows(time.monotonic(), overdraft=overdraft):
            self.outbox.close(TOO_MANY, self.too_many)

    # Requests

    @property
    def requests(self) -> Requests:
        """The open requests of both directions."""
        if self._requests is None:
            self._requests = Requests(self._parts.timers)
        return self._requests

    def _may_overfill(self) -> bool:
        """Return whether a full inbox accepts more, because an answer that the server waits for may follow.

        The hook that the other messages wait for may be the one that waits for the answer.
        """
        return self._requests is not None and self._requests.is_waiting and not self._inbox.is_overfull

    def read_on(self) -> None:
        """Resume reading if it was paused because the inbox was full, and the inbox now accepts more."""
        self._transport.resume()

    async def ask(self, message: object, name: str, seconds: float) -> object:
        """Send a request to the client, and return its answer. Implements `hub.connection.ConnectionSession`."""
        check_request_name(name)
        content = encode(message) or NULL
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[tuple[object, Exception | None]] = loop.create_future()

        def settle(answer: object, error: Exception | None) -> None:
            if not settled.done():  # else the caller was cancelled just now
                settled.set_result((answer, error))

        requests = self.requests
        ident = requests.ask(settle, loop.time() + seconds)
        try:
            if not self.outbox.put(self._question(ident, name, content)):
                raise ConnectionClosed(self.conn.id)
            if self._inbox.is_full:
                loop.call_soon(self.read_on)  # the answer follows the messages that wait
            answer, error = await settled
        finally:
            requests.forget(ident)
        if error is not None:
            raise error
        return answer

    def closing(self) -> None:
        """Fail the requests of the server, because nothing is received any more."""
        if self._requests is not None:
            self._requests.close(self.conn.id)

    def _question(self, ident: int, name: str, message: Message) -> Message:
        """Return a request as the client receives it. Raise `TypeError` if the client could not answer."""
        del ident, name, message
        raise TypeError(f"the client of a stream cannot answer requests, and {self.conn.id} has a stream")

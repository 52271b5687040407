"""Executes the commands of an admitted Centrifuge client, and sends the replies. Knows neither frames nor sockets."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, assert_never

from wsgateway.config.namespaces import check_name
from wsgateway.config.settings import Settings
from wsgateway.config.values import Keep
from wsgateway.exceptions import ChannelError, MessageError, Refused, TooManyChannels
from wsgateway.frames import Bundle, Publication, RequestFrame, SubscribedFrame
from wsgateway.hub.channel import Grant, Outdated, Wanted
from wsgateway.hub.shared_history import Appended
from wsgateway.hub.target import Target
from wsgateway.listeners.event import SubscribeEvent
from wsgateway.listeners.inbox import Call, MessageCall, QueryCall, refusal_of
from wsgateway.listeners.requests import RequestCall
from wsgateway.listeners.subscriptions import SubscribeCall, find_namespace
from wsgateway.messages import Message
from wsgateway.protocols.centrifuge.codes import ErrorCode, Failed, code_of
from wsgateway.protocols.centrifuge.commands import (
    Command,
    Connect,
    History,
    Payload,
    Ping,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    Rpc,
    Send,
    SubRefresh,
    Subscribe,
    Unsubscribe,
    payload_of,
    position_of,
)
from wsgateway.protocols.centrifuge.queries import Queries, Query
from wsgateway.protocols.centrifuge.replies import Fields, Reply, size_of, subscribed_fields
from wsgateway.protocols.centrifuge.tokens import ExpiringSession, expiry_fields
from wsgateway.protocols.session import outcome_of

ANSWER_METHOD = "$reply"
"""The method with which a client answers a request of the server."""

MAX_DIGITS = 16
"""Digits of the id of such a request."""

SPACE_PAUSE = 0.05
"""Seconds between two checks of whether an outbox has space for an answer."""

ERROR_IF_LOST = 2
"""The flag of a request to subscribe that asks for an error if the position cannot be recovered."""


def broadcast_channel(settings: Settings) -> str:
    """Return the name of the channel that contains what is sent without a channel, empty if there is none."""
    return settings.id if settings.centrifuge_channel is None else settings.centrifuge_channel


class Asking:
    """One request to subscribe, until its reply. `expires_at` is when its token expires, None without one."""

    __slots__ = ("expires_at", "ident", "request")

    def __init__(self, ident: int, request: Subscribe) -> None:
        self.ident = ident
        self.request = request
        self.expires_at: float | None = None


class ExecutingSession(ExpiringSession):
    """The commands of a client after its `connect`. A reply comes after everything sent before its command ran."""

    __slots__ = ("_queries",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._queries: Queries | None = None

    @property
    def broadcast_channel(self) -> str:
        return broadcast_channel(self._parts.settings)

    def execute(self, command: Command) -> None:
        """Execute `command` after the earlier ones. The reply goes into the outbox."""
        ident, request, size = command.ident, command.request, command.size
        try:
            match request:
                case Publish():
                    self._publish(ident, request, size)
                case Rpc():
                    self._invoke(ident, request, size)
                case Send():
                    payload = payload_of(request.data)
                    if payload is not None:
                        self._message(payload, size, Target(), 0)
                case Subscribe():
                    self._subscribe(ident, request, size)
                case Unsubscribe():
                    self._later(size, partial(self._unsubscribe, ident, request.channel))
                case None:
                    raise Failed(ErrorCode.BAD_REQUEST if command.is_malformed else ErrorCode.METHOD_NOT_FOUND)
                case Presence() | PresenceStats() | History():
                    query = partial(self._query, ident, command.method, request)
                    self._parts.dispatcher.query(self.conn, self._inbox, size, query, partial(self._end_query, ident))
                case Refresh() | SubRefresh():
                    self._refresh(ident, command.method, request, size)
                case Ping():
                    self._later(size, partial(self._reply, ident, "ping"))
                case Connect():
                    raise Failed(ErrorCode.BAD_REQUEST)
                case _:
                    assert_never(request)
        except MessageError:
            self._later(size, partial(self._fail, ident, ErrorCode.BAD_REQUEST))
        except Failed as exc:
            self._later(size, partial(self._fail, ident, exc.code))

    def _later(self, size: int, run: Any) -> None:
        """Call `run` after the hooks of the earlier commands."""
        self._parts.dispatcher.command(self.conn, self._inbox, size, run)

    def _reply(self, ident: int, method: str, call: Call) -> None:
        del call
        self.outbox.put(Reply(ident, method, {}))

    def _fail(self, ident: int, code: ErrorCode, call: Call) -> None:
        del call
        if ident:
            self.outbox.put(Reply.error(ident, code))

    def _refuse(self, ident: int, refused: Refused, *, is_request: bool = False) -> None:
        """Answer a command that was refused with an error, or close the client if the hook has said so."""
        if refused.close is not None:
            self.outbox.close(refused.close, refused.reason)
        elif ident:
            self.outbox.put(Reply.error(ident, code_of(refused, is_request=is_request)))

    # Messages

    def _publish(self, ident: int, request: Publish, size: int) -> None:
        if request.type:
            raise Failed(ErrorCode.NOT_AVAILABLE)
        payload = payload_of(request.data)
        if payload is None or not request.channel:
            raise Failed(ErrorCode.BAD_REQUEST)
        self._check_real(request.channel)
        self._message(payload, size, Target(channel=request.channel), ident)

    def _check_real(self, channel: str) -> None:
        """Raise `Failed` for the channel that contains what is sent without one, because only the gateway uses it."""
        if channel and channel == self.broadcast_channel:
            raise Failed(ErrorCode.UNKNOWN_CHANNEL)

    def _message(self, payload: Payload, size: int, target: Target, ident: int) -> None:
        """Handle a message. `ident` is 0 if the client expects no reply."""
        answer = partial(self._answer_publish, ident)
        self._parts.dispatcher.message(
            self.conn,
            self._inbox,
            payload.value,
            size,
            target=target if target.channel else None,
            answer=answer,
            json=payload.source,
        )

    def _answer_publish(self, ident: int, call: Call) -> None:
        assert isinstance(call, MessageCall)
        if call.error is not None:
            self._refuse(ident, refusal_of(call))
        elif call.receipt is not None and call.receipt.appending is not None:
            call.receipt.appending.add_done_callback(partial(self._answer_stored, ident))
        elif ident:
            self._reply(ident, "publish", call)

    def _answer_stored(self, ident: int, appending: asyncio.Future[Appended]) -> None:
        """Answer a `publish` when a shared history has stored it, or has not."""
        outcome = outcome_of(appending)
        if not ident:
            return
        if isinstance(outcome, Refused):
            self.outbox.put(Reply.error(ident, code_of(outcome)))
        elif outcome is not None:
            self.outbox.put(Reply(ident, "publish", {}))

    # Requests of both directions

    def _invoke(self, ident: int, request: Rpc, size: int) -> None:
        payload = payload_of(request.data)
        message = None if payload is None else payload.value
        if request.method == ANSWER_METHOD:
            self._take_answer(ident, message, size)
        elif not self._parts.dispatcher.has_requests:
            raise Failed(ErrorCode.NOT_AVAILABLE)
        elif not self.requests.begin():
            raise Failed(ErrorCode.LIMIT_EXCEEDED)
        else:
            answer = partial(self._answer_invoke, ident)
            self._parts.dispatcher.request(self.conn, self._inbox, message, request.method, size, answer)

    def _answer_invoke(self, ident: int, call: RequestCall) -> None:
        self.requests.end()
        if call.error is not None:
            self._refuse(ident, refusal_of(call), is_request=True)
            return
        fields: Fields = {} if call.reply is None else {"data": call.reply}
        self.outbox.put(Reply(ident, "rpc", fields, payload=b"" if call.reply is None else call.reply.payload))

    def _take_answer(self, ident: int, message: Any, size: int) -> None:
        """Settle a request of the server now. The hook that waits for the answer may be the one that runs."""
        self._parts.dispatcher.count_in(self.conn, size)
        asked = message.get("id") if isinstance(message, dict) else None
        if isinstance(asked, str) and asked.isascii() and asked.isdigit() and len(asked) < MAX_DIGITS:
            asked = int(asked)
        if isinstance(asked, bool) or not isinstance(asked, int) or not self._settle(asked, message):
            self.outbox.put(Reply.error(ident, ErrorCode.BAD_REQUEST))
        else:
            self.outbox.put(Reply(ident, "rpc", {}))

    def _settle(self, asked: int, message: dict[str, Any]) -> bool:
        """Settle the request `asked` of the server. Return False if the answer is malformed, or nobody waits for it."""
        if "refused" not in message:
            return self.requests.answer(asked, message.get("data"))
        refused = message["refused"]
        code = refused.get("code", 0) if isinstance(refused, dict) else None
        reason = refused.get("reason", "") if isinstance(refused, dict) else None
        if isinstance(code, bool) or not isinstance(code, int) or not isinstance(reason, str):
            return False
        return self.requests.refuse(asked, code, reason)

    def _question(self, ident: int, name: str, message: Message) -> Message:
        if not self.broadcast_channel:
            raise TypeError("a Centrifuge client can be asked only if centrifuge_channel is not empty")
        if not self.outbox.wire_format.carries(message):
            raise TypeError("a Centrifuge client of JSON cannot receive bytes, ask it with text or JSON")
        return RequestFrame(ident, name, message)

    # Subscriptions

    def _subscribe(self, ident: int, request: Subscribe, size: int) -> None:
        payload = payload_of(request.data)
        data = "" if payload is None else payload.value
        position = position_of(request.epoch, request.offset) if request.recover else None
        wanted = Wanted(request.channel, position, request.recover and position is None, None, ident)
        asking = Asking(ident, request)
        self._parts.dispatcher.subscribe(
            self.conn,
            self._inbox,
            wanted,
            data,
            size,
            partial(self._answer_subscribe, asking),
            check=partial(self._check_subscribe, asking),
        )

    async def _check_subscribe(self, asking: Asking, event: SubscribeEvent) -> bool:
        """Return whether a token admits the client. Raise `Refused`."""
        request, channels = asking.request, self._parts.channels
        name = request.channel
        if request.recover:
            await asyncio.sleep(0)  # serves others between two recoveries, because one may be long
        try:
            check_name(name)
        except ChannelError:
            raise Failed(ErrorCode.BAD_REQUEST) from None
        if name == self.broadcast_channel or channels.is_subscribed(self.conn, name):
            raise Failed(ErrorCode.ALREADY_SUBSCRIBED)
        find_namespace(channels, name)
        if request.type:
            raise Failed(ErrorCode.NOT_AVAILABLE)
        if bytes(request.tf) not in (b"", b"null"):
            raise Failed(ErrorCode.BAD_REQUEST)
        try:
            channels.check_room(self.conn)
        except TooManyChannels:
            raise Failed(ErrorCode.LIMIT_EXCEEDED) from None
        if not request.token or not self._parts.identity.is_required:
            return False
        claims = await self.check_token(request.token, name)
        event.info, asking.expires_at = claims.info, claims.expires_at
        return True

    def _answer_subscribe(self, asking: Asking, call: Call) -> None:
        assert isinstance(call, SubscribeCall)
        channels, wanted, grant = self._parts.channels, call.wanted, call.grant
        try:
            if call.error is not None:
                raise refusal_of(call)
            may_fail = asking.request.recover and asking.request.flag & ERROR_IF_LOST and grant.loaded_at is None
            if may_fail and self._has_history(wanted.channel) and not channels.can_recover(wanted, grant.page):
                raise Failed(ErrorCode.UNRECOVERABLE_POSITION)
            channels.subscribe(self.conn, wanted, grant, answer=partial(self._reply_subscribed, asking, grant))
        except Refused as exc:
            self._refuse(asking.ident, exc)
        except TooManyChannels:
            self._fail(asking.ident, ErrorCode.LIMIT_EXCEEDED, call)
        except ChannelError:
            self._fail(asking.ident, ErrorCode.UNKNOWN_CHANNEL, call)
        except Outdated:
            self._fail(asking.ident, ErrorCode.INTERNAL, call)

    def _has_history(self, channel: str) -> bool:
        return self._parts.channels.namespaces.find(channel).history > 0

    def _reply_subscribed(
        self, asking: Asking, grant: Grant, frame: SubscribedFrame, publications: Sequence[Publication]
    ) -> None:
        request = asking.request
        fields, later = self.subscribe_result(
            frame, publications, grant, asked_offset=request.offset if request.recover else None
        )
        fields |= expiry_fields(asking.expires_at)
        self.set_expiry(request.channel, asking.expires_at)
        sent = publications if not later else ()
        reply = Reply(asking.ident, "subscribe", fields, payload=size_of(sent))
        self.outbox.put(Bundle([reply, *later]) if later else reply)

    def subscribe_result(
        self,
        frame: SubscribedFrame,
        publications: Sequence[Publication],
        grant: Grant,
        *,
        asked_offset: int | None,
        is_by_server: bool = False,
    ) -> tuple[Fields, Sequence[Publication]]:
        """Return the result of a subscription, and the publications that follow it as pushes.

        `asked_offset` is that of the position to recover from, None if there is none.
        """
        fields = subscribed_fields(frame)
        if frame.at is None:
            return fields, publications
        if asked_offset is not None:
            fields["was_recovering"] = True
        keeps_last = self._parts.channels.namespaces.find(frame.channel).keep is Keep.LAST
        if frame.recovered:
            fields["recovered"] = True
            fields["offset"] = asked_offset or 0  # the client advances it while it delivers the publications
        elif grant.loaded_at is not None or not keeps_last or is_by_server:
            return fields, publications
        else:
            fields["offset"] = self._parts.channels.position(frame.channel).offset
        carries = self.outbox.wire_format.carries
        fields["publications"] = [each for each in publications if carries(each)]
        return fields, ()

    def _unsubscribe(self, ident: int, channel: str, call: Call) -> None:
        if not self._parts.channels.unsubscribe(self.conn, channel, 2000, "", ident=ident):
            self._reply(ident, "unsubscribe", call)

    # Queries and tokens

    def _own_queries(self) -> Queries:
        if self._queries is None:
            parts = self._parts
            self._queries = Queries(parts.gateway, parts.channels, self.conn, max_bytes=parts.settings.outbox_bytes)
        return self._queries

    async def _query(self, ident: int, method: str, request: Query) -> None:
        """Answer a query. Wait for space in the outbox, because the answers of a few queries may fill it."""
        fields, size = await self._own_queries().answer(request)
        reply = Reply(ident, method, fields, payload=bytes(size))
        while not self.outbox.has_space(reply) and self.outbox.closing is None:  # noqa: ASYNC110  nothing notifies
            await asyncio.sleep(SPACE_PAUSE)  # the outbox does not report that it has space
        self.outbox.put(reply)

    def _end_query(self, ident: int, call: Call) -> None:
        if call.error is not None:
            self._refuse(ident, refusal_of(call))

    def _answer_refresh(self, ident: int, method: str, call: Call) -> None:
        assert isinstance(call, QueryCall)
        if call.error is not None:
            self._refuse(ident, refusal_of(call))
        else:
            self.outbox.put(Reply(ident, method, call.result))

    def _refresh(self, ident: int, method: str, request: Refresh | SubRefresh, size: int) -> None:
        if isinstance(request, Refresh):
            query = partial(self.renew, request)
        else:
            query = partial(self.renew_subscription, request)
        self._parts.dispatcher.query(self.conn, self._inbox, size, query, partial(self._answer_refresh, ident, method))

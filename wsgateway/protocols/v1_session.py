"""The session of a client that speaks `wsgateway.v1`: its commands, and their answers. Knows no sockets."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, assert_never

from wsgateway.closing import BAD_FIRST, NO_TOKEN, TRY_AGAIN, UNAUTHORIZED
from wsgateway.exceptions import ChannelError, Refusal, Refused
from wsgateway.frames import AcceptedFrame, ExpiresFrame, RefusedFrame, ReplyFrame, RequestFrame, UnsubscribedFrame
from wsgateway.hub.channel import Outdated
from wsgateway.hub.loops import eager_task
from wsgateway.hub.shared_history import Appended
from wsgateway.hub.target import Target
from wsgateway.listeners.handshake import Introduction
from wsgateway.listeners.inbox import Call, MessageCall, refusal_of
from wsgateway.listeners.requests import RequestCall
from wsgateway.listeners.subscriptions import SubscribeCall, find_namespace
from wsgateway.messages import Message
from wsgateway.protocols.commands import (
    Answer,
    Authenticate,
    ClientMessage,
    Command,
    Invoke,
    Malformed,
    Rejection,
    Subscribe,
    Unsubscribe,
)
from wsgateway.protocols.expiry import seconds_left
from wsgateway.protocols.query import Asked, read_query, read_since
from wsgateway.protocols.session import STOPPING, TOO_MANY_REQUESTS, Session, outcome_of
from wsgateway.protocols.v1 import SUBPROTOCOL, read_command
from wsgateway.transports.peer import ClientTransport

MAX_REASON = 100
"""Bytes of a refusal's reason in a close frame."""


async def connect(session: "V1Session", transport: ClientTransport, scope: Mapping[str, Any]) -> None:
    """Do the same as `plain.connect`. With `?auth=first`, accept the client before its token arrives."""
    query = session.conn.query
    asked = read_query(query.multi_items(), has_positions=True)
    auth = query.get("auth")
    if auth not in (None, "first"):
        raise Refused.of(Refusal(400, "query", "auth: use auth=first, and send the token as the first object"))
    if auth is None:
        await session.handshake(scope, asked=asked)
        if await transport.accept(SUBPROTOCOL):
            session.open()
            await transport.run()
    elif await transport.accept(SUBPROTOCOL):
        session.expect_token(scope, asked)
        await transport.run()


def _cut_bytes(reason: str) -> str:
    """Return `reason`, or as many of its first characters as fit into `MAX_REASON` bytes."""
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")


class Waiting:
    """The state of a session whose client has not sent a token yet, or whose `on_handshake` runs with it."""

    __slots__ = ("asked", "has_token", "scope", "timer")

    def __init__(self, scope: Mapping[str, Any], asked: Asked, timer: asyncio.TimerHandle) -> None:
        self.scope = scope
        self.asked = asked
        self.timer = timer
        self.has_token = False


class V1Session(Session):
    """One client of `wsgateway.v1`. Every answer is a frame in its outbox, in the order of the commands."""

    __slots__ = ("_task", "_waiting")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting: Waiting | None = None
        self._task: asyncio.Task[None] | None = None

    # A token as the first object

    def expect_token(self, scope: Mapping[str, Any], asked: Asked) -> None:
        """Wait for the first object, at most `handshake_timeout` seconds."""
        self.is_accepted = True
        seconds = self._parts.settings.handshake_timeout
        timer = asyncio.get_running_loop().call_later(seconds, self.outbox.close, NO_TOKEN, "no token")
        self._waiting = Waiting(scope, asked, timer)

    def received(self, message: str | bytes, size: int) -> bool:
        if self._waiting is not None and self._waiting.has_token and self.outbox.closing is None:
            return False  # `on_handshake` runs
        return super().received(message, size)

    def finished(self, code: int, reason: str) -> None:
        if self._waiting is not None:
            self._waiting.timer.cancel()
            self._waiting = None
        super().finished(code, reason)

    def _authenticate(self, waiting: Waiting, command: Command) -> None:
        waiting.timer.cancel()
        if not isinstance(command, Authenticate):
            self.outbox.close(BAD_FIRST, "the first object has no token")
            return
        waiting.has_token = True
        self._task = eager_task(self._run_handshake(waiting, command), asyncio.get_running_loop())

    async def _run_handshake(self, waiting: Waiting, command: Authenticate) -> None:
        try:
            asked = waiting.asked
            if command.since:
                asked = read_query(
                    self.conn.query.multi_items(), has_positions=True, default_since=read_since(command.since)
                )
            await self.handshake(waiting.scope, introduction=Introduction(command.token), asked=asked, asks_now=False)
            if not self.is_accepted or self._waiting is None:
                raise Refused.of(STOPPING)  # the client has disconnected
        except Refused as exc:
            if self.outbox.closing is None:  # else the client has disconnected, or the gateway stops
                self._parts.refused(waiting.scope, exc, self.conn)
            self._refuse(None, exc, None)
            may_return = exc.status == 429 or exc.status >= 500
            code = exc.close or (TRY_AGAIN if may_return else UNAUTHORIZED)
            self.outbox.close(code, _cut_bytes(exc.refusal.detail))
            self._transport.resume()  # else the answer of the client to the close would not be read
            return
        finally:
            self._waiting = self._task = None
        self.open()
        self.subscribe_later(asked)
        self._transport.resume()

    # Commands

    def subscribe_later(self, asked: Asked) -> None:
        """Handle the channels of the URL as commands, because the client is open already."""
        for command in asked.channels:
            if not self._parts.channels.is_subscribed(self.conn, command.wanted.channel):
                self.command(command, 0)

    def _handle(self, message: str | bytes, size: int) -> None:
        if isinstance(message, bytes):
            self.outbox.close(1003, "wsgateway.v1 has no binary messages")
            return
        command = read_command(message)
        if self._waiting is not None:
            self._authenticate(self._waiting, command)
        else:
            self.command(command, size)

    def command(self, command: Command, size: int) -> None:
        """Execute a command after the earlier ones. The answer goes into the outbox."""
        conn, inbox, dispatcher = self.conn, self._inbox, self._parts.dispatcher
        match command:
            case ClientMessage(message, channel, name, ident):
                target = Target(channel=channel, name=name) if channel or name else None
                answer = partial(self._answer_message, channel or None, ident)
                dispatcher.message(conn, inbox, message, size, target=target, answer=answer)
            case Subscribe(wanted, data):
                dispatcher.subscribe(conn, inbox, wanted, data, size, self._answer_subscribe)
            case Unsubscribe():
                dispatcher.command(conn, inbox, size, partial(self._unsubscribe, command))
            case Invoke(message, name, ident):
                if self.requests.begin():
                    dispatcher.request(conn, inbox, message, name, size, partial(self._answer_request, ident))
                else:
                    dispatcher.command(conn, inbox, size, lambda _: self._refuse(None, TOO_MANY_REQUESTS, ident))
            case Answer() | Rejection():
                dispatcher.count_in(conn, size)
                self._settle(command)
            case Authenticate():
                dispatcher.command(conn, inbox, size, partial(self._renew, command))
            case Malformed():
                dispatcher.command(conn, inbox, size, partial(self._refuse_malformed, command))
            case _:
                assert_never(command)

    def _answer_message(self, channel: str | None, ident: int | None, call: Call) -> None:
        assert isinstance(call, MessageCall)
        if call.error is not None:
            self._refuse(channel, refusal_of(call), ident)
        elif call.receipt is not None and call.receipt.appending is not None:
            call.receipt.appending.add_done_callback(partial(self._answer_stored, channel, ident))
        elif ident is not None:
            at = None if call.receipt is None else call.receipt.at
            self.outbox.put(AcceptedFrame(at, ident=ident))

    def _answer_stored(self, channel: str | None, ident: int | None, appending: asyncio.Future[Appended]) -> None:
        """Answer a message when a shared history has stored it, or has not."""
        outcome = outcome_of(appending)
        if isinstance(outcome, Refused):
            self._refuse(channel, outcome, ident)
        elif outcome is not None and ident is not None:
            self.outbox.put(AcceptedFrame(outcome, ident=ident))

    # Requests, in both directions

    def _answer_request(self, ident: int, call: RequestCall) -> None:
        self.requests.end()
        if call.error is None:
            self.outbox.put(ReplyFrame(call.reply, ident=ident))
        else:
            self._refuse(None, refusal_of(call), ident)

    def _question(self, ident: int, name: str, message: Message) -> Message:
        return RequestFrame(ident, name, message)

    def _settle(self, answer: Answer | Rejection) -> None:
        """Settle a request of the server, unless its answer comes too late.

        Not in the inbox, where a hook may run that waits for the answer.
        """
        if isinstance(answer, Answer):
            self.requests.answer(answer.ident, answer.message)
        else:
            self.requests.refuse(answer.ident, answer.status, answer.reason)

    # Subscriptions

    def _answer_subscribe(self, call: Call) -> None:
        assert isinstance(call, SubscribeCall)
        wanted = call.wanted
        try:
            if call.error is not None:
                raise refusal_of(call)
            self._parts.channels.subscribe(self.conn, wanted, call.grant)
        except Refused as exc:
            self._refuse(wanted.channel, exc, wanted.ident)
        except ChannelError as exc:
            self._refuse(wanted.channel, Refused.of(Refusal(403, "subscribe", str(exc))), wanted.ident)
        except Outdated:
            refusal = Refusal(503, "subscribe", "the channel has changed meanwhile, try again")
            self._refuse(wanted.channel, Refused.of(refusal), wanted.ident)

    def _unsubscribe(self, command: Unsubscribe, call: Call) -> None:
        del call
        channels, channel = self._parts.channels, command.channel
        try:
            find_namespace(channels, channel)
        except Refused as exc:
            self._refuse(channel, exc, command.ident)
            return
        if not channels.unsubscribe(self.conn, channel, 2000, "", ident=command.ident):
            self.outbox.put(UnsubscribedFrame(channel, 2000, "", ident=command.ident))

    def _renew(self, command: Authenticate, call: Call) -> None:
        if command.since:
            reason = "since belongs to the first object, with ?auth=first"
        elif not self._parts.identity.is_required:
            reason = (
                "send a token as the first object, with ?auth=first, because the gateway itself does not check tokens"
            )
        elif not command.token:
            reason = "token: it is empty, send a new token"
        elif self._task is not None and not self._task.done():
            reason = "an earlier token is still being checked"
        else:
            self._task = eager_task(self._run_refresh(command), asyncio.get_running_loop())
            return
        self._refuse_malformed(Malformed(reason, ident=command.ident), call)

    async def _run_refresh(self, command: Authenticate) -> None:
        try:
            await self.refresh(command.token, ident=command.ident)
        except Refused as exc:  # the keys are unavailable
            self._refuse(None, exc, command.ident)

    def _report_expiry(self, ident: int | None) -> None:
        self.outbox.put(ExpiresFrame(seconds_left(self.conn.expires_at), ident=ident))

    def _refuse_malformed(self, command: Malformed, call: Call) -> None:
        del call
        self._refuse(command.channel, Refused.of(Refusal(400, "command", command.reason)), command.ident)

    def _refuse(self, channel: str | None, refused: Refused, ident: int | None) -> None:
        self.outbox.put(RefusedFrame(channel, refused.status, refused.refusal.detail, ident=ident))

"""Creates the events of one gateway, passes them to the runner, and publishes the message of each `on_message`.

Knows nothing of how bytes travel.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from wsgateway.config.settings import Settings
from wsgateway.exceptions import ChannelError, HistoryError, HookError, MessageError, Refused
from wsgateway.hub.channel import Grant, Wanted
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection
from wsgateway.hub.pubsub import PubSub
from wsgateway.hub.target import Target
from wsgateway.listeners.event import (
    CloseEvent,
    Event,
    EventGateway,
    ExpireEvent,
    HandshakeEvent,
    JsonMessageEvent,
    MessageEvent,
    OpenEvent,
    RequestEvent,
    UnsubscribeEvent,
)
from wsgateway.listeners.handshake import (
    NO_CHOICE,
    NO_INTRODUCTION,
    Handshake,
    Introduction,
    chosen_in,
    token_of,
)
from wsgateway.listeners.inbox import (
    AwaitedCall,
    Call,
    CloseCall,
    CommandCall,
    Inbox,
    MessageCall,
    QueryCall,
    TimeLimit,
    refusal_of,
)
from wsgateway.listeners.loader import Hooks
from wsgateway.listeners.publishing import Publishing
from wsgateway.listeners.reports import Reports
from wsgateway.listeners.requests import Answered, RequestCall
from wsgateway.listeners.runner import Runner, current_call, depth_of_send
from wsgateway.listeners.subscriptions import Changes, Check, SubscribeCall, Subscriptions
from wsgateway.logs import GatewayLog
from wsgateway.messages import Sent, encode
from wsgateway.metrics import Metrics

REFUSING_HOOKS = frozenset({"on_handshake", "on_message", "on_request", "on_subscribe"})
"""Hooks that may raise `Refused`, which is not a failure."""


class Dispatcher:
    """The events of one gateway: made here, given to the listener, then published.

    Every call for one connection goes through its inbox, so its hooks run in the order of its events.
    """

    def __init__(
        self,
        gateway: EventGateway,
        *,
        pubsub: PubSub,
        channels: Channels,
        hooks: Hooks,
        settings: Settings,
        metrics: Metrics,
        log: GatewayLog,
    ) -> None:
        self._gateway = gateway
        self._channels = channels
        self._hooks = hooks
        self._metrics = metrics
        self._log = log
        self._reports = Reports(metrics, log)
        self._verbose = settings.verbose
        self._token_cookie = settings.token_cookie
        self._inbox = Inbox()
        self._count = 0
        self._on_message = hooks["on_message"]
        self.has_on_message = self._on_message is not None
        self._on_request = hooks["on_request"]
        self.has_requests = self._on_request is not None  # else every request of a client is refused
        names_recipients = channels.namespaces.is_declared or hooks["on_subscribe"] is not None
        self._publishing = Publishing(pubsub, names_recipients=names_recipients, echo_sender=settings.echo_sender)
        self._inboxes: dict[Connection, Inbox] | None = None if hooks["on_unsubscribe"] is None else {}
        self.subscriptions = Subscriptions(gateway, channels=channels, hooks=hooks, log=log)
        limit = TimeLimit("hook_timeout", settings.hook_timeout)
        handshake_limit = TimeLimit("handshake_timeout", settings.handshake_timeout)
        self._handshake_limit = min(limit, handshake_limit, key=lambda each: each.seconds)
        self.runner = Runner(
            limit=limit,
            deliver=self._deliver,
            finished=self._finish,
            returned=hooks.warn_of_returned,
        )
        self._push = self.runner.push
        self._changes = Changes(gateway, hooks, self._inbox, self._push)

    # One event after the other

    async def run(self, hook: str) -> None:
        """Call `on_start` or `on_stop`. Raise `HookError` if it fails."""
        self._changes.clear()  # else `on_stop` would wait for them, however long that takes
        call = await self._run_hook(self._inbox, AwaitedCall(hook, self._hooks[hook], Event(self._gateway)))
        if call.error is not None:
            raise HookError(hook) from call.error

    async def handshake(
        self, conn: Connection, inbox: Inbox, scope: Mapping[str, Any], introduction: Introduction = NO_INTRODUCTION
    ) -> Handshake:
        """Call `on_handshake` and return its choices. Raise `Refused` also if the hook fails."""
        on_handshake = self._hooks["on_handshake"]
        if on_handshake is None:
            return NO_CHOICE
        token, message, data, claims = introduction
        token = token or token_of(conn, self._token_cookie)
        event = HandshakeEvent(self._gateway, conn, scope=scope, token=token, message=message, data=data, claims=claims)
        call = AwaitedCall("on_handshake", on_handshake, event, limit=self._handshake_limit)
        await self._run_hook(inbox, call)
        if call.error is not None:
            raise refusal_of(call)
        try:
            return chosen_in(event, self._channels)
        except (ValueError, TypeError) as exc:
            self._log.limited("handshake").error("on_handshake: %s", exc, extra={"conn": conn.id})
            raise Refused(500, "the listener failed, the log has the reason") from exc

    def entered(self, conn: Connection, inbox: Inbox) -> None:
        """Handle that `conn` has entered the hub, before it is subscribed to any channel."""
        if self._inboxes is not None:
            self._inboxes[conn] = inbox

    def opened(self, conn: Connection, inbox: Inbox) -> None:
        """Handle that `conn` is open."""
        self._metrics.opens += 1
        self._count += 1
        if self._verbose:
            self._log.info("opened %s from %s", conn.path, conn.address, extra={"conn": conn.id})
        if self._count == 1:
            self._push_hook(self._inbox, "on_first_open", OpenEvent(self._gateway, conn))
        self._push_hook(inbox, "on_client_open", OpenEvent(self._gateway, conn))

    def received(self, conn: Connection, inbox: Inbox, message: str | bytes, size: int) -> None:
        """Handle a message of `size` bytes that the client has sent."""
        self.count_in(conn, size)
        event = MessageEvent(self._gateway, conn, message, None, {}, None)
        self._push(inbox, Call("on_message", self._on_message, event, size or 1))

    def message(
        self,
        conn: Connection,
        inbox: Inbox,
        message: object,
        size: int,
        *,
        target: Target | None,
        answer: Callable[[Call], None] | None,
        json: bytes | None = None,
    ) -> None:
        """Handle a message of `size` bytes for `target`, which the client has named. `answer` is called at the end.

        `json` is the JSON text of `message`, which is sent on unchanged unless a hook reads the message.
        """
        self.count_in(conn, size)
        if json is None:
            event = MessageEvent(self._gateway, conn, message, None, {}, target)
        else:
            event = JsonMessageEvent(self._gateway, conn, message, None, {}, target, json=json)
        function = self._on_message
        if target is not None and target.channel:
            function = self._check_and_call
        self._push(inbox, MessageCall(function, event, size or 1, answer))

    def request(self, conn: Connection, inbox: Inbox, message: object, name: str, size: int, answer: Answered) -> None:
        """Handle a request of the client, which is refused without `on_request`. `answer` is called at the end."""
        self.count_in(conn, size)
        event = RequestEvent(self._gateway, conn, message, name)
        self._push(inbox, RequestCall(self._on_request, event, size or 1, answer))

    async def _check_and_call(self, event: Event) -> object:
        """Call `on_message` if the client may publish to the channel that it has named. Raise `Refused`."""
        assert isinstance(event, MessageEvent)
        assert event.conn is not None
        self.subscriptions.check_publish(event.conn, event.channel)
        return None if self._on_message is None else await self._on_message(event)

    def command(self, conn: Connection, inbox: Inbox, size: int, run: Callable[[Call], None]) -> None:
        """Call `run` after the hooks of all earlier messages of the client. The command has `size` bytes."""
        self.count_in(conn, size)
        self._push(inbox, CommandCall(Event(self._gateway, conn), size or 1, run))

    def query(
        self,
        conn: Connection,
        inbox: Inbox,
        size: int,
        query: Callable[[], Awaitable[Any]],
        answer: Callable[[Call], None],
    ) -> None:
        """Do the same with `query`, which may wait. `answer` is called at its end, with a `QueryCall`."""
        self.count_in(conn, size)
        self._push(inbox, QueryCall(query, Event(self._gateway, conn), size or 1, answer))

    def count_in(self, conn: Connection, size: int) -> None:
        """Count a message of `size` bytes that the client has sent."""
        metrics = self._metrics
        metrics.messages_in += 1
        metrics.bytes_in += size
        conn._messages_in += 1
        recording = conn._outbox.recording
        if recording is not None:
            recording.add("in", size)
        if self._verbose:
            self._log.info("received %d bytes", size, extra={"conn": conn.id})

    def subscribe(
        self,
        conn: Connection,
        inbox: Inbox,
        wanted: Wanted,
        data: object,
        size: int,
        answer: Callable[[Call], None],
        check: Check | None = None,
    ) -> None:
        """Handle that a client asks for a channel. `answer` is called with the call when `on_subscribe` has decided.

        See `Subscriptions.call` for `check`.
        """
        self.count_in(conn, size)
        call = self.subscriptions.call(conn, wanted, data, size=size or 1, answer=answer, check=check)
        self._push(inbox, call)

    async def authorize(self, conn: Connection, inbox: Inbox, wanted: Wanted, data: object) -> Grant:
        """Call `on_subscribe` for a channel of a client that is not open yet. Raise `Refused`.

        The subscription can begin after `subscriptions.ready_all`.
        """
        call = self.subscriptions.call(conn, wanted, data, limit=self._handshake_limit, begins=False)
        await self._run_hook(inbox, call)
        if call.error is not None:
            raise refusal_of(call)
        return call.grant

    def unsubscribed(self, conn: Connection, channel: str, code: int, reason: str) -> None:
        """Handle that a subscription has ended. A command that waits may begin it again, so its hook comes later."""
        inbox = None if self._inboxes is None else self._inboxes.get(conn)
        if inbox is not None:
            event = UnsubscribeEvent(self._gateway, conn, channel, code, reason)
            push = self._push if conn._outbox.closing is not None else self.runner.push_next
            push(inbox, CloseCall("on_unsubscribe", self._hooks["on_unsubscribe"], event, 0))

    def first_subscribed(self, channel: str) -> None:
        """Handle that a channel has its first subscriber in this process."""
        self._changes.note(channel, "on_first_subscribe")

    def last_unsubscribed(self, channel: str) -> None:
        """Handle that a channel has lost its last subscriber in this process."""
        self._changes.note(channel, "on_last_unsubscribe")

    def expired(self, conn: Connection, inbox: Inbox) -> None:
        """Handle that `conn` has expired. The hook may renew it."""
        self._push_hook(inbox, "on_expire", ExpireEvent(self._gateway, conn))

    def closed(self, conn: Connection, inbox: Inbox, code: int, reason: str) -> None:
        """Handle that `conn` has ended. Called exactly once for each `opened`."""
        self._metrics.count_close(code)
        self._count -= 1
        if self._inboxes is not None:
            self._inboxes.pop(conn, None)
        recording = conn._outbox.recording
        if recording is not None:
            recording.add("closed", None, f"{code} {reason}".rstrip())
        if self._verbose:
            self._log.info("closed with %d %r", code, reason, extra={"conn": conn.id})
        self._push_hook(inbox, "on_client_close", CloseEvent(self._gateway, conn, code=code, reason=reason), CloseCall)
        if self._count == 0:
            self._push_hook(self._inbox, "on_last_close", CloseEvent(self._gateway, conn, code=code, reason=reason))

    async def send(self, message: object, target: Target | None, data: dict[str, Any] | None) -> Sent:
        """Call `on_message` for a message that no client has sent, publish it, and return the counts of all nodes.

        Raise `Refused` if the hook refuses it, `MessageError` if it cannot be encoded, `HookError` if the hook failed,
        `RecursionError` if the call is nested in too many hooks.
        """
        encoded = encode(message)
        event = MessageEvent(
            self._gateway,
            None,
            message,
            None if target is None else target.connections,
            {} if data is None else data,
            target,
        )
        is_fixed = self._on_message is None or type(message) in (str, bytes)
        call = AwaitedCall(
            "on_message",
            self._on_message,
            event,
            depth=depth_of_send(),
            encoded=(message, encoded) if is_fixed else None,
        )
        await self._run_hook(Inbox(), call)
        if isinstance(call.error, (Refused, ChannelError, HistoryError)):
            raise call.error
        if isinstance(call.error, MessageError) and event.message is message:  # it is too large for the broker
            raise call.error
        if call.error is not None:
            raise HookError("on_message") from call.error
        if message is None and event.message is None:
            raise MessageError("the message is None, and on_message did not set event.message")
        return Sent(0, 0, 0) if call.receipt is None else await call.receipt.wait()

    def inside_hook(self) -> bool:
        """Return whether the caller runs inside one of this gateway's hooks."""
        call = current_call.get()
        return call is not None and not call.is_finished and call.event.gateway is self._gateway

    # Around a hook

    def _push_hook(self, inbox: Inbox, hook: str, event: Event, kind: type[Call] = Call) -> None:
        function = self._hooks[hook]
        if function is not None:
            self._push(inbox, kind(hook, function, event, 0))

    async def _run_hook(self, inbox: Inbox, call: AwaitedCall) -> AwaitedCall:
        self._push(inbox, call)
        if not call.is_finished:
            call.future = asyncio.get_running_loop().create_future()
            await call.future
        return call

    def _deliver(self, call: Call) -> None:
        """Publish the message of an event of `on_message`, or take the values that another hook has set."""
        try:
            if call.hook == "on_message":
                self._publishing.publish(call)
            elif isinstance(call, SubscribeCall):
                self.subscriptions.grant(call)
            elif isinstance(call, RequestCall):
                call.take_reply()
        except Exception as exc:
            call.error = exc

    def _finish(self, call: Call) -> Call | None:
        """Record and report `call`, which has finished. Return the call of `on_error` that has to follow."""
        if call.function is not None and call.is_hook:
            seconds = time.perf_counter() - call.started
            self._metrics.hook_seconds[call.hook].observe(seconds)
            conn = call.event.conn
            recording = None if conn is None else conn._outbox.recording
            if recording is not None:
                how = "failed" if call.error is not None else "took"
                recording.add("hook", None, f"{call.hook} {how} {seconds * 1000:.1f} ms")
        error = call.error
        if call.answer is not None:
            call.answer(call)
        self._changes.finished(call)
        if error is None or (isinstance(error, Refused) and (call.hook in REFUSING_HOOKS or not call.is_hook)):
            if error is not None and call.is_hook and call.hook != "on_handshake":
                self._reports.refused(call, error)
            return None
        self._reports.failed(call, error)
        on_error = self._hooks["on_error"]
        if on_error is None or call.hook == "on_error" or not call.is_hook:
            return None
        return Call("on_error", lambda event: on_error(event, error), call.event, 0)

"""Calls `on_subscribe` for each request of a client, and checks the namespace before. Knows no client protocol."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from wsgateway.cluster.history.replica import Page
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.namespaces import check_name
from wsgateway.exceptions import ChannelError, HistoryError, Refusal, Refused
from wsgateway.hub.channel import Grant, Outdated, Wanted, copy_info
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection
from wsgateway.listeners.event import ChannelEvent, EventGateway, SubscribeEvent
from wsgateway.listeners.hooks import is_async
from wsgateway.listeners.inbox import AwaitedCall, Call, Inbox, TimeLimit
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog
from wsgateway.messages import encode
from wsgateway.text import short


def find_namespace(channels: Channels, name: str) -> ChannelSettings:
    """Return the settings of `name`. Raise `Refused` with 400 if it is malformed, with 404 if no namespace matches."""
    try:
        check_name(name)
    except ChannelError as exc:
        raise Refused.of(Refusal(400, "channel", exc.reason)) from None
    try:
        return channels.namespaces.find(name)
    except ChannelError as exc:
        raise Refused.of(Refusal(404, "channel", exc.reason)) from exc


_NO_HOOK = (
    "refused a subscription to %s: the listener has no on_subscribe to allow it; add the hook, or set public = true "
    "for the channel's namespace"
)

_NOT_NAMED = (
    "refused a subscription to %s: the token of the client does not name the channel; add it to the claim `channels`, "
    "or use a subscription token or on_subscribe (public = true admits every client)"
)

Check = Callable[[SubscribeEvent], Awaitable[bool]]


def _admits(conn: Connection, name: str) -> bool:
    """Return whether the token of `conn` admits its client to a channel."""
    return conn._credentials is not None and conn._credentials.admits(name)


class SubscribeCall(AwaitedCall):
    """The call of `on_subscribe` for one request. `grant` is what the hook has set, once it has succeeded.

    Its caller either waits for its future, or passes `answer`, which is called with the finished call.
    """

    __slots__ = ("answer", "grant", "wanted")

    def __init__(
        self,
        function: Callable[..., Awaitable[object]],
        event: SubscribeEvent,
        wanted: Wanted,
        *,
        size: int = 0,
        limit: TimeLimit | None = None,
        answer: "Callable[[Call], None] | None" = None,
    ) -> None:
        super().__init__("on_subscribe", function, event, limit=limit)
        self.size = size
        self.wanted = wanted
        self.grant = Grant()
        self.answer = answer


class Subscriptions:
    """Handles the requests of the clients of one gateway to subscribe."""

    def __init__(self, gateway: EventGateway, *, channels: Channels, hooks: Hooks, log: GatewayLog) -> None:
        self.channels = channels
        self._gateway = gateway
        self._hooks = hooks
        self._log = log
        self._hook = hooks["on_subscribe"]

    def call(
        self,
        conn: Connection,
        wanted: Wanted,
        data: object,
        *,
        size: int = 0,
        limit: TimeLimit | None = None,
        answer: Callable[[Call], None] | None = None,
        begins: bool = True,
        check: Check | None = None,
    ) -> SubscribeCall:
        """Return the call that decides about one request. `data` is the data that the client has sent with it.

        Unless `begins`, the subscription does not begin at the end of the call, and `ready_all` must be called before.
        `check` is what the protocol checks first. It returns whether the client is admitted as in a `public` namespace,
        unless `on_subscribe` refuses it, and may raise `Refused`.
        """
        event = SubscribeEvent(self._gateway, conn, wanted.channel, data, partial(self._load, wanted))
        function = self._decide if begins else self._allow
        return SubscribeCall(partial(function, wanted, check), event, wanted, size=size, limit=limit, answer=answer)

    async def _decide(self, wanted: Wanted, check: Check | None, event: SubscribeEvent) -> object:
        """Call `on_subscribe`, unless the settings or an earlier subscription decide. Raise `Refused`.

        With a broker, wait until the subscription can begin.
        """
        result = await self._allow(wanted, check, event)
        if self.channels.following is not None:
            at = event._loaded_at
            event._page = await self.ready(wanted if at is None else Wanted(wanted.channel, at))
        return result

    async def ready(self, wanted: Wanted) -> Page | None:
        """Wait until a subscription can begin. Raise `Refused` if a shared history is unavailable."""
        try:
            return await self.channels.ready(wanted)
        except HistoryError as exc:
            self._log.limited("not ready").warning("a subscription to %s was refused: %s", wanted.channel, exc)
            detail = f"the history of {wanted.channel} is unavailable, try again later"
            raise Refused.of(Refusal(503, "history", detail)) from exc

    async def ready_all(self, granted: list[tuple[Wanted, Grant, bool]]) -> list[tuple[Wanted, Grant, bool]]:
        """Wait until each granted subscription can begin. Raise `Refused` if a shared history is unavailable."""
        wants = [
            wanted if grant.loaded_at is None else Wanted(wanted.channel, grant.loaded_at)
            for wanted, grant, _ in granted
        ]
        pages = await asyncio.gather(*map(self.ready, wants))
        return [
            (wanted, grant._replace(page=page), by_code)
            for (wanted, grant, by_code), page in zip(granted, pages, strict=True)
        ]

    async def _allow(self, wanted: Wanted, check: Check | None, event: SubscribeEvent) -> object:
        """Decide whether the client may subscribe. Raise `Refused`."""
        conn, name = event.conn, wanted.channel
        try:
            is_admitted = check is not None and await check(event)
            settings = find_namespace(self.channels, name)
        except Refused as exc:
            if isinstance(exc.__cause__, ChannelError):  # for developers, it suggests a namespace, unlike the refusal
                self._log.limited("unknown channel").warning(
                    "refused a subscription: %s", exc.__cause__, extra={"conn": conn.id}
                )
            raise
        if conn._outbox.closing is not None or self.channels.is_subscribed(conn, name):
            return None
        if "subscribe" not in settings.clients:
            raise Refused.of(Refusal(403, "subscribe", f"clients may not subscribe to {name} (clients)"))
        try:
            self.channels.check_room(conn)
        except ChannelError as exc:
            raise Refused.of(Refusal(403, "subscribe", exc.reason)) from exc
        event._after = self.channels.revocations.count
        if settings.public or self.channels.may_return(conn, name):
            return None
        if self._hook is None and (is_admitted or _admits(conn, name)):
            return None
        if self._hook is None:
            text = _NO_HOOK if conn._credentials is None else _NOT_NAMED
            self._log.limited("on_subscribe is missing").warning(text, name, extra={"conn": conn.id})
            raise Refused.of(Refusal(403, "subscribe", f"clients may not subscribe to {name}"))
        return await self._hook(event)

    def check_token_channel(self, name: str) -> None:
        """Raise `Refused` unless there can be a channel `name`, which a token names."""
        try:
            find_namespace(self.channels, name)
        except Refused as exc:
            self._log.limited("channel of a token").warning("a token names the channel %s: %s", short(name), exc)
            raise

    def check_publish(self, conn: Connection, name: str) -> None:
        """Raise `Refused` unless the client of `conn` may publish to the channel `name`."""
        settings = find_namespace(self.channels, name)
        if "publish" not in settings.clients:
            raise Refused.of(Refusal(403, "publish", f"clients may not publish to {name} (clients)"))
        if not settings.public and not self.channels.is_subscribed(conn, name):
            raise Refused.of(Refusal(403, "publish", f"subscribe to {name} before you publish to it"))

    def grant(self, call: SubscribeCall) -> None:
        """Copy the values that `on_subscribe` has set. Raise `MessageError` if they cannot be sent."""
        event = call.event
        assert isinstance(event, SubscribeEvent)
        reply = encode(event.reply)
        call.grant = Grant(
            copy_info(event.info), reply, event._loaded_at, event._must_recover, event._after, event._page
        )

    async def _load(
        self, wanted: Wanted, event: SubscribeEvent, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        settings = self.channels.namespaces.find(wanted.channel)
        if not settings.history:
            raise ValueError(f"event.load needs a history, and the channel {wanted.channel} keeps none")
        try:
            page = await self.channels.ready(wanted)
            event._must_recover = self.channels.can_recover(wanted, page)
            position = self.channels.position(wanted.channel)
        except Outdated:
            detail = f"the channel {wanted.channel} has changed meanwhile, try again"
            raise Refused.of(Refusal(503, "subscribe", detail)) from None
        if event._must_recover:
            return
        if is_async(function):
            event.reply = await function(*args)
        else:
            event.reply = await self._hooks.in_thread(function, args)
        event._loaded_at = position


class Changes:
    """Calls `on_first_subscribe` and `on_last_unsubscribe`, one at a time. At most one call of each channel waits.

    If the opposite call still waits for the channel, neither is made. Otherwise, a client that subscribes and
    unsubscribes faster than the hooks run would let calls wait without limit.
    """

    def __init__(self, gateway: EventGateway, hooks: Hooks, inbox: Inbox, push: Callable[[Inbox, Call], None]) -> None:
        """`inbox` is that of the gateway itself, and `push` adds a call to it."""
        self._gateway = gateway
        self._hooks = hooks
        self._inbox = inbox
        self._push = push
        self._waiting: OrderedDict[str, str] = OrderedDict()  # the hook that waits for each channel
        self._call: Call | None = None

    def note(self, channel: str, hook: str) -> None:
        """Call `hook` for `channel`, after the calls that wait."""
        if self._waiting.pop(channel, None) is None:
            self._waiting[channel] = hook
            if self._call is None and (call := self._next()) is not None:
                self._push(self._inbox, call)

    def finished(self, call: Call) -> None:
        """Make the next call if `call` was the last one. It waits behind the other calls of the gateway."""
        if call is self._call and (following := self._next()) is not None:
            self._inbox.put(following)

    def clear(self) -> None:
        """Discard the calls that wait."""
        self._waiting.clear()

    def _next(self) -> Call | None:
        self._call = None
        while self._call is None and self._waiting:
            channel, hook = self._waiting.popitem(last=False)
            function = self._hooks[hook]
            if function is not None:
                self._call = Call(hook, function, ChannelEvent(self._gateway, channel), 0)
        return self._call

"""The methods of a running gateway that an application calls: to send, to publish, and to manage channels."""

from abc import ABC, abstractmethod
from typing import Any, Unpack

from wsgateway.closing import DISCONNECTED
from wsgateway.exceptions import GatewayNotRunning, GatewayStopping
from wsgateway.frames import Counts, History, Presence
from wsgateway.gateway.parts import Parts
from wsgateway.gateway.running import Running
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Connections, LocalChannels
from wsgateway.hub.loops import Home, call_from_thread
from wsgateway.hub.target import (
    MISSING,
    Everybody,
    Missing,
    Recipients,
    Target,
    TargetOptions,
    UserId,
    check_recipients,
    target_of,
    user_text,
)
from wsgateway.messages import Sent, encode
from wsgateway.text import short

_NO_COUNTS = (None,) * 5
"""The first fields of `Sent` for `publish`."""

_NEVER_STARTED = (
    "give the application lifespan=gateway.lifespan, or send from another process with wsgateway.client.send or a "
    "Publisher (docs/how-to/push.md)"
)
"""What to do about a gateway that no code of the process has started."""


class Messaging(ABC):
    """The methods of a gateway that send to its clients.

    Each raises `GatewayNotRunning`, and `RuntimeError` on an event loop other than the gateway's. They never wait for a
    client.
    """

    _parts: Parts
    _home: Home | None
    _running: Running | None
    _is_new: bool

    @property
    @abstractmethod
    def id(self) -> str: ...

    @abstractmethod
    def _check_loop(self, what: str, *, in_thread: str) -> None:
        """Raise `RuntimeError` on another event loop than the gateway's.

        `what` is the method that was called, `in_thread` the one to call in a thread instead, if any.
        """

    @abstractmethod
    def _is_startable(self) -> bool:
        """Return whether another thread may ask its event loop to send."""

    def _present(self) -> Running:
        """Return the running parts of the gateway."""
        running = self._running
        if running is None:
            raise self._not_running()
        if running.drain.is_begun and not running.dispatcher.inside_hook():
            raise GatewayStopping(self.id)  # else an on_client_close sends a last message
        return running

    def _check_running(self, what: str) -> None:
        self._check_loop(what, in_thread="")
        self._present()

    def _not_running(self) -> GatewayNotRunning:
        """Return the error for a gateway that does not run. Only a request starts one that was never started."""
        was_started = not self._is_new or self._is_startable()
        return GatewayNotRunning(self.id, "" if was_started else _NEVER_STARTED)

    # Sending

    @property
    def reads_data(self) -> bool:
        """Whether the listener has `on_message`, which finds the `data` of `send` in `event.data`."""
        return self._present().dispatcher.has_on_message

    async def send(
        self,
        message: object,
        *,
        data: dict[str, Any] | None = None,
        skip_history: bool = False,
        **target: Unpack[TargetOptions],
    ) -> Sent:
        """Call `on_message` with `message`, then send the result to the recipients that the hook or the caller names.

        The recipients are the subscribers of `channel`, the connections of `user`, `connections` (or their ids), or,
        without any of these, every connection. The hook finds `data` in `event.data`. `name` is the name of an event.
        `key`, `tags`, `ttl` (in seconds), and `idempotency_key` apply to a publication to `channel`. With
        `skip_history`, the publication is not added to the history.

        Wait for the hook, never for a client. Raise `MessageError` (a `ValueError`) if the message cannot be encoded,
        `ChannelError` if there is no such channel, `ValueError` for an empty channel or user or more than one kind of
        recipients, `TypeError` for values of a wrong type, `Refused` if the hook refuses the message, `HookError` if
        the listener failed, and `HistoryError` if a history that processes share is unavailable.
        """
        self._check_loop("gateway.send", in_thread="gateway.send_from_thread")
        running = self._present()
        to = target_of(skip_history=skip_history, **target) if target or skip_history else None
        if to is not None and to.channel:
            settings = self._parts.channels.namespaces.find(to.channel)
            if to.idempotency_key and not settings.history:
                raise ValueError(f"idempotency_key needs a history, and the channel {short(to.channel)} keeps none")
        return await running.dispatcher.send(message, to, data)

    async def publish(self, message: object, **target: Unpack[TargetOptions]) -> Sent:
        """Send `message` without calling `on_message`. The keyword arguments are those of `send`.

        Wait only for a shared history, and do not count recipients. Raise the same errors as `send`, except those of a
        hook.
        """
        self._check_loop("gateway.publish", in_thread="gateway.publish_from_thread")
        running = self._present()
        encoded = encode(message)
        if encoded is None:
            raise ValueError("the message is None, which cannot be published")
        receipt = running.pubsub.publish(encoded, target_of(**target) or Target(), counts=False)
        if receipt.appending is not None:
            await receipt.stored()
        return Sent._make((*_NO_COUNTS, receipt.position, receipt.is_new))

    def send_from_thread(
        self,
        message: object,
        *,
        data: dict[str, Any] | None = None,
        skip_history: bool = False,
        **target: Unpack[TargetOptions],
    ) -> Sent:
        """Call `send` from a `def` hook, a `def` route handler, or any thread other than the event loop's.

        Raise the errors of `send`, and `RuntimeError` on the event loop's own thread or if the loop ends meanwhile.
        """
        home = self._home_for_thread()
        return call_from_thread(
            home, lambda: self.send(message, data=data, skip_history=skip_history, **target), "gateway.send"
        )

    def publish_from_thread(self, message: object, **target: Unpack[TargetOptions]) -> Sent:
        """Call `publish` from a thread, as `send_from_thread` calls `send`."""
        return call_from_thread(self._home_for_thread(), lambda: self.publish(message, **target), "gateway.publish")

    async def request(self, conn_id: str, message: object, name: str = "", timeout: float = 10.0) -> Any:  # noqa: ASYNC109  on the gateway's timers
        """Send a request to the client of the connection `conn_id`, in any process, and return its answer.

        The arguments and the errors are those of `Connection.request`. Raise `ConnectionClosed` also if there is no
        such connection, and `NodeError` if its process cannot be reached.
        """
        self._check_running("gateway.request")
        return await self._parts.requests.ask(conn_id, message, name, timeout)

    def request_from_thread(self, conn_id: str, message: object, name: str = "", timeout: float = 10.0) -> Any:
        """Call `request` from a thread, as `send_from_thread` calls `send`."""
        home = self._home_for_thread()
        return call_from_thread(home, lambda: self.request(conn_id, message, name, timeout), "gateway.request")

    def _home_for_thread(self) -> Home:
        if self._home is None or not self._is_startable():
            raise self._not_running()
        return self._home

    # Subscriptions

    async def subscribe(
        self,
        channel: str,
        connections: Recipients = None,
        *,
        user: UserId | Missing = MISSING,
        info: object = None,
    ) -> int:
        """Subscribe `connections`, or every connection of `user`, to `channel`, without `on_subscribe`.

        Return the number of new subscriptions. Other members see `info`, a JSON value. Raise `ChannelError` if there is
        no such channel, or if a connection has too many, after the others are subscribed.

        The connections of every node are subscribed. Wait at most `broker_timeout` seconds for the other nodes. A node
        that has not answered by then is logged and not counted, but may still subscribe its connections.
        """
        self._check_running("gateway.subscribe")
        ids, user_id = _named(connections, user)
        return await self._parts.inspector.channels.subscribe(channel, ids, user_id, info)

    async def unsubscribe(
        self,
        channel: str,
        connections: Recipients = None,
        *,
        user: UserId | Missing = MISSING,
        code: int = 2000,
        reason: str = "",
    ) -> int:
        """End the subscriptions of `connections`, or of every connection of `user`, to `channel`.

        Return the number of ended subscriptions. From code 2500 on, the clients subscribe again. Below 2500, a client
        whose `on_subscribe` still runs is not subscribed, and has to request the channel again. Raise `ChannelError` if
        there is no such channel.

        Reach the connections of every node, and wait for the nodes as `subscribe` does.
        """
        self._check_running("gateway.unsubscribe")
        ids, user_id = _named(connections, user)
        ended = await self._parts.inspector.channels.unsubscribe(channel, ids, user_id, code, reason)
        return ended.unsubscribed

    async def disconnect(
        self,
        connections: Recipients = None,
        *,
        user: UserId | Missing = MISSING,
        code: int = DISCONNECTED,
        reason: str = "",
    ) -> int:
        """Close `connections`, or every connection of `user`. Return their number.

        With the default code, the clients do not reconnect. A client of `user` whose `on_handshake` runs meanwhile is
        closed as soon as it is open. Raise `ValueError` for a code that a server may not send, or a reason of more than
        123 bytes.

        Reach the connections of every node, and wait for the nodes as `subscribe` does.
        """
        self._check_running("gateway.disconnect")
        ids, user_id = _named(connections, user)
        return (await self._parts.inspector.close(ids, code, reason, user=user_id)).closed

    # History and members

    async def history(
        self, channel: str, *, limit: int = 100, since: str | None = None, reverse: bool = False
    ) -> History:
        """Return at most `limit` publications of `channel`, and its position. `limit=0` returns the position only.

        They are the newest ones, or, with `since`, the first after that position, in the order of publishing. With
        `reverse`, they are the newest ones, or the last before `since`, and the newest is first. A channel without a
        history has no publications and no position. Raise `ChannelError` if there is no such channel, `ValueError` for
        a limit that is not 0 to 10,000 and for text that is not a position, and `HistoryError` if a history that
        processes share is unavailable.
        """
        self._check_running("gateway.history")
        return await self._parts.answers.channels.history(channel, limit=limit, since=since, reverse=reverse)

    async def forget(self, channel: str) -> None:
        """Drop the history of `channel`, also that in other processes. The position of the channel stays.

        Raise `ChannelError` if there is no such channel, and `HistoryError` if a history that processes share is
        unavailable.
        """
        self._check_running("gateway.forget")
        await self._parts.answers.channels.forget(channel)

    async def presence(self, channel: str) -> Presence:
        """Return the members of `channel` in all processes. They are `complete` if every process has answered.

        Wait at most `broker_timeout` seconds for each. Answers of other processes are reused for 0.5 s. Raise
        `ChannelError` if there is no such channel.
        """
        self._check_running("gateway.presence")
        return await self._parts.inspector.channels.members.presence(channel)

    async def presence_counts(self, channel: str) -> Counts:
        """Return the number of connections and of users that are subscribed to `channel`, as `presence` does.

        All connections without a `user_id` count as one user. Raise `ChannelError` if there is no such channel.
        """
        self._check_running("gateway.presence_counts")
        return await self._parts.inspector.channels.members.counts(channel)

    @property
    def local_channels(self) -> LocalChannels:
        """The channels that have subscribers in this process, a live view."""
        return LocalChannels(self._parts.channels.by_name, self._parts.channels.subscribers)

    @property
    @abstractmethod
    def connections(self) -> Connections:
        """The open connections, a live view."""


def _named(connections: Recipients, user: UserId | Missing) -> tuple[list[str] | None, str]:
    """Return the ids and the user that a caller has named. Without ids and user, it has named every connection.

    Raise `TypeError` if both are missing, because a missing value must never mean every connection.
    """
    if isinstance(user, Missing) == (connections is None):
        raise TypeError("give either connections or user; connections=EVERYBODY is every connection")
    if not isinstance(user, Missing):
        return None, user_text(user)
    if connections is None or isinstance(connections, Everybody):
        return None, ""
    check_recipients("connections", connections)
    ids = []
    for item in connections:
        if not isinstance(item, (Connection, str)):
            raise TypeError(f"connections contains {short(item)}, use connections or their ids")
        ids.append(item.id if isinstance(item, Connection) else item)
    return ids, ""

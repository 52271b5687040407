"""The event that a hook is called with. Knows nothing of when a hook is called."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Protocol, Self, TypeVar, Unpack, overload

from wsgateway.cluster.history.replica import Page
from wsgateway.frames import Counts, History, Position, Presence
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Connections, LocalChannels
from wsgateway.hub.target import Recipients, Target, TargetOptions
from wsgateway.messages import Sent
from wsgateway.text import short


class EventGateway(Protocol):
    """The gateway as a hook finds it at `event.gateway`.

    This is a Protocol although only `Gateway` implements it, because the module of `Gateway` imports this one.
    """

    @property
    def id(self) -> str: ...

    @property
    def connections(self) -> Connections: ...

    @property
    def local_channels(self) -> LocalChannels: ...

    async def send(
        self,
        message: object,
        *,
        data: dict[str, Any] | None = None,
        skip_history: bool = False,
        **target: Unpack[TargetOptions],
    ) -> Sent: ...

    async def publish(self, message: object, **target: Unpack[TargetOptions]) -> Sent: ...

    def send_from_thread(
        self,
        message: object,
        *,
        data: dict[str, Any] | None = None,
        skip_history: bool = False,
        **target: Unpack[TargetOptions],
    ) -> Sent: ...

    def publish_from_thread(self, message: object, **target: Unpack[TargetOptions]) -> Sent: ...

    async def request(self, conn_id: str, message: object, name: str = "", timeout: float = 10.0) -> Any: ...  # noqa: ASYNC109

    def request_from_thread(self, conn_id: str, message: object, name: str = "", timeout: float = 10.0) -> Any: ...

    async def subscribe(
        self,
        channel: str,
        connections: Recipients = None,
        *,
        user: str = ...,
        info: object = None,
    ) -> int: ...

    async def unsubscribe(
        self,
        channel: str,
        connections: Recipients = None,
        *,
        user: str = ...,
        code: int = 2000,
        reason: str = "",
    ) -> int: ...

    async def disconnect(
        self, connections: Recipients = None, *, user: str = ..., code: int = 3503, reason: str = ""
    ) -> int: ...

    async def history(
        self, channel: str, *, limit: int = 100, since: str | None = None, reverse: bool = False
    ) -> History: ...

    async def forget(self, channel: str) -> None: ...

    async def presence(self, channel: str) -> Presence: ...

    async def presence_counts(self, channel: str) -> Counts: ...

    async def stop(self) -> None: ...

    async def restart(self) -> None: ...


Load = Callable[["SubscribeEvent", Callable[..., Any], tuple[Any, ...]], Awaitable[None]]


class Event:
    """The argument of a hook. A hook may change it. Each hook has an event class of its own.

    `conn` is None if the event belongs to no connection, such as a message from `/send`. `message` is `""` on open and
    close. `connections` is None (every connection) until a hook sets it. `data` has the other keys of the request to
    `/send`. `code` and `reason` are set on close. `on_handshake` sets `subprotocol` to one of `conn.subprotocols`.
    """

    __slots__ = ("code", "conn", "connections", "data", "gateway", "message", "reason", "subprotocol")

    def __init__(
        self,
        gateway: EventGateway,
        conn: Connection | None = None,
        *,
        message: Any = "",
        connections: Recipients = None,
        data: dict[str, Any] | None = None,
        code: int | None = None,
        reason: str = "",
    ) -> None:
        self.gateway = gateway
        self.conn = conn
        self.message = message
        self.connections = connections
        self.data: dict[str, Any] = {} if data is None else data
        self.code = code
        self.reason = reason
        self.subprotocol: str | None = None

    def __repr__(self) -> str:
        """Show what a hook can use. Only the names of `data` are shown, because its values may be secrets."""
        parts = [f"gateway={self.gateway.id!r}", f"conn={self.conn if self.conn is None else self.conn.id!r}"]
        if self.code is None:
            parts.append(f"message={short(self.message)}")
        else:
            parts += [f"code={self.code}", f"reason={short(self.reason)}"]
        for attribute in ("channel", "name"):
            value = getattr(self, attribute, "")
            if value:
                parts.append(f"{attribute}={short(value)}")
        if self.connections is not None:
            parts.append(f"connections={_shown_recipients(self.connections)}")
        if self.data:
            parts.append(f"data={short(list(self.data))}")
        if self.subprotocol is not None:
            parts.append(f"subprotocol={short(self.subprotocol)}")
        return f"<{type(self).__name__} {' '.join(parts)}>"


class HandshakeEvent(Event):
    """The event of `on_handshake`.

    `scope` is the ASGI scope of the request, such as for `event.scope["session"]` of Starlette's `SessionMiddleware`.
    `token` is the token that the client has sent, empty without one: the first object of a `wsgateway.v1` client with
    `?auth=first`, `Authorization: Bearer`, the subprotocol after `bearer`, or the cookie `token_cookie`. The hook may
    set `subprotocol`, to one of `conn.subprotocols`, and `channels`, to the names of channels that the client is
    subscribed to as soon as it is open, without `on_subscribe`.

    `claims` are the claims of a token that was checked, otherwise empty. A Centrifuge client may send a message with
    its `connect`, and receives `reply` as its answer; `data` has its `headers`, `name`, and `version`.
    """

    __slots__ = ("channels", "claims", "reply", "scope", "token")

    conn: Connection

    def __init__(
        self,
        gateway: EventGateway,
        conn: Connection,
        *,
        scope: Mapping[str, Any],
        token: str,
        message: Any = "",
        data: Mapping[str, Any] = {},
        claims: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(gateway, conn, message=message, data=dict(data))
        self.scope = scope
        self.token = token
        self.claims = claims
        self.channels: Iterable[str] = ()
        self.reply: Any = None


class OpenEvent(Event):
    """The event of `on_client_open`, and of `on_first_open`."""

    __slots__ = ()

    conn: Connection


class ExpireEvent(Event):
    """The event of `on_expire`. The hook may set `conn.expires_at`, otherwise `conn` is closed with 3005 soon after."""

    __slots__ = ()

    conn: Connection


class CloseEvent(Event):
    """The event of `on_client_close`, and of `on_last_close`. `code` and `reason` show why `conn` has closed."""

    __slots__ = ()

    conn: Connection
    code: int


T = TypeVar("T")


class _Routed(Generic[T]):
    """An attribute of a `MessageEvent` that its `Target` holds, which most events do not have."""

    __slots__ = ("_default", "_name")

    def __init__(self, name: str, default: T) -> None:
        self._name = name
        self._default = default

    @overload
    def __get__(self, event: None, owner: type) -> Self: ...
    @overload
    def __get__(self, event: "MessageEvent", owner: type) -> T: ...
    def __get__(self, event: "MessageEvent | None", owner: type) -> "T | Self":
        if event is None:
            return self
        target = event._target
        value: T = self._default if target is None else getattr(target, self._name)
        return value

    def __set__(self, event: "MessageEvent", value: T) -> None:
        target = event._target
        if target is None:
            target = event._target = Target()
        setattr(target, self._name, value)
        target.chosen |= {self._name}


class MessageEvent(Event):
    """The event of `on_message`. `conn` is None if the message is from `gateway.send` or `/send`.

    `channel` and `name` are the values that the client or the caller has given, otherwise `""`. `to_user` is the value
    that the caller has given. The hook may set the recipients, in `channel`, `to_user`, or `connections`, and `name`.
    `key`, `tags`, `ttl` (in seconds), `idempotency_key`, and `skip_history` apply to a publication to a channel.
    """

    # Made for each message, so `__init__` has no defaults, which CPython calls faster.

    __slots__ = ("_target",)

    channel = _Routed("channel", "")
    to_user = _Routed("user", "")
    name = _Routed("name", "")
    key = _Routed("key", "")
    tags: _Routed[Mapping[str, str] | None] = _Routed("tags", None)
    ttl: _Routed[float | None] = _Routed("ttl", None)
    idempotency_key = _Routed("idempotency_key", "")
    skip_history = _Routed("skip_history", False)

    def __init__(
        self,
        gateway: EventGateway,
        conn: Connection | None,
        message: Any,
        connections: Recipients,
        data: dict[str, Any],
        target: Target | None,
    ) -> None:
        self.gateway = gateway
        self.conn = conn
        self.message = message
        self.connections = connections
        self.data = data
        self.code = None
        self.reason = ""
        self.subprotocol = None
        self._target = target


class JsonMessageEvent(MessageEvent):
    """The event of `on_message` for JSON that a client has sent.

    Unless a hook reads or replaces `message`, the JSON text is sent on as the client has written it.
    """

    __slots__ = ("_json", "_value")

    def __init__(
        self,
        gateway: EventGateway,
        conn: Connection | None,
        message: Any,
        connections: Recipients,
        data: dict[str, Any],
        target: Target | None,
        *,
        json: bytes,
    ) -> None:
        """`json` is the text of `message`."""
        super().__init__(gateway, conn, message, connections, data, target)
        self._json: bytes | None = json

    @property
    def message(self) -> Any:
        self._json = None  # the hook may change it in place
        return self._value

    @message.setter
    def message(self, value: Any) -> None:
        self._json = None
        self._value = value

    @property
    def untouched(self) -> bytes | None:
        """The JSON text, None if a hook may have changed the message."""
        return self._json


class RequestEvent(Event):
    """The event of `on_request`: a client waits for an answer to its request.

    `name` is the name of the request, such as that of a method, empty without one, and `message` its content. The hook
    sets `reply` to the answer, of any type that can be sent.
    """

    __slots__ = ("name", "reply")

    conn: Connection

    def __init__(self, gateway: EventGateway, conn: Connection, message: Any, name: str) -> None:
        self.gateway, self.conn, self.message = gateway, conn, message  # each attribute here, for speed
        self.connections, self.data, self.code, self.reason, self.subprotocol = None, {}, None, "", None
        self.name = name
        self.reply: Any = None


class ChannelEvent(Event):
    """The event of `on_first_subscribe` and `on_last_unsubscribe`, which belongs to no connection."""

    __slots__ = ("channel",)

    def __init__(self, gateway: EventGateway, channel: str) -> None:
        super().__init__(gateway)
        self.channel = channel


class SubscribeEvent(Event):
    """The event of `on_subscribe`. `channel` is the channel that the client requests, `message` the data it has sent.

    The hook may set `info`, a JSON value that other members see, and `reply`, which is sent with the answer.
    """

    __slots__ = ("_after", "_load", "_loaded_at", "_must_recover", "_page", "channel", "info", "reply")

    conn: Connection

    def __init__(self, gateway: EventGateway, conn: Connection, channel: str, message: Any, load: Load) -> None:
        super().__init__(gateway, conn, message=message)
        self.channel = channel
        self.info: Any = None
        self.reply: Any = None
        self._load = load
        self._loaded_at: Position | None = None
        self._must_recover = False
        self._after: int | None = None
        self._page: Page | None = None

    async def load(self, function: Callable[..., Any], *args: Any) -> None:
        """Send the client a state, and then every publication that changes it, without a gap between them.

        The result of `function(*args)`, which may be a coroutine function, becomes `reply`. After it, the client
        receives every publication since the call began. The function is not called if the client can recover from its
        own position. A `def` function runs in a thread. Raise `ValueError` if the channel has no history.
        """
        await self._load(self, function, args)


class UnsubscribeEvent(Event):
    """The event of `on_unsubscribe`. `code` and `reason` show why the subscription to `channel` has ended.

    If the connection has closed, they are the code and the reason of the close.
    """

    __slots__ = ("channel",)

    conn: Connection
    code: int

    def __init__(self, gateway: EventGateway, conn: Connection, channel: str, code: int, reason: str) -> None:
        super().__init__(gateway, conn, code=code, reason=reason)
        self.channel = channel


def _shown_recipients(connections: object) -> str:
    if isinstance(connections, (list, tuple)):
        return short([item.id if isinstance(item, Connection) else item for item in connections[:10]])
    return short(connections)

"""One connection, as a listener sees it. Knows neither sockets nor listeners, and leaves sending to the outbox."""

import secrets
import time
from collections.abc import Mapping
from threading import get_ident
from typing import Any, Protocol
from uuid import UUID

from starlette.datastructures import QueryParams, State

from wsgateway.closing import check_close
from wsgateway.config.addresses import plain_address
from wsgateway.exceptions import ConnectionClosed
from wsgateway.frames import NamedMessage, check_event_name, check_utf8
from wsgateway.hub.credentials import Credentials, is_finite
from wsgateway.hub.loops import Home, call_from_thread, wrong_loop
from wsgateway.hub.outbox import Outbox
from wsgateway.hub.request import Headers, compact, cookies_of, headers_of, subprotocols_of
from wsgateway.messages import Subscribed, encode
from wsgateway.text import short

MAX_TIMEOUT = 86400
"""Seconds that a request may wait for the answer of a client."""


class ConnectionChannels(Protocol):
    """The channels as a connection sees them.

    This is a Protocol although only `hub.channels.Channels` implements it, because that module imports this one.
    """

    def names_of(self, conn: "Connection") -> tuple[str, ...]: ...
    async def subscribe_now(
        self, conn: "Connection", channel: str, *, info: object = None, since: str | None = None
    ) -> Subscribed: ...
    def unsubscribe_now(self, conn: "Connection", channel: str, code: int, reason: str) -> bool: ...


class ConnectionSession(Protocol):
    """The session of an open connection.

    This is a Protocol although only `protocols.session.Session` implements it, because that module imports this one.
    """

    async def ask(self, message: object, name: str, seconds: float) -> object: ...
    def closing(self) -> None: ...
    def expiry_changed(self) -> None: ...
    def unsubscribed(self, channel: str) -> None: ...
    async def refresh(self, token: str) -> bool: ...


def new_id(node: str) -> str:
    """Return a new id of a connection of the node with the id `node`, empty without a broker."""
    return f"{node}.{secrets.token_urlsafe(16)}" if node else secrets.token_urlsafe(16)


class Connection:
    """The connection of one client. Hashable, and the same object in every hook.

    `id` is 128 random bits, URL-safe; with a broker, the id of the node and a dot come first. `user` and `state` belong
    to the application. `user_id` is text that names the user for sending and for other members of a channel. `path` is
    the path of the request below the gateway, such as `/ws/room1`. `protocol` is the client protocol, `plain`, `v1`,
    `sse`, or `centrifuge`. `client` is the name and the version of the client library, if the client sends them.
    `address` is the IP address of the client, empty on a Unix socket. `opened_at` is in seconds since the epoch.
    `headers`, `query`, `cookies`, and `subprotocols` are parsed on each access.
    """

    __slots__ = (
        "__weakref__",
        "_channels",
        "_conn_info",
        "_credentials",
        "_head",
        "_home",
        "_messages_in",
        "_opened_clock",
        "_outbox",
        "_session",
        "_state",
        "_user_id",
        "address",
        "client",
        "id",
        "opened_at",
        "path",
        "protocol",
        "query_string",
        "user",
    )

    def __init__(
        self,
        scope: Mapping[str, Any],
        *,
        path: str,
        outbox: Outbox,
        home: Home,
        channels: ConnectionChannels,
        protocol: str = "plain",
    ) -> None:
        """`outbox` queues messages, and has the id of the connection. `home` is the gateway's event loop."""
        client = scope.get("client")
        self.id = outbox.id
        self.user: Any = None
        self.path = path
        self.protocol = protocol
        self.client = ""
        self.address: str = plain_address(client[0]) if client else ""
        self.query_string: bytes = scope.get("query_string", b"")
        self.opened_at = time.time()
        self._opened_clock = time.monotonic()
        self._head = compact(scope["headers"])
        self._state: State | None = None
        self._home = home
        self._channels = channels
        self._outbox = outbox
        self._user_id = ""
        self._conn_info: object = None  # the claim `info` of its token
        self._credentials: Credentials | None = None
        self._session: ConnectionSession | None = None  # while it is open
        self._messages_in = 0

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Connection {self.id} {self.path!r} user={short(self.user)} address={self.address!r} {state}>"

    @property
    def user_id(self) -> str:
        """Text that names the user for `send(user=…)` and for other members of a channel, empty without a user.

        `on_handshake` may set it. Otherwise it is `conn.user`, if that is text, an int, or a UUID. It cannot change
        after `on_handshake` has returned. Setting it then raises `AttributeError`.
        """
        if self._outbox.has_joined or not self._is_named_by_user():
            return self._user_id
        return "" if self.user is None else str(self.user)

    @user_id.setter
    def user_id(self, value: str) -> None:
        if self._outbox.has_joined:  # a client may disconnect while `on_handshake` runs
            raise AttributeError("user_id is fixed when on_handshake returns: set it there")
        if not isinstance(value, str):
            raise TypeError(f"user_id is {short(value)}, use a str")
        check_utf8("user_id", value)
        self._user_id = value

    def _is_named_by_user(self) -> bool:
        """Whether `user` names the user, because neither `on_handshake` nor a token has set another `user_id`."""
        of_token = self._credentials.user if self._credentials is not None else ""
        if self._user_id and self._user_id != of_token:
            return False
        kind = type(self.user)  # `isinstance` would make a lazy object of an ORM query its database
        return self.user is None or (issubclass(kind, (str, int, UUID)) and kind is not bool)

    # The request

    @property
    def state(self) -> State:
        """The application's own data about the connection. `state["room"]` and `state.room` are the same."""
        if self._state is None:
            self._state = State()
        return self._state

    @state.setter
    def state(self, values: Mapping[str, Any]) -> None:
        self._state = State(dict(values))

    @property
    def headers(self) -> Headers:
        return headers_of(self._head)

    @property
    def query(self) -> QueryParams:
        """The parameters of the query string. For a repeated one, `query[name]` is the last value."""
        return QueryParams(self.query_string)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies of the request, the same as Starlette's `request.cookies`: without quotes, and unescaped."""
        return cookies_of(self._head)

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order of preference (RFC 6455 11.3.4)."""
        return subprotocols_of(self._head)

    @property
    def transport(self) -> str:
        """The name of the transport, such as `websocket`."""
        return self._outbox.transport.name

    @property
    def age(self) -> float:
        """Seconds since the request. Changes of the system's clock do not affect it."""
        return max(0.0, time.monotonic() - self._opened_clock)

    # Expiry

    @property
    def expires_at(self) -> float | None:
        """When the connection expires, in seconds since the epoch; None for never. It may be set, also in a thread."""
        return None if self._credentials is None else self._credentials.expires_at

    @expires_at.setter
    def expires_at(self, when: float | None) -> None:
        if when is not None and not is_finite(when):
            raise ValueError(
                f"expires_at is {short(when)}, use seconds since the epoch, as time.time() returns, or None"
            )
        if self._credentials is None:
            self._credentials = Credentials()
        self._credentials.expires_at = when
        session = self._session
        if session is not None and self._home.is_here():
            session.expiry_changed()
        elif session is not None:
            self._home.loop.call_soon_threadsafe(session.expiry_changed)

    async def refresh(self, token: str) -> bool:
        """Renew the connection with a new token of the same user. Return whether it is valid.

        If it is not, the connection is closed: with 3005 if the token has expired, otherwise with 3500. Raise `Refused`
        if the keys are unavailable, and `RuntimeError` without keys, before the handshake is accepted, or on an event
        loop other than the gateway's.
        """
        self._check_home("refresh")
        if self._session is not None:
            return await self._session.refresh(token)
        if not self._outbox.has_begun:
            raise RuntimeError("the connection is not open yet, set conn.expires_at in on_handshake")
        return False

    # Counts

    @property
    def messages_in(self) -> int:
        """The number of messages that the client has sent."""
        return self._messages_in

    @property
    def messages_out(self) -> int:
        """The number of messages written to the client, including those not yet passed to the socket.

        Messages that wait in the outbox are not included.
        """
        return self._outbox.messages_out

    @property
    def queued_messages(self) -> int:
        """The number of messages that wait in the outbox."""
        return self._outbox.messages

    @property
    def queued_bytes(self) -> int:
        return self._outbox.bytes

    @property
    def dropped(self) -> int:
        """The number of messages that `slow_policy` has dropped."""
        return self._outbox.dropped

    # Channels

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels that the client is subscribed to, in the order of subscribing."""
        return self._channels.names_of(self)

    async def subscribe(self, channel: str, *, info: object = None, since: str | None = None) -> Subscribed:
        """Subscribe this client to `channel`, without `on_subscribe`, and notify it. Wait only for the broker, if any.

        Other members see `info`, a JSON value. With `since`, the client receives every publication after that position.
        Raise `ChannelError`, a `ValueError`, if there is no such channel or the connection has too many, `HistoryError`
        if a shared history is unavailable, and `RuntimeError` before the handshake is accepted, or on an event loop
        other than the gateway's.
        """
        self._check_home("subscribe")
        if not self._outbox.has_begun:
            raise RuntimeError("the connection is not open yet, set event.channels in on_handshake")
        return await self._channels.subscribe_now(self, channel, info=info, since=since)

    async def unsubscribe(self, channel: str, code: int = 2000, reason: str = "") -> bool:
        """End a subscription, and notify the client. Return False if it is not subscribed. Never wait.

        From code 2500 on, the client subscribes again. Raise `RuntimeError` on an event loop other than the gateway's.
        """
        self._check_home("unsubscribe")
        return self._channels.unsubscribe_now(self, channel, code, reason)

    def _check_home(self, method: str) -> None:
        if not self._home.is_here():
            raise wrong_loop(
                f"conn.{method}",
                "call it in an async def hook, or in a thread with "
                f"asyncio.run_coroutine_threadsafe(conn.{method}(...), loop), where loop is the gateway's",
                owner="the gateway",
            )

    # Sending and closing

    @property
    def is_open(self) -> bool:
        """Whether the handshake was accepted and the close has not begun."""
        return self._outbox.is_open

    async def send(self, message: object, *, name: str = "") -> bool:
        """Send `message` to this client, without the listener. Never wait. None sends nothing.

        `name` is the name of an event, for client protocols that show one.

        Return True if the outbox accepted it, False if the connection is closed or `slow_policy` dropped the message.
        Raise `MessageError`, a `ValueError`, if the message cannot be encoded, and `RuntimeError` on an event loop
        other than the gateway's.
        """
        home = self._home
        if get_ident() != home.thread or not home.loop.is_running():  # `is_here`, without another call
            raise wrong_loop("conn.send", "in a thread, use conn.send_from_thread(...)", owner="the gateway")
        encoded = encode(message)
        if name and encoded is not None:
            check_event_name(name)
            encoded = NamedMessage(encoded.payload, encoded.kind, name)
        return encoded is not None and self._outbox.put(encoded)

    def send_from_thread(self, message: object, *, name: str = "") -> bool:
        """Call `send` from a `def` hook or another thread. Raise `RuntimeError` if the event loop has ended."""
        return call_from_thread(self._home, lambda: self.send(message, name=name), "conn.send")

    async def request(self, message: object, name: str = "", timeout: float = 10.0) -> Any:  # noqa: ASYNC109  on the gateway's timers
        """Send a request to this client, and return its answer. Wait at most `timeout` seconds, or one more.

        `name` is the name of the request, such as that of a method.

        Raise `RequestRefused` if the client refuses it, or if 100 requests to it are open. Raise `TimeoutError` if it
        does not answer in time, and `ConnectionClosed` if the connection closes meanwhile; it may still have received
        the request. Raise `TypeError` if it has no way to answer, such as the client of a stream, `ValueError` if the
        message, the name, or the timeout cannot be used, and `RuntimeError` before the connection is open, or on an
        event loop other than the gateway's.
        """
        self._check_home("request")
        check_timeout(timeout)
        if self._session is None or not self._outbox.is_open:
            if self._outbox.has_begun:
                raise ConnectionClosed(self.id)
            raise RuntimeError("the connection is not open yet, call conn.request in on_client_open or later")
        return await self._session.ask(message, name, timeout)

    def request_from_thread(self, message: object, name: str = "", timeout: float = 10.0) -> Any:
        """Call `request` from a `def` hook or another thread, as `send_from_thread` calls `send`."""
        return call_from_thread(self._home, lambda: self.request(message, name, timeout), "conn.request")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close. Queued messages are still written, but no more are accepted. A second call does nothing.

        Raise `ValueError` for a code that a server may not send, or a reason of more than 123 bytes, and `RuntimeError`
        before the handshake is accepted, or on an event loop other than the gateway's.
        """
        self._check_home("close")
        check_close(code, reason)
        if not self._outbox.has_begun:
            raise RuntimeError("the connection is not open yet, raise Refused(...) to refuse the handshake")
        self._outbox.close(code, reason)


def check_timeout(seconds: object) -> None:
    """Raise `TypeError` or `ValueError` unless `seconds` is a number that a request can wait for."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"timeout is {short(seconds)}, use a number of seconds")
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ValueError(f"timeout is {seconds!r}, use a number of seconds above 0 and up to {MAX_TIMEOUT}")

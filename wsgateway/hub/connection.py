"""One connection: its request and its outbox.

Knows neither sockets nor listeners. A transport carries the bytes, and `wake` notifies it.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from threading import get_ident
from typing import Any, Protocol, assert_never

from starlette.datastructures import QueryParams, State

from wsgateway.closing import TOO_SLOW, check_close
from wsgateway.config.addresses import plain_address
from wsgateway.config.settings import Settings
from wsgateway.config.values import SlowPolicy
from wsgateway.hub.loops import Home, call_from_thread, wrong_loop
from wsgateway.hub.recording import Recording
from wsgateway.hub.request import Headers, compact, cookies_of, headers_of, subprotocols_of
from wsgateway.hub.unawaited import WatchedCoroutine, marked
from wsgateway.limits import Backlog
from wsgateway.logs import GatewayLog
from wsgateway.messages import Message, encode
from wsgateway.metrics import Metrics
from wsgateway.text import short


class Transport(Protocol):
    """Carries the bytes of one connection. Only the transport knows the socket."""

    name: str

    def wake(self) -> None:
        """Write what waits in the outbox, or begin the close. Return immediately."""


class Connection:
    """The connection of one client. Hashable, and the same object in every hook.

    `id` is 128 random bits, URL-safe; with a broker, the id of the node and a dot come first. `user` and `state` belong
    to the application. `path` is the path of the request below the gateway, such as `/ws/room1`. `address` is the IP
    address of the client, empty on a Unix socket. `opened_at` is in seconds since the epoch. `headers`, `query`,
    `cookies`, and `subprotocols` are parsed on each access.
    """

    __slots__ = (
        "__weakref__",
        "_close",
        "_deflates",
        "_head",
        "_home",
        "_metrics",
        "_on_close",
        "_outbox",
        "_policy",
        "_settle",
        "_state",
        "_transport",
        "_waiting",
        "_write",
        "address",
        "dropped",
        "id",
        "messages_in",
        "messages_out",
        "opened_at",
        "opened_clock",
        "path",
        "query_string",
        "recording",
        "user",
    )

    def __init__(
        self,
        scope: Mapping[str, Any],
        *,
        path: str,
        settings: Settings,
        metrics: Metrics,
        transport: Transport,
        home: Home | None = None,
        node: str = "",
    ) -> None:
        client = scope.get("client")
        self.id = f"{node}.{secrets.token_urlsafe(16)}" if node else secrets.token_urlsafe(16)
        self.user: Any = None
        self.path = path
        self.address: str = plain_address(client[0]) if client else ""
        self.query_string: bytes = scope.get("query_string", b"")
        self.opened_at = time.time()
        self.opened_clock = time.monotonic()
        self._head = compact(scope["headers"])
        self._state: State | None = None
        self._transport = transport
        self._home = home or Home()
        self._metrics = metrics
        self._policy = settings.slow_policy
        self._outbox: deque[Message] | None = (
            None  # made when a message has to wait, because an empty deque takes 700 bytes
        )
        self._waiting = Backlog(settings.outbox_messages, settings.outbox_bytes)
        self._close: tuple[int, str] | None = None
        self._on_close: Callable[[Connection], None] | None = None
        self._settle: Callable[[Connection], None] | None = None
        self._write: Callable[[bytes], None] | None = None
        self._deflates = False
        self.messages_in = 0
        self.messages_out = 0  # without what the hub counts for its fast set, see `Hub.messages_out`
        self.dropped = 0
        self.recording: Recording | None = None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Connection {self.id} {self.path!r} user={short(self.user)} address={self.address!r} {state}>"

    # The request

    @property
    def state(self) -> State:
        """The data that the application keeps about the connection. `state["room"]` and `state.room` are the same."""
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
        """The name of the transport, `websocket`."""
        return self._transport.name

    # Sending and closing

    @property
    def is_open(self) -> bool:
        """Whether the handshake was accepted and the close has not begun."""
        return self._on_close is not None and self._close is None

    @property
    def queued_messages(self) -> int:
        """The number of messages that wait in the outbox."""
        return self._waiting.messages

    @property
    def queued_bytes(self) -> int:
        return self._waiting.bytes

    async def send(self, message: object) -> bool:
        """Send `message` to this client, without the listener. Never wait. None sends nothing.

        Return True if the outbox accepted it, False if the connection is closed or `slow_policy` dropped the message.
        Raise `MessageError`, a `ValueError`, if it cannot be encoded, and `RuntimeError` on an event loop other than
        the gateway's.
        """
        home = self._home
        if get_ident() != home.thread or not home.loop.is_running():  # `is_here`, without another call
            raise wrong_loop("conn.send", "in a thread, use conn.send_from_thread(...)", owner="the gateway")
        encoded = encode(message)
        return encoded is not None and self.send_nowait(encoded)

    def send_from_thread(self, message: object) -> bool:
        """Call `send` from a `def` hook or another thread. Raise `RuntimeError` if the event loop has ended."""
        return call_from_thread(self._home, lambda: self.send(message))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close. The outbox is still written, but accepts nothing more. A second call does nothing.

        Raise `ValueError` for a code that a server may not send, or a reason of more than 123 bytes, and `RuntimeError`
        before the handshake is accepted, or on an event loop other than the gateway's.
        """
        if not self._home.is_here():
            raise wrong_loop(
                "conn.close",
                "call it in an async def hook, or in a thread with "
                "asyncio.run_coroutine_threadsafe(conn.close(...), loop), where loop is the gateway's",
                owner="the gateway",
            )
        check_close(code, reason)
        if self._close is None and self._on_close is None:
            raise RuntimeError("the connection is not open yet, raise Refused(...) to refuse the handshake")
        self.close_nowait(code, reason)

    def send_nowait(self, message: Message) -> bool:
        """Write or queue `message`, or apply `slow_policy` if the outbox is full. Return False if it was dropped."""
        if self._close is not None:
            return False
        if self._settle is not None:
            self._settle(self)
        if self._write is not None:  # `_settle` may have filled the buffer of the transport
            self._metrics.queued += 1
            self.messages_out += 1
            self._metrics.messages_out += 1
            self._metrics.bytes_out += len(message.payload)
            self._write(message.deflated if self._deflates else message.wire)
            return True
        queued = self.put(message)
        self.after_put(queued)
        return queued

    def put(self, message: Message) -> bool:
        """Put `message` into the outbox, and write nothing before `after_put`. Return False if it was dropped."""
        size = len(message.payload)
        if self._close is not None or (not self._waiting.fits(size) and not self._make_space(size)):
            return False
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(message)
        self._waiting.add(size)
        self._metrics.queued += 1
        return True

    def after_put(self, is_queued: bool) -> None:
        """Write the outbox after `put`, which has returned `is_queued`, or close a client that is too slow."""
        if is_queued:
            self._transport.wake()
        elif self._policy is SlowPolicy.DISCONNECT and self._close is None:
            self.close_too_slow()

    def _make_space(self, size: int) -> bool:
        """Apply `slow_policy` to a full outbox. Return False if the message that does not fit is dropped."""
        match self._policy:
            case SlowPolicy.DROP_OLDEST:
                while self._outbox and not self._waiting.fits(size):
                    self._waiting.remove(len(self._outbox.popleft().payload))
                    self._drop(1, self._policy)
                return True
            case SlowPolicy.DROP_NEWEST | SlowPolicy.DISCONNECT:  # `after_put` closes the client
                self._drop(1, self._policy)
                return False
            case _:
                assert_never(self._policy)

    def _drop(self, count: int, policy: SlowPolicy) -> None:
        self._metrics.dropped[policy] += count
        self.dropped += count
        if self.recording is not None and count:
            self.recording.add("dropped", None, f"{count}, slow_policy {policy}")

    def close_nowait(self, code: int, reason: str) -> None:
        """Begin to close, without the checks of `close`."""
        if self._close is not None:
            return
        self._close = (code, reason)
        if self._on_close is not None:
            self._on_close(self)
        self._transport.wake()

    def close_too_slow(self) -> None:
        """Close a client that is too slow, and drop what waits in its outbox."""
        if self._close is None:
            self._metrics.too_slow += 1
        self._drop(self._waiting.messages, SlowPolicy.DISCONNECT)
        self._outbox = None
        self._waiting.clear()
        self.close_nowait(TOO_SLOW, "slow")
        self._transport.wake()  # a close that had begun already may have waited for what was dropped

    # For the transport and the hub

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason of the close, once it has begun."""
        return self._close

    def opened(self, on_close: Callable[["Connection"], None]) -> None:
        """Record that the connection has entered the hub. Call `on_close` as soon as its close begins."""
        self._on_close = on_close

    def use_writer(
        self,
        write: Callable[[bytes], None] | None,
        *,
        deflates: bool = False,
        after: "Callable[[Connection], None] | None" = None,
    ) -> None:
        """Pass messages to `write`, each after a call of `after`, compressed if `deflates`; if it is None, queue."""
        self._settle = after
        self._deflates = deflates
        self._write = write

    def wake(self) -> None:
        """Have the transport check what there is to write."""
        self._transport.wake()

    def next_message(self) -> Message | None:
        """Remove and return the oldest message of the outbox, which counts as written."""
        if not self._outbox:
            return None
        message = self._outbox.popleft()
        size = len(message.payload)
        self._waiting.remove(size)
        self.messages_out += 1
        self._metrics.messages_out += 1
        self._metrics.bytes_out += size
        if self.recording is not None:
            self.recording.add("out", size)
        return message

    def mark_closed(self, code: int, reason: str) -> tuple[int, str]:
        """Accept nothing more, because the transport has ended.

        Return the code and the reason of the close: those given here, unless this side has closed first.
        """
        if self._close is None:
            self._close = (code, reason)
        self._outbox = None
        self._waiting.clear()
        return self._close


class WatchedConnection(Connection):
    """A connection in development mode. It logs a warning for each `send` or `close` that is not awaited."""

    __slots__ = ("_log",)

    def __init__(self, *args: Any, log: GatewayLog, **options: Any) -> None:
        super().__init__(*args, **options)
        self._log = log

    @marked
    def send(self, message: object) -> Coroutine[Any, Any, bool]:
        return WatchedCoroutine(super().send(message), self._log, what="conn.send", conn=self.id, depth=2)

    @marked
    def close(self, code: int = 1000, reason: str = "") -> Coroutine[Any, Any, None]:
        return WatchedCoroutine(super().close(code, reason), self._log, what="conn.close", conn=self.id, depth=2)

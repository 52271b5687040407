"""One client: what its request carried, and its outbox. Knows neither sockets nor listeners: bytes are carried by a
transport, which is told through `wake` that there is something to do."""

import reprlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from threading import get_ident
from typing import Any, Protocol

from starlette.datastructures import QueryParams, State

from wsgateway.addresses import plain_address
from wsgateway.closing import SLOW, check_close
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


class Transport(Protocol):
    """What carries the bytes of one connection. The one place that owns its socket."""

    name: str

    def wake(self) -> None:
        """The outbox has something to write, or the close has begun. Returns at once."""


class Connection:
    """One client. Hashable, and the same object in every hook.

    `id` is 128 random bits, URL-safe; with a broker the id of its process and a point come first. `user` and `state`
    are the application's. `path` is the request's path below the gateway, as `/ws/room1`; `address` the client's IP
    address, empty on a Unix socket; `opened_at` seconds since the epoch. `headers`, `query`, `cookies` and
    `subprotocols` are parsed anew each time they are asked for.
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
        self._outbox: deque[Message] | None = None  # made when a frame has to wait, an empty deque takes 700 bytes
        self._waiting = Backlog(settings.outbox_messages, settings.outbox_bytes)
        self._close: tuple[int, str] | None = None
        self._on_close: Callable[[Connection], None] | None = None
        self._settle: Callable[[Connection], None] | None = None
        self._write: Callable[[bytes], None] | None = None
        self._deflates = False
        self.messages_in = 0
        self.messages_out = 0  # without those that the hub has counted for its fast set: `Hub.messages_out`
        self.dropped = 0
        self.recording: Recording | None = None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Connection {self.id} {self.path!r} user={short(self.user)} address={self.address!r} {state}>"

    # What the request carried

    @property
    def state(self) -> State:
        """What the application keeps about the connection: `state["room"]` and `state.room` are the same."""
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
        """The parameters of the query string; of a repeated one the last, unless `getlist` is called."""
        return QueryParams(self.query_string)

    @property
    def cookies(self) -> dict[str, str]:
        """The request's cookies, the same as Starlette's `request.cookies`: without quotes, and unescaped."""
        return cookies_of(self._head)

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order of preference (RFC 6455 11.3.4)."""
        return subprotocols_of(self._head)

    @property
    def transport(self) -> str:
        """What carries the bytes: `websocket`."""
        return self._transport.name

    # Sending and closing

    @property
    def is_open(self) -> bool:
        """Whether it is connected and its close has not begun."""
        return self._on_close is not None and self._close is None

    @property
    def queued_messages(self) -> int:
        """Messages that wait in the outbox."""
        return self._waiting.messages

    @property
    def queued_bytes(self) -> int:
        return self._waiting.bytes

    async def send(self, message: object) -> bool:
        """Send `message` past the listener. Waits for nothing.

        True when the outbox took it, False when the connection is closed or the message was dropped by
        `slow_policy`. Raises `MessageError`, a `ValueError`, if it cannot be encoded, and `RuntimeError` on another
        event loop than the gateway's. None sends nothing.
        """
        home = self._home
        if get_ident() != home.thread or not home.loop.is_running():  # `is_here`, without another call
            raise wrong_loop("conn.send", "in a thread, use conn.send_from_thread(...)")
        frame = encode(message)
        return frame is not None and self.send_frame(frame)

    def send_from_thread(self, message: object) -> bool:
        """`send`, for a `def` hook or any other thread than the loop's. Raise `RuntimeError` if the loop has ended."""
        return call_from_thread(self._home, lambda: self.send(message))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close: what is in the outbox still goes out, nothing more is taken. A second call does nothing.

        Raises `ValueError` for a code that a server may not send, or a reason of more than 123 bytes, and
        `RuntimeError` on another event loop than the gateway's.
        """
        if not self._home.is_here():
            raise wrong_loop(
                "conn.close",
                "call it in an async def hook, or in a thread with "
                "asyncio.run_coroutine_threadsafe(conn.close(...), loop), where loop is the gateway's",
            )
        check_close(code, reason)
        if self._close is None and self._on_close is None:
            raise RuntimeError("the connection is not open yet; to turn a client away, raise Refused(...)")
        self.close_nowait(code, reason)

    def send_frame(self, frame: Message) -> bool:
        """Queue `frame`. A client too slow for its outbox is treated by `slow_policy`, never waited for."""
        if self._close is not None:
            return False
        if self._settle is not None:
            self._settle(self)
        if self._write is not None:  # still: what was written may have filled the transport's buffer
            self._metrics.queued += 1
            self.messages_out += 1
            self._metrics.messages_out += 1
            self._metrics.bytes_out += len(frame.payload)
            self._write(frame.deflated if self._deflates else frame.wire)
            return True
        queued = self.put(frame)
        self.after_put(queued)
        return queued

    def put(self, frame: Message) -> bool:
        """Put `frame` into the outbox, which nobody writes out before `after_put`. Return False if it was dropped."""
        size = len(frame.payload)
        if self._close is not None or (not self._waiting.fits(size) and not self._make_room(size)):
            return False
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(frame)
        self._waiting.add(size)
        self._metrics.queued += 1
        return True

    def after_put(self, queued: bool) -> None:
        """Go on after `put`, which has returned `queued`: write the outbox out, or close a client too slow for it."""
        if queued:
            self._transport.wake()
        elif self._policy is SlowPolicy.DISCONNECT and self._close is None:
            self.close_slow()

    def _make_room(self, size: int) -> bool:
        if self._policy is SlowPolicy.DROP_OLDEST:
            while self._outbox and not self._waiting.fits(size):
                self._waiting.remove(len(self._outbox.popleft().payload))
                self._drop(1, self._policy)
            return True
        self._drop(1, self._policy)
        return False

    def _drop(self, count: int, policy: SlowPolicy) -> None:
        self._metrics.dropped[policy] += count
        self.dropped += count
        if self.recording is not None and count:
            self.recording.add("dropped", None, f"{count}, slow_policy {policy}")

    def close_nowait(self, code: int, reason: str) -> None:
        """`close` without its checks."""
        if self._close is not None:
            return
        self._close = (code, reason)
        if self._on_close is not None:
            self._on_close(self)
        self._transport.wake()

    def close_slow(self) -> None:
        """Close a client that does not read: what waits for it is dropped."""
        if self._close is None:
            self._metrics.slow += 1
        self._drop(self._waiting.messages, SlowPolicy.DISCONNECT)
        self._outbox = None
        self._waiting.clear()
        self.close_nowait(SLOW, "slow")
        self._transport.wake()  # also where a close had begun already, and waited for what is dropped now

    # For the transport and the hub

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason of the close that this side has begun."""
        return self._close

    def opened(self, on_close: Callable[["Connection"], None]) -> None:
        """It is accepted. `on_close` is called as soon as its close begins."""
        self._on_close = on_close

    def written_by(
        self,
        write: Callable[[bytes], None] | None,
        *,
        deflates: bool = False,
        after: "Callable[[Connection], None] | None" = None,
    ) -> None:
        """Frames are given to `write`, compressed where it `deflates`, once `after` was called; None: to the outbox."""
        self._settle = after
        self._deflates = deflates
        self._write = write

    def wake(self) -> None:
        """Let the transport look again at what there is to write."""
        self._transport.wake()

    def next_frame(self) -> Message | None:
        """Take the oldest frame out of the outbox."""
        if not self._outbox:
            return None
        frame = self._outbox.popleft()
        size = len(frame.payload)
        self._waiting.remove(size)
        self.messages_out += 1
        self._metrics.messages_out += 1
        self._metrics.bytes_out += size
        if self.recording is not None:
            self.recording.add("out", size)
        return frame

    def mark_closed(self, code: int, reason: str) -> tuple[int, str]:
        """Its socket is gone; what the peer said counts unless this side closed first. Nothing is taken any more."""
        if self._close is None:
            self._close = (code, reason)
        self._outbox = None
        self._waiting.clear()
        return self._close


class WatchedConnection(Connection):
    """A connection in development mode: a `send` or `close` that is not awaited is named in the gateway's log."""

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


MAX_SHOWN = 60
"""Characters of a value that a `repr` shows."""


def short(value: object) -> str:
    """Return `repr(value)`, cut to `MAX_SHOWN` characters. Never raise, whatever the value's own `repr` does."""
    if isinstance(value, (str, bytes)):
        value = value[:MAX_SHOWN]  # a long one takes milliseconds
    try:
        text = reprlib.repr(value) if isinstance(value, (dict, list, tuple, set)) else repr(value)
    except Exception as exc:
        text = f"<{type(value).__name__}, whose repr raised {type(exc).__name__}>"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"

"""An event and its way: the hook, the recipients, deliver. Knows nothing of how bytes travel."""

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from contextvars import ContextVar
from typing import Any

from wsgateway.auth.masking import shown_subprotocols
from wsgateway.cluster.cluster import Cluster, SingleNode
from wsgateway.config.settings import Settings
from wsgateway.exceptions import HookError, MessageError, Refused
from wsgateway.hub.connection import Connection, short
from wsgateway.hub.hub import Hub
from wsgateway.limits import MAX_CLOSE_HOOKS, MAX_NESTED_SENDS
from wsgateway.listeners.event import Event, EventGateway
from wsgateway.listeners.inbox import Call, Inbox, Turns
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog
from wsgateway.messages import Message, Sent, encode
from wsgateway.metrics import Metrics

_current_call: ContextVar[Call | None] = ContextVar("wsgateway_current_call", default=None)


class Dispatcher:
    """The events of one gateway: made here, given to the listener, then delivered."""

    def __init__(
        self,
        gateway: EventGateway,
        *,
        hub: Hub,
        listener: Hooks,
        settings: Settings,
        metrics: Metrics,
        log: GatewayLog,
        cluster: Cluster | SingleNode,
    ) -> None:
        self._gateway = gateway
        self._hub = hub
        self._cluster = cluster
        self._listener = listener
        self._metrics = metrics
        self._log = log
        self._echo_sender = settings.echo_sender
        self._verbose = settings.verbose
        self._lane = Inbox(self)
        self._count = 0
        self._idle: asyncio.Future[None] | None = None
        self._on_message = listener["on_message"]
        self._hook_timeout = settings.hook_timeout
        self._handshake_timeout = min(settings.hook_timeout, settings.handshake_timeout)
        self._closes = Turns()
        self.busy: set[Inbox] = set()

    # One event after the other

    async def run(self, hook: str) -> None:
        """Call `on_start` or `on_stop`. Raises `HookError` if it fails."""
        call = await self._called(self._lane, hook, Event(self._gateway))
        if call.error is not None:
            raise HookError(hook) from call.error

    async def handshake(self, conn: Connection, lane: Inbox) -> str | None:
        """Ask the listener whether `conn` may enter; the subprotocol that it chose. Raises `Refused`."""
        event = Event(self._gateway, conn)
        call = await self._called(lane, "on_handshake", event)
        error = call.error
        if error is None and event.subprotocol is not None and event.subprotocol not in conn.subprotocols:
            offered = shown_subprotocols(conn.subprotocols)
            error = ValueError(f"subprotocol {event.subprotocol!r} was not offered, {offered!r} were")
            self._log.limited("subprotocol").error("on_handshake: %s", error, extra={"conn": conn.id})
        if error is None:
            return event.subprotocol
        if isinstance(error, Refused):
            raise error
        if call.expired:
            raise Refused(503, "the listener took too long, try again") from error
        raise Refused(500, "the listener failed, the log has the reason") from error

    def opened(self, conn: Connection, lane: Inbox) -> None:
        """`conn` has entered the hub."""
        self._metrics.opens += 1
        self._count += 1
        if self._verbose:
            self._log.info("opened %s from %s", conn.path, conn.address, extra={"conn": conn.id})
        if self._count == 1:
            self._push(self._lane, "on_first_open", Event(self._gateway, conn))
        self._push(lane, "on_client_open", Event(self._gateway, conn))

    def received(self, conn: Connection, lane: Inbox, message: str | bytes, size: int) -> None:
        """A client has sent `message`, of `size` bytes."""
        self._metrics.messages_in += 1
        self._metrics.bytes_in += size
        conn.messages_in += 1
        if conn.recording is not None:
            conn.recording.add("in", size)
        if self._verbose:
            self._log.info("received %d bytes", size, extra={"conn": conn.id})
        call = Call("on_message", self._on_message, Event(self._gateway, conn, message=message))
        call.size = size or 1
        lane.push(call)

    def closed(self, conn: Connection, lane: Inbox, code: int, reason: str) -> None:
        """`conn` has ended. Called exactly once for each `opened`."""
        self._metrics.count_close(code)
        self._count -= 1
        if conn.recording is not None:
            conn.recording.add("closed", None, f"{code} {reason}".rstrip())
        if self._verbose:
            self._log.info("closed with %d %r", code, reason, extra={"conn": conn.id})
        close = Call(
            "on_client_close", self._listener["on_client_close"], Event(self._gateway, conn, code=code, reason=reason)
        )
        if close.function is not None:
            close.turns = self._closes
            lane.push(close)
        if self._count == 0:
            self._push(self._lane, "on_last_close", Event(self._gateway, conn))

    async def send(
        self, message: object, connections: Iterable[Connection | str] | None, data: dict[str, Any] | None
    ) -> Sent:
        """A message that comes from no client: `on_message`, then deliver.

        Raises `MessageError` if it cannot be encoded, `HookError` if the hook failed, `RecursionError` if it is
        sent from within too many hooks.
        """
        frame = encode(message)
        if connections is not None and not isinstance(connections, Collection):
            connections = list(connections)  # the hook may read it too, and an iterator is empty then
        outer = _current_call.get()
        depth = 1 + outer.depth if outer is not None and not outer.ended else 0
        if depth > MAX_NESTED_SENDS:
            raise RecursionError(
                f"gateway.send was called from on_message, {MAX_NESTED_SENDS} deep: does it call itself?"
            )
        event = Event(self._gateway, message=message, connections=connections, data=data)
        is_fixed = self._on_message is None or type(message) in (str, bytes)
        call = await self._called(
            Inbox(self), "on_message", event, depth=depth, encoded=(message, frame) if is_fixed else None
        )
        if call.error is not None:
            raise HookError("on_message") from call.error
        if message is None and event.message is None:
            raise MessageError("there is none, and the listener made none")
        if call.confirmation is not None:
            return await self._cluster.confirmed(call.sent, call.confirmation)
        return call.sent

    def inside_hook(self) -> bool:
        """Whether the caller runs inside one of this gateway's hooks."""
        call = _current_call.get()
        return call is not None and not call.ended and call.event.gateway is self._gateway

    async def idle(self) -> None:
        """Wait until no hook runs."""
        while self.busy:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def draining(self) -> None:
        """Everybody will be closed: from now on at most `MAX_CLOSE_HOOKS` hooks for a close run at once."""
        self._closes.limit(MAX_CLOSE_HOOKS)

    def discard(self, *, closes: bool) -> None:
        """Give up the hooks that run and the messages that wait; hooks for a close are still called, all at once.

        Those for a close that run are given up only with `closes`.
        """
        for lane in tuple(self.busy):
            lane.discard(closes=closes)
        self._closes.lift()

    # What a lane asks for

    def timeout_of(self, call: Call) -> float:
        """Seconds that the hook may take."""
        return self._handshake_timeout if call.hook == "on_handshake" else self._hook_timeout

    def limit_of(self, call: Call) -> str:
        """The setting that limits it, with its value."""
        seconds = self.timeout_of(call)
        return f"{'hook_timeout' if seconds == self._hook_timeout else 'handshake_timeout'}, {seconds:g} s"

    async def perform(self, call: Call) -> None:
        """Call the hook, then deliver. Whatever it raises becomes `call.error`: it would end the reader's task."""
        assert call.function is not None
        _current_call.set(call)
        try:
            if (returned := await call.function(call.event, *call.args)) is not None:
                self._listener.has_returned(call.hook, returned)
        except BaseException as exc:  # SystemExit and CancelledError too, DESIGN 3.1
            if not call.ended:
                call.error = exc
        else:
            if not call.ended:
                self.deliver_call(call)

    def deliver_call(self, call: Call) -> None:
        """Deliver what `on_message` has left in its event."""
        if call.hook != "on_message":
            return
        try:
            call.sent = self._deliver(call)
        except Exception as exc:
            call.error = exc

    def ended(self, call: Call) -> Call | None:
        """Count and log `call`, which has ended; the call of `on_error` that has to follow."""
        if call.function is not None:
            seconds = time.perf_counter() - call.started
            self._metrics.observe_hook(call.hook, seconds)
            if call.event.conn is not None and call.event.conn.recording is not None:
                how = "failed" if call.error is not None else "took"
                call.event.conn.recording.add("hook", None, f"{call.hook} {how} {seconds * 1000:.1f} ms")
        if self._idle is not None and not self.busy:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None
        error = call.error
        if error is None or (call.hook == "on_handshake" and isinstance(error, Refused)):
            return None
        self._metrics.hook_errors[call.hook] += 1
        log = self._log.limited((call.hook, type(error), _line_of(error)), burst=ERROR_LINES)
        extra = {} if call.event.conn is None else {"conn": call.event.conn.id}
        where = _WITHOUT_CONNECTION.get(call.hook, "") if call.event.conn is None else ""
        log.error("%s failed%s: %r", call.hook, where, error, exc_info=error, extra=extra)
        on_error = self._listener["on_error"]
        if on_error is None or call.hook == "on_error":
            return None
        after = Call("on_error", on_error, call.event)
        after.args = (error,)
        return after

    # Private

    def _push(self, lane: Inbox, hook: str, event: Event) -> None:
        function = self._listener[hook]
        if function is not None:
            lane.push(Call(hook, function, event))

    async def _called(
        self,
        lane: Inbox,
        hook: str,
        event: Event,
        *,
        depth: int = 0,
        encoded: tuple[object, Message | None] | None = None,
    ) -> Call:
        future: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
        call = Call(hook, self._listener[hook], event)
        call.future, call.depth, call.encoded = future, depth, encoded
        lane.push(call)
        return await future

    def _deliver(self, call: Call) -> Sent:
        event, encoded = call.event, call.encoded
        frame = encoded[1] if encoded is not None and encoded[0] is event.message else encode(event.message)
        wanted = event.connections
        if wanted is not None and not isinstance(wanted, list):
            check_recipients("event.connections", wanted)
        if frame is None:
            return Sent(0, 0, 0)
        others: Sequence[str] | None = None
        if wanted is None:
            sent = self._hub.deliver(frame, None, but=None if self._echo_sender else event.conn)
        else:
            wanted, others = self._cluster.split(wanted)
            sent = self._hub.deliver(frame, self._hub.resolve(wanted))
        if others is None or others:
            call.confirmation = self._cluster.publish(frame, others, confirm=call.future is not None)
        return sent


def check_recipients(name: str, connections: object) -> None:
    """Raise `TypeError` unless `connections` can be iterated over, and are not one connection or id."""
    if isinstance(connections, (str, bytes, bytearray)) or not isinstance(connections, Iterable):
        instead = "use None or a list of connections or their ids, such as [event.conn]"
        raise TypeError(f"{name} is {short(connections)}, {instead}")


_WITHOUT_CONNECTION = {
    "on_message": " for a message without a connection, from /send or gateway.send (event.conn is None; if the hook "
    "needs one, check first: `if event.conn is None: …`)",
    "on_error": " for an event without a connection (event.conn is None; if the hook needs one, check first: "
    "`if event.conn is None: …`)",
}
"""What the log line of a hook that failed adds, by hook, if its event has no connection."""

ERROR_LINES = 10
"""Errors of a hook in one second, at the same line of it, that are logged: a client may cause as many as it likes."""


def _line_of(error: BaseException) -> int:
    """The innermost line of its traceback."""
    found = 0
    traceback = error.__traceback__
    while traceback is not None:
        found, traceback = traceback.tb_lineno, traceback.tb_next
    return found

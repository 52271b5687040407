"""Makes the events of one gateway, has the hooks called with them, and publishes what `on_message` leaves in its event.

Knows nothing of how bytes travel.
"""

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Any

from wsgateway.auth.masking import shown_subprotocols
from wsgateway.config.settings import Settings
from wsgateway.exceptions import HookError, MessageError, Refused
from wsgateway.hub.connection import Connection
from wsgateway.hub.pubsub import PubSub
from wsgateway.listeners.event import Event, EventGateway, MessageEvent
from wsgateway.listeners.inbox import AwaitedCall, Call, CloseCall, Inbox, TimeLimit
from wsgateway.listeners.loader import Hooks
from wsgateway.listeners.runner import Runner, current_call
from wsgateway.logs import GatewayLog
from wsgateway.messages import Sent, encode
from wsgateway.metrics import Metrics
from wsgateway.text import short

MAX_NESTED_SENDS = 8
"""Maximum depth of nested calls of `gateway.send`, each in the `on_message` of the one around it."""

ERROR_LINES = 10
"""Errors at one line of a hook that are logged per second. A client may cause any number."""

_WITHOUT_CONNECTION = {
    "on_message": " for a message without a connection, from /send or gateway.send (event.conn is None; if the hook "
    "needs one, check first: `if event.conn is None: …`)",
    "on_error": " for an event without a connection (event.conn is None; if the hook needs one, check first: "
    "`if event.conn is None: …`)",
}
"""Addition to the log line of a hook that failed, by hook, if its event has no connection."""


class Dispatcher:
    """The events of one gateway: made here, given to the listener, then published.

    Every call for one connection goes through its inbox, so its hooks run in the order of its events.
    """

    def __init__(
        self,
        gateway: EventGateway,
        *,
        pubsub: PubSub,
        hooks: Hooks,
        settings: Settings,
        metrics: Metrics,
        log: GatewayLog,
    ) -> None:
        self._gateway = gateway
        self._pubsub = pubsub
        self._hooks = hooks
        self._metrics = metrics
        self._log = log
        self._echo_sender = settings.echo_sender
        self._verbose = settings.verbose
        self._inbox = Inbox()
        self._count = 0
        self._on_message = hooks["on_message"]
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

    # One event after the other

    async def run(self, hook: str) -> None:
        """Call `on_start` or `on_stop`. Raise `HookError` if it fails."""
        call = await self._run_hook(self._inbox, AwaitedCall(hook, self._hooks[hook], Event(self._gateway)))
        if call.error is not None:
            raise HookError(hook) from call.error

    async def handshake(self, conn: Connection, inbox: Inbox) -> str | None:
        """Call `on_handshake` and return the subprotocol that it has chosen. Raise `Refused` also if it fails."""
        on_handshake = self._hooks["on_handshake"]
        if on_handshake is None:
            return None
        event = Event(self._gateway, conn)
        call = AwaitedCall("on_handshake", on_handshake, event, limit=self._handshake_limit)
        await self._run_hook(inbox, call)
        error = call.error
        if error is None and event.subprotocol is not None and event.subprotocol not in conn.subprotocols:
            offered = shown_subprotocols(conn.subprotocols)
            error = ValueError(f"subprotocol {event.subprotocol!r} was not offered, {offered!r} were")
            self._log.limited("subprotocol").error("on_handshake: %s", error, extra={"conn": conn.id})
        if error is None:
            return event.subprotocol
        if isinstance(error, Refused):
            raise error
        if call.has_expired:
            raise Refused(503, "the listener took too long, try again later") from error
        raise Refused(500, "the listener failed, the log has the reason") from error

    def opened(self, conn: Connection, inbox: Inbox) -> None:
        """Handle that `conn` has entered the hub."""
        self._metrics.opens += 1
        self._count += 1
        if self._verbose:
            self._log.info("opened %s from %s", conn.path, conn.address, extra={"conn": conn.id})
        if self._count == 1:
            self._push_hook(self._inbox, "on_first_open", Event(self._gateway, conn))
        self._push_hook(inbox, "on_client_open", Event(self._gateway, conn))

    def received(self, conn: Connection, inbox: Inbox, message: str | bytes, size: int) -> None:
        """Handle a message of `size` bytes that the client has sent."""
        metrics = self._metrics
        metrics.messages_in += 1
        metrics.bytes_in += size
        conn._messages_in += 1
        recording = conn._outbox.recording
        if recording is not None:
            recording.add("in", size)
        if self._verbose:
            self._log.info("received %d bytes", size, extra={"conn": conn.id})
        event = MessageEvent(self._gateway, conn, message, None, {})
        self._push(inbox, Call("on_message", self._on_message, event, size or 1))

    def closed(self, conn: Connection, inbox: Inbox, code: int, reason: str) -> None:
        """Handle that `conn` has ended. Called exactly once for each `opened`."""
        self._metrics.count_close(code)
        self._count -= 1
        recording = conn._outbox.recording
        if recording is not None:
            recording.add("closed", None, f"{code} {reason}".rstrip())
        if self._verbose:
            self._log.info("closed with %d %r", code, reason, extra={"conn": conn.id})
        event = Event(self._gateway, conn, code=code, reason=reason)
        self._push_hook(inbox, "on_client_close", event, kind=CloseCall)
        if self._count == 0:
            self._push_hook(self._inbox, "on_last_close", Event(self._gateway, conn))

    async def send(
        self, message: object, connections: Iterable[Connection | str] | None, data: dict[str, Any] | None
    ) -> Sent:
        """Call `on_message` for a message that no client has sent, publish it, and return the counts of all nodes.

        Raise `MessageError` if it cannot be encoded, `HookError` if the hook failed, `RecursionError` if the
        call is nested in too many hooks.
        """
        encoded = encode(message)
        if connections is not None and not isinstance(connections, Collection):
            connections = list(connections)  # the hook may read it too, and an iterator is empty then
        event = MessageEvent(self._gateway, None, message, connections, {} if data is None else data)
        is_fixed = self._on_message is None or type(message) in (str, bytes)
        call = AwaitedCall(
            "on_message",
            self._on_message,
            event,
            depth=_depth_of_send(),
            encoded=(message, encoded) if is_fixed else None,
        )
        await self._run_hook(Inbox(), call)
        if call.error is not None:
            raise HookError("on_message") from call.error
        if message is None and event.message is None:
            raise MessageError("the message is None, and on_message did not set event.message")
        return Sent(0, 0, 0) if call.publication is None else await call.publication.wait()

    def inside_hook(self) -> bool:
        """Return whether the caller runs inside one of this gateway's hooks."""
        call = current_call.get()
        return call is not None and not call.is_finished and call.event.gateway is self._gateway

    # Around a hook

    def _push_hook(self, inbox: Inbox, hook: str, event: Event, *, kind: type[Call] = Call) -> None:
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
        """Publish the message that `on_message` has left in its event."""
        if call.hook != "on_message":
            return
        event = call.event
        awaited = call if isinstance(call, AwaitedCall) else None
        try:
            message = encode(event.message) if awaited is None else awaited.encode_message()
            to = event.connections
            if to is not None and not isinstance(to, list):
                check_recipients("event.connections", to)
            if message is None:
                return
            but = None if to is not None or self._echo_sender else event.conn
            if awaited is None:
                self._pubsub.publish_nowait(message, to, but=but)
            else:
                awaited.publication = self._pubsub.publish(message, to, but=but)
        except Exception as exc:
            call.error = exc

    def _finish(self, call: Call) -> Call | None:
        """Record and report `call`, which has finished. Return the call of `on_error` that has to follow."""
        if call.function is not None:
            seconds = time.perf_counter() - call.started
            self._metrics.hook_seconds[call.hook].observe(seconds)
            conn = call.event.conn
            recording = None if conn is None else conn._outbox.recording
            if recording is not None:
                how = "failed" if call.error is not None else "took"
                recording.add("hook", None, f"{call.hook} {how} {seconds * 1000:.1f} ms")
        error = call.error
        if error is None or (call.hook == "on_handshake" and isinstance(error, Refused)):
            return None
        self._report(call, error)
        on_error = self._hooks["on_error"]
        if on_error is None or call.hook == "on_error":
            return None
        return Call("on_error", lambda event: on_error(event, error), call.event, 0)

    def _report(self, call: Call, error: BaseException) -> None:
        self._metrics.hook_errors[call.hook] += 1
        log = self._log.limited((call.hook, type(error), _line_of(error)), burst=ERROR_LINES)
        extra = {} if call.event.conn is None else {"conn": call.event.conn.id}
        where = _WITHOUT_CONNECTION.get(call.hook, "") if call.event.conn is None else ""
        log.error("%s failed%s: %r", call.hook, where, error, exc_info=error, extra=extra)


def _depth_of_send() -> int:
    """Return how many sends from within hooks are around this one. Raise `RecursionError` if they are too many."""
    outer = current_call.get()
    if outer is None or outer.is_finished:
        return 0
    depth = 1 + (outer.depth if isinstance(outer, AwaitedCall) else 0)
    if depth > MAX_NESTED_SENDS:
        raise RecursionError(f"gateway.send was called from on_message, {MAX_NESTED_SENDS} deep: does it call itself?")
    return depth


def check_recipients(name: str, connections: object) -> None:
    """Raise `TypeError` unless `connections` is an iterable other than one id."""
    if isinstance(connections, (str, bytes, bytearray)) or not isinstance(connections, Iterable):
        advice = "use None or a list of connections or their ids, such as [event.conn]"
        raise TypeError(f"{name} is {short(connections)}, {advice}")


def _line_of(error: BaseException) -> int:
    """Return the line number of the innermost frame of the traceback."""
    line = 0
    traceback = error.__traceback__
    while traceback is not None:
        line, traceback = traceback.tb_lineno, traceback.tb_next
    return line

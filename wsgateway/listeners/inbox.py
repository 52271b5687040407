"""The calls of hooks that wait, for one connection or for the gateway itself. Knows nothing of how a hook is run."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, NamedTuple

from wsgateway.exceptions import Refused
from wsgateway.hub.pubsub import Receipt
from wsgateway.limits import Backlog
from wsgateway.listeners.event import Event, JsonMessageEvent
from wsgateway.listeners.loader import Hook
from wsgateway.messages import Kind, Message, encode

INBOX_MESSAGES = 32
"""Messages that may wait for one connection's hooks before reading pauses."""

INBOX_BYTES = 128 * 1024
"""Bytes of messages that may wait for one connection's hooks before reading pauses."""


OVERFULL_MESSAGES = 1024
"""The same while the server waits for an answer of the client, which may follow the messages."""

OVERFULL_BYTES = 512 * 1024
"""The same in bytes."""


class TimeLimit(NamedTuple):
    """The time that a hook may take, and the name of the setting that limits it."""

    setting: str
    seconds: float


class Call:
    """One call of one hook with one event. `function` is None if the listener does not have the hook.

    `size` is what its message occupies of the inbox, 0 if it has no message. The message is counted there only once it
    has to wait. `timer` limits the time of a hook that did not finish immediately.
    """

    __slots__ = (
        "error",
        "event",
        "function",
        "has_expired",
        "hook",
        "is_counted",
        "is_finished",
        "size",
        "started",
        "task",
        "timer",
    )

    is_hook: ClassVar[bool] = True
    """Whether it calls a function of the listener."""

    is_close: ClassVar[bool] = False
    """Whether the call reports the end of a connection. It is never discarded, and abandoned last."""

    limit: TimeLimit | None = None
    """The time limit of this call, if it is not the one of every other call."""

    answer: "Callable[[Call], None] | None" = None
    """Called when the call has finished, before the next one of its inbox begins."""

    def __init__(self, hook: str, function: Hook | None, event: Event, size: int) -> None:
        self.hook = hook
        self.function = function
        self.event = event
        self.size = size
        self.error: BaseException | None = None
        self.has_expired = False
        self.is_counted = False
        self.is_finished = False
        self.started = 0.0
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class MessageCall(Call):
    """The call of `on_message` for a message whose client has named something besides it, or expects an answer.

    `receipt` is None if nothing was published.
    """

    __slots__ = ("answer", "receipt")

    def __init__(self, function: Hook | None, event: Event, size: int, answer: Callable[[Call], None] | None) -> None:
        super().__init__("on_message", function, event, size)
        self.answer = answer
        self.receipt: Receipt | None = None

    def encode_message(self) -> Message | None:
        """Return the encoding of the event's message. Raise `MessageError`."""
        event = self.event
        if isinstance(event, JsonMessageEvent) and event.untouched is not None:
            return Message(event.untouched, Kind.JSON)
        return encode(event.message)


class QueryCall(Call):
    """A command of a client that waits, but calls no hook, in its place between the calls of hooks.

    `result` is what `function` has returned. It may raise `Refused`.
    """

    __slots__ = ("_query", "answer", "result")

    is_hook = False

    def __init__(
        self, query: Callable[[], Awaitable[Any]], event: Event, size: int, answer: Callable[[Call], None]
    ) -> None:
        super().__init__("a command", self._run, event, size)
        self._query = query
        self.result: Any = None
        self.answer = answer

    async def _run(self, event: Event) -> None:
        del event
        self.result = await self._query()


class CommandCall(Call):
    """A command of a client that needs no hook, in its place between the calls of hooks."""

    __slots__ = ("answer",)

    def __init__(self, event: Event, size: int, answer: Callable[[Call], None]) -> None:
        super().__init__("", None, event, size)
        self.answer = answer


class AwaitedCall(Call):
    """A call whose caller waits for it.

    `depth` is the number of sends around it. `encoded` is a message that no hook can change, and its encoding.
    `future` is made by the caller if the call did not finish immediately. `receipt` is None if nothing was published.
    """

    __slots__ = ("depth", "encoded", "future", "limit", "receipt")

    def __init__(
        self,
        hook: str,
        function: Hook | None,
        event: Event,
        *,
        limit: TimeLimit | None = None,
        depth: int = 0,
        encoded: tuple[object, Message | None] | None = None,
    ) -> None:
        super().__init__(hook, function, event, 0)
        self.limit = limit
        self.depth = depth
        self.encoded = encoded
        self.future: asyncio.Future[None] | None = None
        self.receipt: Receipt | None = None

    def encode_message(self) -> Message | None:
        """Return the encoding of the event's message. Raise `MessageError`."""
        message, encoded = self.event.message, self.encoded
        return encoded[1] if encoded is not None and encoded[0] is message else encode(message)


class CloseCall(Call):
    """The call that reports the end of a connection."""

    __slots__ = ()

    is_close = True


def refusal_of(call: Call) -> Refused:
    """Return the refusal of a client whose hook has failed or refused it."""
    error = call.error
    if isinstance(error, Refused):
        return error
    refused = Refused(500, "the listener failed, the log has the reason")
    if call.has_expired:
        refused = Refused(503, "the listener took too long, try again later")
    refused.__cause__ = error
    return refused


class Inbox:
    """The calls that wait, in order, and the one that is running.

    It is full if the messages of these calls are too many or too large.
    """

    __slots__ = ("_backlog", "_when_space", "calls", "is_full", "running")

    def __init__(self) -> None:
        self.calls: deque[Call] | None = None  # made when a call has to wait, because an empty deque takes 700 bytes
        self.running: Call | None = None
        self.is_full = False
        self._backlog = Backlog(INBOX_MESSAGES, INBOX_BYTES)
        self._when_space: Callable[[], None] | None = None

    @property
    def is_overfull(self) -> bool:
        """Whether too much waits even if more than usual may wait."""
        backlog = self._backlog
        return backlog.messages >= OVERFULL_MESSAGES or backlog.bytes >= OVERFULL_BYTES

    def when_space(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, in the event loop iteration after the inbox, which is full, has space again."""
        self._when_space = callback

    def put(self, call: Call) -> None:
        """Add `call` behind those that wait, and count its message."""
        self.count(call)
        if self.calls is None:
            self.calls = deque()
        self.calls.append(call)

    def put_next(self, call: Call) -> None:
        """Add `call`, which has no message, before the messages that wait."""
        calls = self.calls = self.calls or deque()
        calls.insert(next((place for place, other in enumerate(calls) if other.size), len(calls)), call)

    def put_first(self, call: Call) -> None:
        """Add `call` before those that wait."""
        if self.calls is None:
            self.calls = deque()
        self.calls.appendleft(call)

    def count(self, call: Call) -> None:
        """Count the message of `call`, if it has one, until `release`."""
        if call.size and not call.is_counted:
            call.is_counted = True
            self._backlog.add(call.size)
            self.is_full = self._backlog.is_full

    def release(self, call: Call) -> None:
        """Free the space of a message that was counted, and call back if `when_space` was called."""
        call.is_counted = False
        self._backlog.remove(call.size)
        self.is_full = self._backlog.is_full
        if self._when_space is not None and not self.is_full:
            asyncio.get_running_loop().call_soon(self._when_space)
            self._when_space = None

    def discard_messages(self) -> list[Call]:
        """Discard the messages that wait, and return their calls. Every other hook is still called."""
        waiting = self.calls or ()
        self.calls = deque(call for call in waiting if not call.size)
        return [call for call in waiting if call.size]

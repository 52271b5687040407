"""Hooks that run one at a time, in a `Inbox`: those of one connection, or of the gateway itself. Each runs in a task of
its own, started eagerly where Python can do that, so that a hook that never awaits costs no turn of the loop. Knows
nothing of what a hook is for."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

from wsgateway.cluster.acks import Confirmation
from wsgateway.limits import INBOX_BYTES, INBOX_MESSAGES, Backlog
from wsgateway.listeners.event import Event
from wsgateway.listeners.loader import Hook
from wsgateway.messages import Message, Sent


class Call:
    """One hook called with one event. `size` is what it takes of the inbox, `future` what somebody waits for."""

    # defaults of the class: most calls change none of them, and one is made for each message
    args: tuple[object, ...] = ()
    size = 0
    turns: "Turns | None" = None
    has_turn = False
    future: "asyncio.Future[Call] | None" = None
    depth = 0
    started = 0.0
    ended = False
    expired = False
    error: BaseException | None = None
    sent = Sent(0, 0, 0)
    encoded: "tuple[object, Message | None] | None" = None  # a message that cannot change, and its frame
    confirmation: Confirmation | None = None
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    def __init__(self, hook: str, function: "Hook | None", event: Event) -> None:
        self.hook = hook
        self.function = function
        self.event = event


class Performer(Protocol):
    """What a lane needs of the gateway's events."""

    busy: "set[Inbox]"

    async def perform(self, call: Call) -> None: ...
    def deliver_call(self, call: Call) -> None: ...
    def ended(self, call: Call) -> Call | None: ...
    def timeout_of(self, call: Call) -> float: ...
    def limit_of(self, call: Call) -> str: ...


class Turns:
    """How many hooks may run at once, of those that many lanes call: the others wait in order, until `lift`."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def limit(self, most: int) -> None:
        self._most = most

    def lift(self) -> None:
        """No limit any more: all that wait begin."""
        self._most = None
        self._admit()

    def take(self, start: Callable[[], None]) -> bool:
        """Whether there is a turn; else `start` is called when there is. `end` has to follow."""
        if self._most is not None and self._running >= self._most:
            self._waiting.append(partial(copy_context().run, start))  # else it sees variables of who ends before it
            return False
        self._running += 1
        return True

    def end(self) -> None:
        self._running -= 1
        if self._waiting:  # not at once: thousands that end without waiting would call each other
            asyncio.get_running_loop().call_soon(self._admit)

    def _admit(self) -> None:
        while self._waiting and (self._most is None or self._running < self._most):
            self._running += 1
            self._waiting.popleft()()


class Inbox:
    """Hooks that run one at a time, in order: those of one connection, or of the gateway itself."""

    __slots__ = ("_calls", "_events", "_running", "_waiting", "_when_room")

    def __init__(self, events: Performer) -> None:
        self._events = events
        self._calls: deque[Call] | None = None  # made when one has to wait, an empty deque takes 700 bytes
        self._running: Call | None = None
        self._waiting = Backlog(INBOX_MESSAGES, INBOX_BYTES)
        self._when_room: Callable[[], None] | None = None

    @property
    def is_full(self) -> bool:
        return self._waiting.is_full

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call `callback`, once, in the turn after the inbox, which is full, has room again."""
        self._when_room = callback

    def push(self, call: Call) -> None:
        """Call the hook when those before it have ended. Returns at once."""
        if call.size:
            self._waiting.add(call.size)
        if self._running is not None or self._calls:
            self._wait(call)
        else:
            self._start(call)
            if self._calls:
                self._proceed()

    def _wait(self, call: Call, *, first: bool = False) -> None:
        if self._calls is None:
            self._calls = deque()
        if first:
            self._calls.appendleft(call)
        else:
            self._calls.append(call)

    def discard(self, *, closes: bool) -> None:
        """Forget the messages that wait, and give up the hook that runs, with `closes` also one for a close.

        One that waits for its turn still has it.
        """
        self._calls = deque(call for call in self._calls or () if call.hook != "on_message")
        call = self._running
        if call is not None and call.timer is not None and (closes or call.turns is None):
            self._expire(call, TimeoutError(f"{call.hook} is given up, the gateway stops and drain is over"))

    def _proceed(self) -> None:
        while self._running is None and self._calls:
            self._start(self._calls.popleft())

    def _start(self, call: Call) -> None:
        self._running = call
        if call.function is None:
            self._events.deliver_call(call)
            self._end(call)
            return
        if call.turns is not None and not call.has_turn and not call.turns.take(lambda: self._has_turn(call)):
            self._events.busy.add(self)
            return
        call.started = time.perf_counter()
        task = eager_task(self._events.perform(call))
        if task.done():
            self._end(call)
            return
        call.task = task
        call.timer = task.get_loop().call_later(self._events.timeout_of(call), self._expire, call)
        self._events.busy.add(self)
        task.add_done_callback(lambda _: self._ended_later(call))

    def _has_turn(self, call: Call) -> None:
        call.has_turn = True
        self._start(call)
        self._proceed()

    def _ended_later(self, call: Call) -> None:
        self._end(call)
        self._proceed()

    def _expire(self, call: Call, error: TimeoutError | None = None) -> None:
        """Its time is over: the event is given up. A `def` hook, or one that swallows the cancellation, runs on."""
        call.expired = True
        call.error = error or TimeoutError(f"{call.hook} took longer than {self._events.limit_of(call)}")
        task = call.task
        self._end(call)
        if task is not None:
            task.cancel()
        self._proceed()

    def _end(self, call: Call) -> None:
        if call.ended:
            return
        call.ended = True
        self._running = None
        if call.timer is not None:
            self._events.busy.discard(self)
            call.timer.cancel()
            call.task = call.timer = None
        if call.turns is not None:
            self._events.busy.discard(self)
            call.turns.end()
        if call.size:
            self._waiting.remove(call.size)
            if self._when_room is not None and not self._waiting.is_full:
                asyncio.get_running_loop().call_soon(self._when_room)
                self._when_room = None
        after = self._events.ended(call)
        if after is not None:
            self._wait(after, first=True)
        if call.future is not None and not call.future.done():
            call.future.set_result(call)


def eager_task(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that has run to its first wait when this returns; on Python 3.11 one that begins in the next turn."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)

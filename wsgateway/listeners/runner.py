"""Runs hooks. Those of one inbox run one at a time, in order, those of different inboxes concurrently.

Each hook runs in a task of its own, which is started eagerly, so a hook that never awaits costs no event loop
iteration. Knows nothing of what a hook is for.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

from wsgateway.hub.loops import eager_task
from wsgateway.listeners.inbox import AwaitedCall, Call, Inbox, TimeLimit

MAX_CLOSE_HOOKS = 100
"""Close hooks that run concurrently while a gateway drains, because each may need a connection to a database."""

MAX_NESTED_SENDS = 8
"""Maximum depth of nested calls of `gateway.send`, each in the `on_message` of the one around it."""

current_call: ContextVar[Call | None] = ContextVar("wsgateway_current_call", default=None)
"""The call whose hook runs in this context."""


def depth_of_send() -> int:
    """Return how many sends from within hooks are around this one. Raise `RecursionError` if they are too many."""
    outer = current_call.get()
    if outer is None or outer.is_finished:
        return 0
    depth = 1 + (outer.depth if isinstance(outer, AwaitedCall) else 0)
    if depth > MAX_NESTED_SENDS:
        raise RecursionError(f"gateway.send was called from on_message, {MAX_NESTED_SENDS} deep: does it call itself?")
    return depth


class Runner:
    """Runs the calls of many inboxes. What happens before and after a hook is given as functions."""

    def __init__(
        self,
        *,
        limit: TimeLimit,
        deliver: Callable[[Call], None],
        finished: Callable[[Call], Call | None],
        returned: Callable[[str, object], None],
    ) -> None:
        """`limit` applies to each call without one of its own.

        `deliver` is called after each hook that has not failed, `finished` after every hook.

        `finished` returns a call that has to follow, or None. `returned` is called with what a hook has returned.
        """
        self._limit = limit
        self._deliver = deliver
        self._finished = finished
        self._returned = returned
        self._loop = asyncio.get_running_loop()
        self._busy: set[Inbox] = set()
        self._idle: asyncio.Future[None] | None = None
        self._close_slots: asyncio.Semaphore | None = None
        self._slot_holders: set[Call] = set()

    def push(self, inbox: Inbox, call: Call) -> None:
        """Run the hook when those before it in `inbox` have finished. Return immediately."""
        if inbox.running is not None or inbox.calls:
            inbox.put(call)
        else:
            self._start(inbox, call)
            if inbox.calls:
                self._run_waiting(inbox)

    def push_next(self, inbox: Inbox, call: Call) -> None:
        """Do the same, but run the hook before those of the messages that wait in `inbox`."""
        if inbox.running is not None or inbox.calls:
            inbox.put_next(call)
        else:
            self.push(inbox, call)

    async def idle(self) -> None:
        """Wait until no hook runs."""
        while self._busy:
            self._idle = self._loop.create_future()
            await self._idle

    def limit_close_hooks(self) -> None:
        """From now on run at most `MAX_CLOSE_HOOKS` calls that report a close concurrently. The rest wait in order."""
        running = [inbox.running for inbox in self._busy if inbox.running is not None]
        self._slot_holders = {call for call in running if call.is_close}
        self._close_slots = asyncio.Semaphore(max(0, MAX_CLOSE_HOOKS - len(self._slot_holders)))

    def discard(self, *, closes: bool) -> None:
        """Abandon the hooks that run, discard the messages that wait, and lift the limit of `limit_close_hooks`.

        Calls that report a close are still made, and those that run are abandoned only with `closes`.
        """
        for inbox in tuple(self._busy):
            for discarded in inbox.discard_messages():
                discarded.is_finished = discarded.has_expired = True
                discarded.error = TimeoutError(f"{discarded.hook} is not called, because the gateway stops")
                if discarded.answer is not None:
                    discarded.answer(discarded)
            call = inbox.running
            if call is not None and call.timer is not None and (closes or not call.is_close):
                self._expire(inbox, call, f"{call.hook} is abandoned, because the gateway stops and drain has passed")
        slots, self._close_slots = self._close_slots, None
        self._slot_holders.clear()
        if slots is not None:
            for _ in self._busy:  # at least as many as wait
                slots.release()

    # From the start of a call to its end

    def _run_waiting(self, inbox: Inbox) -> None:
        while inbox.running is None and inbox.calls:
            self._start(inbox, inbox.calls.popleft())

    def _start(self, inbox: Inbox, call: Call) -> None:
        inbox.running = call
        if call.function is None:
            self._deliver(call)
            self._finish(inbox, call)
            return
        call.started = time.perf_counter()
        slots = self._close_slots
        if slots is not None and not call.is_close:
            slots = None
        coroutine = self._run(call) if slots is None else self._run_in_slot(inbox, call, slots)
        task = eager_task(coroutine, self._loop)
        if task.done():
            self._finish(inbox, call)
            return
        inbox.count(call)
        call.task = task
        self._busy.add(inbox)
        if slots is None:
            self._start_timer(inbox, call)
        task.add_done_callback(partial(self._finish_task, inbox, call))

    async def _run(self, call: Call) -> None:
        """Call the hook, then deliver. Whatever it raises becomes `call.error`, even `SystemExit` or `CancelledError`.

        An error of a hook affects only its own event. Otherwise it would end the task of its caller.
        """
        assert call.function is not None
        current_call.set(call)
        try:
            if (value := await call.function(call.event)) is not None:
                self._returned(call.hook, value)
        except BaseException as exc:
            if not call.is_finished:
                call.error = exc
        else:
            if not call.is_finished:
                self._deliver(call)

    async def _run_in_slot(self, inbox: Inbox, call: Call, slots: asyncio.Semaphore) -> None:
        """Wait for a slot, then run the hook, whose time limit starts now. `_finish` releases the slot."""
        await slots.acquire()
        if slots is self._close_slots:
            self._slot_holders.add(call)
        call.started = time.perf_counter()
        self._start_timer(inbox, call)
        await self._run(call)

    def _start_timer(self, inbox: Inbox, call: Call) -> None:
        call.timer = self._loop.call_later(self._limit_of(call).seconds, self._expire, inbox, call)

    def _limit_of(self, call: Call) -> TimeLimit:
        return call.limit or self._limit

    def _expire(self, inbox: Inbox, call: Call, reason: str = "") -> None:
        """Abandon the hook and its event. A `def` hook, or one that swallows the cancellation, continues to run."""
        if not reason:
            setting, seconds = self._limit_of(call)
            reason = f"{call.hook} took longer than {setting}, {seconds:g} s"
        call.has_expired = True
        call.error = TimeoutError(reason)
        task = call.task
        self._finish(inbox, call)
        if task is not None:
            task.cancel()
        self._run_waiting(inbox)

    def _finish_task(self, inbox: Inbox, call: Call, task: asyncio.Task[None]) -> None:
        del task
        self._finish(inbox, call)
        self._run_waiting(inbox)

    def _finish(self, inbox: Inbox, call: Call) -> None:
        """Release what `call` occupies, and report it. Do nothing if it was abandoned before."""
        if call.is_finished:
            return
        call.is_finished = True
        inbox.running = None
        if call.task is not None:
            self._busy.discard(inbox)
            call.task = None
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        if self._slot_holders and call in self._slot_holders:
            self._slot_holders.discard(call)
            if self._close_slots is not None:
                self._close_slots.release()
        if call.is_counted:
            inbox.release(call)
        next_call = self._finished(call)
        if next_call is not None:
            inbox.put_first(next_call)
        if self._idle is not None and not self._busy:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None
        if isinstance(call, AwaitedCall) and call.future is not None and not call.future.done():
            call.future.set_result(None)

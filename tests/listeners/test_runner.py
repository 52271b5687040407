"""Hooks of inboxes: one at a time in each, with a time limit, and few for a close at the same time during a drain."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from wsgateway import Event, Gateway
from wsgateway.listeners.inbox import AwaitedCall, Call, CloseCall, Inbox, TimeLimit
from wsgateway.listeners.runner import MAX_CLOSE_HOOKS, Runner

EVENT = Event(Gateway())


class Runs:
    """A runner that keeps which calls have finished, and delivers nothing."""

    def __init__(
        self, *, hook_timeout: float = 10.0, follow: Callable[[Call], Call | None] = lambda call: None
    ) -> None:
        self.finished: list[Call] = []
        self.delivered: list[Call] = []
        self._follow = follow
        self.runner = Runner(
            limit=TimeLimit("hook_timeout", hook_timeout),
            deliver=self.delivered.append,
            finished=self._finish,
            returned=lambda hook, value: None,
        )

    def _finish(self, call: Call) -> Call | None:
        self.finished.append(call)
        return self._follow(call)

    async def idle(self) -> None:
        with anyio.fail_after(10):
            await self.runner.idle()

    def close(self, hook: Callable[[Event], Awaitable[object]]) -> Call:
        """Push a call of `on_client_close`, in an inbox of its own."""
        call = CloseCall("on_client_close", hook, EVENT, 0)
        self.runner.push(Inbox(), call)
        return call


async def test_calls_of_one_inbox_run_in_order_and_what_follows_a_call_comes_first() -> None:
    seen: list[str] = []

    def hook(name: str) -> Callable[[Event], Awaitable[None]]:
        async def run(event: Event) -> None:
            await anyio.sleep(0)  # an await, so that a task runs the hook
            seen.append(name)

        return run

    after_first = Call("on_error", hook("after first"), EVENT, 0)
    runs = Runs(follow=lambda call: after_first if call is first else None)
    inbox = Inbox()
    first, second = Call("on_client_open", hook("first"), EVENT, 0), Call("on_message", hook("second"), EVENT, 1)
    runs.runner.push(inbox, first)
    runs.runner.push(inbox, second)
    await runs.idle()
    assert seen == ["first", "after first", "second"]
    assert not second.is_counted


async def test_a_call_without_a_hook_is_delivered_immediately() -> None:
    runs = Runs()
    call = Call("on_message", None, EVENT, 1)
    runs.runner.push(Inbox(), call)
    assert runs.delivered == runs.finished == [call]


async def test_a_hook_that_takes_too_long_is_abandoned_and_delivers_nothing() -> None:
    runs = Runs(hook_timeout=0.01)

    async def sleep(event: Event) -> None:
        await anyio.sleep_forever()  # hangs, until hook_timeout

    call = AwaitedCall("on_message", sleep, EVENT)
    runs.runner.push(Inbox(), call)
    await runs.idle()
    assert call.has_expired
    assert str(call.error) == "on_message took longer than hook_timeout, 0.01 s"
    assert runs.delivered == []


async def test_a_call_may_have_a_time_limit_of_its_own() -> None:
    runs = Runs()

    async def sleep(event: Event) -> None:
        await anyio.sleep_forever()  # hangs, until its time limit

    call = AwaitedCall("on_handshake", sleep, EVENT, limit=TimeLimit("handshake_timeout", 0.01))
    runs.runner.push(Inbox(), call)
    await runs.idle()
    assert str(call.error) == "on_handshake took longer than handshake_timeout, 0.01 s"


async def test_the_time_of_a_close_hook_begins_once_it_has_a_slot() -> None:
    runs = Runs(hook_timeout=0.05)

    async def sleep(event: Event) -> None:
        await anyio.sleep_forever()  # hangs, until hook_timeout

    async def take_a_moment(event: Event) -> None:
        await anyio.sleep(0)  # an await, so that a task runs the hook

    runs.runner.limit_close_hooks()
    holders = [runs.close(sleep) for _ in range(MAX_CLOSE_HOOKS)]
    waiting = [runs.close(take_a_moment) for _ in range(MAX_CLOSE_HOOKS)]  # they wait for as long as a hook may take
    await runs.idle()
    assert all(call.has_expired for call in holders)
    assert not any(call.has_expired for call in waiting)
    assert len(runs.finished) == 2 * MAX_CLOSE_HOOKS


async def test_a_close_hook_that_swallows_its_cancellation_gives_its_slot_back() -> None:
    runs = Runs(hook_timeout=0.05)
    release = asyncio.Event()
    tasks: list[Any] = []

    async def swallow(event: Event) -> None:
        tasks.append(asyncio.current_task())
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass

    async def nothing(event: Event) -> None: ...

    runs.runner.limit_close_hooks()
    for _ in range(MAX_CLOSE_HOOKS):
        runs.close(swallow)
    last = runs.close(nothing)
    await runs.idle()
    assert last.error is None
    assert last.is_finished
    release.set()
    await asyncio.wait(tasks)


async def test_hooks_that_ran_before_the_limit_count_towards_it() -> None:
    runs = Runs()
    release = asyncio.Event()
    started: list[int] = []

    async def wait(event: Event) -> None:
        started.append(1)
        await release.wait()

    for _ in range(10):
        runs.close(wait)
    runs.runner.limit_close_hooks()
    for _ in range(MAX_CLOSE_HOOKS):
        runs.close(wait)
    for _ in range(5):
        await asyncio.sleep(0)  # iterations in which one more could begin
    assert len(started) == MAX_CLOSE_HOOKS
    release.set()
    await runs.idle()
    assert len(started) == MAX_CLOSE_HOOKS + 10

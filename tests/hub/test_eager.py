"""Eager tasks: what code can notice of a task is the same as in any other, on each Python and on each event loop."""

import asyncio
import contextlib
import gc
import importlib.util
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest

from wsgateway.hub.loops import eager_task

with_uvloop = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")

LOOPS = [
    pytest.param({}, id="asyncio"),
    pytest.param({"debug": True}, id="debug"),
    pytest.param({"use_uvloop": True}, id="uvloop", marks=with_uvloop),
]

color = ContextVar("color", default="none")


@pytest.fixture(scope="module", params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", request.param


def eager(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return eager_task(coroutine, asyncio.get_running_loop())


async def in_callback(function: Callable[[], None]) -> None:
    """Call `function` from the event loop, outside of any task, and wait for it."""
    called: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            function()
        except BaseException as exc:
            called.set_exception(exc)
        else:
            called.set_result(None)

    asyncio.get_running_loop().call_soon(call)
    await called


async def finish(task: asyncio.Task[None]) -> None:
    with anyio.fail_after(10):
        await task


async def test_a_coroutine_that_never_waits_is_done_immediately() -> None:
    seen: list[str] = []

    async def run() -> None:
        seen.append("run")

    task = eager(run())
    assert task.done()
    assert seen == ["run"]
    assert task.result() is None


async def test_a_coroutine_runs_to_its_first_wait_and_continues_in_order() -> None:
    seen: list[str] = []

    async def run(name: str) -> None:
        seen.append(f"{name} begins")
        await asyncio.sleep(0)  # one iteration of the event loop
        seen.append(f"{name} ends")

    first, second = eager(run("first")), eager(run("second"))
    seen.append("waits")
    assert not first.done()
    await finish(second)
    assert first.done()
    assert seen == ["first begins", "second begins", "waits", "first ends", "second ends"]


async def test_an_exception_is_kept_by_the_task() -> None:
    async def fail() -> None:
        raise ValueError("boom")

    async def fail_later() -> None:
        await asyncio.sleep(0)  # one iteration of the event loop
        raise ValueError("boom")

    assert isinstance(eager(fail()).exception(), ValueError)
    with pytest.raises(ValueError, match="boom"):
        await finish(eager(fail_later()))


async def test_a_system_exit_is_raised_and_the_current_task_restored() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    task = asyncio.current_task()
    with pytest.raises(SystemExit):
        eager(leave())
    assert asyncio.current_task() is task
    await asyncio.sleep(0)  # the loop goes on with this task


async def test_the_context_is_a_copy() -> None:
    seen: list[str] = []

    async def run() -> None:
        seen.append(color.get())
        color.set("task")
        await asyncio.sleep(0)  # one iteration of the event loop
        seen.append(color.get())

    color.set("outer")
    task = eager(run())
    assert color.get() == "outer"
    await finish(task)
    assert color.get() == "outer"
    assert seen == ["outer", "task"]


async def test_the_current_task_is_the_task_and_then_the_one_around_it() -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def run() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)  # one iteration of the event loop
        seen.append(asyncio.current_task())

    outer = asyncio.current_task()
    task = eager(run())
    assert asyncio.current_task() is outer
    await finish(task)
    assert seen == [task, task]


async def test_eager_tasks_may_be_nested() -> None:
    tasks: list[asyncio.Task[None]] = []
    current: list[asyncio.Task[Any] | None] = []

    async def run(depth: int) -> None:
        before = asyncio.current_task()
        if depth:
            tasks.append(eager(run(depth - 1)))
        assert asyncio.current_task() is before
        current.append(before)
        await asyncio.sleep(0)  # one iteration of the event loop
        assert asyncio.current_task() is before

    tasks.append(eager(run(5)))
    for task in tasks:
        await finish(task)
    assert current == tasks
    assert len(set(tasks)) == 6


async def test_a_callback_has_no_current_task_before_and_after() -> None:
    seen: list[asyncio.Task[Any] | None] = []
    tasks: list[asyncio.Task[None]] = []

    async def run() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)  # one iteration of the event loop
        seen.append(asyncio.current_task())

    def called() -> None:
        assert asyncio.current_task() is None
        tasks.append(eager(run()))
        assert asyncio.current_task() is None

    await in_callback(called)
    await finish(tasks[0])
    assert seen == [tasks[0]] * 2


async def test_asyncio_timeout_as_the_first_line() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anyio.sleep_forever()  # until the timeout
        async with asyncio.timeout(10):
            await asyncio.sleep(0)  # one iteration of the event loop

    await finish(eager(run()))


async def test_a_cancel_scope_as_the_first_line() -> None:
    async def run() -> None:
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()  # until the scope cancels it
        assert scope.cancelled_caught
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await anyio.sleep_forever()  # the scope is cancelled already
        assert cancelled.cancelled_caught

    await finish(eager(run()))


async def test_task_groups_as_the_first_line() -> None:
    seen: list[str] = []

    async def child(name: str) -> None:
        await asyncio.sleep(0)  # one iteration of the event loop
        seen.append(name)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child("asyncio"))
        async with anyio.create_task_group() as group:
            group.start_soon(child, "anyio")

    await finish(eager(run()))
    assert seen == ["asyncio", "anyio"]


async def test_a_task_group_whose_child_fails_cancels_the_eager_task() -> None:
    async def fail() -> None:
        raise ValueError("boom")

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await anyio.sleep_forever()  # until the group cancels it

    with pytest.raises(ExceptionGroup):
        await finish(eager(run()))


async def test_a_lock_is_shared_with_other_tasks() -> None:
    lock, seen = asyncio.Lock(), list[str]()

    async def run() -> None:
        async with lock:
            seen.append("eager")

    async with lock:
        task = eager(run())
        await asyncio.sleep(0)  # iterations in which the task could take the lock
        seen.append("outer")
    await finish(task)
    assert seen == ["outer", "eager"]


async def test_a_task_may_be_cancelled_from_outside() -> None:
    seen: list[str] = []

    async def run() -> None:
        try:
            await anyio.sleep_forever()  # until it is cancelled
        finally:
            seen.append("cancelled")

    task = eager(run())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish(task)
    assert task.cancelled()
    assert seen == ["cancelled"]


async def test_a_task_may_cancel_itself_before_it_waits() -> None:
    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)  # the cancellation arrives here

    task = eager(run())
    with pytest.raises(asyncio.CancelledError):
        await finish(task)
    assert task.cancelled()


async def test_a_task_that_waits_for_a_thread() -> None:
    seen: list[str] = []

    async def run() -> None:
        color.set("task")
        seen.append(await asyncio.to_thread(color.get))
        seen.append(await anyio.to_thread.run_sync(color.get))

    await finish(eager(run()))
    assert seen == ["task", "task"]


async def test_only_a_task_that_waits_is_listed() -> None:
    async def run() -> None: ...

    async def wait() -> None:
        await asyncio.sleep(0)  # one iteration of the event loop

    before = asyncio.all_tasks()
    eager(run())
    waiting = eager(wait())
    assert asyncio.all_tasks() == before | {waiting}
    await finish(waiting)
    assert asyncio.all_tasks() == before


async def test_a_task_is_freed_without_the_garbage_collector() -> None:
    async def run() -> None: ...

    async def wait() -> None:
        await asyncio.sleep(0)  # one iteration of the event loop

    gc.disable()
    try:
        references = [weakref.ref(eager(run())) for _ in range(3)]
        task = eager(wait())
        references.append(weakref.ref(task))
        await finish(task)
        del task
        await asyncio.sleep(0)  # the loop lets go of what it has called
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


async def test_the_task_factory_of_the_loop_is_not_used() -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("the factory was called")

    async def run() -> None: ...

    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(refuse)
    try:
        task = eager(run())
    finally:
        loop.set_task_factory(before)
    assert task.done()


async def test_the_attributes_of_the_loop_are_left_as_they_were() -> None:
    async def wait() -> None:
        await asyncio.sleep(0)  # one iteration of the event loop

    loop = asyncio.get_running_loop()
    before = set(vars(loop))
    task = eager(wait())
    with pytest.raises(TypeError):
        eager_task(None, loop)  # type: ignore[arg-type]  # the constructor of the task fails
    assert set(vars(loop)) == before
    await finish(task)


@contextlib.contextmanager
def frequent_collections() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def test_what_a_finalizer_schedules_meanwhile_is_called() -> None:
    loop = asyncio.get_running_loop()
    scheduled: list[int] = []
    called: list[int] = []

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            scheduled.append(1)
            loop.call_soon(called.append, 1)
            if len(scheduled) < 200:
                Garbage()  # for the next collection

    async def wait() -> None:
        await asyncio.sleep(0)  # one iteration of the event loop

    with frequent_collections():
        Garbage()
        tasks = [eager(wait()) for _ in range(50)]
    for task in tasks:
        await finish(task)
    gc.collect()
    await asyncio.sleep(0)  # one iteration, in which the callbacks run
    assert scheduled
    assert called == scheduled


# Loops on which Python 3.11 cannot start a task eagerly


async def count_iterations(coroutine: Coroutine[Any, Any, None]) -> int:
    """Return after how many iterations the task is done."""
    task = eager(coroutine)
    for count in range(5):
        if task.done():
            return count
        await asyncio.sleep(0)  # one iteration of the event loop
    raise AssertionError("the task is not done")


async def nothing() -> None: ...


AT_LATEST = 0 if sys.version_info >= (3, 12) else 1
"""Iterations after which a task that never waits is done, on such a loop."""


async def test_a_call_soon_that_was_replaced_is_still_called() -> None:
    loop: Any = asyncio.get_running_loop()
    calls: list[Any] = []

    def call_soon(callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        calls.append(callback)
        return type(loop).call_soon(loop, callback, *args, context=context)

    loop.call_soon = call_soon
    try:
        assert await count_iterations(nothing()) == AT_LATEST
        assert vars(loop)["call_soon"] is call_soon
        loop.call_soon(int)
        assert calls[-1] is int
    finally:
        del loop.call_soon


def test_a_loop_whose_call_soon_is_a_property() -> None:
    class Loop(asyncio.SelectorEventLoop):
        @property
        def call_soon(self) -> Any:
            return super().call_soon

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(count_iterations(nothing())) == AT_LATEST


@with_uvloop
def test_a_loop_without_attributes() -> None:
    from uvloop.loop import Loop  # the extension class that `uvloop.Loop` extends

    def make_loop() -> Any:
        loop: Any = Loop()
        assert not hasattr(loop, "__dict__")
        return loop

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(count_iterations(nothing())) == AT_LATEST


@pytest.mark.parametrize("options", LOOPS)
def test_loops_in_two_threads_do_not_disturb_each_other(options: dict[str, bool]) -> None:
    failures: list[BaseException] = []
    ended: list[int] = []
    until = time.monotonic() + 0.5

    async def wait(tasks: list[asyncio.Task[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task.get_loop() is asyncio.get_running_loop()
        tasks.append(task)
        await asyncio.sleep(0)  # one iteration of the event loop
        assert asyncio.current_task() is task

    async def main() -> None:
        outer = asyncio.current_task()
        while time.monotonic() < until:
            started: list[asyncio.Task[None]] = []
            made = [eager(wait(started)) for _ in range(20)]
            assert asyncio.current_task() is outer
            assert started == made
            for task in made:
                await task
            ended.append(len(made))

    def run() -> None:
        try:
            anyio.run(main, backend="asyncio", backend_options=options)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    assert ended

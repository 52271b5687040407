"""Starts tasks eagerly. Refuses calls from a wrong thread or event loop, or passes them to the right one.

Knows nothing of gateways.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, wait
from contextvars import Context, copy_context
from threading import get_ident
from typing import Any, TypeVar

T = TypeVar("T")

LOOP_CHECK = 1.0
"""Seconds between checks whether the event loop that a thread waits for still runs."""


class Home:
    """The event loop that an object belongs to, and its thread. Must be created on that loop."""

    __slots__ = ("loop", "thread")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()

    def is_here(self) -> bool:
        """Return whether the caller runs on this loop.

        `asyncio.get_running_loop` would take longer, because it reads the process id before Python 3.12.
        """
        return get_ident() == self.thread and self.loop.is_running()


def wrong_loop(what: str, instead: str = "", *, owner: str) -> RuntimeError:
    """Return the error for a call of `what` on an event loop other than its owner's. `instead` is better advice than
    to call it there."""
    instead = instead or f"call it there, in a thread with asyncio.run_coroutine_threadsafe({what}(...), loop)"
    return RuntimeError(f"{what} was called on another event loop than the one that {owner} runs on: {instead}")


def call_from_thread(home: Home, call: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
    """Run the coroutine that `call` returns on the event loop of `home`, and return its result to this other thread.

    `what` is the method that `call` calls, as users write it. Raise `RuntimeError` on the thread of that loop, and if
    the loop has ended.
    """
    loop = home.loop
    if home.is_here():
        raise RuntimeError(
            f"{what}_from_thread was called on the event loop, where it would wait for itself: write await {what}(...)"
        )
    if loop.is_closed():
        raise _loop_ended()
    coroutine = call()
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # the event loop was closed just now
        coroutine.close()
        raise _loop_ended() from None
    while not wait((future,), LOOP_CHECK).done:
        if not loop.is_running():
            future.cancel()
            raise _loop_ended()
    try:
        return future.result()
    except CancelledError:
        raise _loop_ended() from None


def _loop_ended() -> RuntimeError:
    return RuntimeError("the event loop has ended, so nothing can be sent from a thread any more")


async def call_on(
    loop: asyncio.AbstractEventLoop,
    app: Callable[..., Awaitable[None]],
    scope: Any,
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Run an ASGI application on `loop`, which runs in another thread, with `receive` and `send` of this thread.

    The application does not wait until an accept was sent. Therefore its next step, such as making the client a
    recipient, happens before the client can react.
    """
    here = asyncio.get_running_loop()
    accept: asyncio.Future[None] | None = None

    def run_here(function: Callable[..., Awaitable[T]], *arguments: Any) -> asyncio.Future[T]:
        async def run() -> T:
            return await function(*arguments)

        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), here))

    async def receive_here() -> Any:
        return await run_here(receive)

    async def send_here(message: Any) -> None:
        nonlocal accept
        if accept is not None:
            earlier, accept = accept, None
            await earlier
        sending = run_here(send, message)
        if message["type"] == "websocket.accept":
            accept = sending
        else:
            await sending

    async def run_app() -> None:
        await app(scope, receive_here, send_here)
        if accept is not None:
            await accept

    future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run_app(), loop))
    try:
        while not (await asyncio.wait((future,), timeout=LOOP_CHECK))[0]:
            if not loop.is_running():
                raise _loop_ended()
        await future
    finally:
        future.cancel()


if sys.version_info >= (3, 12):

    def eager_task(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Return a task that has run to its first wait. Must be called on `loop`, whose task factory is not used.

        A caller may not rely on that, because Python 3.11 needs a loop such as asyncio's or uvloop's for it.
        """
        return asyncio.Task(coroutine, loop=loop, eager_start=True)

else:

    class _StepCatcher:
        """Replaces `call_soon` of `loop` while a task with `context` is constructed, and keeps its first step.

        Other calls, such as that of a finalizer that the garbage collector runs meanwhile, are passed to the loop.
        """

        __slots__ = ("_context", "_loop", "step")

        def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
            self._loop = loop
            self._context = context
            self.step: Callable[[], object] | None = None

        def __call__(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
            if context is not self._context:
                return type(self._loop).call_soon(self._loop, callback, *args, context=context)
            self.step = callback
            return None

    def eager_task(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Return a task that has run to its first wait. Must be called on `loop`, whose task factory is not used.

        A `Task` passes its first step to `call_soon`. The step is caught there and run here, in the context of the
        task and as the only current task. On a loop without attributes, or whose `call_soon` was replaced, the task
        begins in the next iteration.
        """
        attributes: dict[str, object] | None = getattr(loop, "__dict__", None)
        if attributes is None or "call_soon" in attributes:
            return loop.create_task(coroutine)
        context = copy_context()
        catcher = attributes["call_soon"] = _StepCatcher(loop, context)
        try:
            task = asyncio.Task(coroutine, loop=loop, context=context)
        finally:
            del attributes["call_soon"]
        if catcher.step is None:  # a loop that does not look up `call_soon` in its attributes
            return task
        outer = asyncio.current_task(loop)
        if outer is None:
            context.run(catcher.step)
            return task
        asyncio.tasks._leave_task(loop, outer)  # see "Extending asyncio" in the documentation of Python
        try:
            context.run(catcher.step)
        finally:
            asyncio.tasks._enter_task(loop, outer)
        return task

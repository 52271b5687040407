"""Refuses calls from a wrong thread or event loop, or passes them to the right one. Knows nothing of gateways."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, wait
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


def call_from_thread(home: Home, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the coroutine that `call` returns on the event loop of `home`, and return its result to this other thread.

    Raise `RuntimeError` on the thread of that loop, and if the loop has ended.
    """
    loop = home.loop
    if home.is_here():
        raise RuntimeError("send_from_thread was called on the event loop, where it would wait for itself: await send")
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

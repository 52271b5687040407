"""Reports coroutines that are not awaited, in development mode. Knows nothing of what a coroutine does."""

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from wsgateway.logs import Log

P = ParamSpec("P")
T = TypeVar("T")


def is_development(*, verbose: bool) -> bool:
    """Return whether slow checks run: with `verbose`, and in Python's development mode."""
    return verbose or sys.flags.dev_mode


class WatchedCoroutine(Coroutine[Any, Any, T]):
    """A coroutine that logs a warning if it is dropped before it has begun."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], log: Log, *, what: str, conn: str, depth: int) -> None:
        """`what` is the call as users write it, `conn` the id of the connection, `depth` the frame of the caller."""
        caller = sys._getframe(depth)
        self._coroutine = coroutine
        self._log = log
        self._what = what
        self._conn = conn
        self._where = caller.f_code.co_qualname, caller.f_code.co_filename, caller.f_lineno
        self._has_begun = False

    def send(self, value: Any) -> Any:
        self._has_begun = True
        return self._coroutine.send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        self._has_begun = True
        return self._coroutine.throw(kind if isinstance(kind, BaseException) else kind(value))

    def close(self) -> None:
        self._has_begun = True
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        self._has_begun = True
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # such as `cr_frame`, which asyncio's debug mode shows

    def __del__(self) -> None:
        if self._has_begun:
            return
        function, file, line = self._where
        self._log.limited((self._what, file, line)).warning(
            "%s was called without await in %s (%s:%d), so it did nothing: write `await %s(...)`",
            self._what,
            function,
            Path(file).name,
            line,
            self._what,
            extra={"conn": self._conn} if self._conn else {},
        )


def watched(method: Callable[P, Coroutine[Any, Any, T]], log: Log, *, what: str) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return `method` with its coroutines watched. The result still counts as a coroutine function."""

    def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return WatchedCoroutine(method(*args, **kwargs), log, what=what, conn="", depth=2)

    call.__doc__ = method.__doc__
    return marked(call)


def marked(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Mark `function` as a coroutine function, because frameworks run any other function in a thread."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # private before 3.12
    return function

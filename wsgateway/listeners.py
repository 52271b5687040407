"""A listener's hooks and how they are found. Knows nothing of what the hooks are told, nor when."""

import asyncio
import contextvars
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from wsgateway.config import Settings, nearest
from wsgateway.exceptions import ListenerError
from wsgateway.limits import MAX_HOOK_THREADS
from wsgateway.logs import GatewayLog

HOOKS = (
    "on_start",
    "on_stop",
    "on_handshake",
    "on_client_open",
    "on_message",
    "on_client_close",
    "on_error",
    "on_first_open",
    "on_last_close",
)

Hook = Callable[..., Awaitable[None]]


class Listener:
    """The hooks of one listener, each an awaitable function; None where the listener has none."""

    def __init__(self, listener: object, settings: Settings, log: GatewayLog, *, reload: bool = False) -> None:
        """Find and make `listener`, in any form the setting has. `reload` loads a named module anew.

        Raises `ListenerError` if it cannot be found, loaded or made, or lacks a hook that `settings` name.
        """
        self._threads: ThreadPoolExecutor | None = None
        self._gateway_id = settings.id
        if isinstance(listener, str):
            listener = _named(listener, reload=reload)
        if isinstance(listener, type):
            listener = _made(listener)
        self.listener = listener
        self._hooks = {hook: self._bound(hook, getattr(settings, hook)) for hook in HOOKS}
        _warn_of_near_misses(listener, {getattr(settings, hook) for hook in HOOKS} | set(HOOKS), log)

    def __getitem__(self, hook: str) -> "Hook | None":
        return self._hooks[hook]

    def _bound(self, hook: str, name: str) -> "Hook | None":
        function = getattr(self.listener, name, None) if name else None
        if function is None:
            if name not in ("", hook):
                names = [known for known in dir(self.listener) if not known.startswith("_")]
                raise ListenerError(f"{hook} = {name!r}: {_described(self.listener)} has none{nearest(name, names)}")
            return None
        if not callable(function):
            raise ListenerError(f"{name} of {_described(self.listener)} is no function but {function!r}")
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            return function  # type: ignore[no-any-return]  # what a user gives is known only by asking
        return self._threaded(function)

    def _threaded(self, function: Callable[..., Any]) -> "Hook":
        async def in_thread(*args: object) -> None:
            if self._threads is None:
                # anyio's limiter would be freed when a thread is abandoned; an executor counts it until it ends
                prefix = f"wsgateway-{self._gateway_id}"
                self._threads = ThreadPoolExecutor(MAX_HOOK_THREADS, thread_name_prefix=prefix)
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, _call, context, function, args)
            if inspect.isawaitable(result):  # a `def` around an `async def`, as decorators make
                await result

        return in_thread

    def close(self) -> None:
        """Take no more calls into threads. Those that still run are left behind."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def _call(context: contextvars.Context, function: Callable[..., object], args: tuple[object, ...]) -> object:
    try:
        return context.run(function, *args)
    except StopIteration as exc:  # a future refuses it
        raise RuntimeError("the hook raised StopIteration") from exc


def _named(name: str, *, reload: bool) -> object:
    """What `package.module:Name`, `package.module`, `path/file.py:Name` or `path/file.py` names."""
    where, _, attribute = name.rpartition(":") if _names_attribute(name) else (name, "", "")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_package(where, reload=reload)
    except ListenerError:
        raise
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        place = extract_tb(exc.__traceback__)[-1]
        said = f"{type(exc).__name__}: {exc}"
        if isinstance(exc, SyntaxError) and exc.filename:
            said = f"SyntaxError: {exc.msg} ({exc.filename}, line {exc.lineno})"
        raise ListenerError(f"listener {name!r} cannot be loaded: {said} ({place.filename}:{place.lineno})") from exc
    if not attribute:
        return module
    try:
        return getattr(module, attribute)
    except AttributeError:
        names = [known for known in vars(module) if not known.startswith("_")]
        raise ListenerError(f"listener {name!r}: {where} has no {attribute}{nearest(attribute, names)}") from None


def _names_attribute(name: str) -> bool:
    return name.rpartition(":")[2].isidentifier() and ":" in name


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ListenerError(f"listener {str(path)!r}: there is no such file in {Path.cwd()}")
    name = f"wsgateway_listener_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    spec.loader.exec_module(module)
    return module


def _from_package(name: str, *, reload: bool) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ListenerError(
            f"listener {name!r} is none of package.module:Name, package.module, path/file.py:Name, path/file.py"
        )
    if reload:
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(exc.name + ".")):
            raise ListenerError(
                f"listener {name!r}: there is no module {exc.name!r}; it is looked for in the working folder "
                f"and where Python looks for packages"
            ) from exc
        raise


def _made(kind: type) -> object:
    try:
        return kind()
    except Exception as exc:
        said = f"{type(exc).__name__}: {exc}"
        raise ListenerError(
            f"listener {kind.__qualname__} is called without arguments, and raised {said}; "
            f"give an instance if it needs some"
        ) from exc


def _described(listener: object) -> str:
    return f"module {listener.__name__}" if isinstance(listener, ModuleType) else type(listener).__qualname__


def _warn_of_near_misses(listener: object, hooks: set[str], log: GatewayLog) -> None:
    for name in dir(listener):
        if name.startswith("on") and name not in hooks and callable(found := getattr(listener, name, None)):
            if isinstance(listener, ModuleType) and getattr(found, "__module__", None) != listener.__name__:
                continue  # imported there, not written there
            snake = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)
            hint = nearest(snake, HOOKS)
            log.warning("%s.%s is no hook and is never called%s", _described(listener), name, hint)

"""Loads a listener, creates it, and provides its hooks as awaitable functions.

Knows nothing of events, nor when a hook is called.
"""

import asyncio
import contextvars
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, NamedTuple

from wsgateway.config.settings import Settings
from wsgateway.exceptions import ListenerError
from wsgateway.listeners.hooks import HOOKS, advice, described, find_hook, hooks_in, is_async, names_of, near_misses
from wsgateway.logs import GatewayLog
from wsgateway.text import did_you_mean

Hook = Callable[..., Awaitable[object]]

MAX_HOOK_THREADS = 40
"""Worker threads for the `def` hooks of one gateway."""

HOOK_THREAD = "wsgateway hook"
"""Prefix of the names of the threads that run `def` hooks, and of no other thread."""


def has_running_hook() -> bool:
    """Return whether a `def` hook still runs in a thread of this process."""
    return any(thread.name.startswith(HOOK_THREAD) for thread in threading.enumerate())


class Hooks:
    """The hooks of one listener by name: each is an awaitable function, or None if the listener does not have it."""

    def __init__(self, listener: object, settings: Settings, log: GatewayLog, *, reload: bool = False) -> None:
        """Load and create `listener`, given in any form that the setting allows. `reload` imports its module again.

        Raise `ListenerError` if the listener cannot be found, loaded, or created, or has no hook. Also raise it if a
        hook that `settings` name is missing, or if a hook cannot be called.
        """
        self._threads: ThreadPoolExecutor | None = None
        self._gateway_id = settings.id
        self._log = log
        self._have_returned: set[str] = set()
        name, module = "", None
        if isinstance(listener, str):
            name = listener
            module = _module_of(name, reload=reload)
            listener = _attribute_of(name, module)
        elif isinstance(listener, ModuleType):
            module = listener
        if isinstance(listener, type):
            listener = _create(listener)
        self.listener = listener
        names = {hook: getattr(settings, hook) for hook in HOOKS}
        self._hooks = {hook: self._bound(hook, names[hook]) for hook in HOOKS}
        if listener is None:
            return
        known = set(names.values()) | set(HOOKS)
        if not any(self._hooks.values()) and not _are_off(listener, names):
            shown = repr(name) if name else described(listener)
            place = parse_name(name).where if name else described(listener).removeprefix("module ")
            hooks = [names[hook] or hook for hook in HOOKS]
            raise ListenerError(f"listener {shown} has no hooks, {advice(listener, hooks, place=place, module=module)}")
        for method, hook in near_misses(listener, known):
            hint = f", did you mean {hook}?" if hook else ""
            log.warning("%s.%s is not a hook and is never called%s", described(listener), method, hint)

    def __getitem__(self, hook: str) -> "Hook | None":
        return self._hooks[hook]

    def warn_of_returned(self, hook: str, value: object) -> None:
        """Warn once for each hook that it has returned `value`, which is not None and is ignored."""
        if hook in self._have_returned:
            return
        self._have_returned.add(hook)
        if inspect.isawaitable(value):
            advised = "await it in the hook"
        elif isinstance(value, BaseException):
            advised = "raise it"
        else:
            advised = "change the event instead"
        kind = type(value).__qualname__
        self._log.warning("%s has returned a value of type %s, which is ignored; %s", hook, kind, advised)

    def _bound(self, hook: str, name: str) -> "Hook | None":
        function = find_hook(self.listener, hook, name) if name else None
        if function is not None:
            return function if is_async(function) else self._threaded(function)
        if name not in ("", hook):
            if self.listener is None:
                raise ListenerError(f"{hook} = {name!r}: no listener is set that could have this hook")
            hint = did_you_mean(name, names_of(self.listener))
            raise ListenerError(f"{hook} = {name!r}: {described(self.listener)} does not have it{hint}")
        return None

    def _threaded(self, function: Callable[..., Any]) -> "Hook":
        async def in_thread(*args: object) -> object:
            return await self.in_thread(function, args)

        return in_thread

    async def in_thread(self, function: Callable[..., Any], args: tuple[object, ...]) -> object:
        """Call `function` in a thread for hooks, and return its result."""
        if self._threads is None:
            # an executor counts a thread until it ends; anyio's limiter forgets one that is abandoned
            prefix = f"{HOOK_THREAD} {self._gateway_id}"
            self._threads = ThreadPoolExecutor(MAX_HOOK_THREADS, thread_name_prefix=prefix)
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        value = await loop.run_in_executor(self._threads, _call, context, function, args)
        if inspect.isawaitable(value):  # a `def` around an `async def`, as decorators create
            value = await value
        return value

    def close(self) -> None:
        """Start no more threads. Threads that still run are left behind."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def _call(context: contextvars.Context, function: Callable[..., object], args: tuple[object, ...]) -> object:
    try:
        return context.run(function, *args)
    except StopIteration as exc:  # a future does not accept it
        raise RuntimeError("the hook raised StopIteration") from exc


class ListenerName(NamedTuple):
    """The parts of a listener's name: the module or file `where`, and an attribute of it, empty if it names none."""

    where: str
    attribute: str
    is_file: bool


def parse_name(text: str) -> ListenerName:
    """Split `package.module:Name`, `package.module`, `path/file.py:Name`, or `path/file.py` into its parts."""
    where, colon, attribute = text.rpartition(":")
    if not colon or not attribute.isidentifier():
        where, attribute = text, ""
    return ListenerName(where, attribute, where.endswith(".py"))


def _module_of(name: str, *, reload: bool) -> ModuleType:
    """Import and return the module or file that `name` begins with."""
    where, _, is_file = parse_name(name)
    try:
        return _from_file(Path(where)) if is_file else _from_package(where, reload=reload)
    except ListenerError:
        raise
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        place = extract_tb(exc.__traceback__)[-1]
        reason = f"{type(exc).__name__}: {exc}"
        if isinstance(exc, SyntaxError) and exc.filename:
            reason = f"SyntaxError: {exc.msg} ({exc.filename}, line {exc.lineno})"
        raise ListenerError(f"listener {name!r} cannot be loaded: {reason} ({place.filename}:{place.lineno})") from exc


def _attribute_of(name: str, module: ModuleType) -> object:
    where, attribute, _ = parse_name(name)
    if not attribute:
        return module
    try:
        return getattr(module, attribute)
    except AttributeError:
        hint = did_you_mean(attribute, names_of(module))
        raise ListenerError(f"listener {name!r}: {where} has no {attribute}{hint}") from None


def _are_off(listener: object, names: Mapping[str, str]) -> bool:
    """Return whether `listener` has hooks, and the settings turn off each of them."""
    return bool(hooks_in(listener, [hook for hook in HOOKS if not names[hook]]))


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
            f"listener {name!r} is not one of package.module:Name, package.module, path/file.py:Name, path/file.py"
        )
    if reload:
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(exc.name + ".")):
            raise ListenerError(
                f"listener {name!r}: there is no module {exc.name!r}; modules are searched in the working folder "
                f"and in the folders of sys.path"
            ) from exc
        raise


def _create(kind: type) -> object:
    try:
        return kind()
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise ListenerError(
            f"listener {kind.__qualname__} is called without arguments, and raised {reason}; "
            f"give an instance if it needs arguments"
        ) from exc

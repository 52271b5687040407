"""A listener: how it is named, loaded and made, and its hooks as awaitable functions. Knows nothing of what the hooks
are told, nor when."""

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
from wsgateway.config.values import did_you_mean
from wsgateway.exceptions import ListenerError
from wsgateway.listeners.hooks import HOOKS as HOOKS
from wsgateway.listeners.hooks import advice, described, find_hook, hooks_in, is_async, names_of, near_misses
from wsgateway.logs import GatewayLog

Hook = Callable[..., Awaitable[object]]

MAX_HOOK_THREADS = 40
"""Worker threads for the `def` hooks of one gateway."""

HOOK_THREAD = "wsgateway hook"
"""How the names of the threads that run `def` hooks begin, and of no other thread."""


def has_running_hook() -> bool:
    """Return whether a `def` hook still runs in a thread of this process."""
    return any(thread.name.startswith(HOOK_THREAD) for thread in threading.enumerate())


class Hooks:
    """The hooks of one listener, each an awaitable function; None where the listener has none."""

    def __init__(self, listener: object, settings: Settings, log: GatewayLog, *, reload: bool = False) -> None:
        """Find and make `listener`, in any form the setting has. `reload` loads a named module anew.

        Raises `ListenerError` if it cannot be found, loaded or made, has no hook, lacks one that `settings` name, or
        has one that cannot be called.
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
            listener = _made(listener)
        self.listener = listener
        names = {hook: getattr(settings, hook) for hook in HOOKS}
        self._hooks = {hook: self._bound(hook, names[hook]) for hook in HOOKS}
        if listener is None:
            return
        known = set(names.values()) | set(HOOKS)
        if not any(self._hooks.values()) and not _are_off(listener, names):
            said = repr(name) if name else described(listener)
            place = parse_name(name).where if name else described(listener).removeprefix("module ")
            wanted = [names[hook] or hook for hook in HOOKS]
            raise ListenerError(f"listener {said} has no hooks, {advice(listener, wanted, place=place, module=module)}")
        for method, hook in near_misses(listener, known):
            hint = f", did you mean {hook}?" if hook else ""
            log.warning("%s.%s is no hook and is never called%s", described(listener), method, hint)

    def __getitem__(self, hook: str) -> "Hook | None":
        return self._hooks[hook]

    def has_returned(self, hook: str, value: object) -> None:
        """Warn, once for each hook, that it has returned `value`, which is not None and is ignored."""
        if hook in self._have_returned:
            return
        self._have_returned.add(hook)
        if inspect.isawaitable(value):
            todo = "await it in the hook"
        elif isinstance(value, BaseException):
            todo = "raise it"
        else:
            todo = "change the event instead"
        kind = type(value).__qualname__
        self._log.warning("%s has returned a value of the type %s, which is ignored; %s", hook, kind, todo)

    def _bound(self, hook: str, name: str) -> "Hook | None":
        function = find_hook(self.listener, hook, name) if name else None
        if function is not None:
            return function if is_async(function) else self._threaded(function)
        if name not in ("", hook):
            if self.listener is None:
                raise ListenerError(f"{hook} = {name!r}: there is no listener that could have it")
            hint = did_you_mean(name, names_of(self.listener))
            raise ListenerError(f"{hook} = {name!r}: {described(self.listener)} has none{hint}")
        return None

    def _threaded(self, function: Callable[..., Any]) -> "Hook":
        async def in_thread(*args: object) -> object:
            if self._threads is None:
                # anyio's limiter would be freed when a thread is abandoned; an executor counts it until it ends
                prefix = f"{HOOK_THREAD} {self._gateway_id}"
                self._threads = ThreadPoolExecutor(MAX_HOOK_THREADS, thread_name_prefix=prefix)
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, _call, context, function, args)
            if inspect.isawaitable(result):  # a `def` around an `async def`, as decorators make
                result = await result
            return result

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


class ListenerName(NamedTuple):
    """What the text of a listener names: `attribute`, empty for none, of the module or the file `where`."""

    where: str
    attribute: str
    is_file: bool


def parse_name(text: str) -> ListenerName:
    """Take `package.module:Name`, `package.module`, `path/file.py:Name` or `path/file.py` apart."""
    where, colon, attribute = text.rpartition(":")
    if not colon or not attribute.isidentifier():
        where, attribute = text, ""
    return ListenerName(where, attribute, where.endswith(".py"))


def _module_of(name: str, *, reload: bool) -> ModuleType:
    """The module or file of `package.module:Name`, `package.module`, `path/file.py:Name` or `path/file.py`."""
    where, _, is_file = parse_name(name)
    try:
        return _from_file(Path(where)) if is_file else _from_package(where, reload=reload)
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
    """Whether `listener` has hooks, and the settings turn each of them off."""
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

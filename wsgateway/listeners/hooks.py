"""Finds hooks in a listener, without evaluating anything else of it, such as a property or `__getattr__`.

Knows nothing of how a listener is loaded, nor when a hook is called.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partialmethod, singledispatchmethod
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from wsgateway.exceptions import ListenerError
from wsgateway.text import nearest

HOOKS = (
    "on_start",
    "on_stop",
    "on_handshake",
    "on_client_open",
    "on_message",
    "on_client_close",
    "on_expire",
    "on_error",
    "on_first_open",
    "on_last_close",
    "on_subscribe",
    "on_unsubscribe",
    "on_first_subscribe",
    "on_last_unsubscribe",
    "on_request",
)

_OTHER_NAMES = {
    "onopen": "on_client_open",
    "onconnect": "on_client_open",
    "onconnected": "on_client_open",
    "onclose": "on_client_close",
    "ondisconnect": "on_client_close",
    "ondisconnected": "on_client_close",
    "onreceive": "on_message",
    "ondata": "on_message",
    "onshutdown": "on_stop",
    "onjoin": "on_subscribe",
    "onleave": "on_unsubscribe",
}
"""Names in other libraries, in lower case and without underscores, that no hook resembles enough."""

_METHODS = (FunctionType, MethodType, classmethod, staticmethod, partialmethod, singledispatchmethod)
_FASTAPI = "fastapi.params"
"""The module of the values that mark a parameter of a route, such as `Depends`. It is not imported."""

MAX_ADVISED = 5
"""Methods that the error about a listener without hooks suggests to rename."""

_PROPERTIES = (property, cached_property)


def find_hook(listener: object, hook: str, name: str) -> Any:
    """Return the function that `listener` has under `name` for `hook`, or None.

    Raise `ListenerError` if that name is not a function, or the function cannot be called as that hook.
    """
    function = _static(listener, name)
    if isinstance(function, MemberDescriptorType):  # of `__slots__`
        try:
            function = function.__get__(listener)
        except AttributeError:
            return None
    elif isinstance(function, _PROPERTIES):
        raise ListenerError(f"{name} of {described(listener)} is a property, make it a method that takes the event")
    elif isinstance(function, _METHODS) or callable(function):
        function = object.__getattribute__(listener, name)
    if function is None:
        return None
    if not callable(function):
        kind = type(function).__qualname__
        raise ListenerError(
            f"{name} of {described(listener)} has type {kind}, which is not callable; define it as a method"
        )
    _check_call(listener, hook, name, function)
    return function


def _static(owner: object, name: str) -> object:
    return inspect.getattr_static(owner, name, None)


def is_async(function: Any) -> bool:
    """Return whether calling `function` returns a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _check_call(listener: object, hook: str, name: str, function: Any) -> None:
    """Raise `ListenerError` unless `function` can be called with an event, and then runs its body."""
    arguments = ("event", "exception") if hook == "on_error" else ("event",)
    written = f"{name}({', '.join(arguments if isinstance(listener, ModuleType) else ('self', *arguments))})"
    injected = _injected(function)
    if injected:
        raise ListenerError(
            f"{name} of {described(listener)} has the parameter {injected}, but FastAPI resolves such parameters of "
            f"routes only; write it as {written}, and call what it needs in the hook"
        )
    if not _takes(function, len(arguments)):
        what = "an event and an exception" if hook == "on_error" else "one event"
        raise ListenerError(f"{name} of {described(listener)} cannot be called with {what}, write it as {written}")
    for one in (function, type(function).__call__):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise ListenerError(
                f"{name} of {described(listener)} has a yield in it, so calling it does nothing; remove the yield"
            )


def _injected(function: Any) -> str:
    """Return the first parameter that FastAPI would pass to a route, as in `user = Depends(…)`; empty if none."""
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except Exception:  # see `_takes`
        return ""
    for parameter in parameters:
        marks = (parameter.default, *getattr(parameter.annotation, "__metadata__", ()))
        kind = next((type(mark).__name__ for mark in marks if type(mark).__module__ == _FASTAPI), "")
        if not kind and isinstance(parameter.annotation, str) and "Depends(" in parameter.annotation:
            kind = "Depends"
        if kind:
            return f"{parameter.name} with {kind}"
    return ""


def _takes(function: Any, count: int) -> bool:
    """Return whether the signature of `function` allows `count` arguments. Without a signature, assume that it does."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # written in C, or with a `__getattr__`; a Python method lacks `self`
        return not (isinstance(function, MethodType) and isinstance(function.__func__, FunctionType))
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def described(listener: object) -> str:
    """Return the name of `listener` for a sentence."""
    if isinstance(listener, ModuleType):
        return f"module {listener.__name__}"
    if isinstance(listener, FunctionType):
        return f"function {listener.__qualname__}"
    return listener.__qualname__ if isinstance(listener, type) else type(listener).__qualname__


# Advice for a listener without hooks


def names_of(listener: object) -> dict[str, object]:
    """Return the public attributes of `listener` by name, as its class, its module, or the object stores them."""
    attributes: dict[str, object] = {}
    for kind in reversed(_classes(listener)):
        attributes.update(vars(kind))
    try:
        attributes.update(object.__getattribute__(listener, "__dict__"))
    except AttributeError:
        pass
    return {name: value for name, value in attributes.items() if not name.startswith("_")}


def _classes(listener: object) -> tuple[type, ...]:
    if isinstance(listener, ModuleType):
        return ()
    kind = listener if isinstance(listener, type) else type(listener)
    return kind.__mro__[:-1]


def near_misses(listener: object, hooks: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each method of `listener` whose name begins with `on` and is not in `hooks`, with the nearest hook."""
    for name, value in sorted(names_of(listener).items()):
        if not name.startswith("on") or name in hooks or not isinstance(value, _METHODS):
            continue
        if isinstance(listener, ModuleType) and getattr(value, "__module__", None) != listener.__name__:
            continue  # imported, not defined there
        snake = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)
        yield name, _OTHER_NAMES.get(name.lower().replace("_", "")) or nearest(snake, HOOKS)


def hooks_in(owner: object, hooks: Iterable[str]) -> list[str]:
    """Return which of `hooks` the class or object `owner` has."""
    attributes = names_of(owner)
    return [hook for hook in hooks if callable(attributes.get(hook)) or isinstance(attributes.get(hook), _METHODS)]


def advice(listener: object, hooks: Iterable[str], *, place: str, module: ModuleType | None) -> str:
    """Return advice for a listener without `hooks`: the names that it has instead, and what to write.

    `module` is the module that the setting names, if any, and `place` its name there: `chat.py` or `shop.chat`.
    """
    candidates = _candidates(module, hooks) if module is not None else {}
    if candidates:
        has = " and ".join(
            f"{kind} {name} with {', '.join(their_hooks)}" for name, (kind, their_hooks) in candidates.items()
        )
        return f"{place} has {has}: write {' or '.join(f'{place}:{name}' for name in candidates)}"
    for owner in (listener, *(_defined(module).values() if module is not None else ())):
        every = list(near_misses(owner, hooks))
        misses = dict([miss for miss in every if miss[1]][:MAX_ADVISED] or every[:1])
        if misses:
            return f"{'it' if owner is listener else f'{described(owner)} of {place}'} has {_renamings(misses)}"
    names = [name for name, value in names_of(listener).items() if isinstance(value, _METHODS)]
    has = f"it has {', '.join(names[:5])}{' and more' if names[5:] else ''}; " if names else ""
    return f"{has}write at least one of {', '.join(HOOKS)}"


def _renamings(misses: Mapping[str, str]) -> str:
    """Return how to rename methods. `misses` has the hook for each name, empty if none resembles it."""
    if len(misses) > 1:
        return "; ".join(f"{name}, name it {hook}" for name, hook in misses.items())
    ((name, hook),) = misses.items()
    return f'{name}: name it {hook}, or set {hook} = "{name}"' if hook else f"{name}: name it as a hook"


def _candidates(module: ModuleType, hooks: Iterable[str]) -> dict[str, tuple[str, list[str]]]:
    """Return the classes and objects of `module` that have hooks. Imported ones count only if no other has hooks."""
    for names in (_defined(module), names_of(module)):
        candidates = {
            name: ("a class" if isinstance(value, type) else "an object", hooks_in(value, hooks))
            for name, value in names.items()
            if not isinstance(value, (ModuleType, FunctionType)) and hooks_in(value, hooks)
        }
        if candidates:
            return candidates
    return {}


def _defined(module: ModuleType) -> dict[str, object]:
    return {
        name: value
        for name, value in names_of(module).items()
        if (value if isinstance(value, type) else type(value)).__module__ == module.__name__
    }

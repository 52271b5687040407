"""How hooks are found in a listener. Nothing else of it is evaluated: classes are looked at, and properties, slots and
`__getattr__` are left alone. Knows nothing of how a listener is loaded, nor when a hook is called."""

import inspect
from collections.abc import Iterable, Iterator
from functools import cached_property, partialmethod, singledispatchmethod
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from wsgateway.config.values import nearest
from wsgateway.exceptions import ListenerError

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

_METHODS = (FunctionType, MethodType, classmethod, staticmethod, partialmethod, singledispatchmethod)
_PROPERTIES = (property, cached_property)


def find_hook(listener: object, hook: str, name: str) -> Any:
    """Return the function of `listener` that is its `hook`, under `name`, None if it has none.

    Raise `ListenerError` if there is something else under that name, or a function that cannot be called as that hook.
    """
    found = _static(listener, name)
    if isinstance(found, MemberDescriptorType):  # of `__slots__`
        try:
            found = found.__get__(listener)
        except AttributeError:
            return None
    elif isinstance(found, _PROPERTIES):
        raise ListenerError(f"{name} of {described(listener)} is a property, make it a method that takes the event")
    elif isinstance(found, _METHODS) or callable(found):
        found = object.__getattribute__(listener, name)
    if found is None:
        return None
    if not callable(found):
        kind = type(found).__qualname__
        raise ListenerError(f"{name} of {described(listener)} is no function but of the type {kind}, make it a method")
    _check_call(listener, hook, name, found)
    return found


def _static(owner: object, name: str) -> object:
    return inspect.getattr_static(owner, name, None)


def is_async(function: Any) -> bool:
    """Return whether calling `function` gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _check_call(listener: object, hook: str, name: str, function: Any) -> None:
    """Raise `ListenerError` unless `function` can be called with an event, and does something when it is."""
    arguments = ("event", "exception") if hook == "on_error" else ("event",)
    if not _takes(function, len(arguments)):
        written = f"{name}({', '.join(arguments if isinstance(listener, ModuleType) else ('self', *arguments))})"
        what = "an event and an exception" if hook == "on_error" else "one event"
        raise ListenerError(f"{name} of {described(listener)} cannot be called with {what}, write it as {written}")
    for one in (function, type(function).__call__):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise ListenerError(
                f"{name} of {described(listener)} has a yield in it, so that calling it does nothing; take it out"
            )


def _takes(function: Any, count: int) -> bool:
    """Whether `function` can be called with `count` arguments, as far as it tells."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # written in C, or it has a `__getattr__`; else a method without `self`
        return not (isinstance(function, MethodType) and isinstance(function.__func__, FunctionType))
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def described(listener: object) -> str:
    """Return what a sentence calls `listener`."""
    if isinstance(listener, ModuleType):
        return f"module {listener.__name__}"
    if isinstance(listener, FunctionType):
        return f"function {listener.__qualname__}"
    return listener.__qualname__ if isinstance(listener, type) else type(listener).__qualname__


# What a listener has instead


def names_of(listener: object) -> dict[str, object]:
    """Return what `listener` has, by name, as it stands in its class, its module or itself."""
    found: dict[str, object] = {}
    for kind in reversed(_classes(listener)):
        found.update(vars(kind))
    try:
        found.update(object.__getattribute__(listener, "__dict__"))
    except AttributeError:
        pass
    return {name: value for name, value in found.items() if not name.startswith("_")}


def _classes(listener: object) -> tuple[type, ...]:
    if isinstance(listener, ModuleType):
        return ()
    kind = listener if isinstance(listener, type) else type(listener)
    return kind.__mro__[:-1]


def near_misses(listener: object, hooks: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each method of `listener` whose name begins with `on` and is none of `hooks`, with the hook it may be."""
    for name, found in sorted(names_of(listener).items()):
        if not name.startswith("on") or name in hooks or not isinstance(found, _METHODS):
            continue
        if isinstance(listener, ModuleType) and getattr(found, "__module__", None) != listener.__name__:
            continue  # imported there, not written there
        snake = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)
        yield name, nearest(snake, HOOKS)


def hooks_in(owner: object, hooks: Iterable[str]) -> list[str]:
    """Return which of `hooks` the class or object `owner` has."""
    found = names_of(owner)
    return [hook for hook in hooks if callable(found.get(hook)) or isinstance(found.get(hook), _METHODS)]


def advice(listener: object, hooks: Iterable[str], *, place: str, module: ModuleType | None) -> str:
    """Return what there is instead of hooks, and what to write, for a `listener` that has none of `hooks`.

    `module` is where it was looked for, if it was named, and `place` how that is written: `chat.py` or `shop.chat`.
    """
    candidates = _candidates(module, hooks) if module is not None else {}
    if candidates:
        has = " and ".join(f"{kind} {name} with {', '.join(found)}" for name, (kind, found) in candidates.items())
        return f"{place} has {has}: write {' or '.join(f'{place}:{name}' for name in candidates)}"
    for owner in (listener, *(_written(module).values() if module is not None else ())):
        for name, hook in near_misses(owner, hooks):
            which = "" if owner is listener else f"{described(owner)} of {place} has "
            text = f"{which}{name}" if which else f"it has {name}"
            return f"{text}: name it {hook or 'as a hook'}" + (f', or set {hook} = "{name}"' if hook else "")
    names = [name for name, value in names_of(listener).items() if isinstance(value, _METHODS)]
    has = f"it has {', '.join(names[:5])}{' and more' if names[5:] else ''}; " if names else ""
    return f"{has}write at least one of {', '.join(HOOKS)}"


def _candidates(module: ModuleType, hooks: Iterable[str]) -> dict[str, tuple[str, list[str]]]:
    """Return the classes and objects of `module` that have hooks; imported ones count only if none is written there."""
    for names in (_written(module), names_of(module)):
        found = {
            name: ("a class" if isinstance(value, type) else "an object", hooks_in(value, hooks))
            for name, value in names.items()
            if not isinstance(value, (ModuleType, FunctionType)) and hooks_in(value, hooks)
        }
        if found:
            return found
    return {}


def _written(module: ModuleType) -> dict[str, object]:
    kinds = {name: value if isinstance(value, type) else type(value) for name, value in names_of(module).items()}
    return {name: value for name, value in names_of(module).items() if kinds[name].__module__ == module.__name__}

"""Encodes Python values as JSON text. Knows nothing of messages and frames."""

import dataclasses
import datetime
import enum
import json
import math
import reprlib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from wsgateway.exceptions import MessageError
from wsgateway.text import cut

MAX_SHOWN = 40
"""Characters of a key or value that an error shows."""

MAX_STEPS = 12
"""Keys and indexes of a path that an error shows; the middle of a longer path is omitted."""

ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
"""Encodes JSON's own values: dict, list, tuple, str, int, float, bool, and None."""


_LEFT = (
    bytes,
    bytearray,
    memoryview,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    UUID,
    Decimal,
)
"""Types that msgspec leaves unchanged inside a Struct, because they are checked here."""


def to_json(value: object) -> str:
    """Return the JSON text of a value that `ENCODER` cannot encode, or whose text is not valid UTF-8.

    Besides JSON's own values, encode datetime, date, time, UUID, Decimal, Enum, dataclass, msgspec Struct, and pydantic
    model, nested anywhere and, if they become text, as keys. Convert each of them exactly once.
    Raise `MessageError` with the path to a value that cannot be encoded.
    """
    try:
        return ENCODER.encode(_Plain().convert(value))
    except _Fault as fault:
        raise MessageError(f"the message cannot be sent as JSON: {_path(fault.steps)} {fault}") from fault.__cause__
    except (TypeError, ValueError, RecursionError) as exc:
        raise MessageError(f"the message cannot be sent as JSON: {exc}") from exc


class _Fault(Exception):  # noqa: N818  it becomes a `MessageError`
    """A value that cannot be encoded, with the steps to it, innermost first."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.steps: list[object] = []


class _Plain:
    """Converts one message to JSON's own values."""

    def __init__(self) -> None:
        self._outer: set[int] = set()  # ids of the containers around the current value
        self._unknown: dict[
            int, tuple[bytes, object]
        ] = {}  # values that msgspec cannot convert, by the id of their placeholder

    def convert(self, value: object) -> Any:
        """Return `value` as JSON's own values. Raise `_Fault`."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _checked_text(value)
        if isinstance(value, int):
            return _checked_int(value)
        if isinstance(value, float):
            return _checked_float(value)
        if isinstance(value, enum.Enum):
            return self.convert(value.value)
        text = _scalar_text(value)
        if text is not None:
            return text
        if id(value) in self._outer:
            raise _Fault("contains itself: send a copy without the cycle")
        self._outer.add(id(value))
        try:
            if isinstance(value, dict):
                return self._dict(value)
            return self._list(value) if isinstance(value, (list, tuple)) else self._object(value)
        finally:
            self._outer.discard(id(value))

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        plain = {}
        for key, item in value.items():
            name = key if type(key) is str else _key(key)
            if name in plain:
                raise _Fault(f"has two keys that become {name!r}: send one of them")
            try:
                plain[name] = self.convert(item)
            except _Fault as fault:
                fault.steps.append(name)
                raise
            except RecursionError:
                raise _too_deep(name) from None
            if isinstance(name, str) and not name.isascii():
                _checked_text(name, "has a key with")
        return plain

    def _list(self, value: Iterable[object]) -> list[Any]:
        plain = []
        for index, item in enumerate(value):
            try:
                plain.append(self.convert(item))
            except _Fault as fault:
                fault.steps.append(index)
                raise
            except RecursionError:
                raise _too_deep(index) from None
        return plain

    def _object(self, value: object) -> Any:
        placeholder = self._unknown.get(id(value))
        if placeholder is not None:
            return self.convert(placeholder[1])
        if isinstance(value, (bytes, bytearray, memoryview)):
            raise _Fault(
                f"is of type {type(value).__name__}, which JSON does not have: send it alone, as a binary message, or "
                f"as text, for example in base64"
            )
        if callable(getattr(type(value), "model_dump", None)):
            return self.convert(_dumped(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
            return self._dict({name: getattr(value, name) for name in names})
        if isinstance(value, msgspec.Struct):
            return self.convert(self._fields(value))
        kind = type(value)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        raise _Fault(f"is of type {name}, which JSON does not have: convert it to a str, number, list or dict first")

    def _fields(self, value: msgspec.Struct) -> object:
        """Return the fields under the names that the Struct gives them, without those that it omits."""
        try:
            return msgspec.to_builtins(value, enc_hook=self._leave, builtin_types=_LEFT)
        except (TypeError, ValueError) as exc:
            raise _Fault(f"cannot be converted: {cut(str(exc), MAX_SHOWN)}") from exc

    def _leave(self, value: object) -> bytes:
        placeholder = bytes(bytearray(b"placeholder"))  # a new object each time, which msgspec leaves unchanged
        self._unknown[id(placeholder)] = placeholder, value
        return placeholder


def _dumped(model: Any) -> object:
    """Return the JSON values that a pydantic model itself makes."""
    try:
        return model.model_dump(mode="json")
    except Exception as exc:
        raise _Fault(
            f"cannot be converted, model_dump raised {type(exc).__name__}: {cut(str(exc), MAX_SHOWN)}"
        ) from exc


def _scalar_text(value: object) -> str | None:
    """Return the text of a value that JSON carries as a string; None for any other value. Raise `_Fault`."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise _not_a_number(value)
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        try:
            return msgspec.to_builtins(value)  # type: ignore[no-any-return]  # a str for these types
        except TypeError:  # of a subclass
            text = value.isoformat()
            return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
    return None


def _key(key: object) -> object:
    """Return `key` as the encoder accepts it. Raise `_Fault` without a step, because the dict is wrong."""
    if isinstance(key, float):
        return _checked_float(key, "has a key that")
    if key is None or isinstance(key, (str, int)):
        return key
    if isinstance(key, enum.Enum):
        return _key(key.value)
    text = _scalar_text(key)
    if text is None:
        problem = f"has the key {reprlib.repr(key)} of type {type(key).__name__}, but keys of JSON are strings"
        raise _Fault(f"{problem}: convert it with str() first")
    return text


def _checked_text(text: str, what: str = "holds") -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise _Fault(
            f"{what} a lone surrogate, {exc.object[exc.start]!a}, which is not text: remove it, for example with "
            f'text.encode(errors="replace").decode()'
        ) from None
    return text


def _checked_int(value: int) -> int:
    try:
        int.__repr__(value)
    except ValueError:
        raise _Fault("is an int with more digits than Python converts to text: send it as a str") from None
    return value


def _checked_float(value: float, what: str = "") -> float:
    if not math.isfinite(value):
        raise _not_a_number(value, what)
    return value


def _not_a_number(value: float | Decimal, what: str = "") -> _Fault:
    return _Fault(f"{what} is {Decimal(value)}, which JSON does not have: send None or a str instead".lstrip())


def _too_deep(step: object) -> _Fault:
    fault = _Fault("is nested too deep: send a flatter value")
    fault.steps.append(step)
    return fault


def _path(steps: list[object]) -> str:
    """Return `steps`, innermost first, as `$.order.items[2]`."""
    shown = [_step(step) for step in reversed(steps)]
    if len(shown) > MAX_STEPS:
        half = MAX_STEPS // 2
        shown = [*shown[:half], "…", *shown[-half:]]
    return "$" + "".join(shown)


def _step(step: object) -> str:
    if isinstance(step, str) and step.isidentifier() and len(step) <= MAX_SHOWN:
        return f".{step}"
    if isinstance(step, int):
        return f"[{step}]"
    return f"[{json.dumps(cut(str(step), MAX_SHOWN))}]"

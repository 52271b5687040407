"""Converts the values of settings, and explains what is wrong with them. Does not know what a setting is used for."""

import difflib
import enum
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import Field
from typing import Any

from wsgateway.config.origins import MAX_ORIGIN, ascii_host, normalized_origin
from wsgateway.text import cut

MAX_QUOTED = 100
"""Characters of a value that an error quotes."""

MAX_WHOLE = 2**63 - 1
"""The largest whole number that TOML and zlib accept; zlib is given `max_message_size`."""

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})

_ID = re.compile(r"\w[\w.-]{0,63}")
_MODE = re.compile(r"0?[0-7]{3}")
_PATHS = frozenset({"uds", "log_file", "ssl_keyfile", "ssl_certfile", "password_file", "listener"})


class SlowPolicy(enum.StrEnum):
    """The policy for a message that does not fit into a connection's outbox."""

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


class Startup(enum.StrEnum):
    """Whether a gateway starts with its server, only by a command, or not at all."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"
    DISABLED = "disabled"


def is_switch(spec: Field[Any]) -> bool:
    """Return whether the setting is on or off, so that its flag takes no value."""
    return _kind(spec) is bool


def is_secret(spec: Field[Any]) -> bool:
    """Return whether values of the setting are secret, or may contain a secret."""
    return spec.metadata["secret"] or spec.name == "broker"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the name in `known` that is most similar to `name`; empty if no name is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about a name that is not known: `, did you mean X?`, or nothing."""
    close = nearest(name, known)
    return f", did you mean {close}?" if close else ""


def plain_value(value: object) -> object:
    """Return the value of a setting as JSON and TOML can carry it: a tuple becomes a list."""
    return list(value) if isinstance(value, tuple) else value


def parts_of(text: str) -> list[str]:
    """Return the items of a list in a variable or a flag, which are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def convert_written(spec: Field[Any], value: object, *, text: bool = False) -> Any:
    """Return `value` as `convert` does, for a value from a file, a variable, a flag, or a request.

    There, an empty secret is a mistake, because it could open the gateway.
    """
    if spec.metadata["secret"] and isinstance(value, str) and not parts_of(value):
        raise ValueError("it is empty, leave it out if you do not need it")
    return convert(spec, value, text=text)


def convert(spec: Field[Any], value: object, *, text: bool = False) -> Any:
    """Return `value` in the type of the setting `spec`. With `text` it comes from a variable or a flag.

    Raise `ValueError`, which never quotes a secret. A listener must be text here, because only code can give another.
    """
    kind = _kind(spec)
    if text and isinstance(value, str):
        value = _from_text(kind, value)
    if kind == tuple[str, ...]:
        return _strings(spec, value)
    if kind == str | None or spec.name == "listener":
        return None if value is None else _text(spec, value) or None
    if kind in (SlowPolicy, Startup):
        if not isinstance(value, str) or value not in list(kind):
            raise ValueError(f"{_quoted(spec, value)} is not one of {', '.join(kind)}")
        return kind(value)
    if kind is str:
        return _string(spec, value)
    if kind is bool:
        return None if value is None and spec.default is None else _boolean(spec, value)
    return _number(spec, kind, value)


def _kind(spec: Field[Any]) -> Any:
    """Return the type of the setting's values. A switch that may be unset is a switch."""
    return bool if spec.type == bool | None else spec.type


def _quoted(spec: Field[Any], value: object) -> str:
    """Return `value` for an error, or only the word `it` if it may be secret."""
    if is_secret(spec):
        return "it"
    try:
        text = repr(value)
    except Exception:  # a number of more than 4,300 digits, or an object of the application
        return f"this {type(value).__name__}"
    return cut(text, MAX_QUOTED)


def _from_text(kind: Any, text: str) -> object:
    if kind is bool:
        lowered = text.strip().lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def _boolean(spec: Field[Any], value: object) -> bool:
    if isinstance(value, bool):
        return value
    switch = _from_text(bool, value) if isinstance(value, str) else value
    if isinstance(switch, bool):
        raise ValueError(f"{_quoted(spec, value)} is text, write {str(switch).lower()} without quotes")
    raise ValueError(f"{_quoted(spec, value)} is neither true nor false")


def _number(spec: Field[Any], kind: type[int] | type[float], value: object) -> int | float:
    least, most = spec.metadata["least"], spec.metadata["most"]
    allowed = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
    if isinstance(value, str) and not isinstance(_from_text(kind, value), str):
        raise ValueError(f"{_quoted(spec, value)} is text, write the number without quotes")
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or value != value:  # NaN
        whole = "a whole number" if kind is int else "a number"
        raise ValueError(f"{_quoted(spec, value)} is not {whole}, {allowed}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{_quoted(spec, value)} is not {allowed}")
    if value > (MAX_WHOLE if kind is int else sys.float_info.max):
        raise ValueError(f"{_quoted(spec, value)} is too large, write a smaller number")
    return kind(value)


def _text(spec: Field[Any], value: object) -> str:
    if isinstance(value, os.PathLike) and spec.name in _PATHS:
        value = os.fspath(value)
    if not isinstance(value, str):
        advice = ", write it in quotes" if isinstance(value, (int, float)) else ""
        raise ValueError(f"{_quoted(spec, value)} is not text{advice}")
    if "\0" in value:
        raise ValueError(f"{_quoted(spec, value)} contains a NUL character")
    try:
        if spec.name in _PATHS:
            os.fsencode(value)  # the name of a file need not be UTF-8
        else:
            value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{_quoted(spec, value)} contains half of a surrogate pair") from None
    return value


def _string(spec: Field[Any], value: object) -> str:
    value = _text(spec, value).strip()
    if spec.name == "id" and not _ID.fullmatch(value):
        raise ValueError(
            f"{_quoted(spec, value)} is not an id; an id has 1 to 64 letters, digits, `_`, `-`, and `.`, "
            "and does not begin with `-` or `.`"
        )
    if spec.name == "host" and not value:
        raise ValueError("it is empty, write 127.0.0.1 for this machine only, or 0.0.0.0 for every address")
    if spec.name == "uds_mode" and not _MODE.fullmatch(value):
        raise ValueError(
            f"{_quoted(spec, value)} is not a mode; one has three octal digits, such as 660 for owner and group"
        )
    if spec.name.startswith("on_") and value and not value.isidentifier():
        raise ValueError(f"{_quoted(spec, value)} is not the name of a method")
    return value


def _strings(spec: Field[Any], value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        parts: list[Any] = parts_of(value)
    elif isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes, bytearray)):
        parts = list(value)
    else:
        raise ValueError(f"{_quoted(spec, value)} is not a list of texts")
    if not all(isinstance(part, str) and part for part in parts):
        raise ValueError("it contains an item that is empty or not text")
    parts = [_text(spec, part) for part in parts]
    if is_secret(spec) and any(part != part.strip() or not part.isprintable() for part in parts):
        raise ValueError("a key with spaces around it or control characters in it cannot be sent in a header")
    if spec.name in ("allowed_origins", "allowed_hosts"):
        return tuple(_address(spec, part.strip()) for part in parts)
    return tuple(parts)


def _address(spec: Field[Any], text: str) -> str:
    """Return an origin or a host name in the form in which it is compared, which may be longer than `text`."""
    address = text
    if len(text) <= MAX_ORIGIN:
        address = normalized_origin(text) if spec.name == "allowed_origins" else ascii_host(text)
    if len(address) > MAX_ORIGIN:
        raise ValueError(f"{_quoted(spec, text)} is too long, it may have at most {MAX_ORIGIN} characters")
    return address

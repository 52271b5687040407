"""Converts the values of settings, and explains what is wrong with them. Does not know what a setting is used for."""

import enum
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import Field
from typing import Any, get_args

from wsgateway.config.origins import MAX_ORIGIN, ascii_host, normalized_origin
from wsgateway.limits import SlowPolicy
from wsgateway.text import cut, did_you_mean

MAX_QUOTED = 100
"""Characters of a value that an error quotes."""

MAX_CHANNEL_NAME = 255
"""Bytes of the name of a channel."""

MAX_WHOLE = 2**63 - 1
"""The largest whole number that TOML and zlib accept; zlib is given `max_message_size`."""

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})

_ID = re.compile(r"\w[\w.-]{0,63}")
_MODE = re.compile(r"0?[0-7]{3}")
_COOKIE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,255}")


class Kind(enum.Enum):
    """What the text of a setting is, where its type does not say it."""

    ID = enum.auto()
    BIND_HOST = enum.auto()
    """A name or address to listen on."""
    HOSTS = enum.auto()
    ORIGINS = enum.auto()
    MODE = enum.auto()
    """Permissions of a file, in octal."""
    HOOK = enum.auto()
    """The name of a method; an empty name turns the hook off."""
    LISTENER = enum.auto()
    """The name of a listener, which may be the path of a file. Code may also give the listener itself."""
    PATH = enum.auto()
    """The path of a file."""
    URL = enum.auto()
    """A URL, which may contain a password."""
    CLAIM = enum.auto()
    """The name of a claim of a token."""
    COOKIE = enum.auto()
    """The name of a cookie."""
    CHANNEL_NAME = enum.auto()
    """The name of a channel; an empty one means that there is none."""
    CHANNELS = enum.auto()
    """A table for each namespace of channels, which only the settings file and code can write."""


class Keep(enum.StrEnum):
    """Which publications a history contains: all, or only the newest of each key."""

    ALL = "all"
    LAST = "last"


class Startup(enum.StrEnum):
    """Whether a gateway starts with its server, only by a command, or not at all."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"
    DISABLED = "disabled"


def is_switch(spec: Field[Any]) -> bool:
    """Return whether the setting is on or off, so that its flag takes no value."""
    return _type_of(spec) is bool


def is_secret(spec: Field[Any]) -> bool:
    """Return whether values of the setting are secret, or may contain a secret."""
    return spec.metadata["secret"] or kind_of(spec) is Kind.URL


def kind_of(spec: Field[Any]) -> Kind | None:
    """Return what the text of the setting is; None if its type says it."""
    kind: Kind | None = spec.metadata["kind"]
    return kind


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
    if (spec.metadata["secret"] or spec.metadata["guards"]) and isinstance(value, str) and not parts_of(value):
        raise ValueError("it is empty, leave it out if you do not need it")
    return convert(spec, value, text=text)


def convert(spec: Field[Any], value: object, *, text: bool = False) -> Any:
    """Return `value` in the type of the setting `spec`. With `text` it comes from a variable or a flag.

    Raise `ValueError`, which never quotes a secret. A listener must be text here, because only code can give another.
    """
    annotated, kind = _type_of(spec), kind_of(spec)
    if spec.metadata["guards"] and isinstance(value, str) and not value.strip():
        raise ValueError("it is empty, so no token would be checked; leave it out if you do not need it")
    if value is None and not _may_be_none(spec, annotated):
        raise ValueError(f"it is None, use {_allowed(spec, annotated)}, or leave it out")
    if text and isinstance(value, str):
        value = _from_text(annotated, value)
    if annotated == tuple[str, ...]:
        return _strings(spec, value)
    if kind is Kind.CHANNEL_NAME:
        return None if value is None else _channel_name(spec, value)
    if annotated == str | None or kind is Kind.LISTENER:
        text_or_none = None if value is None else _text(spec, value) or None
        if kind is Kind.COOKIE and text_or_none and not _COOKIE.fullmatch(text_or_none):
            raise ValueError(f"{_quoted(spec, value)} is not the name of a cookie (RFC 6265 4.1.1)")
        return text_or_none
    if kind is Kind.CHANNELS:
        raise ValueError('channels are described in the settings file, as tables [channels."room:*"], or in code')
    if value is None:
        return None
    if annotated in (SlowPolicy, Startup, Keep):
        if not isinstance(value, str) or value not in list(annotated):
            raise ValueError(f"{_quoted(spec, value)} is not one of {', '.join(annotated)}")
        return annotated(value)
    if annotated is str:
        return _string(spec, value)
    if annotated is bool:
        return _boolean(spec, value)
    return _number(spec, annotated, value)


def _channel_name(spec: Field[Any], value: object) -> str:
    name = _text(spec, value)
    if len(name.encode()) > MAX_CHANNEL_NAME or not name.isprintable() or " " in name or "*" in name:
        raise ValueError(
            f"{_quoted(spec, value)} is not the name of a channel, use at most {MAX_CHANNEL_NAME} bytes of printable "
            "characters without spaces and *"
        )
    return name


def _type_of(spec: Field[Any]) -> Any:
    """Return the type of the setting's values. A switch that may be unset is a switch, and so on, except for text."""
    if spec.type == str | None or type(None) not in get_args(spec.type):
        return spec.type
    return get_args(spec.type)[0]


def _type_shown(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _may_be_none(spec: Field[Any], annotated: Any) -> bool:
    if annotated == str | None or kind_of(spec) in (Kind.CHANNEL_NAME, Kind.LISTENER, Kind.CHANNELS):
        return True
    return spec.default is None and annotated is not spec.type


def _allowed(spec: Field[Any], annotated: Any) -> str:
    """Return which values the setting takes."""
    if annotated == tuple[str, ...]:
        return "a text or a list of texts"
    if annotated in (SlowPolicy, Startup, Keep):
        return f"one of {', '.join(annotated)}"
    if annotated in (int, float):
        return f"a {'whole ' if annotated is int else ''}number, {_range_of(spec)}"
    return "true or false" if annotated is bool else "a text"


def _range_of(spec: Field[Any]) -> str:
    least, most = spec.metadata["least"], spec.metadata["most"]
    return f"{least} or more" if most is None else f"from {least} to {most}"


def _quoted(spec: Field[Any], value: object) -> str:
    """Return `value` for an error. If it may be secret, return the word `it`, or only its type if it is not text."""
    if is_secret(spec):
        return "it" if isinstance(value, str) else _type_shown(value)
    try:
        text = repr(value)
    except Exception:  # a number of more than 4,300 digits, or an object of the application
        return f"this {type(value).__name__}"
    return cut(text, MAX_QUOTED)


def _from_text(annotated: Any, text: str) -> object:
    if annotated is bool:
        lowered = text.strip().lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else text
    if annotated in (int, float):
        try:
            return annotated(text)
        except ValueError:
            return text
    return parts_of(text) if annotated == tuple[str, ...] else text


def _boolean(spec: Field[Any], value: object) -> bool:
    if isinstance(value, bool):
        return value
    switch = _from_text(bool, value) if isinstance(value, str) else value
    if isinstance(switch, bool):
        raise ValueError(f"{_quoted(spec, value)} is text, write {str(switch).lower()} without quotes")
    raise ValueError(f"{_quoted(spec, value)} is neither true nor false")


def _number(spec: Field[Any], annotated: type[int] | type[float], value: object) -> int | float:
    least, most = spec.metadata["least"], spec.metadata["most"]
    allowed = _range_of(spec)
    if isinstance(value, str) and not isinstance(_from_text(annotated, value), str):
        raise ValueError(f"{_quoted(spec, value)} is text, write the number without quotes")
    if isinstance(value, bool) or not isinstance(value, (int, annotated)) or value != value:  # NaN
        whole = "a whole number" if annotated is int else "a number"
        raise ValueError(f"{_quoted(spec, value)} is not {whole}, {allowed}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{_quoted(spec, value)} is not {allowed}")
    if value > (MAX_WHOLE if annotated is int else sys.float_info.max):
        raise ValueError(f"{_quoted(spec, value)} is too large, write a smaller number")
    return annotated(value)


def _text(spec: Field[Any], value: object) -> str:
    is_path = kind_of(spec) in (Kind.PATH, Kind.LISTENER)
    if isinstance(value, os.PathLike) and is_path:
        value = os.fspath(value)
    if not isinstance(value, str):
        advice = ", write it in quotes" if isinstance(value, (int, float)) else ""
        raise ValueError(f"{_quoted(spec, value)} is not text{advice}")
    if "\0" in value:
        raise ValueError(f"{_quoted(spec, value)} contains a NUL character")
    try:
        if is_path:
            os.fsencode(value)  # the name of a file need not be UTF-8
        else:
            value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{_quoted(spec, value)} contains half of a surrogate pair") from None
    return value


def _string(spec: Field[Any], value: object) -> str:
    value, kind = _text(spec, value).strip(), kind_of(spec)
    if kind is Kind.ID and not _ID.fullmatch(value):
        raise ValueError(
            f"{_quoted(spec, value)} is not an id; an id has 1 to 64 letters, digits, `_`, `-`, and `.`, "
            "and does not begin with `-` or `.`"
        )
    if kind is Kind.BIND_HOST and not value:
        raise ValueError("it is empty, write 127.0.0.1 for this machine only, or 0.0.0.0 for every address")
    if kind is Kind.MODE and not _MODE.fullmatch(value):
        raise ValueError(
            f"{_quoted(spec, value)} is not a mode; one has three octal digits, such as 660 for owner and group"
        )
    if kind is Kind.CLAIM and not value:
        raise ValueError("it is empty, write sub, or the claim that names the user")
    if kind is Kind.HOOK and value and not value.isidentifier():
        raise ValueError(f"{_quoted(spec, value)} is not the name of a method")
    return value


def _strings(spec: Field[Any], value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        is_one_key = is_secret(spec) and spec.metadata["guards"]  # its parts would be easier to guess
        parts: list[Any] = [value] if is_one_key else parts_of(value)
    elif isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes, bytearray)):
        parts = list(value)
    else:
        raise ValueError(f"{_quoted(spec, value)} is not a text or a list of texts")
    for part in parts:
        if not isinstance(part, str) or not part:
            what = "an empty text" if isinstance(part, str) else _type_shown(part)
            raise ValueError(f"the list contains {what}, use texts that are not empty")
    parts = [_text(spec, part) for part in parts]
    if is_secret(spec) and any(part != part.strip() or not part.isprintable() for part in parts):
        fault = "is not accepted" if spec.metadata["guards"] else "cannot be sent in a header"
        raise ValueError(f"a key with spaces around it or control characters in it {fault}")
    if kind_of(spec) in (Kind.ORIGINS, Kind.HOSTS):
        return tuple(_address(spec, part.strip()) for part in parts)
    choices = spec.metadata["choices"]
    unknown = next((part for part in parts if part not in choices), None) if choices else None
    if unknown is not None:
        text = f"{_quoted(spec, unknown)} is not one of {', '.join(choices)}"
        raise ValueError(f"{text}{did_you_mean(unknown.lower(), choices)}")
    return tuple(dict.fromkeys(parts) if choices else parts)


def _address(spec: Field[Any], text: str) -> str:
    """Return an origin or a host name in the form in which it is compared, which may be longer than `text`."""
    address = text
    if len(text) <= MAX_ORIGIN:
        address = normalized_origin(text) if kind_of(spec) is Kind.ORIGINS else ascii_host(text)
    if len(address) > MAX_ORIGIN:
        raise ValueError(f"{_quoted(spec, text)} is too long, it may have at most {MAX_ORIGIN} characters")
    return address

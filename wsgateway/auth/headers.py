"""Headers as ASGI has them: pairs of bytes, names in lower case, a repeated header once for each line. No I/O."""

from collections.abc import Iterable

HeaderPairs = Iterable[tuple[bytes, bytes]]


def values_of(headers: HeaderPairs, name: bytes) -> list[bytes]:
    """Return the value of each header `name`."""
    return [value for key, value in headers if key == name]


def list_elements(headers: HeaderPairs, name: bytes) -> list[bytes]:
    """Return the elements of a list header, over all its lines (RFC 9110 5.6.1)."""
    return [element.strip(b" \t") for key, value in headers if key == name for element in value.split(b",")]


def first_value(headers: HeaderPairs, name: bytes) -> bytes:
    """Return the value of the first header `name`; empty if it is missing."""
    for key, value in headers:
        if key == name:
            return value
    return b""


def single_value(headers: HeaderPairs, name: bytes) -> bytes | None:
    """Return the value of the header `name`; None if it is missing or repeated."""
    values = values_of(headers, name)
    return values[0] if len(values) == 1 else None


def text_of(value: bytes) -> str:
    """Return a header's value as text. Clients other than browsers send a name that is not ASCII as UTF-8."""
    try:
        return value.decode().strip(" \t")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip(" \t")

"""The requests that a node may make of another, and the form of the answers. Both are checked on arrival.

Does not know how they are sent, nor how a request is handled.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import msgspec

from wsgateway.cluster.envelopes import MAX_IDS, Count
from wsgateway.exceptions import EnvelopeError

T = TypeVar("T")

Ids = Annotated[list[str], msgspec.Meta(max_length=MAX_IDS)]
Total = Annotated[float, msgspec.Meta(ge=0, le=2**63)]

MAX_SERIES = 1000
"""Samples of one metric in one node."""


@dataclass(frozen=True, slots=True)
class Search:
    """Count the connections that match `search`."""

    search: str


@dataclass(frozen=True, slots=True)
class Rows:
    """List the connections that match `search`, at most `limit`, from `offset` on."""

    search: str
    offset: Count
    limit: Count


@dataclass(frozen=True, slots=True)
class Describe:
    """Describe the connection `id`."""

    id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connections with `ids`, or all."""

    ids: Ids | None
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Push a message through the listener. `payload` is the encoded message, `data` a JSON object."""

    payload: bytes
    kind: Literal["text", "bytes", "json"]
    ids: Ids | None
    data: str


class _Queue(TypedDict):
    messages: Count
    bytes: Count


class _Row(TypedDict):
    id: str
    address: str
    path: str
    transport: str
    age: Total
    queue: _Queue
    user: str | None
    messages_in: Count
    messages_out: Count
    dropped: Count


class _Description(_Row, total=False):
    headers: dict[str, str]
    query: list[str]
    subprotocols: list[str]


_Label = Annotated[str, msgspec.Meta(max_length=50, pattern=r"\A[a-z_]+\Z")]
_Labels = Annotated[dict[_Label, Annotated[str, msgspec.Meta(max_length=2000)]], msgspec.Meta(max_length=10)]
_Sample = tuple[Literal["", "_bucket", "_sum", "_count"], _Labels, Total | bool]
_Series = Annotated[list[_Sample], msgspec.Meta(max_length=MAX_SERIES)]

_ANSWERS: dict[str, Any] = {
    "search": Count,
    "rows": list[_Row],
    "describe": _Description | None,
    "close": Count,
    "samples": dict[str, _Series],
    "totals": dict[str, Total],
    "send": tuple[Count, Count, Count, Count, bool],
}


def arguments_of(kind: type[T], arguments: dict[str, Any]) -> T:
    """Return `arguments` as a `kind`. Raise `EnvelopeError` if they do not fit."""
    try:
        return msgspec.convert(arguments, kind, builtin_types=(bytes,))  # else a `str` is read as base64
    except (msgspec.ValidationError, RecursionError) as exc:
        raise EnvelopeError("arguments", str(exc)) from exc


def check_answer(operation: str, answer: Any) -> None:
    """Raise `EnvelopeError` unless `answer` has the form for `operation`. Unknown keys are allowed."""
    if operation in _ANSWERS:
        try:
            msgspec.convert(answer, _ANSWERS[operation])
        except (msgspec.ValidationError, RecursionError) as exc:
            raise EnvelopeError("answer", str(exc)) from exc

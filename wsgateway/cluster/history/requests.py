"""The requests to the history server of `ipc://`, and its answers. No I/O.

Both are ZeroMQ messages of several frames. The first frame is JSON, the others are records. The process with the server
may run an older version than those that ask it, because it outlives a roll. So elements are only ever appended, and
each side ignores those that it does not know. Version and number keep their places.
"""

import json
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii as _quoted  # for each publication, so faster than `dumps`
from typing import Any, NamedTuple

from wsgateway.cluster.envelopes import MAX_ENVELOPE
from wsgateway.cluster.history.store import Append, Request
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.values import Keep

VERSION = 1

MAX_RECORD = MAX_ENVELOPE - 128
"""Bytes of a record. With its position before it, it is not larger than an envelope, or links would be cut."""

MAX_ITEMS = 1_000
"""Appends or reads in one request."""

PAGE_BYTES = 4 * 1024 * 1024
"""Bytes of records in one answer, unless the first page alone has more. The client asks for the other pages again."""


class RequestError(Exception):
    """A request that the history server does not carry out. `number` is that of the request, 0 if it is unknown."""

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.number = number


class Header(NamedTuple):
    """The first frame of a request: `operation` is append, read, renew, or forget, and has one argument per item.

    `gateway` is the id of the gateway, and `history_bytes` its setting.
    """

    number: int
    operation: str
    gateway: str
    history_bytes: int
    items: list[Any]


class Answer(NamedTuple):
    """The first frame of an answer. `error` is empty if the request was carried out.

    `bytes` and `evicted` are those of the `MemoryHistory` of the gateway.
    """

    number: int
    error: str
    results: list[Any]
    bytes: int = 0
    evicted: int = 0


def item_of_append(append: Append, topic: str) -> str:
    """Return `append` without its record, as an item of a request. `topic` is that of the proxy."""
    channel, _, _, settings, key, idempotency_key = append
    what = _settings(settings)
    return f"[{_quoted(channel)}, {_quoted(topic)}, {what}, {_quoted(key)}, {_quoted(idempotency_key)}]"


def item_of_read(request: Request) -> str:
    """Return `request` as an item of a request."""
    channel, settings, above, most = request
    return f"[{_quoted(channel)}, {_settings(settings)}, {'null' if above is None else above}, {most}]"


def _settings(settings: ChannelSettings) -> str:
    ttl = settings.history_ttl
    keep = "last" if settings.keep is Keep.LAST else "all"
    return f'{settings.history}, {"null" if ttl is None else ttl}, "{keep}"'


def encode_header(number: int, operation: str, gateway: str, history_bytes: int, items: Iterable[str]) -> bytes:
    """Return the first frame of a request. The `items` are JSON."""
    start = json.dumps([VERSION, number, operation, gateway, history_bytes])
    return f"{start[:-1]}, [{','.join(items)}]]".encode()


def decode_header(data: bytes) -> Header:
    """Return the first frame of a request. Raise `RequestError`."""
    elements = _elements(data)
    number = elements[1] if len(elements) > 1 and type(elements[1]) is int else 0
    if not elements or elements[0] != VERSION:
        version = elements[0] if elements and type(elements[0]) is int else "unknown"
        text = f"it uses version {VERSION} of its protocol, and this process version {version}; restart all processes"
        raise RequestError(text, number)
    match elements:
        case [_, int(), str(operation), str(gateway), int(history_bytes), list(items), *_] if history_bytes >= 0:
            if len(items) <= MAX_ITEMS:
                return Header(number, operation, gateway, history_bytes, items)
    raise RequestError("it cannot read the request", number)


def encode_answer(answer: Answer) -> bytes:
    return json.dumps([VERSION, *answer]).encode()


def decode_answer(data: bytes) -> Answer:
    """Return the first frame of an answer. Raise `RequestError`."""
    match _elements(data):
        case [version, int(number), str(error), list(results), int(size), int(evicted), *_]:
            if version == VERSION or error:
                return Answer(number, error, results, size, evicted)
    raise RequestError("the answer of the history server cannot be read; restart all processes")


class KnownSettings:
    """Returns the `ChannelSettings` of a request, the same object for the same values."""

    MAX_KNOWN = 1_000
    """Different settings. A history keeps a queue for each `history_ttl`."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, Any, Any], ChannelSettings] = {}

    def find(self, history: object, ttl: object, keep: object) -> ChannelSettings:
        """Raise `ValueError` or `TypeError` unless the values are settings of a channel with a history."""
        found = self._known.get((history, ttl, keep))
        if found is None:
            if len(self._known) >= self.MAX_KNOWN:
                raise ValueError("too many settings")
            found = ChannelSettings(history=history, history_ttl=ttl, keep=keep)  # type: ignore[arg-type]  # checks them
            if not found.history:
                raise ValueError("no history")
            self._known[history, ttl, keep] = found
        return found


def _elements(data: bytes) -> Sequence[Any]:
    """Return the elements of a JSON array; none if `data` is something else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ()
    return value if isinstance(value, list) else ()

"""Reads the channels that a client names in its URL: `?channel=room:1&last=20&since=room:1@EPOCH:OFFSET`. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wsgateway.exceptions import MessageError, Refusal, Refused
from wsgateway.frames import Position
from wsgateway.hub.channel import Wanted
from wsgateway.messages import decode_json
from wsgateway.protocols.commands import Subscribe
from wsgateway.text import short

MAX_LAST = 10_000
"""The most publications that a client may ask for. A larger number counts as this one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests in a URL. `since` contains positions by channel, and None for text that is not a position."""

    channels: tuple[Subscribe, ...] = ()
    since: Mapping[str, Position | None] = field(default_factory=dict)


NOTHING = Asked()


def read_query(
    parameters: Iterable[tuple[str, str]], *, has_positions: bool, default_since: Mapping[str, Position | None] = {}
) -> Asked:
    """Return the requests in the `parameters` of a query. Raise `Refused` with 400.

    `last` and `data` are given once for each channel, in the order of the channels, and an empty one skips a channel.
    With `has_positions`, `since` names a channel and its position, and `data` is JSON. Without it, `since` is refused,
    because the client could not be notified of a failed recovery. `default_since` has positions for other channels.
    """
    values: dict[str, list[str]] = {"channel": [], "last": [], "data": [], "since": []}
    for name, value in parameters:
        if name in values:
            values[name].append(value)
    if not values["channel"] and not values["since"] and not default_since:
        return NOTHING
    if values["since"] and not has_positions:
        raise _refused(
            "since requires the subprotocol wsgateway.v1 or a stream, because a plain client cannot be notified that a "
            "recovery failed"
        )
    since = {**default_since, **read_since(values["since"])}
    names = values["channel"]
    for name in ("last", "data"):
        if len(values[name]) > len(names):
            raise _refused(f"{name} is given more often than channel; give it once for each channel, in their order")
    channels: dict[str, Subscribe] = {}
    for place, channel in enumerate(names):
        last = _at(values["last"], place)
        data = _at(values["data"], place)
        wanted = Wanted(channel, since.get(channel), channel in since and since[channel] is None, _whole(last))
        channels.setdefault(channel, Subscribe(wanted, _decoded(data) if has_positions and data else data))
    return Asked(tuple(channels.values()), since)


def read_since(values: Iterable[str]) -> dict[str, Position | None]:
    """Return the position of each channel in `CHANNEL@EPOCH:OFFSET`, None if it is malformed. Raise `Refused`."""
    since: dict[str, Position | None] = {}
    for value in values:
        channel, at, position = value.rpartition("@")
        if not at:
            raise _refused(f"since is {short(value)}, write CHANNEL@EPOCH:OFFSET")
        since[channel] = Position.parse(position)
    return since


def _at(values: list[str], place: int) -> str:
    return values[place] if place < len(values) else ""


def _whole(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise _refused(f"last is {short(text)}, use a whole number")
    return int(text) if len(text) < 6 else MAX_LAST


def _decoded(text: str) -> Any:
    try:
        return decode_json(text.encode())
    except (MessageError, UnicodeEncodeError) as exc:
        raise _refused(f"data is not JSON: {exc}") from None


def _refused(detail: str) -> Refused:
    return Refused.of(Refusal(400, "query", detail))

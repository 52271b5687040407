"""The interface of a history outside the process. Knows nothing of what a record means."""

import asyncio
import secrets
from collections.abc import Sequence
from string import ascii_letters, digits
from typing import NamedTuple, Protocol

from wsgateway.config.channels import ChannelSettings
from wsgateway.exceptions import HistoryError
from wsgateway.frames import Position

EPOCH_LETTERS = ascii_letters + digits


class Append(NamedTuple):
    """A publication to be added to the history of `channel`: its encoded `record`, which is announced on `topic`.

    `key` matters if only the newest publication of each key is kept.
    """

    channel: str
    topic: str
    record: bytes
    settings: ChannelSettings
    key: str = ""
    idempotency_key: str = ""


class Request(NamedTuple):
    """A request to read the records of `channel` above the offset `above`, the oldest `most` of them.

    Without `above`, the newest `most` records are wanted.
    """

    channel: str
    settings: ChannelSettings
    above: int | None
    most: int


class StoredPage(NamedTuple):
    """The answer to one request: the epoch, the newest offset of the channel, and `records` as (prev, offset, record).

    `prev` is the offset of the publication before. No record above `start` is missing up to the last one of `records`,
    except those that a newer record of the same key has replaced. With `is_blank`, the store has no record left and
    does not know the position of the channel, so `top` is 0.
    """

    epoch: str
    top: int
    start: int
    records: Sequence[tuple[int, int, bytes]]
    is_blank: bool = False


class HistoryStore(Protocol):
    """The histories of one gateway, shared by all its nodes. Each method raises `HistoryError`."""

    bytes: int
    evicted: int
    """Those of the `MemoryHistory` that keeps them in one of the processes, as last reported; 0 if none does."""

    async def start(self) -> None:
        """Begin to connect. Do not wait for a server that is unavailable."""

    async def aclose(self) -> None:
        """Release the connections. Appends that wait fail with `HistoryError`. May be called twice, never raises."""

    def append(self, append: Append) -> asyncio.Future[tuple[Position, bool]]:
        """Add a publication, and publish `b"PREV OFFSET EPOCH\\n" + record` on its topic in the same atomic step.

        The result is its position, and True because it is new. If its channel has seen the same idempotency key in the
        last 300 s, nothing is added and published, and the result is the position of the first publication with that
        key, and False. Appends of one caller are stored in the order of the calls.
        """

    async def read(self, requests: Sequence[Request]) -> Sequence[StoredPage | HistoryError]:
        """Return the page of each request, in the same order, or the error of a request that cannot be answered."""

    async def renew(self, channel: str, epoch: str) -> None:
        """Replace `epoch`, which has turned out to be broken, by a new one. Do nothing if it is replaced already."""

    async def forget(self, channel: str) -> None:
        """Drop the records of a channel. Its position stays."""


def new_epoch() -> str:
    """Return a new epoch of 8 letters and digits, 47 random bits."""
    return "".join([secrets.choice(EPOCH_LETTERS) for _ in range(8)])


def announcement(prev: int, position: Position, record: bytes) -> bytes:
    """Return what is published on the topic of a channel for one record with a position."""
    return b"%d %d %b\n%b" % (prev, position.offset, position.epoch.encode(), record)


def parse_announcement(data: bytes) -> tuple[int, Position, bytes]:
    """Return the offset of the publication before, the position, and the record. Raise `ValueError`."""
    head, separator, record = data.partition(b"\n")
    prev, offset, epoch = head.split(b" ")
    if not separator:
        raise ValueError("there is no record")
    return int(prev), Position(epoch.decode("ascii"), int(offset)), record

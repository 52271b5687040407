"""The channels of a history in the order in which they expire. No I/O, no clock."""

from collections import OrderedDict
from collections.abc import Iterable

from wsgateway.cluster.history.tail import Tail
from wsgateway.frames import Publication

CHANNEL_BYTES = 400
"""What a channel takes in memory besides its name and its records, measured."""


class KeptChannel:
    """The tail of one channel. It is in `queue` since the time `since`: in `full` if it has records, else in `idle`."""

    __slots__ = ("full", "idle", "name", "queue", "since", "tail")

    def __init__(self, name: str, tail: Tail[Publication], full: "ExpiryQueue", idle: "ExpiryQueue") -> None:
        self.name = name
        self.tail = tail
        self.full = full
        self.idle = idle
        self.queue: ExpiryQueue | None = None
        self.since = 0.0

    @property
    def bytes(self) -> int:
        return CHANNEL_BYTES + len(self.name)


class ExpiryQueue:
    """Channels by name, which expire `delay` seconds after they were put into it, the first one first."""

    __slots__ = ("channels", "delay")

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.channels: OrderedDict[str, KeptChannel] = OrderedDict()

    def first(self) -> KeptChannel | None:
        return next(iter(self.channels.values()), None)


def oldest_of(queues: Iterable[ExpiryQueue]) -> KeptChannel | None:
    """Return the channel that has entered its queue first."""
    firsts = [channel for queue in queues if (channel := queue.first()) is not None]
    return min(firsts, key=lambda channel: channel.since, default=None)

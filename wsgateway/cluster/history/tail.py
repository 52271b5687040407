"""The newest publications of one channel, in the order of their offsets. Does not know what its items are. No I/O."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Generic, TypeVar

T = TypeVar("T")

Entry = tuple[int, int, T]
"""The offset of the channel's publication before this one, the offset of this one, and the item."""

_offset_of = itemgetter(1)


class Tail(Generic[T]):
    """The newest items of one channel, at most `limit`. With `key_of`, only the newest of each key.

    `top` is the offset of the channel's newest publication. Above `floor`, nothing is missing, except what a newer item
    of the same key has replaced. `bytes` is the sum of `size_of` over the items, whose sizes must not change.

    A list, because an empty deque takes 760 B, and because a list is searched and sliced by offset.
    """

    __slots__ = ("_entries", "_key_of", "_limit", "_offsets", "_size_of", "bytes", "epoch", "floor", "top")

    def __init__(
        self,
        epoch: str,
        top: int = 0,
        *,
        limit: int,
        size_of: Callable[[T], int],
        key_of: Callable[[T], str] | None = None,
    ) -> None:
        self.epoch = epoch
        self.top = top
        self.floor = top
        self.bytes = 0
        self._limit = limit
        self._size_of = size_of
        self._key_of = key_of
        self._offsets: dict[str, int] | None = None if key_of is None else {}  # of the item with each key
        self._entries: list[Entry[T]] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def is_latest_only(self) -> bool:
        return self._key_of is not None

    def append(self, prev: int, offset: int, item: T) -> None:
        """Add the item that follows `top`. Without keys, `prev` is `top`."""
        entries = self._entries
        assert offset > self.top
        if self._key_of is None:
            assert prev == self.top
        else:
            self._replace(self._key_of(item), offset)
        entries.append((prev, offset, item))
        self.bytes += self._size_of(item)
        self.top = offset
        if len(entries) > self._limit:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Drop the oldest item."""
        _, self.floor, item = self._entries.pop(0)
        self.bytes -= self._size_of(item)
        if self._key_of is not None and self._offsets is not None:
            del self._offsets[self._key_of(item)]

    def limit_to(self, limit: int) -> None:
        """Keep at most `limit` items from now on. Drop the oldest that are above it."""
        self._limit = limit
        while len(self._entries) > limit:
            self.drop_oldest()

    def clear(self) -> None:
        """Drop all items. The position stays."""
        self._entries = []
        if self._offsets is not None:
            self._offsets = {}
        self.bytes = 0
        self.floor = self.top

    def since(self, offset: int) -> list[Entry[T]] | None:
        """Return the entries above `offset`, or None if some are missing or the channel has no such position."""
        if not self.floor <= offset <= self.top:
            return None
        entries = self._entries
        first = bisect_right(entries, offset, key=_offset_of)
        if self._key_of is None and first < len(entries) and entries[first][0] != offset:
            return None  # no publication has this offset
        return entries[first:]

    def newest(self, count: int) -> list[Entry[T]]:
        """Return the newest `count` entries, or all if there are fewer."""
        return self._entries[-count:] if count > 0 else []

    def after(self, offset: int) -> Iterator[Entry[T]]:
        """Yield the entries above `offset`, oldest first, whether or not some are missing before them."""
        for index in range(bisect_right(self._entries, offset, key=_offset_of), len(self._entries)):
            yield self._entries[index]

    def before(self, offset: int) -> Iterator[Entry[T]]:
        """Yield the entries below `offset`, newest first."""
        for index in range(bisect_left(self._entries, offset, key=_offset_of) - 1, -1, -1):
            yield self._entries[index]

    def at(self, offset: int) -> T | None:
        """Return the item with this offset, None if it is not kept."""
        index = self._index(offset)
        if index < len(self._entries) and self._entries[index][1] == offset:
            return self._entries[index][2]
        return None

    def _index(self, offset: int) -> int:
        return bisect_left(self._entries, offset, key=_offset_of)

    def _replace(self, key: str, offset: int) -> None:
        """Drop the item that has this key, if there is one. The item at `offset` has it from now on."""
        assert self._offsets is not None
        replaced = self._offsets.get(key)
        if replaced is not None:
            _, _, item = self._entries.pop(self._index(replaced))
            self.bytes -= self._size_of(item)
        self._offsets[key] = offset

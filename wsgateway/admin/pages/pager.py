"""The place of one page in a list that has several."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pager:
    """The place of one page in a list: rows from `offset` on, of `total` rows."""

    offset: int
    size: int
    total: int

    @property
    def previous(self) -> int:
        return max(0, self.offset - self.size)

    @property
    def next(self) -> int:
        return self.offset + self.size

    @property
    def last(self) -> int:
        return max(0, (self.total - 1) // self.size * self.size)

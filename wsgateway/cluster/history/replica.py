"""A channel with history in one process, while the history itself is elsewhere. No I/O, no clock.

Decides what is delivered, when the history must be read, and when subscribers must be notified that they have missed
publications. Its owner does that.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from wsgateway.cluster.history.recovery import Recovery, Wish, recover
from wsgateway.cluster.history.tail import Entry, Tail
from wsgateway.frames import Position, Publication
from wsgateway.limits import Backlog

MAX_ASIDE = 1_000
MAX_ASIDE_BYTES = 32 * 1024 * 1024
"""Publications that wait for a read, and their bytes. More are dropped, which leaves a gap to be healed."""


class State(enum.Enum):
    """`JOINING` until the history was read once. `HEALING` while publications may be missing."""

    JOINING = "joining"
    LIVE = "live"
    HEALING = "healing"


class Arrival(NamedTuple):
    """A publication as it arrives: the offset before it, its own, the epoch of both, and the publication."""

    prev: int
    offset: int
    epoch: str
    publication: Publication


class Page(NamedTuple):
    """The answer of a history: its epoch, its newest offset, and every entry that it keeps above `start`, in order.

    No entry above `start` is missing, except those that a newer publication of the same key has replaced. With
    `is_blank`, the history has dropped all entries, and the position of the channel with them.
    """

    epoch: str
    top: int
    start: int
    entries: Sequence[Entry[Publication]]
    is_blank: bool = False


class Effects(NamedTuple):
    """The next actions of the owner, in this order.

    If `is_lost`, notify all subscribers that they have missed publications. Deliver `publications` to all subscribers.
    Unless `renew` is empty, replace this epoch in the history. Unless `read_above` is None, read the history above it,
    and drop the page of an earlier read that has not arrived yet.
    """

    is_lost: bool = False
    publications: tuple[Publication, ...] = ()
    renew: str = ""
    read_above: int | None = None


class Replica:
    """One channel with history in one process: `JOINING`, then `LIVE`, and `HEALING` in between.

    The channel's position is the top of `tail`. All subscribers have received everything up to it, and nothing above.
    """

    def __init__(self, *, limit: int, is_latest_only: bool) -> None:
        """`limit` is the number of publications that the history keeps."""
        self.state = State.JOINING
        self._limit = limit
        self._is_latest_only = is_latest_only
        self._epoch_before = ""
        self._renewing = ""  # the epoch that has turned out to be broken; the next page is a new start
        self._reads_all = False
        self._aside: list[Arrival] = []
        self._waiting = Backlog(MAX_ASIDE, MAX_ASIDE_BYTES)
        self.tail = self._tail("", 0)

    @property
    def position(self) -> Position:
        return Position(self.tail.epoch, self.tail.top)

    # Events

    def arrived(self, arrival: Arrival) -> Effects:
        """A publication has arrived on the channel's topic."""
        if self.state is not State.LIVE:
            size = len(arrival.publication.payload)
            if self._waiting.fits(size):
                self._waiting.add(size)
                self._aside.append(arrival)
            return Effects()
        prev, offset, epoch, publication = arrival
        tail = self.tail
        if epoch == tail.epoch:
            if prev == tail.top or (prev == 0 and offset > tail.top):  # 0 if the history has dropped everything before
                tail.append(tail.top, offset, publication)
                return Effects(publications=(publication,))
            if offset <= tail.top and self._is_kept(offset, publication):
                return Effects()
        elif epoch == self._epoch_before:
            return Effects()
        return self.check()  # what has arrived is in the history already, so it need not be set aside

    def check(self) -> Effects:
        """Make sure that nothing was missed, if that is not being done already."""
        return self._read() if self.state is State.LIVE else Effects()

    def restored(self) -> Effects:
        """The link was lost and is restored. Publications set aside may precede a failover, so they are discarded."""
        self._aside.clear()
        self._waiting.clear()
        return self._read()

    def joined(self, page: Page) -> Effects:
        """The page of the first read has arrived.

        It contains the newest publication that the history keeps. If only values are kept, it contains all of them.
        """
        assert self.state is State.JOINING
        self._adopt(page)
        return self._handle_aside(Effects())

    def healed(self, page: Page) -> Effects:
        """The page that was asked for has arrived."""
        assert self.state is State.HEALING
        tail = self.tail
        if page.epoch == tail.epoch and not self._renewing:
            if page.is_blank:
                self.state = State.LIVE
                return self._handle_aside(Effects())
            if page.top < tail.top or self._differs(page):
                return self._renew()
            missed = [entry for entry in page.entries if entry[1] > tail.top]
            if self._leads_to_top(page, missed):
                for entry in missed:
                    tail.append(*entry)
                tail.top = page.top
                self.state = State.LIVE
                return self._handle_aside(Effects(publications=tuple([entry[2] for entry in missed])))
        if not self._reads_all:
            return self._read_all()
        self._adopt(page)
        return self._handle_aside(Effects(is_lost=True))

    # Clients

    def above(self, wish: Wish) -> int | None:
        """Return the offset above which the history must be read for `recover`, None if the tail is enough."""
        tail, since = self.tail, wish.since
        if self._is_latest_only or tail.floor == 0:
            return None  # the tail has all that the history keeps
        if since is not None and since.epoch in ("", tail.epoch) and 0 <= since.offset <= tail.top:
            return since.offset if since.offset < tail.floor else None
        return 0 if (wish.last or 0) > len(tail) and len(tail) < self._limit else None

    def recover(self, wish: Wish, now: float, page: Page | None = None) -> Recovery:
        """Return the recovery of a client that subscribes now. Afterwards, it receives every delivered publication.

        `page` was read above the offset that `above` has returned. It is used up to the position only. While the
        replica is healing, the client is where all subscribers are, and is notified of a loss with them.
        """
        assert self.state is not State.JOINING
        tail = self.tail if page is None else self._joined_with(page)
        return recover(tail, wish, limit=self._limit, now=now)

    # Healing

    def _read(self) -> Effects:
        """Read from the publication at the position on, so that it can be compared."""
        newest = self.tail.newest(1)
        if self.state is State.JOINING or self._renewing or not newest:
            return self._read_all()
        self._reads_all = False
        self.state = State.HEALING
        return Effects(read_above=newest[0][0])

    def _read_all(self) -> Effects:
        self._reads_all = True
        if self.state is State.LIVE:
            self.state = State.HEALING
        return Effects(renew=self._renewing, read_above=0)

    def _renew(self) -> Effects:
        self._renewing = self.tail.epoch
        return self._read_all()

    def _differs(self, page: Page) -> bool:
        """Return whether the history has, up to the position, other publications than this process has delivered."""
        tail = self.tail
        old = {offset: publication for _, offset, publication in page.entries if offset <= tail.top}
        if tail.top in old:
            return not self._is_kept(tail.top, old[tail.top])
        if any(not self._is_kept(offset, publication) for offset, publication in old.items()):
            return True
        keys = {publication.key for _, _, publication in page.entries}
        mine = tail.after(page.start) if self._is_latest_only else ()
        return any(publication.key not in keys for _, _, publication in mine)

    def _leads_to_top(self, page: Page, missed: Sequence[Entry[Publication]]) -> bool:
        """Return whether nothing is missing between the position and the top of the page.

        Unless both have a publication in common, it cannot be seen whether the history is still the same.
        """
        tail = self.tail
        if page.top == tail.top:
            return True
        has_common = len(page.entries) > len(missed)
        if self._is_latest_only:
            return has_common or tail.floor == page.start == 0  # or else all values that ever were have been compared
        top = tail.top
        for prev, offset, _ in missed:
            if prev != top:
                return False
            top = offset
        return top == page.top and (has_common or tail.top == 0)

    def _adopt(self, page: Page) -> None:
        """Replace the tail by a page."""
        if page.epoch != self.tail.epoch:
            self._epoch_before = self.tail.epoch
        self.tail = self._tail(page.epoch, page.start, page)
        self._renewing = ""
        self.state = State.LIVE

    def _handle_aside(self, effects: Effects) -> Effects:
        """Handle the publications set aside, until one does not fit. The read that follows contains the rest."""
        aside, self._aside = self._aside, []
        self._waiting.clear()
        publications = list(effects.publications)
        read_above = None
        for arrival in aside:
            more = self.arrived(arrival)
            publications += more.publications
            read_above = more.read_above
            if read_above is not None:
                break
        return effects._replace(publications=tuple(publications), read_above=read_above)

    def _is_kept(self, offset: int, publication: Publication) -> bool:
        """Return whether the tail has this publication at `offset`. The history may have been decoded again since."""
        kept = self.tail.at(offset)
        return kept is not None and _content(kept) == _content(publication)

    # Tails

    def _tail(self, epoch: str, start: int, page: Page | None = None) -> Tail[Publication]:
        key_of = _key_of if self._is_latest_only else None
        tail = Tail(epoch, start, limit=self._limit, size_of=_size_of, key_of=key_of)
        if page is not None:
            for entry in page.entries:
                tail.append(*entry)
            tail.top = page.top
        return tail

    def _joined_with(self, page: Page) -> Tail[Publication]:
        """Return the tail, extended at its beginning by a page. The tail itself if the two do not belong together."""
        tail = self.tail
        overlap = [entry for entry in page.entries if tail.floor < entry[1] <= tail.top]
        is_same = page.epoch == tail.epoch and all(self._is_kept(offset, item) for _, offset, item in overlap)
        if not overlap or not is_same or page.start >= tail.floor:
            return tail
        older = [entry for entry in page.entries if entry[1] <= tail.floor]
        entries = [*older, *tail.after(tail.floor)]
        merged = Tail(tail.epoch, page.start, limit=len(entries), size_of=_size_of)
        for entry in entries:
            merged.append(*entry)
        return merged


def _content(publication: Publication) -> tuple[object, ...]:
    return publication.payload, publication.kind, publication.time, publication.name, publication.key


def _size_of(publication: Publication) -> int:
    return len(publication.payload)


def _key_of(publication: Publication) -> str:
    return publication.key

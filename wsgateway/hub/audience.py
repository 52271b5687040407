"""An audience: connections that receive the same messages. Does not decide when anything is written to them."""

from collections.abc import Iterable, Iterator

from wsgateway.hub.outbox import Outbox, Write
from wsgateway.messages import WireFormat


class Audience:
    """The outboxes of connections that receive the same messages. All connections are one, and so is each channel.

    `fast` and `more` have the members whose transport accepts every write: those with the plain wire format, and the
    others by format. `slow` has those that receive through their queue. `delivered` counts the messages for the fast
    members. `is_pending` is whether the log has messages for them.
    """

    __slots__ = ("delivered", "fast", "is_pending", "more", "plain", "slow")

    def __init__(self, plain: WireFormat) -> None:
        self.plain = plain
        self.fast: dict[Outbox, Write] = {}
        self.more: dict[WireFormat, dict[Outbox, Write]] | None = None
        self.slow: dict[Outbox, None] | None = None
        self.delivered = 0
        self.is_pending = False

    @classmethod
    def of(cls, plain: WireFormat, outboxes: Iterable[Outbox]) -> "Audience":
        """Return an audience for one run of the log, with those of `outboxes` that are written directly."""
        audience = cls(plain)
        fast = {outbox: outbox.write for outbox in outboxes if outbox.write is not None}
        audience.fast = {outbox: write for outbox, write in fast.items() if outbox.wire_format is plain}
        if len(audience.fast) < len(fast):
            for outbox in fast.keys() - audience.fast.keys():
                audience.add(outbox)
        return audience

    @property
    def fast_count(self) -> int:
        return len(self.fast) if self.more is None else len(self.fast) + sum(map(len, self.more.values()))

    @property
    def is_empty(self) -> bool:
        """Whether it has no members."""
        return not self.fast and not self.more and not self.slow

    def is_fast(self, outbox: Outbox) -> bool:
        if outbox in self.fast:
            return True
        return self.more is not None and outbox in self.more.get(outbox.wire_format, ())

    def by_format(self) -> Iterator[tuple[WireFormat, dict[Outbox, Write]]]:
        """Yield the fast members by wire format."""
        if self.fast:
            yield self.plain, self.fast
        if self.more is not None:
            yield from self.more.items()

    def add(self, outbox: Outbox) -> None:
        """Add a member, fast if its outbox is written directly, otherwise slow. Nothing may be pending for it."""
        if outbox.write is None:
            if self.slow is None:
                self.slow = {}
            self.slow[outbox] = None
            return
        outbox.count -= self.delivered
        if outbox.wire_format is self.plain:
            self.fast[outbox] = outbox.write
            return
        if self.more is None:
            self.more = {}
        self.more.setdefault(outbox.wire_format, {})[outbox] = outbox.write

    def remove(self, outbox: Outbox) -> None:
        """Remove a member. Nothing may be pending for it, and its wire format may not have changed."""
        if self.slow is not None and outbox in self.slow:
            del self.slow[outbox]
            return
        outbox.count += self.delivered
        if outbox in self.fast:
            del self.fast[outbox]
            return
        assert self.more is not None
        members = self.more[outbox.wire_format]
        del members[outbox]
        if not members:
            del self.more[outbox.wire_format]
            self.more = self.more or None

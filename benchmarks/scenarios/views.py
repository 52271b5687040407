"""What clients receive, compared with what was published. No I/O.

Every message is the text `CHANNEL SENDER NUMBER`, where the numbers of a sender in a channel begin at 1.
"""

from collections import Counter
from dataclasses import dataclass, field

Position = tuple[str, int]
"""Epoch and offset."""

MAX_MISTAKES = 20
"""Mistakes that are kept. One fault causes many of them."""


def parsed(at: str) -> Position:
    epoch, _, offset = at.rpartition(":")
    return epoch, int(offset)


class Ledger:
    """The publications of one scenario, as their senders and all clients have seen them."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []
        self.sent: Counter[tuple[str, str]] = Counter()
        """The last number of each channel and sender."""
        self.tops: dict[str, Position] = {}
        """The newest position of each channel that was returned to a sender."""
        self.values: dict[str, dict[str, tuple[int, str]]] = {}
        """The newest offset and text of each key in channels that keep only these."""
        self._texts: dict[tuple[str, str, int], str] = {}

    def next_text(self, channel: str, sender: str) -> str:
        self.sent[channel, sender] += 1
        return f"{channel} {sender} {self.sent[channel, sender]}"

    def published(self, channel: str, at: str | None, text: str, key: str = "") -> None:
        """Note the answer to a sender."""
        if at is None:
            return
        epoch, offset = parsed(at)
        self.saw(channel, epoch, offset, text)
        top = self.tops.get(channel)
        if top is None or top[0] != epoch or offset > top[1]:
            self.tops[channel] = (epoch, offset)
        values = self.values.setdefault(channel, {})
        values[key] = max(values.get(key, (0, "")), (offset, text))

    def begin_again(self) -> None:
        """Forget which positions are the newest, because the history has lost some."""
        self.tops.clear()

    def saw(self, channel: str, epoch: str, offset: int, text: str) -> None:
        """Note that a position contains a text, which has to be the same for everybody."""
        known = self._texts.setdefault((channel, epoch, offset), text)
        if known != text:
            self.mistake(f"{channel} {epoch}:{offset} is {known!r} and {text!r}")

    def mistake(self, text: str) -> None:
        if len(self.mistakes) < MAX_MISTAKES:
            self.mistakes.append(text[:300])


@dataclass
class View:
    """One channel of one client. `told` counts the notifications that publications were missed.

    `is_latest_only` is for a channel that keeps the newest publication of each key. With `is_lossy`, messages without a
    position may be missing, but are neither doubled nor out of order.
    """

    channel: str
    ledger: Ledger
    name: str
    is_latest_only: bool = False
    is_lossy: bool = False
    is_subscribed: bool = False
    position: Position | None = None
    received: int = 0
    recovered: int = 0
    told: int = 0
    begun: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def since(self) -> str:
        return "" if self.position is None else f"{self.position[0]}:{self.position[1]}"

    def subscribed(self, at: str | None, *, recovered: bool, since: str) -> None:
        """A subscription has begun. `since` is the position that the client has sent, empty if none."""
        self.is_subscribed = True
        self.begun += 1
        if at is None:
            self.numbers.clear()
            return
        if recovered:
            self.recovered += 1
            is_right = parsed(at)[0] == parsed(since)[0] and parsed(at)[1] >= parsed(since)[1]
            if at != since and not (self.is_latest_only and is_right):
                self._mistake(f"recovered at {at}, since {since}")
        elif since:
            self.told += 1
        if not recovered:
            self.values.clear()
            self.numbers.clear()
        self.position = parsed(at)

    def lost(self) -> None:
        """The subscription has ended with 2500."""
        self.is_subscribed = False
        self.told += 1
        self.position = None
        self.numbers.clear()

    def forget(self) -> None:
        """The client has unsubscribed, and will start over."""
        self.is_subscribed = False
        self.position = None
        self.numbers.clear()
        self.values.clear()

    def message(self, text: str, at: str, key: str = "") -> None:
        """A publication has arrived; `at` is empty without a history, or if the protocol does not show it."""
        self.received += 1
        channel, sender, number = text.rsplit(" ", 2)
        if channel != self.channel:
            self._mistake(f"received {text!r}")
        if at:
            self._check_position(parsed(at), text)
            self.values[key] = text
        self._check_number(sender, int(number), has_position=bool(at))

    def _check_position(self, position: Position, text: str) -> None:
        self.ledger.saw(self.channel, *position, text)
        last, self.position = self.position, position
        if last is None:
            self._mistake(f"{position} came before `subscribed`")
        elif position[0] != last[0] or position[1] <= last[1]:
            self._mistake(f"{position} came after {last}")
        elif position[1] != last[1] + 1 and not self.is_latest_only:
            self._mistake(f"{position} came after {last}, and {position[1] - last[1] - 1} are missing")

    def _check_number(self, sender: str, number: int, *, has_position: bool) -> None:
        last = self.numbers.get(sender)
        self.numbers[sender] = number
        if last is None:
            return
        if number <= last:
            self._mistake(f"{sender} {number} came after {sender} {last}")
        elif number > last + 1 and not (has_position or self.is_lossy):
            self._mistake(f"{sender} {number} came after {sender} {last}, without a position")

    def _mistake(self, text: str) -> None:
        self.ledger.mistake(f"{self.name}, {self.channel}: {text}")

    def is_current(self) -> bool:
        """Return whether everything that was published has arrived."""
        top = self.ledger.tops.get(self.channel)
        if top is not None and self.position is not None:
            is_at_top = self.position[0] == top[0] and self.position[1] >= top[1]
            return is_at_top and (not self.is_latest_only or self._has_values())
        return all(
            number == self.ledger.sent[self.channel, sender]
            for (channel, sender), number in self.ledger.sent.items()
            if channel == self.channel
            for number in [self.numbers.get(sender, -1)]
        )

    def _has_values(self) -> bool:
        newest = self.ledger.values.get(self.channel, {})
        return self.values == {key: text for key, (_, text) in newest.items()}

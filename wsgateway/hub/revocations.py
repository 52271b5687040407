"""Remembers which subscriptions and connections the application has ended, while hooks decide about others. Pure."""

from collections import OrderedDict
from collections.abc import Iterable

MAX_REMEMBERED = 10_000
"""Revocations that are remembered. A request that is older than those counts as revoked."""


class Revocations:
    """A request to subscribe that `on_subscribe` allows was revoked if the application has ended it meanwhile.

    Otherwise the hook could read a membership that ends while it runs, and the subscription would begin afterwards. The
    same holds for a client that `on_handshake` admits while its user is disconnected; its `channel` is empty.
    """

    def __init__(self) -> None:
        self.count = 0
        self._numbers: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._forgotten = 0

    def add(self, channel: str, *, ids: Iterable[str] | None = None, user: str = "") -> None:
        """Note that subscriptions to `channel` end: those of connections with `ids`, of a `user`, or else all."""
        self.count += 1
        keys = [("user", user)] if user else [("all", "")] if ids is None else [("id", conn_id) for conn_id in ids]
        for kind, name in keys:
            self._numbers[channel, kind, name] = self.count
            self._numbers.move_to_end((channel, kind, name))
        while len(self._numbers) > MAX_REMEMBERED:
            _, self._forgotten = self._numbers.popitem(last=False)

    def has(self, channel: str, *, conn_id: str, user: str, after: int) -> bool:
        """Return whether the subscription was ended since `count` was `after`."""
        if self.count == after:
            return False
        keys = [("all", ""), ("id", conn_id), ("user", user)]
        numbers = [self._numbers.get((channel, kind, name), 0) for kind, name in keys]
        return max(self._forgotten, *numbers) > after

"""The credentials of a connection, which it usually has from its token. Knows neither tokens nor timers."""

import math
from collections.abc import Iterable


def is_finite(value: object) -> bool:
    """Return whether `value` is a number that a time can be: not NaN, and neither infinite nor too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class Credentials:
    """The user and the channels of a connection's token, and when the connection expires.

    `expires_at` is in seconds since the epoch, None for never. A connection without a token may have one, too.
    """

    __slots__ = ("_names", "_prefixes", "expires_at", "user")

    def __init__(self, user: str = "", expires_at: float | None = None, channels: Iterable[str] = ()) -> None:
        """`channels` are names, and patterns such as `room:*`."""
        self.user = user
        self.expires_at = expires_at
        names = tuple(channels)
        self._names = frozenset(name for name in names if not name.endswith("*"))
        self._prefixes = tuple(name[:-1] for name in names if name.endswith("*"))

    def admits(self, channel: str) -> bool:
        """Return whether the token admits its client to `channel`."""
        return channel in self._names or channel.startswith(self._prefixes)

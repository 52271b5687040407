"""Finds the namespace of a channel by the channel's name. Does not know what its settings are used for."""

from collections.abc import Iterator, Mapping

from wsgateway.config.channels import ChannelSettings, fault_of, quoted
from wsgateway.exceptions import ChannelError


def check_name(name: str) -> None:
    """Raise `ChannelError` unless `name` can be that of a channel.

    It has 1 to 255 bytes in UTF-8, all of them printable, without a space and without `*`.
    """
    fault = fault_of(name)
    if fault:
        described = f" {quoted(name)}" if isinstance(name, str) and name else ""
        raise ChannelError(f"the channel name{described} {fault}", name=name if isinstance(name, str) else "")


MAX_REMEMBERED = 2048
"""Names whose namespace is remembered, because most messages are published to few channels. One takes 0.2 to 1.2 KB."""


class Namespaces:
    """The declared namespaces: exact names, and prefixes, which end in `*`.

    An exact name wins, then the longest prefix. If none is declared, every name has the default settings.
    """

    __slots__ = ("_by_length", "_channels", "_patterns", "_remembered", "is_declared")

    is_declared: bool
    """Whether any namespace is declared. Otherwise, every name that `check_name` accepts exists."""

    def __init__(self, channels: Mapping[str, ChannelSettings]) -> None:
        self.is_declared = bool(channels)
        self._patterns = tuple(channels)
        self._remembered: dict[str, str] = {}
        self._channels = dict(channels) if channels else {"": ChannelSettings()}
        prefixes = [pattern[:-1] for pattern in channels if pattern.endswith("*")]
        lengths = sorted({len(prefix) for prefix in prefixes}, reverse=True)
        self._by_length = [
            (length, frozenset(prefix for prefix in prefixes if len(prefix) == length)) for length in lengths
        ]

    def find(self, name: str) -> ChannelSettings:
        """Return the settings of the channel `name`. Raise `ChannelError` if it cannot exist."""
        return self._channels[self.namespace_of(name)]

    def namespace_of(self, name: str) -> str:
        """Return the pattern of the namespace of `name`, empty if none is declared. Raise `ChannelError` as `find`."""
        try:
            return self._remembered[name]
        except (KeyError, TypeError):  # a value that is not text may not be hashable
            pattern = self._match(name)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[name] = pattern
        return pattern

    def _match(self, name: str) -> str:
        check_name(name)
        if not self.is_declared:
            return ""
        if name in self._channels:
            return name
        for length, prefixes in self._by_length:
            if name[:length] in prefixes:
                return name[:length] + "*"
        raise ChannelError(f"there is no channel {quoted(name)}", name=name, known=self._patterns)


def warnings_of(channels: Mapping[str, ChannelSettings], *, has_on_subscribe: bool) -> Iterator[str]:
    """Yield a line for the log about each combination of namespaces and listener that is probably a mistake."""
    everything = channels.get("*")
    if has_on_subscribe and everything is not None and everything.public:
        asked = [quoted(pattern) for pattern, settings in channels.items() if not settings.public]
        exception = f" except those of {', '.join(asked)}" if asked else ""
        yield (
            '[channels."*"] is public, so every client may subscribe, and on_subscribe is called for no '
            f"channel{exception}; set public = false if on_subscribe is to decide"
        )

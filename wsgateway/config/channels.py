"""The one declaration of the settings of a namespace, and the check of their values.

Does not know what a setting is used for, nor which namespace a channel belongs to.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from wsgateway.config.declaration import Declared, convert_fields, names_of, setting
from wsgateway.config.values import Keep
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.limits import SlowPolicy
from wsgateway.text import cut, nearest

MAX_HISTORY = 10_000
"""Publications that a history may contain."""

HISTORY_TTL = 86400.0
"""Seconds that a history is kept after the last publication, unless `keep` is `last` or `history_ttl` is set."""

MAX_NAME = 255
"""Bytes of a channel's name or of a pattern, in UTF-8."""

MAX_QUOTED = 100
"""Characters of a name that an error quotes."""


MAX_NAMED = 3
"""Namespaces that an error names."""

NATS = {"nats", "tls"}
"""Schemes of NATS, whose streams cannot keep the newest publication of each key of a channel."""


class ChannelOptions(TypedDict, total=False):
    """The settings of a namespace in `Gateway(channels={"room:*": {…}})`."""

    # The fields of ChannelSettings, once more, because a type checker sees keys only here. A test compares the two.

    clients: str | Iterable[str]
    public: bool
    history: int
    history_ttl: float | None
    keep: Keep | str
    presence: bool
    slow_policy: SlowPolicy | str | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ChannelSettings(Declared):
    """The settings of one namespace: `[channels."room:*"]` in the file. Raises `ConfigError` with every mistake."""

    clients: tuple[str, ...] = setting(
        ("subscribe",),
        "commands that clients may send: subscribe, publish; publishing requires a subscription, except with `public`",
        choices=("subscribe", "publish"),
    )
    public: bool = setting(False, "whether every client may subscribe and read, without a call of `on_subscribe`")
    history: int = setting(
        0,
        "number of publications that are kept, which every subscriber may read; 0 means no history and no positions",
        least=0,
        most=MAX_HISTORY,
    )
    history_ttl: float | None = setting(
        None,
        "seconds after the last publication until the history is dropped; 86400 unless you set it, but no limit if "
        "`keep` is last",
        least=0.05,
        most=31_536_000,
    )
    keep: Keep = setting(Keep.ALL, "which publications are kept: all, or last for only the newest of each key")
    presence: bool = setting(
        False,
        "whether clients receive the members of a channel, and a notification when a member joins or leaves; if n "
        "members join a channel at the same time, n² messages are sent",
    )
    slow_policy: SlowPolicy | None = setting(
        None,
        "what happens to a message that does not fit into an outbox: disconnect, drop_oldest, or drop_newest; the "
        "gateway's `slow_policy` unless you set it",
    )

    def __post_init__(self) -> None:
        mistakes = convert_fields(self)
        wrong = {mistake.setting for mistake in mistakes}
        if self.keep == Keep.LAST and self.history == 0 and "history" not in wrong:
            mistakes.append(Mistake("keep", "", "last requires a history, set history to 1 or more"))
        if mistakes:
            raise ConfigError(mistakes)
        if self.history_ttl is None and self.keep is Keep.ALL:
            object.__setattr__(self, "history_ttl", HISTORY_TTL)


def quoted(name: str) -> str:
    """Return `name` in double quotes, as TOML and JSON write it, for a sentence."""
    text = cut(name, MAX_QUOTED)
    return json.dumps(text, ensure_ascii=not text.isprintable())


def histories_in(channels: Mapping[str, ChannelSettings]) -> str:
    """Return the histories in `channels` as the subject of a sentence; empty if there is none."""
    patterns = [pattern for pattern, settings in channels.items() if settings.history]
    return f"the history of {_names_of(patterns)}" if patterns else ""


def _names_of(patterns: Sequence[str]) -> str:
    more = ", …" if len(patterns) > MAX_NAMED else ""
    return ", ".join(map(quoted, patterns[:MAX_NAMED])) + more


def history_fault(broker: str, channels: Mapping[str, ChannelSettings]) -> str:
    """Return why the broker at this URL cannot keep the histories of `channels`, as a sentence; empty if it can."""
    if broker.partition("://")[0].lower() not in NATS:
        return ""
    patterns = [pattern for pattern, settings in channels.items() if settings.history and settings.keep is Keep.LAST]
    if not patterns:
        return ""
    named = _names_of(patterns)
    advice = "so set broker to redis:// or ipc://, or set keep to all"
    return f"NATS cannot keep only the newest of each key ({named}), {advice}"


def fault_of(name: object) -> str:
    """Return why `name` cannot be the name of a channel, as the end of a sentence; empty if it can."""
    if not isinstance(name, str):
        return f"is {type(name).__name__}, use a str"
    if not name:
        return "is empty"
    if len(name) > MAX_NAME:
        return f"has more than {MAX_NAME} bytes in UTF-8"
    if " " in name or not name.isprintable():  # a lone surrogate is not printable either
        return "contains a space or a character that is not printable"
    if "*" in name:
        return "contains `*`, which is reserved for the end of a namespace"
    return "" if len(name.encode()) <= MAX_NAME else f"has more than {MAX_NAME} bytes in UTF-8"


def fault_of_pattern(pattern: object) -> str:
    """Return why `pattern` cannot be a namespace, as the end of a sentence; empty if it can."""
    if isinstance(pattern, str) and pattern.endswith("*"):
        pattern = pattern[:-1] + "_"  # of the same length
    fault = fault_of(pattern)
    return "contains `*`, which is only allowed at the end" if "`*`" in fault else fault


def read_channels(
    value: object, *, file: str = "", table: str = "channels"
) -> tuple[dict[str, ChannelSettings], list[Mistake]]:
    """Return the namespaces in `value`, settings by pattern, and every mistake.

    `file` is the settings file that contains them as `[table."room:*"]`, empty for code.
    """
    channels: dict[str, ChannelSettings] = {}
    mistakes: list[Mistake] = []
    if value is None:
        return channels, mistakes
    if not isinstance(value, Mapping):
        place = f"{table} ({file})" if file else ""
        return channels, [Mistake("channels", place, 'it has a table for each namespace, such as [channels."room:*"]')]
    for pattern, options in value.items():
        place = f"{file} [{table}.{quoted(str(pattern))}]".strip()
        fault = fault_of_pattern(pattern)
        if not isinstance(options, (Mapping, ChannelSettings)):
            place = f"{cut(str(pattern), MAX_QUOTED)} ({f'{file} [{table}]'.strip()})"
            text = 'it is not a table; write settings below a namespace, such as [channels."room:*"]'
            mistakes.append(Mistake("channels", place, text))
            continue
        if fault:
            mistakes.append(Mistake("channels", place, f"the name of the namespace {fault}"))
        try:
            channels[pattern] = _settings_of(options)
        except ConfigError as exc:
            known = names_of(ChannelSettings)
            for mistake in exc.mistakes:
                name = cut(mistake.setting, MAX_QUOTED)
                is_table = isinstance(options, Mapping) and isinstance(options.get(mistake.setting), Mapping)
                hint = f"; a name with a dot is quoted: [channels.{quoted(f'{pattern}.{name}')}]" if is_table else ""
                if file and not is_table and mistake.setting and not nearest(mistake.setting, known):
                    hint = "; a setting of the gateway belongs above the first table"
                mistakes.append(Mistake("channels", f"{name} ({place})", mistake.text + hint))
    return channels, mistakes


def _settings_of(options: Mapping[Any, Any] | ChannelSettings) -> ChannelSettings:
    """Return `options` as settings. Raise `ConfigError`."""
    if isinstance(options, ChannelSettings):
        return options
    return ChannelSettings(**{str(name): value for name, value in options.items()})

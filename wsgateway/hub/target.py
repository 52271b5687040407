"""The recipients of a message, and the options of its publication. Does not send anything."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypedDict
from uuid import UUID

from wsgateway.frames import check_event_name, check_utf8
from wsgateway.hub.connection import Connection
from wsgateway.text import did_you_mean, short


class Everybody(tuple[Connection, ...]):
    """The type of `EVERYBODY`. It is an empty tuple, so that it fits the type of `event.connections`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "EVERYBODY"


EVERYBODY: Final = Everybody()
"""All connections, as the value of `connections`."""


class Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""The default of an argument. It is not None, because a caller that passes None by mistake must not reach every
connection."""

Recipients: TypeAlias = Iterable[Connection | str] | None
"""Connections and ids. Each receives a message once, in this order. `EVERYBODY` and None mean every open connection of
every node, an empty iterable means no recipients."""


UserId: TypeAlias = str | int | UUID
"""A user, as `conn.user` names one. An int or a UUID is compared as text."""


class TargetOptions(TypedDict, total=False):
    """The keyword arguments of `send` and `publish` except `message`: the recipients and options of the publication."""

    channel: str
    """The subscribers of this channel receive the message."""
    user: UserId
    """Every connection whose `user_id` is this receives the message."""
    connections: Recipients
    """These connections, or those with these ids, receive the message."""
    name: str
    """The name of an event, for client protocols that show one."""
    key: str
    """A newer publication replaces one with the same key, if the channel keeps the last of each."""
    tags: Mapping[str, str] | None
    """Texts of the application, which clients receive beside the message."""
    ttl: float | None
    """Seconds after which the publication is no longer sent."""
    idempotency_key: str
    """Of several publications to a channel with the same key, one is published."""


MAX_TTL = 1e300
"""Seconds, so that adding a ttl to a time never overflows."""


class Target:
    """The recipients of one message, and the options of its publication. A hook may change them.

    At most one of `channel`, `user`, and `connections` is set. If none of them is set, the recipients are every
    connection. `chosen` contains the names of the attributes that a hook has set.
    """

    __slots__ = (
        "channel",
        "chosen",
        "connections",
        "idempotency_key",
        "key",
        "name",
        "skip_history",
        "tags",
        "ttl",
        "user",
    )

    def __init__(
        self,
        *,
        channel: Any = "",
        user: Any = "",
        connections: Iterable[Connection | str] | None = None,
        name: str = "",
        key: str = "",
        tags: Mapping[str, str] | None = None,
        ttl: float | None = None,
        idempotency_key: str = "",
        skip_history: bool = False,
    ) -> None:
        self.channel: str = channel
        self.user: str = user
        self.connections = connections
        self.name = name
        self.key = key
        self.tags = tags
        self.ttl = ttl
        self.idempotency_key = idempotency_key
        self.skip_history = skip_history
        self.chosen: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raise `ValueError` or `TypeError` for a value that cannot be published."""
        check_event_name(self.name)
        for name in ("key", "idempotency_key"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"{name} is {short(value)}, use a str")
            check_utf8(name, value)
        if self.tags is not None:
            _check_tags(self.tags)
        if self.ttl is not None and (isinstance(self.ttl, bool) or not isinstance(self.ttl, (int, float))):
            raise TypeError(f"ttl is {short(self.ttl)}, use a number of seconds")
        if self.ttl is not None and not 0 < self.ttl <= MAX_TTL:
            raise ValueError(f"ttl is {short(self.ttl)}, use a number of seconds above 0")
        if not self.channel:
            given = [name for name in ("key", "tags", "ttl", "idempotency_key") if getattr(self, name)]
            if given:
                raise ValueError(f"{', '.join(given)}: only a message to a channel has that")


def target_of(
    *,
    channel: Any = MISSING,
    user: Any = MISSING,
    connections: Recipients = None,
    skip_history: bool = False,
    **options: Any,
) -> Target | None:
    """Return the target for the arguments of `send` or `publish`, or None if it is every connection.

    Raise `ValueError` for an empty channel or user, more than one of the three, or options that cannot be published,
    and `TypeError` for values of a wrong type.
    """
    if options:
        check_known(options)
    if not options and isinstance(channel, str) and channel and user is MISSING and connections is None:
        return Target(channel=channel, skip_history=skip_history)  # most messages of an application
    are_given = {
        "channel": channel is not MISSING,
        "user": user is not MISSING,
        "connections": connections is not None,
    }
    given = [name for name, is_given in are_given.items() if is_given]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given, choose one of them")
    if channel is not MISSING:
        check_text("channel", channel)
    if user is not MISSING:
        user = user_text(user)
    if connections is not None:
        check_recipients("connections", connections)
        if not isinstance(connections, Collection):
            connections = list(connections)  # the hook may read them too, and an iterator is empty then
    if not given and not skip_history and not options:
        return None
    target = Target(
        channel="" if channel is MISSING else channel,
        user="" if user is MISSING else user,
        connections=None if isinstance(connections, Everybody) else connections,
        skip_history=skip_history,
        **options,
    )
    target.check()
    return target


def check_known(options: Mapping[str, object]) -> None:
    """Raise `TypeError` for an argument that does not exist, because the message would be sent to every connection."""
    unknown = sorted(options.keys() - TargetOptions.__annotations__.keys())
    if unknown:
        hint = did_you_mean(unknown[0], TargetOptions.__annotations__)
        raise TypeError(f"there is no argument {unknown[0]!r}{hint}")


def check_recipients(name: str, connections: object) -> None:
    """Raise `TypeError` unless `connections` is `EVERYBODY`, or an iterable other than one id."""
    if isinstance(connections, Everybody):
        return
    if isinstance(connections, (str, bytes, bytearray)) or not isinstance(connections, Iterable):
        advice = "use None or a list of connections or their ids, such as [event.conn]"
        raise TypeError(f"{name} is {short(connections)}, {advice}")


def check_text(name: str, value: object, advice: str = "use a str") -> None:
    """Raise `ValueError` or `TypeError` unless `value` is text that is not empty.

    Of an object of another type, only the type is read, because a lazy object of an ORM would query its database.
    """
    kind = type(value)
    if value is None or (issubclass(kind, str) and not value):
        raise ValueError(f"{name} is {value!r}, use text that is not empty")
    if not issubclass(kind, str):
        shown = short(value) if kind.__module__ == "builtins" else f"of type {kind.__name__}"
        raise TypeError(f"{name} is {shown}, {advice}")


def user_text(user: object) -> str:
    """Return the `user_id` that `conn.user` has if it is `user`. Raise `ValueError` or `TypeError` as `check_text`."""
    kind = type(user)
    if issubclass(kind, (int, UUID)) and kind is not bool:
        return str(user)
    check_text("user", user, "use a str, an int, or a UUID, such as the primary key of the user")
    return str(user)


def _check_tags(tags: object) -> None:
    if not isinstance(tags, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in tags.items()
    ):
        raise TypeError(f"tags is {short(tags)}, use a dict of str to str")
    for key, value in tags.items():
        check_utf8("tags", key)
        check_utf8("tags", value)

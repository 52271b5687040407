"""What a client asks for, in any protocol. A protocol translates what arrives into these values. Knows no connections.

`ident` is the id of a command, which its answer carries too, or None.
"""

from dataclasses import dataclass
from typing import Any

from wsgateway.hub.channels import Wanted


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A message for `on_message`. `channel` and `name` are empty if the client names none."""

    message: Any
    channel: str = ""
    name: str = ""
    ident: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A client asks for a channel. `on_subscribe` finds `data` in `event.message`."""

    wanted: Wanted
    data: Any = ""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    channel: str
    ident: int | None = None


@dataclass(frozen=True, slots=True)
class Authenticate:
    """The first object of a client with `?auth=first`. `since` has positions as in the query."""

    token: str
    since: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Malformed:
    """Something that is no command. `channel` is the one that it names, None if it names none."""

    reason: str
    channel: str | None = None
    ident: int | None = None


Command = ClientMessage | Subscribe | Unsubscribe | Authenticate | Malformed

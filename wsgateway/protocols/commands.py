"""The commands of a client. Each protocol translates the messages that it receives into them. Knows no connections.

`ident` is the id of a command, or None. The answer contains it, too.
"""

from dataclasses import dataclass
from typing import Any

from wsgateway.hub.channel import Wanted


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A message for `on_message`. `channel` and `name` are empty if the client has not set them."""

    message: Any
    channel: str = ""
    name: str = ""
    ident: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A request to subscribe to a channel. `on_subscribe` finds `data` in `event.message`."""

    wanted: Wanted
    data: Any = ""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    channel: str
    ident: int | None = None


@dataclass(frozen=True, slots=True)
class Invoke:
    """A request for `on_request`. `name` is empty if the client has not set it."""

    message: Any
    name: str
    ident: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the request of the server whose id is `ident`."""

    message: Any
    ident: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """The refusal of the request of the server whose id is `ident`."""

    status: int
    reason: str
    ident: int


@dataclass(frozen=True, slots=True)
class Authenticate:
    """A token: the first object of a client with `?auth=first`, or later a new one.

    `since` contains positions as in the query, and belongs to the first object only.
    """

    token: str
    since: tuple[str, ...] = ()
    ident: int | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """Text that is not a valid command. `channel` is the channel that it names, or None."""

    reason: str
    channel: str | None = None
    ident: int | None = None


Command = ClientMessage | Subscribe | Unsubscribe | Invoke | Answer | Rejection | Authenticate | Malformed

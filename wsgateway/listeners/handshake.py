"""Checks and returns the values that `on_handshake` has set in its event. No I/O."""

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from wsgateway.auth.masking import shown_subprotocols
from wsgateway.hub.channels import Channels
from wsgateway.listeners.event import HandshakeEvent
from wsgateway.messages import Message, encode
from wsgateway.text import short


class Introduction(NamedTuple):
    """What a client has sent before `on_handshake`, besides the request itself.

    `token` is None if the headers of the request have it. `claims` are those of a token that was checked.
    """

    token: str | None = None
    message: Any = ""
    data: Mapping[str, Any] = {}
    claims: Mapping[str, Any] = {}


NO_INTRODUCTION = Introduction()


class Handshake(NamedTuple):
    """The choices of `on_handshake`.

    They are a subprotocol, the channels that a client is subscribed to as soon as it is open, and a reply to it.
    """

    subprotocol: str | None = None
    channels: tuple[str, ...] = ()
    reply: Message | None = None


NO_CHOICE = Handshake()


def chosen_in(event: HandshakeEvent, channels: Channels) -> Handshake:
    """Return the choices of `on_handshake`, and set `conn.user_id`. Raise `ValueError` if they cannot be used."""
    conn = event.conn
    if event.subprotocol is not None and event.subprotocol not in conn.subprotocols:
        offered = shown_subprotocols(conn.subprotocols)
        raise ValueError(f"subprotocol {event.subprotocol!r} was not offered, {offered!r} were")
    if isinstance(event.channels, str):
        raise ValueError(f"event.channels is {short(event.channels)}, use a list of names of channels")
    names = tuple(dict.fromkeys(event.channels))
    for name in names:
        channels.namespaces.find(name)
    channels.check_count(len(names))
    if not conn.user_id and conn.user is not None:
        if isinstance(conn.user, bool) or not isinstance(conn.user, (str, int, uuid.UUID)):
            kind = type(conn.user).__qualname__
            raise ValueError(f"conn.user has type {kind}, set conn.user_id to text that names the user")
        conn.user_id = str(conn.user)
    return Handshake(event.subprotocol, names, encode(event.reply))


def token_of(headers: Mapping[str, str]) -> str:
    """Return the token in `Authorization: Bearer TOKEN` (RFC 6750 2.1), empty without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""

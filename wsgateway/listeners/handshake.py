"""Checks and returns the values that `on_handshake` has set in its event. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wsgateway.auth.masking import shown_subprotocols
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import Connection
from wsgateway.listeners.event import HandshakeEvent
from wsgateway.messages import Message, encode
from wsgateway.text import short


class Introduction(NamedTuple):
    """What a client has sent before `on_handshake`, besides the request itself.

    `token` is empty if it came with the request, or not at all. `claims` are those of a token that was checked.
    """

    token: str = ""
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
    _name_user(conn)
    return Handshake(event.subprotocol, names, encode(event.reply))


def _name_user(conn: Connection) -> None:
    """Fix `conn.user_id`. Raise `ValueError` if `on_handshake` has set a user without text that names it."""
    user_id = conn.user_id
    if not user_id and conn.user is not None and not issubclass(type(conn.user), str):
        kind = type(conn.user).__qualname__
        raise ValueError(
            f"conn.user has type {kind}, set conn.user to the id of the user, such as its primary key, or set also "
            "conn.user_id to text that names the user"
        )
    conn.user_id = user_id


BEARER = "bearer"
"""The subprotocol after which a client names its token, because pages cannot set headers of a WebSocket."""


def token_of(conn: Connection, cookie: str | None) -> str:
    """Return the token that came with the request, empty without one.

    It is in `Authorization: Bearer TOKEN` (RFC 6750 2.1), the subprotocol after `bearer`, or the cookie `cookie`.
    """
    headers = conn.headers
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if "sec-websocket-protocol" in headers and (token := _offered_token(conn.subprotocols)):
        return token
    return conn.cookies.get(cookie, "") if cookie is not None and "cookie" in headers else ""


def bearer_of(scope: Mapping[str, Any]) -> str | None:
    """Return the subprotocol `bearer` if a client has offered a token after it, so that it is chosen."""
    names = scope.get("subprotocols")
    return BEARER if names and _offered_token(names) else None


def _offered_token(names: Sequence[str]) -> str:
    place = names.index(BEARER) + 1 if BEARER in names else len(names)
    return names[place] if place < len(names) else ""

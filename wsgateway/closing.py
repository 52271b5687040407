"""Close codes of a WebSocket (RFC 6455 7.4), and which a server may send. Knows nothing of connections."""

EXPIRED = 3005
"""Closes a client whose token has expired. It may reconnect with a new one."""

TOO_SLOW = 3008
"""Closes a client that is too slow. It may reconnect."""

STATE_LOST = 3010
"""Closes an event stream whose channel was lost, because an `EventSource` subscribes by reconnecting."""

TOO_MANY = 3013
"""Closes a client that sends more than `message_rate`. It may reconnect."""

UNAUTHORIZED = 3500
"""Closes a client whose token was refused. It may not reconnect."""

BAD_FIRST = 3501
"""Closes a client whose first object has no token. It may not reconnect."""

NO_TOKEN = 3502
"""Closes a client that has sent no token in time. It may not reconnect."""

DISCONNECTED = 3503
"""Closes a client that the application disconnects. It may not reconnect."""

OWN_CODES = frozenset({EXPIRED, TOO_SLOW, STATE_LOST, TOO_MANY, UNAUTHORIZED, BAD_FIRST, NO_TOKEN, DISCONNECTED})
"""The codes above 2999 that the gateway itself closes with."""

TRY_AGAIN = 1013
"""Closes a client that may try again later (IANA, after RFC 6455 11.7)."""

SHUTDOWN = '{"reason":"shutdown","reconnect":true,"retry_after_ms":%d}'
"""The close reason when a gateway stops, in the form that clients of the Centrifuge family read."""

MAX_CLOSE_REASON = 123
"""Bytes of a close reason, because a control frame carries 125, of which the code takes two (RFC 6455 5.5)."""

_CLOSE_CODES = frozenset({1000, 1001, 1008, 1011, 1012, 1013})


def check_close(code: int, reason: str) -> None:
    """Raise `ValueError` unless a server may close with `code` and `reason` (RFC 6455 7.4)."""
    if not isinstance(code, int) or not (code in _CLOSE_CODES or 3000 <= code <= 4999):
        raise ValueError(f"a connection is closed with 1000, 1001, 1008, 1011 to 1013 or 3000 to 4999, not {code!r}")
    if not isinstance(reason, str):
        raise ValueError(f"a close reason is a str, not {reason!r}")
    if len(reason.encode()) > MAX_CLOSE_REASON:
        raise ValueError(f"a close reason has at most {MAX_CLOSE_REASON} bytes of UTF-8, {reason!r} has more")


def may_reconnect(code: int) -> bool:
    """Return whether a client that was closed with `code` may connect again."""
    return code != 1009 and not (3500 <= code <= 3999 or 4500 <= code <= 4999)

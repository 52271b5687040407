"""The codes of the Centrifuge client protocol: of errors, of ended subscriptions, and of closes. Knows no clients."""

import enum
import json

from wsgateway.exceptions import Refused, TooManyChannels


class ErrorCode(enum.IntEnum):
    """The code of an error reply. `error_result` adds its text."""

    INTERNAL = 100
    UNAUTHORIZED = 101
    UNKNOWN_CHANNEL = 102
    PERMISSION_DENIED = 103
    METHOD_NOT_FOUND = 104
    ALREADY_SUBSCRIBED = 105
    LIMIT_EXCEEDED = 106
    BAD_REQUEST = 107
    NOT_AVAILABLE = 108
    TOKEN_EXPIRED = 109
    EXPIRED = 110
    TOO_MANY_REQUESTS = 111
    UNRECOVERABLE_POSITION = 112


_MESSAGES = {
    ErrorCode.INTERNAL: "internal server error",
    ErrorCode.UNAUTHORIZED: "unauthorized",
    ErrorCode.UNKNOWN_CHANNEL: "unknown channel",
    ErrorCode.PERMISSION_DENIED: "permission denied",
    ErrorCode.METHOD_NOT_FOUND: "method not found",
    ErrorCode.ALREADY_SUBSCRIBED: "already subscribed",
    ErrorCode.LIMIT_EXCEEDED: "limit exceeded",
    ErrorCode.BAD_REQUEST: "bad request",
    ErrorCode.NOT_AVAILABLE: "not available",
    ErrorCode.TOKEN_EXPIRED: "token expired",
    ErrorCode.EXPIRED: "expired",
    ErrorCode.TOO_MANY_REQUESTS: "too many requests",
    ErrorCode.UNRECOVERABLE_POSITION: "unrecoverable position",
}

_TEMPORARY = frozenset({ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS})

_UNSUBSCRIBES = {
    2000: "server unsubscribe",
    2500: "insufficient state",
    2501: "subscription expired",
    2502: "state invalidated",
}

EXPIRED_SUBSCRIPTION = 2501
"""Ends a subscription whose token has expired. The client subscribes again with a new one."""

INTERNAL_ERROR = 3004
CONNECTION_EXPIRED = 3005
SUBSCRIPTION_EXPIRED = 3006
NO_PONG = 3012
INVALID_TOKEN = 3500
BAD_REQUEST = 3501
STALE = 3502
CHANNEL_LIMIT = 3505

_CLOSES = {
    1000: "closed",
    1001: "going away",
    1003: "unsupported data",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1011: "internal server error",
    1012: "restart",
    1013: "try again later",
    3001: "shutdown",
    INTERNAL_ERROR: "internal server error",
    CONNECTION_EXPIRED: "connection expired",
    SUBSCRIPTION_EXPIRED: "subscription expired",
    3008: "slow",
    3009: "write error",
    3010: "insufficient state",
    3011: "force reconnect",
    NO_PONG: "no pong",
    3013: "too many requests",
    3014: "state invalidated",
    INVALID_TOKEN: "invalid token",
    BAD_REQUEST: "bad request",
    STALE: "stale",
    3503: "force disconnect",
    3504: "connection limit",
    CHANNEL_LIMIT: "channel limit",
    3507: "permission denied",
    3508: "not available",
    3509: "too many errors",
}

SHUTDOWN = 3001
"""Replaces 1012, with which a gateway closes its clients when it stops."""


class Failed(Refused):
    """A command has failed with `code`, for a reason of the protocol itself. `detail` is for the log."""

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        super().__init__(403, detail or _MESSAGES[code])
        self.code = code


def error_result(code: ErrorCode) -> dict[str, object]:
    """Return the fields of an error reply."""
    fields: dict[str, object] = {"code": int(code), "message": _MESSAGES[code]}
    if code in _TEMPORARY:
        fields["temporary"] = True
    return fields


def code_of(refused: Refused, *, is_request: bool = False) -> ErrorCode:
    """Return the code for a command that was refused. `is_request` is whether `on_request` has refused it."""
    if isinstance(refused, Failed):
        return refused.code
    if isinstance(refused.__cause__, TooManyChannels):
        return ErrorCode.LIMIT_EXCEEDED
    status = refused.status
    if status >= 500:
        return ErrorCode.INTERNAL
    if is_request and status == 404:
        return ErrorCode.METHOD_NOT_FOUND
    if status == 400 and refused.refusal.kind != "handshake":  # a rule of the gateway, not the application
        return ErrorCode.BAD_REQUEST
    codes = {
        401: ErrorCode.UNAUTHORIZED,
        404: ErrorCode.UNKNOWN_CHANNEL,
        429: ErrorCode.TOO_MANY_REQUESTS,
    }
    return codes.get(status, ErrorCode.PERMISSION_DENIED)


def unsubscribe_reason(code: int, reason: str) -> str:
    """Return `reason`, or what `code` means if it is empty, which some clients cannot read."""
    return reason or _UNSUBSCRIBES.get(code, "unsubscribed" if code < 2500 else "insufficient state")


def closing(code: int, reason: str) -> tuple[int, str]:
    """Return the code and the reason with which a client of this protocol is closed.

    A reason is never empty, and never JSON, because centrifuge-js parses JSON and then ignores the code.
    """
    if code == 1012:
        return SHUTDOWN, _CLOSES[SHUTDOWN]
    if not reason or _is_json(reason):
        reason = _CLOSES.get(code, "closed")
    return code, reason


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True

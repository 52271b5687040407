"""The claims of tokens: what a connection token and a subscription token contain (RFC 7519). No I/O; reads no clock.

Knows neither keys nor signatures.
"""

import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wsgateway.config.settings import Settings
from wsgateway.exceptions import MessageError, TokenRefused
from wsgateway.messages import decode_json


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """A channel that a token subscribes its connection to. Members see `info`, and the client receives `data`."""

    info: object = field(default=None, repr=False)
    data: object = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ConnectionClaims:
    """The claims of a valid connection token. `expires_at` is in seconds since the epoch, None if it never expires.

    `channels` has the names to subscribe to, and patterns such as `room:*`, which admit the client to
    the channels that it asks for.
    """

    user: str
    expires_at: float | None
    claims: Mapping[str, Any] = field(repr=False)
    info: object = field(default=None, repr=False)
    channels: tuple[str, ...] = ()
    subs: Mapping[str, SubscriptionOptions] = field(default_factory=dict, repr=False)

    def subscriptions(self) -> dict[str, SubscriptionOptions]:
        """Return the channels to subscribe to, with the options of each."""
        return {name: SubscriptionOptions() for name in self.channels if not name.endswith("*")} | dict(self.subs)


@dataclass(frozen=True, slots=True)
class SubscriptionClaims:
    """The claims of a valid subscription token. `expires_at` is when the subscription expires, None for never."""

    expires_at: float | None
    info: object = field(default=None, repr=False)


class ClaimRules:
    """Checks the claims of tokens whose signature is valid."""

    def __init__(self, settings: Settings) -> None:
        self._issuers = frozenset(settings.token_issuer)
        self._audiences = frozenset(settings.token_audience)
        self._user_claim = settings.token_user_claim
        self._leeway = settings.token_leeway

    def connection(self, claims: Mapping[str, Any], *, now: float) -> ConnectionClaims:
        """Return the claims of a connection token at the time `now`. Raise `TokenRefused`."""
        expires = self._check_registered(claims, now)
        if claims.get("channel") is not None:
            raise TokenRefused("it has the claim channel, so it is a subscription token")
        return ConnectionClaims(
            self._user(claims),
            _expiry(claims, expires, now),
            claims,
            _json_or_base64(claims, "info"),
            _channels(claims),
            _subs(claims),
        )

    def subscription(
        self, claims: Mapping[str, Any], *, channel: str, user: str, client: str, now: float
    ) -> SubscriptionClaims:
        """Return the claims of a subscription token for `channel`, which `user` sends on the connection `client`.

        Raise `TokenRefused`.
        """
        expires = self._check_registered(claims, now)
        own_user = self._user(claims)
        named = claims.get("channel")
        if not isinstance(named, str) or not named:
            raise TokenRefused("it has no claim channel, so it is not a subscription token")
        if named != channel:
            raise TokenRefused("it is for another channel", is_foreign=True)
        if own_user != user:
            raise TokenRefused("it is for another user", is_foreign=True)
        if claims.get("client") not in (None, "", client):
            raise TokenRefused("it is for another client", is_foreign=True)
        return SubscriptionClaims(_expiry(claims, expires, now), _json_or_base64(claims, "info"))

    def _check_registered(self, claims: Mapping[str, Any], now: float) -> float | None:
        """Check the registered claims (RFC 7519 4.1), and return `exp`. Raise `TokenRefused`."""
        expires, begins, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
        for name in ("iss", "jti"):
            if not isinstance(claims.get(name, ""), str):
                raise TokenRefused(f"{name} is not text")
        if self._issuers and claims.get("iss") not in self._issuers:
            raise TokenRefused("iss is not one of token_issuer")
        audience = claims.get("aud", [])
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(each, str) for each in audiences):
            raise TokenRefused("aud is neither text nor a list of text")
        if self._audiences and self._audiences.isdisjoint(audiences):
            raise TokenRefused("aud is not one of token_audience")
        if begins is not None and begins > now + self._leeway:
            raise TokenRefused("it is not valid yet (nbf)")
        if issued is not None and issued > now + self._leeway:
            raise TokenRefused("it was issued in the future (iat)")
        if expires is not None and expires <= now - self._leeway:
            raise TokenRefused("exp has passed", is_expired=True)
        return expires

    def _user(self, claims: Mapping[str, Any]) -> str:
        user = claims.get(self._user_claim, "")
        if not isinstance(user, str):
            raise TokenRefused(f"{self._user_claim} is not text")
        return user


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time in seconds since the epoch, None if it is missing. Raise `TokenRefused` for anything else."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TokenRefused(f"{name} is not a number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise TokenRefused(f"{name} is not a finite number")
    return seconds


def _expiry(claims: Mapping[str, Any], expires: float | None, now: float) -> float | None:
    """Return when the connection or the subscription expires: `expire_at`, of which 0 means never, else `exp`."""
    if claims.get("expire_at") is None:
        return expires
    at = _time(claims, "expire_at")
    if at == 0:
        return None
    if at is not None and at <= now:
        raise TokenRefused("expire_at has passed", is_over=True)
    return at


def _json_or_base64(owner: Mapping[str, Any], name: str) -> object:
    """Return the JSON value `name`, or the one that `b64NAME` has in base64; None without either."""
    value: object = owner.get(name)
    encoded = owner.get(f"b64{name}")
    if value is not None or encoded in (None, ""):
        return value
    if not isinstance(encoded, str):
        raise TokenRefused(f"b64{name} is not text")
    try:
        value = decode_json(b64decode(encoded, validate=True))
    except (ValueError, MessageError):
        raise TokenRefused(f"b64{name} is not JSON in base64") from None
    return value


def _channels(claims: Mapping[str, Any]) -> tuple[str, ...]:
    names = claims.get("channels")
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise TokenRefused("channels is not a list of names")
    return tuple(dict.fromkeys(names))


def _subs(claims: Mapping[str, Any]) -> dict[str, SubscriptionOptions]:
    subs = claims.get("subs")
    if subs is None:
        return {}
    if not isinstance(subs, dict) or not all(name and isinstance(one or {}, dict) for name, one in subs.items()):
        raise TokenRefused("subs is not an object with an object for each channel")
    return {
        name: SubscriptionOptions(_json_or_base64(one or {}, "info"), _json_or_base64(one or {}, "data"))
        for name, one in subs.items()
    }

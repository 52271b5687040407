"""Identifies clients by their tokens, in every protocol. Knows neither sockets nor how keys are fetched."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wsgateway.auth.claims import ClaimRules, ConnectionClaims, SubscriptionClaims, SubscriptionOptions
from wsgateway.closing import UNAUTHORIZED
from wsgateway.config.settings import Settings
from wsgateway.exceptions import Refusal, Refused, TokenRefused
from wsgateway.hub.connection import Connection
from wsgateway.hub.credentials import Credentials
from wsgateway.listeners.handshake import Introduction, token_of
from wsgateway.logs import GatewayLog

if TYPE_CHECKING:  # imports PyJWT, which is optional
    from wsgateway.auth.tokens import Header, Key, Signatures

KEYS_UNAVAILABLE = Refusal(503, "keys", "the keys of tokens are unavailable, try again later (token_jwks)")

REQUIRED = "token required"
"""The reason for a client that has sent no token."""


def token_refusal(reason: str, *, closes: bool) -> Refused:
    """Return the refusal of a client without a valid token, with 401 (RFC 6750 3).

    With `closes`, its handshake is accepted, and it is closed immediately, because a page cannot read a status.
    """
    if closes:
        refused = Refused.of(Refusal(401, "token", reason))
        refused.close = UNAUTHORIZED
        return refused
    if reason == REQUIRED:
        error, hint = "", "send one as `Authorization: Bearer TOKEN`, or with the option getToken of a Centrifuge SDK"
    else:
        error, hint = (
            f' error="invalid_token", error_description="{reason}"',
            "the log has the reason at the level INFO",
        )
    headers = (("www-authenticate", f"Bearer{error}"),)
    return Refused.of(Refusal(401, "token", f"{reason}, {hint}", "token", headers))


FetchKeys = Callable[[str | None], Awaitable["Sequence[Key]"]]
"""Returns the keys of a key set that may have signed a token with that `kid`. Raises `Refused` if they are not known
in time."""


class Identity:
    """Checks the tokens of one gateway. If no key is configured, nothing is checked.

    A token is never logged. `check` and `check_subscription` may be called only if `is_required`.
    """

    def __init__(
        self,
        settings: Settings,
        log: GatewayLog,
        *,
        signatures: "Signatures | None" = None,
        keys: "Sequence[Key]" = (),
        fetch: FetchKeys | None = None,
    ) -> None:
        """`keys` are those in the settings, and `fetch` returns those of a key set."""
        self.is_required = signatures is not None
        """Whether tokens are checked at all."""
        self.allows_anonymous = settings.anonymous
        """Whether a client without a token is admitted. One whose token is not valid never is."""
        self._rules = ClaimRules(settings)
        self._signatures = signatures
        self._keys = tuple(keys)
        self._fetch = fetch
        self._cookie = settings.token_cookie
        self._log = log

    async def introduce(
        self, conn: Connection, introduction: Introduction, *, check_channel: Callable[[str], None], closes: bool
    ) -> tuple[Introduction, Mapping[str, SubscriptionOptions]]:
        """Give `conn` the user of its token, and its credentials.

        Return the introduction with the token and its claims, and the channels to subscribe to. A token that came with
        the request counts only if the introduction has none. Raise `Refused`, whose cause is a `TokenRefused` unless
        the token is missing; with `closes`, it closes the connection. `check_channel` raises `Refused` for a channel
        that cannot exist.
        """
        token = introduction.token or token_of(conn, self._cookie)
        conn.user = ""
        if not token and not self.allows_anonymous:
            raise token_refusal(REQUIRED, closes=closes)
        if not token:
            return introduction, {}
        try:
            claims = await self.check(token)
        except TokenRefused as exc:
            raise token_refusal(exc.reason, closes=closes) from exc
        conn.user = conn.user_id = claims.user
        _apply(conn, claims)
        subs = claims.subscriptions()
        for name in subs:
            check_channel(name)
        return introduction._replace(token=token, claims=claims.claims), subs

    async def renew(self, conn: Connection, token: str) -> None:
        """Renew `conn` with a new token of the same user, which changes its `expires_at`.

        Raise what `check` raises, and `RuntimeError` if no key is configured.
        """
        if not self.is_required:
            raise RuntimeError("a token cannot be checked, because no key is configured: set token_secret")
        claims = await self.check(token)
        if claims.user != ("" if conn._credentials is None else conn._credentials.user):
            raise self._logged(TokenRefused("it is for another user", is_foreign=True))
        _apply(conn, claims)

    async def check(self, token: str) -> ConnectionClaims:
        """Return the claims of a connection token.

        Raise `TokenRefused`, or `Refused` with 503 if the keys of a key set cannot be fetched.
        """
        try:
            claims = await self._verified(token)
            return self._rules.connection(claims, now=time.time())
        except TokenRefused as exc:
            raise self._logged(exc) from None

    async def check_subscription(self, token: str, *, channel: str, user: str, client: str) -> SubscriptionClaims:
        """Return the claims of a subscription token for `channel`, sent by `user` on the connection `client`.

        Raise the same as `check`.
        """
        try:
            claims = await self._verified(token)
            return self._rules.subscription(claims, channel=channel, user=user, client=client, now=time.time())
        except TokenRefused as exc:
            raise self._logged(exc) from None

    async def _verified(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token that one of the keys has signed. Raise `TokenRefused` and `Refused`."""
        signatures = self._signatures
        assert signatures is not None, "tokens are not checked, because no key is configured"
        header = signatures.header(token)
        if self._fetch is None or not _may_be_fetched(header):
            return signatures.claims(token, header, self._keys)
        if self._keys:
            try:
                return signatures.claims(token, header, self._keys)
            except TokenRefused:
                pass
        return signatures.claims(token, header, await self._fetch(header.kid))

    def _logged(self, refused: TokenRefused) -> TokenRefused:
        self._log.limited(("token", refused.detail)).info("refused a token: %s", refused.detail)
        return refused


def _apply(conn: Connection, claims: ConnectionClaims) -> None:
    conn._credentials = Credentials(claims.user, claims.expires_at, (*claims.channels, *claims.subs))
    conn._conn_info = claims.info


def _may_be_fetched(header: "Header") -> bool:
    """Return whether a key of a key set may have signed the token, because a key set has no HMAC keys."""
    return not header.algorithm.startswith("HS")

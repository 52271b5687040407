"""Who a client is, by its token, in every protocol. Knows neither sockets nor how keys are fetched."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wsgateway.auth.claims import ClaimRules, ConnectionClaims, SubscriptionClaims
from wsgateway.config.settings import Settings
from wsgateway.exceptions import Refusal, TokenRefused
from wsgateway.logs import GatewayLog

if TYPE_CHECKING:  # imports PyJWT, which is optional
    from wsgateway.auth.tokens import Header, Key, Signatures

KEYS_UNAVAILABLE = Refusal(503, "keys", "the keys of tokens are unavailable, try again later (token_jwks)")

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
        """Whether a client without a token is let in. A wrong token never is."""
        self._rules = ClaimRules(settings)
        self._signatures = signatures
        self._keys = tuple(keys)
        self._fetch = fetch
        self._log = log

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


def _may_be_fetched(header: "Header") -> bool:
    """Return whether a key of a key set may have signed the token, because a key set has no HMAC keys."""
    return not header.algorithm.startswith("HS")

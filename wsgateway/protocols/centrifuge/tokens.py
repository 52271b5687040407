"""The tokens of a Centrifuge client: of its connection, and of each subscription, and when they expire. No sockets."""

import time
from functools import partial
from math import ceil
from typing import Any

from wsgateway.auth.claims import SubscriptionClaims
from wsgateway.exceptions import TokenRefused
from wsgateway.protocols.centrifuge.codes import (
    CONNECTION_EXPIRED,
    EXPIRED_SUBSCRIPTION,
    INVALID_TOKEN,
    SUBSCRIPTION_EXPIRED,
    ErrorCode,
    Failed,
)
from wsgateway.protocols.centrifuge.commands import Refresh, SubRefresh
from wsgateway.protocols.centrifuge.pings import PingedSession
from wsgateway.protocols.centrifuge.replies import Fields
from wsgateway.protocols.expiry import Expiry

MAX_TTL = 2**31 - 1
"""The largest `ttl`, in seconds, because it is a uint32 of the protocol, and libraries compute with it."""


def expiry_fields(expires_at: float | None) -> Fields:
    """Return the fields for something that expires at `expires_at`, in seconds since the epoch; None for never."""
    if expires_at is None:
        return {}
    return {"expires": True, "ttl": min(max(1, ceil(expires_at - time.time())), MAX_TTL)}


class ExpiringSession(PingedSession):
    """A client whose connection and subscriptions may expire."""

    __slots__ = ("_expiries",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._expiries: dict[str, Expiry] | None = None  # of its subscriptions, by channel

    @property
    def _is_closed_by_refusal(self) -> bool:
        return False  # `connect` is answered with an error

    # The connection

    async def renew(self, request: Refresh) -> Fields:
        """Renew the connection, and return the fields of the reply. Raise `Refused`."""
        identity = self._parts.identity
        if not identity.is_required:
            raise Failed(ErrorCode.NOT_AVAILABLE)
        if not request.token:
            raise Failed(ErrorCode.BAD_REQUEST)
        try:
            await identity.renew(self.conn, request.token)
        except TokenRefused as exc:
            if exc.is_over:
                raise Failed(ErrorCode.EXPIRED) from None
            self.outbox.close(CONNECTION_EXPIRED if exc.is_expired else INVALID_TOKEN, "")
            raise Failed(ErrorCode.PERMISSION_DENIED) from None
        self.expiry_changed()
        return {"client": self.conn.id} | expiry_fields(self.conn.expires_at)

    # Subscriptions

    async def check_token(self, token: str, channel: str) -> SubscriptionClaims:
        """Return the claims of the token for a new subscription. Raise `Refused`."""
        try:
            return await self._claims_of(token, channel)
        except TokenRefused as exc:
            if exc.is_foreign:
                self.outbox.close(INVALID_TOKEN, "")
            code = ErrorCode.TOKEN_EXPIRED if exc.is_expired else ErrorCode.PERMISSION_DENIED
            raise Failed(ErrorCode.EXPIRED if exc.is_over else code) from None

    async def renew_subscription(self, request: SubRefresh) -> Fields:
        """Renew a subscription, and return the fields of the reply. Raise `Refused`."""
        channel, channels = request.channel, self._parts.channels
        if request.type or not self._parts.identity.is_required:
            raise Failed(ErrorCode.NOT_AVAILABLE)
        if not request.token or not channel:
            raise Failed(ErrorCode.BAD_REQUEST)
        if not channels.is_subscribed(self.conn, channel):
            raise Failed(ErrorCode.PERMISSION_DENIED)
        try:
            claims = await self._claims_of(request.token, channel)
        except TokenRefused as exc:
            if not exc.is_expired and not exc.is_over:
                self.outbox.close(INVALID_TOKEN, "")
                raise Failed(ErrorCode.PERMISSION_DENIED) from None
            self._end_subscription(channel)
            raise Failed(ErrorCode.EXPIRED) from None
        if not channels.is_subscribed(self.conn, channel):  # it has ended while the keys were fetched
            raise Failed(ErrorCode.PERMISSION_DENIED)
        self.set_expiry(channel, claims.expires_at)
        return expiry_fields(claims.expires_at)

    async def _claims_of(self, token: str, channel: str) -> SubscriptionClaims:
        conn = self.conn
        return await self._parts.identity.check_subscription(token, channel=channel, user=conn.user_id, client=conn.id)

    def set_expiry(self, channel: str, expires_at: float | None) -> None:
        """End the subscription to `channel` some time after `expires_at`, or never if that is None."""
        if expires_at is None:
            expiry = None if self._expiries is None else self._expiries.pop(channel, None)
            if expiry is not None:
                expiry.cancel()
            return
        if self._expiries is None:
            self._expiries = {}
        expiry = self._expiries.get(channel)
        if expiry is None:
            ended = partial(self._end_subscription, channel)
            expiry = self._expiries[channel] = Expiry(self._parts.timers, expired=_wait_for_token, ended=ended)
        expiry.set(expires_at)

    def unsubscribed(self, channel: str) -> None:
        self.set_expiry(channel, None)  # else a later subscription to the channel would expire

    def _end_subscription(self, channel: str) -> None:
        """End a subscription whose token has expired. The client subscribes again, or connects again."""
        channels = self._parts.channels
        if channels.is_by_code(self.conn, channel):
            self.outbox.close(SUBSCRIPTION_EXPIRED, "")
        else:
            channels.unsubscribe(self.conn, channel, EXPIRED_SUBSCRIPTION, "")

    def finished(self, code: int, reason: str) -> None:
        for channel in tuple(self._expiries or ()):
            self.set_expiry(channel, None)
        super().finished(code, reason)


def _wait_for_token() -> None:
    """Do nothing yet, because the client may still send a new token."""

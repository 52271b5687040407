"""Decides which callers may see and change the gateways of a server. No I/O."""

import enum
from collections.abc import Mapping
from typing import Any

from wsgateway.auth.headers import values_of
from wsgateway.auth.rules import Rules
from wsgateway.config.addresses import is_loopback
from wsgateway.config.settings import AdminSettings, Settings, serves_outside
from wsgateway.exceptions import Refusal

KEY_SETTING = "[admin] token"


class Access(enum.IntEnum):
    """The access of a caller to the gateways of a supervisor."""

    NONE = 0
    READ = 1
    FULL = 2


class AdminRules:
    """The rules of the admin interface. Callers with a token, or local callers if no token is set, may manage gateways.

    `bound_host` is the address that the interface listens on, if it is known. `outside` is another sign that it
    serves other hosts. `uid` is the user of this process.
    """

    def __init__(
        self,
        admin: AdminSettings,
        *,
        bound_host: str | None = None,
        outside: str | None = None,
        uid: int | None = None,
    ) -> None:
        outside = serves_outside(admin) or outside
        if outside is None and bound_host is not None and not is_loopback(bound_host):
            outside = f"it listens on {bound_host}"
        self.outside = outside
        self.local_access = outside is None if admin.local_access is None else admin.local_access
        self.has_token = bool(admin.token or admin.read_token)
        # without a full token, local callers could write although a read-only token is set
        self._nobody_writes = bool(admin.read_token and not admin.token)

        def rules_for(*tokens: str) -> Rules:
            settings = Settings(
                api_key=tokens,
                allowed_hosts=admin.allowed_hosts,
                allowed_origins=admin.allowed_origins,
                local_access=self.local_access,
            )
            return Rules(
                settings,
                bound_host=bound_host,
                uid=uid,
                loopback_origins=False,
                owner="interface",
                key_setting=KEY_SETTING,
            )

        self._full = rules_for(*admin.token)
        self._reading = rules_for(*admin.token, *admin.read_token)

    def check(self, scope: Mapping[str, Any], *, writes: bool, has_password: bool = False) -> Refusal | None:
        """Return None for a caller that may read or, with `writes`, change gateways; a 400, 401, or 403 for any other.

        With `has_password` the panel has a password, so local callers need a token too.
        """
        refusal = self.check_page(scope)
        if refusal is None and writes:
            refusal = self._check_sender(scope)
        if refusal is None and has_password and not self.has_token:
            detail = f"the panel has a password, so this request needs a token; set one as {KEY_SETTING}"
            refusal = Refusal(401, "key", detail, "wrong-key", (("www-authenticate", "Bearer"),))
        refusal = refusal or self._reading.check_caller(scope)
        if refusal is not None or not writes:
            return refusal
        if self._nobody_writes:
            detail = f"this token is read-only, and no {KEY_SETTING} with full access is set"
            return Refusal(403, "read_only", detail)
        refusal = self._full.check_caller(scope)
        if refusal is not None and refusal.status == 401:
            return Refusal(403, "read_only", "this token is read-only", "wrong-key")
        return refusal

    def check_page(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Return a 400 for a host name that is not allowed, or a 403 for another site's page."""
        return self._reading.check_host(scope) or self._reading.check_origin(scope)

    def why_not_local(self, scope: Mapping[str, Any]) -> str | None:
        """Return why the caller needs a token or a password; None if neither is needed."""
        if self.local_access:
            return self._reading.why_not_local(scope)
        return "it is false" if self.outside is None else f"it is false, because {self.outside}"

    def _check_sender(self, scope: Mapping[str, Any]) -> Refusal | None:
        """Return a 403 for a cross-origin request that needs no CORS preflight, such as a POST without a body.

        Every browser sends `Sec-Fetch-Site`, so a request without it comes from a program such as curl. A page cannot
        send `content-type: application/json` without a preflight, which is never granted.
        """
        sites = values_of(scope["headers"], b"sec-fetch-site")
        types = values_of(scope["headers"], b"content-type")
        is_preflighted = len(types) == 1 and types[0].partition(b";")[0].strip().lower() == b"application/json"
        if is_preflighted or all(site in (b"same-origin", b"none") for site in sites):
            return None
        if self._reading.names_origin(scope):
            return None
        detail = "another site's page has sent this; add its origin to allowed_origins if it may"
        return Refusal(403, "origin", detail, "cross-origin-page")

    def access_of(self, password: str) -> Access:
        """Return the access of a caller that enters a token as the password."""
        headers = [(b"authorization", b"Bearer " + password.encode())]
        if self._full.has_key(headers):
            return Access.FULL
        return Access.READ if self._reading.has_key(headers) else Access.NONE

"""Who may see and change the gateways of a server. No I/O."""

import enum
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wsgateway.addresses import is_loopback
from wsgateway.auth.rules import Rules
from wsgateway.config.settings import AdminSettings, Settings, serves_outside
from wsgateway.exceptions import Refusal


class Access(enum.IntEnum):
    """What somebody may do with the gateways of a supervisor."""

    NONE = 0
    READ = 1
    FULL = 2


class AdminRules:
    """Who may manage the gateways of a supervisor: rules for tokens, and for local callers where nothing is set.

    `bound_host` is the address the interface listens on, where that is known; `outside` what else says that it serves
    others than this machine; `uid` the user of this process.
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
        common: dict[str, Any] = {
            "allowed_hosts": admin.allowed_hosts,
            "allowed_origins": admin.allowed_origins,
            "local_access": self.local_access,
        }
        full = admin.token
        self.has_token = bool(full or admin.read_token)
        self._nobody_writes = bool(admin.read_token and not full)  # else local callers would, with a read-only token
        where: dict[str, Any] = {"bound_host": bound_host, "uid": uid, "loopback_origins": False}
        self._full = Rules(Settings(**common, api_key=full), **where)
        self._reading = Rules(Settings(**common, api_key=(*full, *admin.read_token)), **where)

    def check(self, scope: Mapping[str, Any], *, writes: bool, has_password: bool = False) -> Refusal | None:
        """None for a caller that may; 400, 401 or 403 with the reason for any other."""
        refusal = self.check_page(scope)
        if refusal is None and writes:
            refusal = self._check_sender(scope)
        if refusal is None and has_password and not self.has_token:
            detail = "the panel has a password, so that this needs a token: set one as [admin] token"
            refusal = Refusal(401, "key", detail, "wrong-key", (("www-authenticate", "Bearer"),))
        refusal = refusal or self._reading.check_caller(scope)
        if refusal is None and writes and self._nobody_writes:
            refusal = Refusal(403, "read_only", "this token may only look, and no api_key is set that may do more")
        elif refusal is None and writes:
            refusal = self._full.check_caller(scope)
            if refusal is not None and refusal.status == 401:
                refusal = Refusal(403, "read_only", "this token may only look", "wrong-key")
        return None if refusal is None else self._in_words_of_admin(refusal)

    def check_page(self, scope: Mapping[str, Any]) -> Refusal | None:
        """400 or 403 for a host name that is not allowed, or a page of another site."""
        return self._reading.check_host(scope) or self._reading.check_origin(scope)

    def why_not_local(self, scope: Mapping[str, Any]) -> str | None:
        """Return why the caller is not let in without a token and password; None if it is."""
        if self.local_access:
            return self._reading.why_not_local(scope)
        return "it is false" if self.outside is None else f"it is false, because {self.outside}"

    def _check_sender(self, scope: Mapping[str, Any]) -> Refusal | None:
        """403 for a request that a page of another site can send without a CORS preflight, as a POST without a body.

        Every browser sends `Sec-Fetch-Site`, so a request without it comes from a program such as curl. A page cannot
        send `content-type: application/json` without a preflight, which is never granted.
        """
        sites = [value for name, value in scope["headers"] if name == b"sec-fetch-site"]
        kinds = [value for name, value in scope["headers"] if name == b"content-type"]
        is_preflighted = len(kinds) == 1 and kinds[0].partition(b";")[0].strip().lower() == b"application/json"
        if is_preflighted or all(site in (b"same-origin", b"none") for site in sites):
            return None
        if self._reading.names_origin(scope):
            return None
        detail = "a page of another site has sent this; add its origin to allowed_origins if it may"
        return Refusal(403, "origin", detail, "foreign-origin")

    def _in_words_of_admin(self, refusal: Refusal) -> Refusal:
        """The rules speak of a gateway's keys."""
        detail = refusal.detail.replace("api_key", "[admin] token")
        return replace(refusal, detail=detail.replace("this gateway", "this interface"))

    def access_of(self, password: str) -> Access:
        """Return the access of a caller that enters a token as the password."""
        headers = [(b"authorization", b"Bearer " + password.encode())]
        if self._full.has_key(headers):
            return Access.FULL
        return Access.READ if self._reading.has_key(headers) else Access.NONE

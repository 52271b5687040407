"""The tokens, passwords, and addresses that give access to the admin interface, by the current settings.

Knows no pages.
"""

import asyncio
import logging
from pathlib import Path

from wsgateway.admin.passwords import Passwords
from wsgateway.auth.admin import Access, AdminRules
from wsgateway.config.exposure import outside_of_process, own_uid
from wsgateway.config.settings import serves_outside
from wsgateway.logs import logger
from wsgateway.supervisor.supervisor import Supervisor

LOUD = (
    "panel: local_access is true although %s: callers on this host need no password, and if a proxy on this host adds "
    "no forwarded header, every client of that proxy counts as one; set a password "
    "(docs/how-to/admin.md#who-may-use-rest)"
)

CLOSED = (
    "panel: no password is set, and every caller is refused, because %s: set one (wsgateway password), or "
    "local_access = true for callers on this host"
)


class Credentials:
    """The credentials for the gateways of a supervisor. REST and the panel share one object, which follows reloads."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        folder: Path | None = None,
        bound_host: str | None = None,
        is_guarded: bool = False,
    ) -> None:
        """`folder` contains the file with passwords, `bound_host` is the address of the interface if it is known.

        `is_guarded` is whether the application decides about access.
        """
        self._supervisor = supervisor
        self._folder = folder or Path()
        self._bound_host = bound_host
        self._is_guarded = is_guarded
        self._passwords = Passwords(supervisor.admin, self._folder)
        self._apply_settings()

    @property
    def rules(self) -> AdminRules:
        self._follow_reload()
        return self._rules

    @property
    def passwords(self) -> Passwords:
        self._follow_reload()
        return self._passwords

    def secret(self) -> str:
        """Return the text that signs sessions. It changes with every password and token, which ends all sessions."""
        passwords = self.passwords
        return passwords.secret(repr((self._admin.token, self._admin.read_token)))

    async def access_for(self, password: str) -> Access:
        """Return the access that `password` gives, which may also be a token."""
        by_password = await asyncio.to_thread(self.passwords.access_of, password)
        return max(by_password, self.rules.access_of(password))

    def _follow_reload(self) -> None:
        if self._admin is not self._supervisor.admin:
            self._passwords.use(self._supervisor.admin, self._folder)
            self._apply_settings()

    def _apply_settings(self) -> None:
        self._admin = self._supervisor.admin
        outside = outside_of_process()
        for embedded in self._supervisor.embedded:  # they share the panel's server
            outside = outside or serves_outside(embedded.settings)
        self._rules = rules = AdminRules(self._admin, bound_host=self._bound_host, outside=outside, uid=own_uid())
        if rules.outside is not None and not self._is_guarded and not rules.has_token and not self._passwords.is_set():
            level, text = (logging.WARNING, LOUD) if rules.local_access else (logging.INFO, CLOSED)
            logger.log(level, text, rules.outside)

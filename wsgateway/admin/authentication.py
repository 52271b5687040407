"""Decides the access of a request to the panel: by the application's guard, by a login, or as a local caller."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection
from starlette.responses import Response

from wsgateway.admin.credentials import Credentials
from wsgateway.admin.logins import MAX_AGE, Login, Logins, date_of_cookies
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.exceptions import Refusal, Refused

HostGuard = Callable[[HTTPConnection], Awaitable[Access] | Access]
"""A guard of the application that mounts the panel. It returns the access of the sender of a request."""

NOT_LOCAL = (
    "No password is set, so only callers on this host have access (local_access), and {}. To give others access, run: "
    "wsgateway password (for a mounted panel, pass password_hash or guard)."
)


class Authentication:
    """Decides the access of requests, and keeps the logins of browsers."""

    def __init__(self, credentials: Credentials, guard: HostGuard | None) -> None:
        self._credentials = credentials
        self._guard = guard
        self.logins = Logins(credentials.secret, lambda nonce: credentials.passwords.has_ended(nonce))

    @property
    def is_guarded(self) -> bool:
        """Whether the application decides about access."""
        return self._guard is not None

    @property
    def asks_for_password(self) -> bool:
        if self._guard is not None:
            return False
        return self._credentials.passwords.is_set() or self._credentials.rules.has_token

    def login_of(self, connection: HTTPConnection) -> Login | None:
        return self.logins.read(connection.cookies.get(connection.scope["wsgateway.cookie"], ""))

    async def access_of(self, connection: HTTPConnection) -> Access:
        """Return the access of the sender. Raise `Refused` if no login could help."""
        rules = self._credentials.rules
        refusal = rules.check_page(connection.scope)
        if refusal is not None:
            raise Refused.of(refusal)
        if _is_embedded(connection):
            raise Refused.of(Refusal(403, "origin", "a page of another site may link to the panel, but not load it"))
        if self._guard is not None:
            access = self._guard(connection)
            return Access(await access if isinstance(access, Awaitable) else access)
        if self.asks_for_password:
            login = self.login_of(connection)
            return Access.NONE if login is None else login.access
        reason = rules.why_not_local(connection.scope)
        if reason is not None:
            raise Refused.of(Refusal(403, "local_access", NOT_LOCAL.format(reason)))
        return Access.FULL

    async def access_for(self, password: str) -> Access:
        """Return the access that `password` gives, which may also be a token."""
        return await self._credentials.access_for(password)

    def remember(self, response: Response, visit: Visit, login: Login) -> None:
        """Let the browser keep `login`."""
        response.set_cookie(
            visit.cookie,
            self.logins.cookie_of(login),
            max_age=MAX_AGE,
            secure=visit.request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    async def end(self, login: Login) -> None:
        """Log `login` out, also in other processes with the same password file, and after a restart."""
        self.logins.end(login)
        if login.access is not Access.NONE:
            now = date_of_cookies()
            await asyncio.to_thread(self._credentials.passwords.keep_ended, login.nonce, now=now, until=now + MAX_AGE)


def _is_embedded(connection: HTTPConnection) -> bool:
    """Whether a page of another site loads this, as an image or in a frame, which sends no `Origin`.

    Such a request would let the page keep the panel busy. A link to the panel is a navigation of a document
    (https://www.w3.org/TR/fetch-metadata/).
    """
    headers = connection.headers
    is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return is_foreign and "origin" not in headers and headers.get("sec-fetch-dest") != "document"

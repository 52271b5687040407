"""Logins: signed cookies, tokens against forged requests (CSRF), and limits on how often a password may be tried."""

import asyncio
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256

from itsdangerous import BadSignature, Signer, TimestampSigner, URLSafeTimedSerializer
from starlette.types import Scope

from wsgateway.admin.passwords import MAX_ENDED
from wsgateway.auth.admin import Access
from wsgateway.config.addresses import is_loopback, remote_end_of
from wsgateway.gateway.http.paths import sender_of
from wsgateway.limits import RateLimits

COOKIE = "wsgateway_session"

MAX_AGE = 12 * 3600
"""Seconds that a login lasts."""

TRIES = 5
TRIES_PER_SECOND = 0.2
"""Tries of a password from one address: the size of a burst, and the rate after it."""

TRIES_AT_ONCE = 2
"""Passwords of one address that are tried at the same time. Others are refused and not counted, so a burst of wrong
passwords leaves some of `TRIES` for the right one."""

MAX_LOGINS = 2
"""Passwords that are tried at the same time, because each takes 32 MiB and a thread. The rest wait in FIFO order."""

MAX_WAITING = 100
"""Passwords that are tried or wait to be tried."""


def date_of_cookies() -> int:
    """Return the time in seconds since the epoch, by the clock that dates cookies, which all processes share."""
    return TimestampSigner("").get_timestamp()


def cookie_name(mount: str) -> str:
    """Return the name of the session's cookie for a panel that is mounted at `mount`.

    The cookie's path is `/`, because a proxy may remove a prefix that the server does not know. Two panels of one
    application would overwrite each other's cookie if it had the same name.
    """
    return f"{COOKIE}_{sha256(mount.encode()).hexdigest()[:8]}" if mount else COOKIE


@dataclass(frozen=True, slots=True)
class Login:
    """The session of a browser. `access` is what its password has given, NONE before it logs in."""

    nonce: str
    access: Access


class Logins:
    """Makes and checks the cookies of logins, and the tokens of their forms."""

    def __init__(self, secret: Callable[[], str], has_ended: Callable[[str], bool] = lambda nonce: False) -> None:
        """`secret` returns the text that signs cookies. When it changes, all logins end.

        `has_ended` returns whether another process has ended the login with a nonce.
        """
        self._secret = secret
        self._has_ended = has_ended
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self, access: Access = Access.NONE) -> Login:
        return Login(secrets.token_urlsafe(16), access)

    def end(self, login: Login) -> None:
        """Log out, so that no copy of the cookie is valid from now on.

        At most `MAX_ENDED` logins are remembered. A login without access is not remembered, because it is worth no more
        than a new one.
        """
        if login.access is Access.NONE:
            return
        self._ended[login.nonce] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def cookie_of(self, login: Login) -> str:
        return self._serializer().dumps([login.nonce, int(login.access)])

    def read(self, cookie: str) -> Login | None:
        """Return the login of a cookie, or None if it is forged, too old, or logged out."""
        try:
            nonce, access = self._serializer().loads(cookie, max_age=MAX_AGE)
        except BadSignature:
            return None
        return None if nonce in self._ended or self._has_ended(nonce) else Login(nonce, Access(access))

    def csrf_of(self, login: Login) -> str:
        """Return the token that every form of the login contains, and that another site's page cannot know."""
        return self._signer().get_signature(login.nonce).decode()

    def is_own_form(self, login: Login, token: str) -> bool:
        return self._signer().verify_signature(login.nonce.encode(), token.encode("ascii", "replace"))

    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._secret(), salt="wsgateway.session")

    def _signer(self) -> Signer:
        return Signer(self._secret(), salt="wsgateway.csrf")


class TooManyTries(Exception):  # noqa: N818  named as the answer 429 is
    """A password may not be tried now."""


class Tries:
    """Limits how often passwords are tried: by one sender, concurrently, and in total."""

    def __init__(self) -> None:
        self._rates = RateLimits(TRIES_PER_SECOND, TRIES)
        self._waiting: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(MAX_LOGINS)

    @asynccontextmanager
    async def slot(self, sender: str) -> AsyncIterator[None]:
        """Wait until a password of `sender` may be tried. Raise `TooManyTries` immediately if it may not."""
        if self._waiting[sender] >= TRIES_AT_ONCE or self._waiting.total() >= MAX_WAITING:
            raise TooManyTries
        if not self._rates.allows(sender, time.monotonic()):
            raise TooManyTries
        self._waiting[sender] += 1
        try:
            async with self._slots:
                yield
        finally:
            self._rates.skip(sender, time.monotonic())  # a slow machine allows no more tries than a fast one
            self._waiting[sender] -= 1
            if not self._waiting[sender]:
                del self._waiting[sender]


def counted_address(scope: Scope) -> str:
    """Return the address whose tries are counted together.

    For a peer on loopback, return its own address, and for a peer on a Unix socket an empty one. Any process of the
    host can send a forwarded header, so the header does not count there. For other peers, it counts if the proxy is
    trusted.
    """
    host = remote_end_of(scope).host
    return host if not host or is_loopback(host) else sender_of(scope)

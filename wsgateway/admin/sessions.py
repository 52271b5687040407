"""Who is logged in: signed cookies, tokens against forged requests (CSRF), and how often a password may be tried."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer

from wsgateway.auth import Access

COOKIE = "wsgateway_session"

MAX_AGE = 12 * 3600
"""Seconds after which one has to log in again."""

TRIES = 5
TRIES_PER_SECOND = 0.2
"""Tries of a password for one address: so many at once, then so many a second."""


def cookie_name(mount: str) -> str:
    """Return the name of the session's cookie for a panel that is mounted at `mount`.

    The cookie's path is `/`, because a proxy may remove a prefix that the server does not know. Two panels of one
    application would overwrite each other's cookie if it had the same name.
    """
    return f"{COOKIE}_{sha256(mount.encode()).hexdigest()[:8]}" if mount else COOKIE


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has been here. `access` is what it has logged in for."""

    nonce: str
    access: Access


class Sessions:
    """`secret` tells what signs them; when it changes, all end."""

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret
        self._ended: OrderedDict[str, float] = OrderedDict()

    def begin(self, access: Access = Access.NONE) -> Session:
        return Session(secrets.token_urlsafe(16), access)

    def end(self, session: Session) -> None:
        """Log out: the cookie is worth nothing from now on, whoever has a copy of it."""
        now = time.monotonic()
        self._ended[session.nonce] = now + MAX_AGE
        while self._ended and next(iter(self._ended.values())) < now:
            self._ended.popitem(last=False)

    def cookie_of(self, session: Session) -> str:
        return self._serializer().dumps([session.nonce, int(session.access)])

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie, unless it is forged, too old or ended."""
        try:
            nonce, access = self._serializer().loads(cookie, max_age=MAX_AGE)
        except BadSignature:
            return None
        return None if nonce in self._ended else Session(nonce, Access(access))

    def csrf_of(self, session: Session) -> str:
        """What every form of the session carries, and no foreign page can know."""
        return self._signer().get_signature(session.nonce).decode()

    def is_own_form(self, session: Session, token: str) -> bool:
        return self._signer().verify_signature(session.nonce.encode(), token.encode("ascii", "replace"))

    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._secret(), salt="wsgateway.session")

    def _signer(self) -> Signer:
        return Signer(self._secret(), salt="wsgateway.csrf")

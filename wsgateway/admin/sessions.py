"""Who is logged in: signed cookies, tokens against forged requests (CSRF), and how often a password may be tried."""

import asyncio
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from itsdangerous import BadSignature, Signer, TimestampSigner, URLSafeTimedSerializer

from wsgateway.addresses import is_loopback, peer_of, plain_address
from wsgateway.admin.passwords import MAX_ENDED
from wsgateway.auth.admin import Access
from wsgateway.limits import Rates

COOKIE = "wsgateway_session"

MAX_AGE = 12 * 3600
"""Seconds after which one has to log in again."""

TRIES = 5
TRIES_PER_SECOND = 0.2
"""Tries of a password for one address: burst, and how many per second after it."""

TRIES_AT_ONCE = 2
"""Passwords of one address that are tried at the same time. More are refused and not counted, so a burst of wrong ones
leaves some of `TRIES` for the right one."""

MAX_LOGINS = 2
"""Passwords that are tried at the same time; each takes 32 MiB and a thread. The rest wait in order."""

MAX_WAITING = 100
"""Log-ins that wait or are tried."""


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
    """A browser that has been here. `access` is what it has logged in for."""

    nonce: str
    access: Access


class Sessions:
    """`secret` tells what signs them; when it changes, all end. `has_ended` knows nonces that others have ended."""

    def __init__(self, secret: Callable[[], str], has_ended: Callable[[str], bool] = lambda nonce: False) -> None:
        self._secret = secret
        self._has_ended = has_ended
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self, access: Access = Access.NONE) -> Login:
        return Login(secrets.token_urlsafe(16), access)

    def end(self, session: Login) -> None:
        """Log out: no copy of the cookie is valid from now on. At most `MAX_ENDED` are remembered, so a session that
        was never logged in is not: it gives nothing that a new one does not give."""
        if session.access is Access.NONE:
            return
        self._ended[session.nonce] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def cookie_of(self, session: Login) -> str:
        return self._serializer().dumps([session.nonce, int(session.access)])

    def read(self, cookie: str) -> Login | None:
        """The session of a cookie, unless it is forged, too old or ended."""
        try:
            nonce, access = self._serializer().loads(cookie, max_age=MAX_AGE)
        except BadSignature:
            return None
        return None if nonce in self._ended or self._has_ended(nonce) else Login(nonce, Access(access))

    def csrf_of(self, session: Login) -> str:
        """What every form of the session carries, and no foreign page can know."""
        return self._signer().get_signature(session.nonce).decode()

    def is_own_form(self, session: Login, token: str) -> bool:
        return self._signer().verify_signature(session.nonce.encode(), token.encode("ascii", "replace"))

    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._secret(), salt="wsgateway.session")

    def _signer(self) -> Signer:
        return Signer(self._secret(), salt="wsgateway.csrf")


class TooManyTries(Exception):  # noqa: N818  named as the answer 429 is
    """A password that is not tried now."""


class Tries:
    """Limits how often passwords are tried: by one sender, at the same time, and in all."""

    def __init__(self) -> None:
        self._rates = Rates(TRIES_PER_SECOND, TRIES)
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


def sender_of(scope: Mapping[str, Any]) -> str:
    """Return the address whose tries count together.

    That is the peer's if it is on loopback or a Unix socket (then empty), because any process of the host can send a
    forwarded header. Elsewhere a header is believed only if the operator has named the proxy.
    """
    peer = peer_of(scope).host
    return peer if not peer or is_loopback(peer) else client_of(scope)


def client_of(scope: Mapping[str, Any]) -> str:
    """Return the client's address for the log, as forwarded headers name it."""
    client = scope.get("client")
    return plain_address(client[0]) if client else "a Unix socket"

"""The panel's passwords, hashed with scrypt (RFC 7914), and ended logins, in a file that only its owner may read.

Does not know cookies or pages.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsgateway.auth.admin import Access
from wsgateway.config.files import read_text
from wsgateway.config.settings import AdminSettings
from wsgateway.logs import logger
from wsgateway.supervisor.store import replace_file

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows
    fcntl = None  # type: ignore[assignment]  # a module or nothing

LOG2_N, R, P = 15, 8, 3
"""The cost of scrypt for new hashes: 32 MiB and about 250 ms per try. OWASP's Password Storage Cheat Sheet lists it as
equivalent to N = 2^17, r = 8, p = 1, which needs 128 MiB."""

MIN_LENGTH = 8
MAX_LENGTH = 1024
"""Characters of a password."""

MAX_ENDED = 2000
"""Ended logins that are remembered. If there are more, the oldest is forgotten."""

LOCK_TIMEOUT = 2.0
"""Seconds to wait for another process that has locked the file. It only replaces a small file."""


def hash_password(password: str) -> str:
    """Return `scrypt:log2(N):r:p:salt:hash`. Raise `ValueError` if the password is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ValueError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters, this one has {len(password)}")
    salt = secrets.token_bytes(16)
    parts = (base64.urlsafe_b64encode(part).decode() for part in (salt, _scrypt(password, salt, LOG2_N, R, P)))
    return ":".join(("scrypt", str(LOG2_N), str(R), str(P), *parts))


def matches(password: str, hashed: str) -> bool:
    """Return whether `hashed` is a hash of `password`; False if it cannot be parsed."""
    try:
        name, log2_n, r, p, salt, key = hashed.split(":")
        if name != "scrypt" or len(password) > MAX_LENGTH:
            return False
        key_of_password = _scrypt(password, base64.urlsafe_b64decode(salt), int(log2_n), int(r), int(p))
        return hmac.compare_digest(key_of_password, base64.urlsafe_b64decode(key))
    except ValueError:
        return False


def _is_weak(hashed: str) -> bool:
    """Return whether a hash that matched takes less work than a new one."""
    log2_n, r, p = map(int, hashed.split(":")[1:4])
    return (r * p << log2_n) < (R * P << LOG2_N)


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    memory = 128 * r * 2**log2_n
    if not (1 <= log2_n <= 20 and 1 <= r <= 32 and 1 <= p <= 16):
        raise ValueError("scrypt parameters out of range")
    raw = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(raw, salt=salt, n=2**log2_n, r=r, p=p, maxmem=memory + 2**20, dklen=32)


def write_password(path: Path, password: str, access: Access) -> None:
    """Set the password for `access` in the file, which is created with mode 600. Raise `ValueError`, `OSError`."""
    hashed = hash_password(password)
    with _locked(path):
        content = _read(path) if path.exists() else {}
        content.setdefault("secret", secrets.token_hex(32))
        content[access.name.lower()] = hashed
        _write(path, content)


def _read(path: Path) -> dict[str, Any]:
    """Return the file's content. Raise `ValueError` or `OSError`."""
    content: Any = json.loads(read_text(path))
    if isinstance(content, dict):
        ended = content.get("ended", {})
        texts = (value for name, value in content.items() if name != "ended")
        is_known = isinstance(ended, dict) and all(type(until) in (int, float) for until in ended.values())
        if is_known and all(isinstance(text, str) for text in texts):
            return content
    raise ValueError("it was not written by `wsgateway password`")


def _write(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=2) + "\n", mode=0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from replacing the file at `path`, if it exists. Raise `TimeoutError`."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    number = _lock(path)
    while number is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is locked by another process")
        time.sleep(0.01)  # flock waits without a time limit, or not at all
        number = _lock(path)
    try:
        yield
    finally:
        if number >= 0:
            os.close(number)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, -1 if the file does not exist, or None to try again."""
    if fcntl is None:  # pragma: no cover  Windows
        return -1
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_current = os.path.samestat(os.fstat(number), path.stat())  # else it was replaced meanwhile
    except OSError:
        is_current = False
    if not is_current:
        os.close(number)
    return number if is_current else None


class Passwords:
    """The passwords of the settings and of the file, which is read again when it has changed."""

    def __init__(self, admin: AdminSettings, folder: Path) -> None:
        """Use the passwords that `admin` sets, and its password file in `folder`, which need not exist."""
        self._has_warned = False
        self._own_secret = secrets.token_hex(32)
        self.use(admin, folder)

    def use(self, admin: AdminSettings, folder: Path) -> None:
        """Use the passwords of other settings from now on."""
        self._given = {"full": admin.password_hash, "read": admin.read_password_hash}
        self._path = folder / admin.password_file if admin.password_file else None
        self._content: dict[str, Any] = {}
        self._seen: tuple[int, int] | None = None
        self._is_broken = False

    def is_set(self) -> bool:
        """Return whether a password is set. A file that cannot be read counts as one, but no login succeeds."""
        self._refresh()
        return self._is_broken or any(self._hashes().values())

    def secret(self, more: str = "") -> str:
        """Return the text that signs logins. It changes with every password and with `more`, which ends all logins."""
        self._refresh()
        base: str = self._content.get("secret", self._own_secret)
        return hashlib.sha256("\n".join((base, *self._hashes().values(), more)).encode()).hexdigest()

    def access_of(self, password: str) -> Access:
        """Return the access that `password` gives. Call it in a thread, because each password takes 250 ms."""
        self._refresh()
        hashes = self._hashes()
        best = max(
            (access for access in (Access.READ, Access.FULL) if matches(password, hashes[access.name.lower()])),
            default=Access.NONE,
        )
        if best and not self._has_warned and _is_weak(hashes[best.name.lower()]):
            self._has_warned = True
            logger.warning(
                "the hash of the panel's password takes less work than a new one, set it again: wsgateway password"
            )
        return best

    def has_ended(self, nonce: str) -> bool:
        """Return whether the login with this nonce was ended, according to the file."""
        self._refresh()
        return nonce in self._content.get("ended", ())

    def keep_ended(self, nonce: str, *, now: int, until: int) -> None:
        """Record in the file that the login with this nonce was ended at `now`. It would have expired at `until`.

        Both are seconds since the epoch, by the clock that dates cookies. Without a file nothing is written, because
        the secret that signs logins ends with the process. Call it in a thread, because it blocks.
        """
        path = self._path
        if path is None or not path.exists():
            return
        try:
            with _locked(path):
                content = _read(path)
                ended = {known: its_end for known, its_end in content.get("ended", {}).items() if its_end > now}
                ended[nonce] = until
                content["ended"] = dict(list(ended.items())[-MAX_ENDED:])
                _write(path, content)
        except (OSError, ValueError) as exc:
            logger.error(
                "%s cannot be written, so a session that was logged out is valid again after a restart: %s", path, exc
            )

    def _hashes(self) -> dict[str, str]:
        return {name: self._given[name] or self._content.get(name, "") for name in ("full", "read")}

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
        except OSError:
            self._content, self._seen, self._is_broken = {}, None, False
            return
        seen = (status.st_mtime_ns, status.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._content, self._is_broken = _read(self._path), False
            if not any(self._hashes().values()):
                raise ValueError("it does not contain a password")
        except (OSError, ValueError) as exc:
            self._content, self._is_broken = {}, True
            logger.error("the panel's passwords cannot be read, so no login succeeds: %s: %s", self._path, exc)
        if status.st_mode & 0o077:
            logger.warning("%s can be read by users other than its owner: chmod 600 it", self._path)

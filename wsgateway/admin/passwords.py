"""The panel's passwords, hashed with scrypt (RFC 7914) and kept in a file that only its owner may read, with the
sessions that were logged out. Knows nothing of cookies and pages."""

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
"""scrypt's cost for new hashes: 32 MiB and about 250 ms for each try. OWASP's Password Storage Cheat Sheet names it as
equal to N = 2^17, r = 8, p = 1, which needs 128 MiB."""

MIN_LENGTH = 8
MAX_LENGTH = 1024
"""Characters of a password."""

MAX_ENDED = 2000
"""Sessions that were logged out and are remembered; past them, the oldest is forgotten."""

LOCK_TIMEOUT = 2.0
"""Seconds that another process may keep the file locked; it replaces a small file."""


def hash_password(password: str) -> str:
    """`scrypt:log2(N):r:p:salt:hash`. Raises `ValueError` for a password that is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ValueError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters, this one {len(password)}")
    salt = secrets.token_bytes(16)
    parts = (base64.urlsafe_b64encode(part).decode() for part in (salt, _scrypt(password, salt, LOG2_N, R, P)))
    return ":".join(("scrypt", str(LOG2_N), str(R), str(P), *parts))


def matches(password: str, hashed: str) -> bool:
    """Whether `password` is the one behind `hashed`; False for a hash that cannot be read."""
    try:
        name, log2_n, r, p, salt, key = hashed.split(":")
        if name != "scrypt" or len(password) > MAX_LENGTH:
            return False
        found = _scrypt(password, base64.urlsafe_b64decode(salt), int(log2_n), int(r), int(p))
        return hmac.compare_digest(found, base64.urlsafe_b64decode(key))
    except ValueError:
        return False


def _is_weak(hashed: str) -> bool:
    """Return whether a hash that matched took less work than a new one takes."""
    log2_n, r, p = map(int, hashed.split(":")[1:4])
    return (r * p << log2_n) < (R * P << LOG2_N)


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    memory = 128 * r * 2**log2_n
    if not (1 <= log2_n <= 20 and 1 <= r <= 32 and 1 <= p <= 16):
        raise ValueError("scrypt parameters out of range")
    raw = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(raw, salt=salt, n=2**log2_n, r=r, p=p, maxmem=memory + 2**20, dklen=32)


def write_password(path: Path, password: str, access: Access) -> None:
    """Set the password for `access` in the file, which is made with mode 600. Raises `ValueError`, `OSError`."""
    hashed = hash_password(password)
    with _locked(path):
        kept = _read(path) if path.exists() else {}
        kept.setdefault("secret", secrets.token_hex(32))
        kept[access.name.lower()] = hashed
        _write(path, kept)


def _read(path: Path) -> dict[str, Any]:
    """Return the file's content. Raise `ValueError` or `OSError`."""
    kept: Any = json.loads(read_text(path))
    if isinstance(kept, dict):
        ended = kept.get("ended", {})
        texts = (value for name, value in kept.items() if name != "ended")
        is_known = isinstance(ended, dict) and all(type(until) in (int, float) for until in ended.values())
        if is_known and all(isinstance(text, str) for text in texts):
            return kept
    raise ValueError("it was not written by `wsgateway password`")


def _write(path: Path, kept: dict[str, Any]) -> None:
    replace_file(path, json.dumps(kept, indent=2) + "\n", mode=0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from replacing the file at `path`, if it exists. Raise `TimeoutError`."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    number = _lock(path)
    while number is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is locked by another process")
        time.sleep(0.01)  # flock has no time limit
        number = _lock(path)
    try:
        yield
    finally:
        if number >= 0:
            os.close(number)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, -1 if there is nothing to lock, or None to try again."""
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
    """The passwords in effect: those of the settings, and of the file, which is read again when it has changed."""

    def __init__(self, *, full: str = "", read: str = "", path: Path | None = None) -> None:
        """`full` and `read` are hashes, `path` the file, which need not be there."""
        self._given = {"full": full, "read": read}
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._kept: dict[str, Any] = {}
        self._is_broken = False
        self._has_warned = False
        self._own_secret = secrets.token_hex(32)

    def use(self, admin: AdminSettings, folder: Path) -> None:
        """From now on those that `admin` names count; its file is looked for in `folder`."""
        self._given = {"full": admin.password_hash, "read": admin.read_password_hash}
        self._path = folder / admin.password_file if admin.password_file else None
        self._kept, self._seen, self._is_broken = {}, None, False

    def is_set(self) -> bool:
        """Whether somebody has set one. A file that cannot be read counts: then nobody can log in."""
        self._look()
        return self._is_broken or any(self._hashes().values())

    def secret(self, more: str = "") -> str:
        """What signs sessions: it changes, and so ends them, with every password, and with `more`."""
        self._look()
        base: str = self._kept.get("secret", self._own_secret)
        return hashlib.sha256("\n".join((base, *self._hashes().values(), more)).encode()).hexdigest()

    def access_of(self, password: str) -> Access:
        """Return the access that `password` gives. Takes 250 ms for each password that is set: call it in a thread."""
        self._look()
        hashes = self._hashes()
        found = [access for access in (Access.READ, Access.FULL) if matches(password, hashes[access.name.lower()])]
        best = max(found, default=Access.NONE)
        if found and not self._has_warned and _is_weak(hashes[best.name.lower()]):
            self._has_warned = True
            logger.warning(
                "the panel's password has a hash of less work than new ones: set it again, wsgateway password"
            )
        return best

    def has_ended(self, nonce: str) -> bool:
        """Return whether the file says that the session with this nonce was logged out."""
        self._look()
        return nonce in self._kept.get("ended", ())

    def keep_ended(self, nonce: str, *, now: int, until: int) -> None:
        """Write into the file that the session with this nonce was logged out `now`, and was valid `until` then.

        Both are seconds since the epoch, by the clock that dates cookies.

        Without a file nothing is written: the secret that signs sessions ends with the process. Blocks: call it in a
        thread.
        """
        path = self._path
        if path is None or not path.exists():
            return
        try:
            with _locked(path):
                kept = _read(path)
                ended = {known: its_end for known, its_end in kept.get("ended", {}).items() if its_end > now}
                ended[nonce] = until
                kept["ended"] = dict(list(ended.items())[-MAX_ENDED:])
                _write(path, kept)
        except (OSError, ValueError) as exc:
            logger.error(
                "%s cannot be written, so a session that was logged out is valid again after a restart: %s", path, exc
            )

    def _hashes(self) -> dict[str, str]:
        return {name: self._given[name] or self._kept.get(name, "") for name in ("full", "read")}

    def _look(self) -> None:
        if self._path is None:
            return
        try:
            found = self._path.stat()
        except OSError:
            self._kept, self._seen, self._is_broken = {}, None, False
            return
        seen = (found.st_mtime_ns, found.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._kept, self._is_broken = _read(self._path), False
            if not any(self._hashes().values()):
                raise ValueError("there is no password in it")
        except (OSError, ValueError) as exc:
            self._kept, self._is_broken = {}, True
            logger.error("the panel's passwords cannot be read, nobody can log in: %s: %s", self._path, exc)
        if found.st_mode & 0o077:
            logger.warning("%s can be read by others than its owner: chmod 600 it", self._path)

"""The panel's passwords, hashed with scrypt (RFC 7914) and kept in a file that only its owner may read. Knows nothing
of sessions and pages."""

import base64
import hashlib
import hmac
import json
import secrets
from pathlib import Path
from typing import Any

from wsgateway.auth import Access
from wsgateway.config import AdminSettings
from wsgateway.files import read_text
from wsgateway.logs import logger
from wsgateway.store import replace_file

LOG2_N, R, P = 15, 8, 1
"""scrypt's cost: 32 MB and about 80 ms for each try."""

MIN_LENGTH = 8
MAX_LENGTH = 1024
"""Characters of a password."""


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


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    memory = 128 * r * 2**log2_n
    if not (1 <= log2_n <= 20 and 1 <= r <= 32 and 1 <= p <= 16):
        raise ValueError("scrypt parameters out of range")
    raw = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(raw, salt=salt, n=2**log2_n, r=r, p=p, maxmem=memory + 2**20, dklen=32)


def write_password(path: Path, password: str, access: Access) -> None:
    """Set the password for `access` in the file, which is made with mode 600. Raises `ValueError`, `OSError`."""
    hashed = hash_password(password)
    kept = _read(path) if path.exists() else {}
    kept.setdefault("secret", secrets.token_hex(32))
    kept[access.name.lower()] = hashed
    replace_file(path, json.dumps(kept, indent=2) + "\n", mode=0o600)


def _read(path: Path) -> dict[str, str]:
    """What the file holds. Raises `ValueError`, `OSError`."""
    kept: Any = json.loads(read_text(path))
    if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
        raise ValueError("it is no file of wsgateway password")
    return kept


class Passwords:
    """The passwords in effect: those of the settings, and of the file, which is read again when it has changed."""

    def __init__(self, *, full: str = "", read: str = "", path: Path | None = None) -> None:
        """`full` and `read` are hashes, `path` the file, which need not be there."""
        self._given = {"full": full, "read": read}
        self._path = path
        self._seen: tuple[float, int] | None = None
        self._kept: dict[str, str] = {}
        self._is_broken = False
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
        base = self._kept.get("secret", self._own_secret)
        return hashlib.sha256("\n".join((base, *self._hashes().values(), more)).encode()).hexdigest()

    def access_of(self, password: str) -> Access:
        """What somebody may do who knows `password`. Takes 80 ms for each that is set: call it in a thread."""
        self._look()
        hashes = self._hashes()
        found = [access for access in (Access.READ, Access.FULL) if matches(password, hashes[access.name.lower()])]
        return max(found, default=Access.NONE)

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
        seen = (found.st_mtime, found.st_ino)
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

"""Reads the keys in the settings with which tokens are checked. Knows no tokens and no claims."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from wsgateway.config.settings import Settings
from wsgateway.config.tokens import usual_algorithms
from wsgateway.exceptions import StartError
from wsgateway.logs import GatewayLog
from wsgateway.protocols.identity import Identity

if TYPE_CHECKING:
    from wsgateway.auth.tokens import Key

OLDEST_PYJWT = (2, 13)
"""Older versions have CVE-2026-48526 and CVE-2026-32597."""

MAX_PEM = 65536
"""Bytes of a file with a public key that are read."""

MIN_SECRET = 32
"""Bytes of an HMAC key below which the start logs a warning (RFC 7518 3.2)."""

BEGIN = "-----BEGIN "


@asynccontextmanager
async def open_identity(settings: Settings, log: GatewayLog) -> AsyncIterator[Identity]:
    """Yield the identity of a gateway, which checks tokens if the settings have a key. Raise `StartError`."""
    for text in warnings_of(settings):
        log.warning("%s", text)
    if not settings.checks_tokens:
        yield Identity(settings, log)
        return
    keys = read_keys(settings)
    from wsgateway.auth.tokens import Signatures

    signatures = Signatures(settings.token_algorithms or usual_algorithms_of(settings))
    if not settings.token_jwks:
        yield Identity(settings, log, signatures=signatures, keys=keys)
        return
    from wsgateway.gateway.jwks import KeySet, fetched

    key_set = KeySet(settings.token_jwks, log, patience=settings.handshake_timeout, fetch=fetched)
    key_set.start()
    try:
        yield Identity(settings, log, signatures=signatures, keys=keys, fetch=key_set.keys)
    finally:
        await key_set.aclose()


def usual_algorithms_of(settings: Settings) -> tuple[str, ...]:
    """Return the algorithms of the keys in `settings`."""
    has_public_key = bool(settings.token_public_key or settings.token_jwks)
    return usual_algorithms(has_secret=bool(settings.token_secret), has_public_key=has_public_key)


def warnings_of(settings: Settings) -> Iterator[str]:
    """Yield a sentence about each setting of tokens that is not secure, or has no effect."""
    if any(len(secret.encode()) < MIN_SECRET for secret in settings.token_secret):
        yield (
            f"token_secret has a key of less than {MIN_SECRET} bytes, which may be guessed (commas separate keys): "
            'write a longer one, such as that of `python -c "import secrets; print(secrets.token_urlsafe(48))"`'
        )
    if not settings.checks_tokens:
        names = ("token_algorithms", "token_issuer", "token_audience", "anonymous")
        without_effect = [name for name in names if getattr(settings, name)]
        if without_effect:
            are = "is" if len(without_effect) == 1 else "are"
            yield (
                f"{', '.join(without_effect)} {are} set, but no token is checked, because no key is configured: set "
                "token_secret, token_public_key, or token_jwks"
            )


def read_keys(settings: Settings) -> "list[Key]":
    """Return the keys in `settings`, of which one is set. Raise `StartError`, also if a package is not installed."""
    check_packages(needs_cryptography=bool(settings.token_public_key or settings.token_jwks))
    return [*_secrets(settings), *_public_keys(settings)]


def check_packages(*, needs_cryptography: bool) -> None:
    """Raise `StartError` unless the packages that check tokens are installed."""
    try:
        installed = version("PyJWT")
        if needs_cryptography:
            version("cryptography")
    except PackageNotFoundError as exc:
        raise StartError(
            f"tokens are checked (token_…), which requires {exc.name}: pip install 'wsgateway[jwt]'"
        ) from None
    numbers = [int(part) for part in installed.split(".")[:2] if part.isdecimal()]
    if tuple(numbers) < OLDEST_PYJWT:
        raise StartError(f"PyJWT {installed} has security holes: pip install 'PyJWT>=2.13'")


def _secrets(settings: Settings) -> "list[Key]":
    from wsgateway.auth.tokens import KeyRefused, secret_key

    try:
        return [secret_key(secret) for secret in settings.token_secret]
    except KeyRefused as exc:
        raise StartError(f"token_secret: {exc}") from None


def _public_keys(settings: Settings) -> "list[Key]":
    if not settings.token_public_key:
        return []
    from wsgateway.auth.tokens import KeyRefused, public_key

    keys = []
    for text in settings.token_public_key:
        is_pem = text.startswith(BEGIN)
        where = "token_public_key" if is_pem else f"token_public_key {text!r}"
        try:
            key = public_key(text.replace("\\n", "\n").encode() if is_pem else _read(text))
        except OSError as exc:
            raise StartError(f"{where}: the file cannot be read: {exc.strerror}") from None
        except KeyRefused as exc:
            raise StartError(f"{where}: {exc}") from None
        if settings.token_algorithms and key.algorithms.isdisjoint(settings.token_algorithms):
            names = ", ".join(sorted(key.algorithms))
            raise StartError(f"{where}: its algorithm is not in token_algorithms, add {names}")
        keys.append(key)
    return keys


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(MAX_PEM)

"""Checks the settings of tokens against each other. Knows neither keys nor tokens."""

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from wsgateway.config.addresses import is_loopback
from wsgateway.exceptions import Mistake

HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")

PUBLIC_ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "ES256K"),
    "EdDSA",
)

TOKEN_ALGORITHMS = (*HMAC_ALGORITHMS, *PUBLIC_ALGORITHMS)
"""The algorithms of signatures (RFC 7518 3.1, RFC 8037, RFC 8812)."""


def usual_algorithms(*, has_secret: bool, has_public_key: bool) -> tuple[str, ...]:
    """Return the algorithms of the keys that are given."""
    return (HMAC_ALGORITHMS if has_secret else ()) + (PUBLIC_ALGORITHMS if has_public_key else ())


def mistakes_of_algorithms(algorithms: Sequence[str], *, has_secret: bool, has_public_key: bool) -> Iterator[Mistake]:
    """Yield a mistake for each family of `algorithms` without a key, and for each kind of key without an algorithm."""
    if not algorithms:
        return
    yield from _mistakes_of_family(algorithms, HMAC_ALGORITHMS, "token_secret", has_keys=has_secret)
    yield from _mistakes_of_family(
        algorithms, PUBLIC_ALGORITHMS, "token_public_key or token_jwks", has_keys=has_public_key
    )


def _mistakes_of_family(
    algorithms: Iterable[str], family: tuple[str, ...], setting: str, *, has_keys: bool
) -> Iterator[Mistake]:
    named = next((name for name in algorithms if name in family), None)
    if named is not None and not has_keys:
        text = f"{named} needs {setting}, which is not set; set it, or remove {named}"
        yield Mistake("token_algorithms", "", text)
    if named is None and has_keys:
        text = f"it has no algorithm for {setting}; add one of {', '.join(family)}, or remove the key"
        yield Mistake("token_algorithms", "", text)


def fault_of_jwks(url: str) -> str:
    """Return what is wrong with the URL of a key set; empty if nothing is."""
    example = "write one such as https://auth.example.com/.well-known/jwks.json"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return f"it is not a URL, {example}"
    if parts.scheme not in ("https", "http") or not host or not url.isascii() or " " in url:
        return f"it is not a URL, {example}"
    if parts.username is not None or parts.password is not None:
        return "it has a user or a password, which are not sent; a key set is public, so remove them"
    if parts.scheme == "http" and not is_loopback(host):
        return "it is http to another host, where anyone in between could replace the keys; use https"
    return ""

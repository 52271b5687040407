"""The keys of tokens, and whether one of them has signed a token (RFC 7515). No I/O; reads no clock.

The only module that imports PyJWT and cryptography, which are optional. Import it only where tokens are checked.
"""

from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jwt
from jwt.algorithms import Algorithm, HMACAlgorithm

from wsgateway.config.tokens import HMAC_ALGORITHMS
from wsgateway.exceptions import MessageError, TokenRefused
from wsgateway.messages import decode_json

MAX_TOKEN = 8192
"""Characters of a token that are read."""

MAX_TRIES = 10
"""Keys that one token is checked with, because a check takes up to 0.1 ms."""

MAX_KEYS = 100
"""Keys of a key set."""

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
"""The algorithm of each curve (RFC 7518 3.4, RFC 8812)."""

_KINDS = {"RSAPublicKey": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "Ed25519PublicKey": ("EdDSA",)}


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and the algorithms of the tokens that it may have signed. `kid` is its name in a key set."""

    material: Any = field(repr=False)
    algorithms: frozenset[str]
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """The part of a token's header that names its key."""

    algorithm: str
    kid: str | None


class KeyRefused(ValueError):  # noqa: N818  named as `TokenRefused` is
    """A key that cannot be used. The message does not contain any part of the key."""


def secret_key(secret: str) -> Key:
    """Return the HMAC key `secret`. Raise `KeyRefused`."""
    try:
        material = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        material = b""
    is_key_set = secret.lstrip().startswith("{") and '"keys"' in secret  # older versions of PyJWT accept one
    if not material or is_key_set:
        raise KeyRefused("it is a public key or a key set, write it as token_public_key or token_jwks")
    return Key(material, frozenset(HMAC_ALGORITHMS))


def public_key(pem: bytes) -> Key:
    """Return the public key in `pem`. Raise `KeyRefused`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in pem:
        raise KeyRefused("it is a private key, write its public key: openssl pkey -in FILE -pubout")
    if b"-----BEGIN CERTIFICATE-----" in pem:
        raise KeyRefused("it is a certificate, write its public key: openssl x509 -in FILE -pubkey -noout")
    try:
        material = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyRefused("it is not a public key in PEM, which begins with -----BEGIN PUBLIC KEY-----") from None
    algorithms = _algorithms_of(material)
    if not algorithms:
        raise KeyRefused("its kind is not supported, use RSA, EC (P-256, P-384, P-521, secp256k1), or Ed25519")
    return Key(material, algorithms)


def keys_of_set(document: bytes) -> tuple[Key, ...]:
    """Return the usable keys of a key set (RFC 7517 5). Raise `KeyRefused` if the document is not one.

    Keys that are not for signatures, symmetric ones, and private ones are left out.
    """
    try:
        value = decode_json(document)
    except MessageError:
        raise KeyRefused("it is not JSON") from None
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list):
        raise KeyRefused('it is not a key set, which has the form {"keys": […]}')
    if len(keys) > MAX_KEYS:
        raise KeyRefused(f"it has {len(keys)} keys, at most {MAX_KEYS} are read")
    usable = tuple(key for each in keys if (key := _key_of(each)) is not None)
    if not usable:
        raise KeyRefused("it has no public key for signatures")
    return usable


def _key_of(jwk: object) -> Key | None:
    """Return the key that `jwk` describes, None if it cannot be used."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP") or "d" in jwk:
        return None
    kid, use, algorithm = jwk.get("kid"), jwk.get("use"), jwk.get("alg")
    if use not in (None, "sig") or not isinstance(kid, (str, type(None))):
        return None
    try:
        material = jwt.PyJWK({name: value for name, value in jwk.items() if name != "alg"}).key
    except Exception:  # PyJWT also raises other errors than its own, such as for a coordinate that is not text
        return None
    algorithms = _algorithms_of(material)
    if algorithm is not None:
        algorithms &= {algorithm} if isinstance(algorithm, str) else set()
    return Key(material, algorithms, kid) if algorithms else None


def _algorithms_of(material: Any) -> frozenset[str]:
    """Return the algorithms whose signatures the public key `material` can check."""
    for kind in type(material).__mro__:
        if kind.__name__ in _KINDS:
            return frozenset(_KINDS[kind.__name__])
    curve = getattr(getattr(material, "curve", None), "name", "")
    return frozenset({_CURVES[curve]} if curve in _CURVES and hasattr(material, "verify") else ())


class _Prepared(Algorithm):
    """An algorithm of PyJWT whose keys were checked when they were read.

    Without it, PyJWT would read the key again at each check, and warn each time that a key is short.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm

    def prepare_key(self, key: Any) -> Any:
        return key

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        return self._algorithm.verify(msg, key, sig)

    # PyJWT requires the rest of the interface, and calls it only to sign tokens and to read key sets, which is done
    # elsewhere.

    def sign(self, msg: bytes, key: Any) -> bytes:
        raise NotImplementedError("tokens are only checked")

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError("keys are only read")

    @staticmethod
    def from_jwk(jwk: Any) -> NoReturn:
        raise NotImplementedError("the keys of a set are read before")


class Signatures:
    """Checks the signatures of tokens with keys, and returns their claims."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        """`algorithms` are those that a token may have."""
        self._algorithms = frozenset(algorithms)
        known = jwt.PyJWS()
        self._jws = jwt.PyJWS(algorithms=[])
        for name in self._algorithms:
            self._jws.register_algorithm(name, _Prepared(known.get_algorithm_by_name(name)))

    def header(self, token: str) -> Header:
        """Return the header of `token`, whose signature is not checked. Raise `TokenRefused`."""
        if len(token) > MAX_TOKEN:
            raise TokenRefused(f"it has more than {MAX_TOKEN} characters")
        encoded, _, _ = token.partition(".")
        try:
            header = decode_json(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except ValueError:
            raise TokenRefused("it is not a JSON Web Token") from None
        algorithm, kid = (header.get("alg"), header.get("kid")) if isinstance(header, dict) else (None, None)
        if not isinstance(algorithm, str) or not isinstance(kid, (str, type(None))):
            raise TokenRefused("its header has no alg, or a kid that is not text")
        if algorithm not in self._algorithms:
            raise TokenRefused("its alg is not allowed (token_algorithms)")
        return Header(algorithm, kid)

    def claims(self, token: str, header: Header, keys: Sequence[Key]) -> Mapping[str, Any]:
        """Return the claims of `token`, which one of the first `MAX_TRIES` of `keys` has signed. Raise `TokenRefused`.

        `header` is that of the token. Keys of other algorithms are not tried.
        """
        suitable = [key for key in keys if header.algorithm in key.algorithms][:MAX_TRIES]
        for key in suitable:
            try:
                payload = self._jws.decode_complete(token, key.material, algorithms=[header.algorithm])["payload"]
            except jwt.InvalidSignatureError:
                continue
            except Exception:  # PyJWT also raises other errors than its own
                raise TokenRefused("it is malformed") from None
            return _claims_in(payload)
        raise TokenRefused("none of the keys has signed it" if suitable else "there is no key for its alg and kid")


def _claims_in(payload: bytes) -> Mapping[str, Any]:
    try:
        claims = decode_json(payload)
    except MessageError:
        raise TokenRefused("its claims are not JSON, or contain a number that is too large") from None
    if not isinstance(claims, dict):
        raise TokenRefused("its claims are not a JSON object")
    return claims

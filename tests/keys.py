"""Keys that sign tokens, as an issuer has them, and its key set."""

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

SECRET = "a secret of more than thirty-two bytes"


class Issuer:
    """Signs tokens with its newest key. Its key set has the newest keys."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, ec.EllipticCurvePrivateKey]] = []
        self.rotate()

    def rotate(self) -> str:
        """Sign with a new key from now on, and return its id."""
        kid = f"key {len(self._keys)}"
        self._keys.append((kid, ec.generate_private_key(ec.SECP256R1())))
        return kid

    def token(self, *, key: int = -1, kid: str | None = None, **claims: Any) -> str:
        """Return a token that the newest key has signed, or the one of that number."""
        name, private = self._keys[key]
        return jwt.encode(claims, private, "ES256", headers={"kid": kid or name})

    def key_set(self, count: int = 2) -> bytes:
        """Return the `count` newest keys, as a key set."""
        keys = [
            {**jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig"}
            for kid, private in self._keys[-count:]
        ]
        return json.dumps({"keys": keys}).encode()

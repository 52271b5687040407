"""Keys and signatures of tokens: the examples of the RFCs, and every way to have a token accepted that is not valid."""

import hashlib
import hmac
import json
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from wsgateway.auth.tokens import (
    MAX_KEYS,
    MAX_TOKEN,
    MAX_TRIES,
    Key,
    KeyRefused,
    Signatures,
    keys_of_set,
    public_key,
    secret_key,
)
from wsgateway.config.tokens import HMAC_ALGORITHMS, PUBLIC_ALGORITHMS, TOKEN_ALGORITHMS
from wsgateway.exceptions import TokenRefused

SECRET = "a secret of more than thirty-two bytes"

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def encoded(data: bytes | dict[str, Any]) -> str:
    content = json.dumps(data).encode() if isinstance(data, dict) else data
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def signed_by_hand(header: dict[str, Any], claims: bytes, secret: bytes) -> str:
    """Return a token that PyJWT would not make."""
    content = f"{encoded(header)}.{encoded(claims)}"
    return f"{content}.{encoded(hmac.digest(secret, content.encode(), hashlib.sha256))}"


def claims_of(token: str, keys: Iterable[Key], algorithms: Iterable[str] = TOKEN_ALGORITHMS) -> Any:
    signatures = Signatures(algorithms)
    return signatures.claims(token, signatures.header(token), tuple(keys))


def refused(token: str, keys: Iterable[Key], algorithms: Iterable[str] = TOKEN_ALGORITHMS) -> TokenRefused:
    with pytest.raises(TokenRefused) as error:
        claims_of(token, keys, algorithms)
    assert token not in f"{error.value!r} {error.value} {error.value.__cause__!r}"
    assert not error.value.is_expired
    assert error.value.reason == "invalid token"
    return error.value


def pem_of(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def jwk_of(key: Any, **more: Any) -> dict[str, Any]:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {**jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), **more}
    if isinstance(key, rsa.RSAPrivateKey):
        return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), **more}
    return {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), **more}


def numbered(*values: Any) -> list[Any]:
    """Return parameters whose ids do not contain a random key, because each process of a test run makes its own."""
    several = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*each, id=str(number)) for number, each in enumerate(several)]


def set_of(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


# The examples of RFC 7515 and RFC 8037

JOE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"  # {"iss":"joe",…
RFC_7515 = {
    "A.1": (
        f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        None,
    ),
    "A.2": (
        (
            f"eyJhbGciOiJSUzI1NiJ9.{JOE}."
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUA"
            "r7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO-"
            "-xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_"
            "IoypGlUPQGe77Rw"
        ),
        {
            "kty": "RSA",
            "n": (
                "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0B"
                "m4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5"
                "z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7"
                "aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
            ),
            "e": "AQAB",
        },
    ),
    "A.3": (
        (
            f"eyJhbGciOiJFUzI1NiJ9.{JOE}."
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
        ),
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        },
    ),
}
HMAC_EXAMPLE = (
    "0323354b2b0fa5bc837e0665777ba68f5ab328e6f054c928a90f84b2d2502ebfd3fb5a92d20647ef968ab4c377623d223d2e2172052e4f08"
    "c0cd9af567d080a3"
)
RFC_8037 = (
    (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    ),
    {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
)


@pytest.mark.parametrize("example", RFC_7515)
def test_the_examples_of_rfc_7515(example: str) -> None:
    token, jwk = RFC_7515[example]
    if jwk is None:
        keys: tuple[Key, ...] = (Key(bytes.fromhex(HMAC_EXAMPLE), frozenset(HMAC_ALGORITHMS)),)
    else:
        keys = keys_of_set(set_of(jwk))
    assert claims_of(token, keys) == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    for place in (len(token) - 30, token.index(".") + 12):
        other = "A" if token[place] != "A" else "B"
        assert refused(token[:place] + other + token[place + 1 :], keys)


def test_the_example_of_rfc_8037() -> None:
    token, jwk = RFC_8037
    keys = keys_of_set(set_of(jwk))
    assert "its claims are not JSON" in refused(token, keys).detail  # the signature is valid, the content is text
    assert "none of the keys has signed it" in refused(token[:-30] + "_" + token[-29:], keys).detail


# Every algorithm


@pytest.mark.parametrize("algorithm", TOKEN_ALGORITHMS)
def test_each_algorithm_with_its_key(algorithm: str) -> None:
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "ES256K": ec.SECP256K1()}
    private: Any = RSA
    if algorithm in curves:
        private = ec.generate_private_key(curves[algorithm])
    elif algorithm == "EdDSA":
        private = ED25519
    if algorithm in HMAC_ALGORITHMS:
        secret = SECRET * 2
        assert claims_of(jwt.encode({"sub": "42"}, secret, algorithm), [secret_key(secret)]) == {"sub": "42"}
    else:
        token = jwt.encode({"sub": "42"}, private, algorithm)
        assert claims_of(token, [public_key(pem_of(private))]) == {"sub": "42"}
        assert refused(token, [public_key(pem_of(P256 if private is RSA else RSA))])


def test_several_keys_are_tried_so_that_they_can_be_rotated() -> None:
    keys = [secret_key("new" + SECRET), secret_key(SECRET)]
    assert claims_of(jwt.encode({"sub": "42"}, SECRET), keys) == {"sub": "42"}
    assert refused(jwt.encode({"sub": "42"}, "old" + SECRET), keys)


def test_a_token_is_tried_with_few_keys() -> None:
    keys = [secret_key(f"{SECRET}{number}") for number in range(MAX_TRIES + 1)]
    assert claims_of(jwt.encode({}, f"{SECRET}{MAX_TRIES - 1}"), keys) == {}
    assert refused(jwt.encode({}, f"{SECRET}{MAX_TRIES}"), keys)


def test_a_short_key_causes_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = jwt.encode({"sub": "42"}, "secret")
    assert claims_of(token, [secret_key("secret")]) == {"sub": "42"}


# What must not be accepted


def test_an_unsigned_token() -> None:
    for name in ("none", "None", "NONE", "nOnE", ""):
        header = encoded({"alg": name, "typ": "JWT"})
        for signature in ("", "AAAA"):
            refused(f"{header}.{encoded({'sub': '42'})}.{signature}", [secret_key(SECRET), public_key(pem_of(RSA))])


@pytest.mark.parametrize("algorithms", [TOKEN_ALGORITHMS, PUBLIC_ALGORITHMS])
def test_a_public_key_is_never_an_hmac_key(algorithms: tuple[str, ...]) -> None:
    pem = pem_of(RSA)
    for secret in (pem, pem.strip(), b"".join(pem.splitlines()[1:-1]), json.dumps(jwk_of(RSA)).encode()):
        token = signed_by_hand({"alg": "HS256"}, b'{"sub":"42"}', secret)
        refused(token, [public_key(pem)], algorithms)
        refused(token, keys_of_set(set_of(jwk_of(RSA))), algorithms)


@pytest.mark.parametrize(
    "secret",
    numbered(
        pem_of(RSA).decode(),
        json.dumps(jwk_of(RSA)),
        json.dumps({"kty": "oct", "k": "c2VjcmV0"}),
        set_of(jwk_of(RSA)).decode(),
    ),
)
def test_a_public_key_is_refused_as_a_secret(secret: str) -> None:
    with pytest.raises(KeyRefused, match="token_public_key or token_jwks"):
        secret_key(secret)


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": []}, {"crit": "exp"}, {"crit": ["b64"], "b64": False}, {"b64": False}]
)
def test_a_critical_header_that_is_not_understood(header: dict[str, Any]) -> None:
    refused(signed_by_hand({"alg": "HS256", **header}, b'{"sub":"42"}', SECRET.encode()), [secret_key(SECRET)])


def test_the_key_is_never_that_of_the_token() -> None:
    header = {
        "alg": "RS256",
        "jwk": jwk_of(RSA),
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example",
    }
    token = jwt.encode({"sub": "42"}, RSA, "RS256", headers=header)
    refused(token, [public_key(pem_of(rsa.generate_private_key(65537, 2048)))])
    refused(token, [secret_key(SECRET)])


def test_only_the_algorithms_of_the_settings() -> None:
    keys = [secret_key(SECRET), public_key(pem_of(RSA))]
    token = jwt.encode({}, SECRET * 2, "HS512")
    assert "token_algorithms" in refused(token, [secret_key(SECRET * 2)], ["HS256"]).detail
    assert refused(jwt.encode({}, RSA, "PS256"), keys, ["RS256"])
    assert claims_of(jwt.encode({}, RSA, "RS256"), keys, ["RS256"]) == {}


def test_a_curve_has_one_algorithm() -> None:
    token = jwt.encode({}, P384, "ES384")
    assert claims_of(token, [public_key(pem_of(P384))]) == {}
    header = encoded({"alg": "ES256"})
    assert "there is no key" in refused(header + token[token.index(".") :], [public_key(pem_of(P384))]).detail


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.c",
        "é.é.é",
        "\x00.\x00.\x00",
        "\ud800.a.b",
        f"{encoded({'alg': 'HS256'})}",
        f"{encoded({'alg': 'HS256'})}..",
        f"{encoded({'alg': 5})}.e30.",
        f"{encoded({'alg': ['HS256']})}.e30.",
        f"{encoded({'alg': 'HS256', 'kid': 5})}.e30.",
        f"{encoded({})}.e30.",
        f"{encoded(b'[]')}.e30.",
        f"{encoded(b'5')}.e30.",
        f"{encoded(b'{')}.e30.",
        f"{encoded(b'[' * 3000)}.e30.",
        f"{encoded(b'9' * 5000)}.e30.",
        jwt.encode({}, SECRET) + "\n",
        " " + jwt.encode({}, SECRET),
        jwt.encode({}, SECRET) + ".a",
        jwt.encode({}, SECRET).replace(".", "..", 1),
        jwt.encode({}, SECRET).swapcase(),
    ],
)
def test_garbage(token: str) -> None:
    with pytest.raises(TokenRefused):
        claims_of(token, [secret_key(SECRET), public_key(pem_of(RSA)), public_key(pem_of(P256))])


def test_a_token_that_is_too_long_is_not_parsed() -> None:
    start = jwt.encode({}, SECRET)
    assert "more than" in refused(start + "A" * (MAX_TOKEN + 1 - len(start)), [secret_key(SECRET)]).detail
    assert "more than" in refused("A" * 1_000_000, [secret_key(SECRET)]).detail


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"[]",
        b"5",
        b'"x"',
        b"null",
        b"{",
        b"\xff",
        b'{"exp":1e400}',
        b'{"exp":NaN}',
        b'{"sub":"\\ud800"}',
        b'{"exp":' + b"9" * 5000 + b"}",
        b'{"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
    ],
    ids=lambda claims: repr(claims[:20]),
)
def test_claims_that_are_not_a_json_object(claims: bytes) -> None:
    assert "claims" in refused(signed_by_hand({"alg": "HS256"}, claims, SECRET.encode()), [secret_key(SECRET)]).detail


# Keys


@pytest.mark.parametrize(
    ("pem", "advice"),
    numbered(
        (b"", "is not a public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "is not a public key in PEM"),
        (b"ssh-rsa AAAA", "is not a public key in PEM"),
        (RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "openssl pkey -in FILE -pubout"),
        (b"-----BEGIN CERTIFICATE-----\n", "openssl x509 -in FILE -pubkey -noout"),
        (pem_of(ed448.Ed448PrivateKey.generate()), "its kind is not supported"),
        (pem_of(ec.generate_private_key(ec.BrainpoolP256R1())), "its kind is not supported"),
    ),
)
def test_a_file_that_has_no_public_key(pem: bytes, advice: str) -> None:
    with pytest.raises(KeyRefused, match=advice):
        public_key(pem)


def test_a_key_set_names_its_keys() -> None:
    keys = keys_of_set(set_of(jwk_of(RSA, kid="a", use="sig"), jwk_of(P256, kid="b"), jwk_of(ED25519)))
    assert [(key.kid, "RS256" in key.algorithms, len(key.algorithms)) for key in keys] == [
        ("a", True, 6),
        ("b", False, 1),
        (None, False, 1),
    ]
    assert "RSA" not in repr(keys[0])


def test_the_algorithm_of_a_key_wins() -> None:
    keys = keys_of_set(set_of(jwk_of(RSA, alg="PS256", kid="a")))
    assert claims_of(jwt.encode({}, RSA, "PS256"), keys) == {}
    assert refused(jwt.encode({}, RSA, "RS256"), keys)


@pytest.mark.parametrize(
    "left_out",
    numbered(
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "x"},
        jwk_of(RSA, use="enc"),
        jwk_of(RSA, alg="RSA-OAEP"),
        jwk_of(RSA, alg="HS256"),
        jwk_of(RSA, alg=["RS256"]),
        jwk_of(RSA, kid=5),
        jwk_of(RSA, n=5),
        jwk_of(P256, x="AAAA"),
        jwk_of(P256, crv="P-999"),
        jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True),
        {"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty": "RSA"},
        {"kty": ["RSA"]},
        {},
        "text",
        None,
    ),
)
def test_keys_of_a_set_that_are_left_out(left_out: Any) -> None:
    assert [key.kid for key in keys_of_set(set_of(left_out, jwk_of(P256, kid="good")))] == ["good"]
    with pytest.raises(KeyRefused, match="no public key"):
        keys_of_set(set_of(left_out))


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":5}', b"\xff", b"<html>", b"[" * 9999]
)
def test_a_document_that_is_not_a_key_set(document: bytes) -> None:
    with pytest.raises(KeyRefused):
        keys_of_set(document)


def test_a_key_set_with_too_many_keys() -> None:
    with pytest.raises(KeyRefused, match=f"at most {MAX_KEYS}"):
        keys_of_set(set_of(*[jwk_of(P256)] * (MAX_KEYS + 1)))

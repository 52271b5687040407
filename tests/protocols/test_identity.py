"""Which keys a token is checked with, and when those of a key set are asked for."""

import logging
import time
import timeit
from collections.abc import Sequence
from typing import Any

import jwt
import pytest

from tests.keys import SECRET, Issuer
from wsgateway import Settings
from wsgateway.auth.tokens import Key, Signatures, keys_of_set, secret_key
from wsgateway.config.tokens import TOKEN_ALGORITHMS
from wsgateway.exceptions import TokenRefused
from wsgateway.logs import GatewayLog
from wsgateway.protocols.identity import REQUIRED, Identity, token_refusal


class Fetched:
    """The keys of a key set, and the ids that were asked for."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.asked: list[str | None] = []

    async def keys(self, kid: str | None) -> Sequence[Key]:
        self.asked.append(kid)
        return [key for key in keys_of_set(self.issuer.key_set()) if kid in (None, key.kid)]


def identity_of(keys: Sequence[Key] = (), fetched: Fetched | None = None, **options: Any) -> Identity:
    settings = Settings(token_secret=(SECRET,), **options)
    fetch = None if fetched is None else fetched.keys
    return Identity(settings, GatewayLog("x"), signatures=Signatures(TOKEN_ALGORITHMS), keys=keys, fetch=fetch)


async def test_an_hmac_token_asks_for_no_key_set() -> None:
    fetched = Fetched(Issuer())
    identity = identity_of([secret_key(SECRET)], fetched)
    assert (await identity.check(jwt.encode({"sub": "42"}, SECRET))).user == "42"
    with pytest.raises(TokenRefused):
        await identity.check(jwt.encode({"sub": "42"}, "another" + SECRET))
    assert fetched.asked == []


async def test_a_key_of_the_settings_comes_before_the_key_set() -> None:
    own, issuer = Issuer(), Issuer()
    fetched = Fetched(issuer)
    identity = identity_of(keys_of_set(own.key_set()), fetched)
    assert (await identity.check(own.token(sub="ann"))).user == "ann"
    assert fetched.asked == []
    assert (await identity.check(issuer.token(sub="bob"))).user == "bob"
    assert fetched.asked == ["key 0"]
    with pytest.raises(TokenRefused):
        await identity.check(Issuer().token(sub="eve"))


async def test_a_token_that_is_malformed_asks_for_no_key_set() -> None:
    fetched = Fetched(Issuer())
    identity = identity_of((), fetched)
    for text in ("", "garbage", "x" * 1_000_000, "eyJhbGciOiJub25lIn0.e30.", fetched.issuer.token().replace(".", "")):
        with pytest.raises(TokenRefused):
            await identity.check(text)
    assert fetched.asked == []


async def test_a_subscription_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    identity = identity_of([secret_key(SECRET)])
    text = jwt.encode({"sub": "42", "channel": "room:1", "exp": time.time() + 9, "info": 1}, SECRET)
    claims = await identity.check_subscription(text, channel="room:1", user="42", client="c")
    assert claims.info == 1
    with pytest.raises(TokenRefused) as error:
        await identity.check_subscription(text, channel="room:2", user="42", client="c")
    assert error.value.is_foreign
    with pytest.raises(TokenRefused):
        await identity.check(text)
    assert "refused a token: it is for another channel" in caplog.text
    assert text not in caplog.text


def test_without_a_key_nothing_is_required() -> None:
    identity = Identity(Settings(anonymous=True), GatewayLog("x"))
    assert not identity.is_required
    assert identity.allows_anonymous


@pytest.mark.parametrize("reason", [REQUIRED, "invalid token", "token expired"])
def test_a_refusal(reason: str) -> None:
    refused = token_refusal(reason, closes=False)
    assert (refused.status, refused.close) == (401, None)
    assert dict(refused.refusal.headers)["www-authenticate"].startswith("Bearer")
    closing = token_refusal(reason, closes=True)
    assert (closing.status, closing.close, closing.reason) == (401, 3500, reason)


async def test_a_check_is_fast() -> None:
    identity = identity_of([secret_key(SECRET)])
    text = jwt.encode({"sub": "42", "exp": time.time() + 600, "iat": time.time(), "channels": ["room:1"]}, SECRET)

    def check() -> None:
        with pytest.raises(StopIteration):
            identity.check(text).send(None)

    check()
    seconds = min(timeit.repeat(check, number=100, repeat=5)) / 100
    assert seconds < 0.001, "a check takes 30 µs, and must not take far more"

"""The claims of tokens."""

from base64 import b64encode
from typing import Any

import pytest

from wsgateway import Settings
from wsgateway.auth.claims import ClaimRules, ConnectionClaims, SubscriptionClaims, SubscriptionOptions
from wsgateway.exceptions import TokenRefused

NOW = 1_800_000_000.0


def connection(claims: dict[str, Any], **options: Any) -> ConnectionClaims:
    return ClaimRules(Settings(token_secret=("x",), **options)).connection(claims, now=NOW)


def subscription(claims: dict[str, Any], **options: Any) -> SubscriptionClaims:
    rules = ClaimRules(Settings(token_secret=("x",), **options))
    return rules.subscription(claims, channel="room:1", user="42", client="conn", now=NOW)


def refused(claims: dict[str, Any], **options: Any) -> TokenRefused:
    with pytest.raises(TokenRefused) as error:
        connection(claims, **options)
    return error.value


# Registered claims


def test_a_token_without_claims_is_that_of_an_anonymous_client_and_never_expires() -> None:
    assert connection({}) == ConnectionClaims("", None, {})


def test_the_user_is_text() -> None:
    assert connection({"sub": "42"}).user == "42"
    for user in (42, None, ["42"], True, 4.2):
        assert "sub is not text" in refused({"sub": user}).detail
    assert connection({"sub": 5, "uid": "ann"}, token_user_claim="uid").user == "ann"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat", "expire_at"])
@pytest.mark.parametrize("value", ["1800000100", True, [], {}, float("inf"), float("nan"), 10**400, ""])
def test_a_time_is_a_finite_number(name: str, value: Any) -> None:
    assert name in refused({name: value}).detail


def test_null_is_not_a_time() -> None:
    assert refused({"exp": None})
    assert connection({"expire_at": None}).expires_at is None


def test_a_time_may_be_a_float() -> None:
    assert connection({"exp": NOW + 0.5, "nbf": NOW - 0.5, "iat": NOW - 0.5}).expires_at == NOW + 0.5


def test_clocks_may_differ_a_little() -> None:
    assert connection({"exp": NOW - 4, "nbf": NOW + 4, "iat": NOW + 4}).expires_at == NOW - 4
    assert refused({"exp": NOW - 5}).is_expired
    assert not refused({"nbf": NOW + 6}).is_expired
    assert not refused({"iat": NOW + 6}).is_expired
    assert refused({"exp": NOW}, token_leeway=0).is_expired
    assert connection({"exp": NOW - 59, "nbf": NOW + 59}, token_leeway=60)


def test_only_an_expired_token_is_expired() -> None:
    assert refused({"exp": 1}).reason == "token expired"
    assert refused({"exp": -1}).reason == "token expired"
    assert refused({"exp": 1, "nbf": NOW + 100}).reason == "invalid token"
    assert refused({"exp": 1, "iss": "other"}, token_issuer="me").reason == "invalid token"


@pytest.mark.parametrize("issuer", [None, "other", ["me"], 5, ""])
def test_the_issuer_is_checked_where_it_is_set(issuer: Any) -> None:
    assert refused({"iss": issuer}, token_issuer=["me", "us"])
    assert refused({}, token_issuer="me")
    assert connection({"iss": "us"}, token_issuer=["me", "us"])
    assert connection({"iss": "anybody"})


@pytest.mark.parametrize("audience", [None, "other", ["other"], [], 5, [["me"]], ""])
def test_the_audience_is_checked_where_it_is_set(audience: Any) -> None:
    assert refused({"aud": audience}, token_audience=["me", "us"])
    assert refused({}, token_audience="me")
    assert connection({"aud": "us"}, token_audience=["me", "us"])
    assert connection({"aud": ["other", "us"]}, token_audience=["me", "us"])
    assert connection({"aud": "anybody"})


def test_an_id_is_text() -> None:
    assert connection({"jti": "a"})
    assert refused({"jti": 5})


# Claims of a connection


def test_expire_at_wins_over_exp() -> None:
    assert connection({"exp": NOW + 10, "expire_at": NOW + 99}).expires_at == NOW + 99
    assert connection({"exp": NOW + 10, "expire_at": 0}).expires_at is None
    assert connection({"exp": NOW + 10}).expires_at == NOW + 10
    over = refused({"exp": NOW + 10, "expire_at": NOW - 1})
    assert over.is_over
    assert not over.is_expired
    assert over.reason == "token expired"


def test_a_token_with_a_channel_is_never_a_connection_token() -> None:
    assert "subscription token" in refused({"sub": "42", "channel": "room:1"}).detail
    assert refused({"channel": ""})
    assert refused({"channel": 5})


def test_info_is_any_json_value_also_in_base64() -> None:
    assert connection({"info": {"name": "Ann"}}).info == {"name": "Ann"}
    assert connection({"b64info": b64encode(b'{"name":"Ann"}').decode()}).info == {"name": "Ann"}
    assert connection({"info": 1, "b64info": "Mg=="}).info == 1
    for wrong in ("*", "e", b64encode(b"{").decode(), b64encode(b"1e999").decode(), 5, ["e30="], "é"):
        assert "b64info" in refused({"b64info": wrong}).detail


def test_channels_are_names_and_patterns() -> None:
    claims = connection({"channels": ["a", "room:*", "a"], "subs": {"b": {"info": 1, "data": [2]}, "c": {}, "d": None}})
    assert claims.channels == ("a", "room:*")
    assert claims.subs == {
        "b": SubscriptionOptions(1, [2]),
        "c": SubscriptionOptions(),
        "d": SubscriptionOptions(),
    }
    assert list(claims.subscriptions()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("wrong", ["a", {"a": {}}, [5], [""], [None], 5])
def test_wrong_channels(wrong: Any) -> None:
    assert refused({"channels": wrong})


@pytest.mark.parametrize("wrong", ["a", ["a"], {"a": 5}, {"a": "x"}, {"": {}}, 5, {"a": {"b64data": "*"}}])
def test_wrong_subs(wrong: Any) -> None:
    assert refused({"subs": wrong})


def test_other_claims_are_for_the_listener() -> None:
    claims = {"sub": "42", "meta": {"plan": "free"}, "override": 5, "role": "admin"}
    assert connection(claims).claims == claims
    assert "admin" not in repr(connection(claims))


# Claims of a subscription


def test_a_subscription_token() -> None:
    claims = subscription({"sub": "42", "channel": "room:1", "exp": NOW + 9, "info": 1, "override": {"x": 1}})
    assert claims == SubscriptionClaims(NOW + 9, 1)
    assert (
        subscription({"sub": "42", "channel": "room:1", "client": "conn", "expire_at": NOW + 5}).expires_at == NOW + 5
    )
    assert subscription({"sub": "42", "channel": "room:1", "expire_at": 0, "exp": NOW + 1}).expires_at is None


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "42", "channel": "room:2"},
        {"sub": "43", "channel": "room:1"},
        {"channel": "room:1"},
        {"sub": "42", "channel": "room:1", "client": "other"},
        {"sub": "42", "channel": "room:1", "client": 5},
    ],
)
def test_a_token_of_another_channel_user_or_client(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenRefused) as error:
        subscription(claims)
    assert error.value.is_foreign


@pytest.mark.parametrize("channel", [None, "", 5, ["room:1"]])
def test_a_connection_token_is_no_subscription_token(channel: Any) -> None:
    with pytest.raises(TokenRefused) as error:
        subscription({"sub": "42", "channel": channel})
    assert not error.value.is_foreign


def test_a_subscription_token_expires_as_any() -> None:
    with pytest.raises(TokenRefused) as error:
        subscription({"sub": "42", "channel": "room:1", "exp": NOW - 10})
    assert error.value.is_expired
    with pytest.raises(TokenRefused) as error:
        subscription({"sub": "42", "channel": "room:1", "expire_at": NOW - 10})
    assert error.value.is_over

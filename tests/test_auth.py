from typing import Any

import pytest

from wsgateway.auth import Rules
from wsgateway.config import Settings


def scope(
    *headers: tuple[str, str], scheme: str = "ws", client: str | None = "203.0.113.9", server: str = "203.0.113.1"
) -> dict[str, Any]:
    return {
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "scheme": scheme,
        "client": (client, 1) if client else None,
        "server": (server, 80),
        "http_version": "1.1",
    }


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("ws", "good.com", "http://good.com"),
        ("wss", "good.com", "https://good.com"),
        ("wss", "good.com:443", "https://good.com"),
        ("ws", "good.com:8000", "http://good.com:8000"),
        ("ws", "Good.com", "http://good.com"),
        ("ws", "[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_the_same_origin_passes(scheme: str, host: str, origin: str) -> None:
    asked = scope(("host", host), ("origin", origin), scheme=scheme)
    assert Rules(Settings()).check_origin(asked) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://good.com.evil.com",
        "https://evilgood.com",
        "http://good.com",
        "https://good.com:8443",
        "null",
        "https://GOOD.com",
        "HTTPS://good.com",
        "https://good.com.",
        "https://good.com/",
        "https://user@good.com",
        "good.com",
        "",
        "https://",
        "*",
        "https://good.com, https://good.com",
        "http://localhost",
    ],
)
def test_any_other_origin_is_refused_with_the_setting(origin: str) -> None:
    refusal = Rules(Settings()).check_origin(scope(("host", "good.com"), ("origin", origin), scheme="wss"))
    assert refusal is not None
    assert refusal.status == 403
    assert "allowed_origins" in refusal.detail


def test_two_origins_are_refused_and_none_passes() -> None:
    rules = Rules(Settings(allowed_origins=("*",)))
    assert rules.check_origin(scope(("origin", "http://a"), ("origin", "http://a"))) is not None
    assert rules.check_origin(scope(("host", "good.com"))) is None


def test_named_origins_pass_and_a_star_allows_all() -> None:
    asked = scope(("host", "good.com"), ("origin", "https://shop.example"))
    assert Rules(Settings(allowed_origins=("https://SHOP.example:443",))).check_origin(asked) is None
    assert Rules(Settings(allowed_origins=("https://other.example",))).check_origin(asked) is not None
    assert Rules(Settings(allowed_origins=("*",))).check_origin(asked) is None


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://127.0.0.1", "http://127.9.9.9:1", "http://[::1]:5"]
)
def test_loopback_origins_pass_only_where_it_is_bound_to_loopback_and_nothing_is_configured(origin: str) -> None:
    asked = scope(("host", "localhost:10125"), ("origin", origin), server="127.0.0.1")
    assert Rules(Settings()).check_origin(asked) is None
    assert Rules(Settings(), bound_host="0.0.0.0").check_origin(asked) is not None
    assert Rules(Settings(allowed_origins=("https://a.example",))).check_origin(asked) is not None
    for trick in (origin + ".evil.com", origin + "@evil.com", origin.upper(), origin + "/"):
        asked = scope(("host", "localhost:10125"), ("origin", trick), server="127.0.0.1")
        assert Rules(Settings()).check_origin(asked) is not None


def test_a_key_may_be_any_text_and_each_of_several_opens() -> None:
    rules = Rules(Settings(api_key=("one", "zwei ünd €")))
    for key in ("one", "zwei ünd €"):
        header = key.encode().decode("latin-1")
        assert rules.check_caller(scope(("authorization", "bearer " + header))) is None
    for value in ("Bearer On", "Bearer onee", "one", "Bearer", "Basic one", ""):
        refusal = rules.check_caller(scope(("authorization", value)))
        assert refusal is not None
        assert refusal.status == 401


def test_a_unix_socket_is_not_local() -> None:
    rules = Rules(Settings(local_access=True))
    assert rules.check_caller(scope(("host", "localhost"), client=None)) is not None
    assert rules.check_caller(scope(("host", "localhost"), client="127.0.0.1")) is None
    assert rules.check_caller(scope(("host", "localhost"), client="::1")) is None
    assert rules.check_caller(scope(("host", "localhost"), client="10.0.0.1")) is not None


def test_a_key_is_needed_where_one_is_set_even_locally() -> None:
    rules = Rules(Settings(local_access=True, api_key=("k",)))
    assert rules.check_caller(scope(("host", "localhost"), client="127.0.0.1")) is not None

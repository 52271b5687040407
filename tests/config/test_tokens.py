"""The settings of tokens."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from wsgateway import ConfigError, Gateway, Settings
from wsgateway.admin.forms import changes_in
from wsgateway.config.sources import load
from wsgateway.config.tokens import HMAC_ALGORITHMS, PUBLIC_ALGORITHMS, usual_algorithms
from wsgateway.config.values import convert_written
from wsgateway.exceptions import SettingForbidden
from wsgateway.supervisor.changes import check_remote_changes

URL = "https://auth.example.com/jwks.json"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistakes(**options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        load(defaults=options, environ={}, flags={})
    return str(error.value)


def test_tokens_are_checked_if_a_key_is_set() -> None:
    assert not Settings(anonymous=True, token_issuer=("me",), token_cookie="session").checks_tokens
    assert Settings(token_secret=("secret",)).checks_tokens
    assert Settings(token_public_key=("key.pem",)).checks_tokens
    assert Settings(token_jwks=URL).checks_tokens


def test_a_secret_is_never_shown() -> None:
    settings = Settings(token_secret=("hush",), token_jwks=f"{URL}?key=hush")
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings.shown())


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://example.com:8443/a?b=c",
        "http://127.0.0.1:8080/jwks",
        "http://localhost/jwks",
        "http://[::1]:1/jwks",
    ],
)
def test_urls_of_key_sets(url: str) -> None:
    assert Settings(token_jwks=url).token_jwks == url


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("auth.example.com/jwks.json", "https://auth.example.com/.well-known/jwks.json"),
        ("ftp://auth.example.com/jwks", "it is not a URL"),
        ("file:///etc/passwd", "it is not a URL"),
        ("https://", "it is not a URL"),
        ("https://[::1", "it is not a URL"),
        ("https://example.com:x/", "it is not a URL"),
        ("https://exämple.com/", "it is not a URL"),
        ("https://example.com/a b", "it is not a URL"),
        ("http://auth.example.com/jwks.json", "use https"),
        ("https://user:hush@auth.example.com/jwks.json", "remove them"),
    ],
)
def test_what_is_not_the_url_of_a_key_set(url: str, advice: str) -> None:
    text = mistakes(token_jwks=url)
    assert "token_jwks" in text
    assert advice in text
    assert "hush" not in text


def test_the_usual_algorithms_are_those_of_the_keys() -> None:
    assert usual_algorithms(has_secret=True, has_public_key=False) == HMAC_ALGORITHMS
    assert usual_algorithms(has_secret=False, has_public_key=True) == PUBLIC_ALGORITHMS
    assert usual_algorithms(has_secret=True, has_public_key=True) == HMAC_ALGORITHMS + PUBLIC_ALGORITHMS


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"token_algorithms": ["HS256"]}, "HS256 needs token_secret, which is not set; set it, or remove HS256"),
        ({"token_algorithms": ["HS256"], "token_jwks": URL}, "HS256 needs token_secret"),
        ({"token_algorithms": ["RS256"], "token_secret": "x"}, "RS256 needs token_public_key or token_jwks"),
        ({"token_algorithms": ["HS256"], "token_secret": "x", "token_jwks": URL}, "no algorithm for token_public_key"),
        ({"token_algorithms": ["ES256"], "token_secret": "x", "token_jwks": URL}, "no algorithm for token_secret"),
        ({"token_algorithms": ["none"], "token_secret": "x"}, "'none' is not one of HS256"),
        ({"token_algorithms": ["hs256"], "token_secret": "x"}, "'hs256' is not one of"),
        ({"token_leeway": -1}, "0 or more"),
        ({"token_user_claim": ""}, "write sub"),
        ({"token_cookie": "a b"}, "is not the name of a cookie"),
        ({"token_cookie": "a=b"}, "is not the name of a cookie"),
        ({"token_secret": [""]}, "token_secret"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], advice: str) -> None:
    assert advice in mistakes(**options)


def test_secrets_may_be_in_a_file_one_on_each_line(folder: Path) -> None:
    (folder / "keys").write_text("new key, with a comma\nold key\n\n")
    settings = load(defaults={}, environ={"WSGATEWAY_TOKEN_SECRET_FILE": "keys"}, flags={}).settings
    assert settings.token_secret == ("new key, with a comma", "old key")


@pytest.mark.parametrize("name", ["TOKEN_SECRET", "TOKEN_SECRET_FILE", "TOKEN_PUBLIC_KEY", "TOKEN_JWKS"])
def test_an_empty_variable_must_not_open_the_gateway(name: str) -> None:
    with pytest.raises(ConfigError, match=f"WSGATEWAY_{name}: it is empty, so no token would be checked"):
        load(defaults={}, environ={f"WSGATEWAY_{name}": " "}, flags={})


@pytest.mark.parametrize("name", ["token_secret", "token_public_key", "token_jwks"])
def test_an_empty_key_in_the_file_must_not_open_the_gateway(name: str, folder: Path) -> None:
    (folder / "wsgateway.toml").write_text(f'{name} = ""\n')
    with pytest.raises(ConfigError, match="it is empty"):
        load(defaults={}, environ={}, flags={})


def test_settings_that_name_a_file_or_a_server_are_not_changed_remotely() -> None:
    for name in ("token_jwks", "token_public_key"):
        with pytest.raises(SettingForbidden):
            check_remote_changes({name: URL}, may_name=lambda _: True)
    check_remote_changes({"token_secret": ["x"], "token_issuer": ["me"]}, may_name=lambda _: True)


def test_the_form_keeps_a_secret_that_is_left_empty() -> None:
    before = Settings(token_secret=("hush",))
    submitted = {"token_user_claim": "uid", "token_leeway": "5"}
    changes = changes_in(submitted, before)
    assert "token_secret" not in changes
    assert changes["token_user_claim"] == "uid"


def test_a_secret_in_code_may_contain_a_comma_which_separates_keys_in_a_variable() -> None:
    assert Gateway(token_secret="one, two").settings.token_secret == ("one, two",)
    (spec,) = (spec for spec in fields(Settings) if spec.name == "token_secret")
    assert convert_written(spec, "one, two", text=True) == ("one", "two")


@pytest.mark.parametrize("name", ["token_secret", "token_public_key", "token_jwks"])
def test_an_empty_text_in_code_does_not_turn_the_check_off(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: it is empty, so no token would be checked"):
        Settings(**{name: ""})  # type: ignore[arg-type]  # each accepts text

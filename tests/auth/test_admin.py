from typing import Any

import pytest

from wsgateway.auth.admin import AdminRules
from wsgateway.auth.rules import Rules
from wsgateway.config.settings import AdminSettings, Settings
from wsgateway.exceptions import Refusal

SCOPE = {"type": "http", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
FORWARDED = {**SCOPE, "headers": [(b"host", b"localhost"), (b"via", b"1.1 proxy")]}

REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no key set": (
        {"local_access": False},
        SCOPE,
        "this interface refuses every caller, because no [admin] token is set",
    ),
    "not local": ({}, FORWARDED, "without an [admin] token only local callers are answered"),
    "wrong key": ({"token": "secret"}, SCOPE, "one of the keys in [admin] token"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_the_settings_of_the_interface(name: str) -> None:
    options, scope, text = REFUSALS[name]
    refusal = AdminRules(AdminSettings(**options)).check(scope, writes=False)
    assert refusal is not None
    assert text in refusal.detail
    assert "api_key" not in refusal.detail


def test_a_refusal_of_a_gateway_names_its_settings() -> None:
    refusal = Rules(Settings()).check_caller(SCOPE)
    assert isinstance(refusal, Refusal)
    assert refusal.detail == (
        "this gateway refuses every caller, because no api_key is set and local_access is false; "
        "set api_key, or local_access = true for callers on the same host"
    )

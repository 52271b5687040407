"""The values of settings, converted from text and from code."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from wsgateway.config.settings import SPECS, AdminSettings
from wsgateway.config.values import MAX_QUOTED, Kind, Startup, convert, convert_written, kind_of, parts_of
from wsgateway.text import nearest

VALUES: dict[str, tuple[str, str, object]] = {
    "number": ("port", "80", 80),
    "fraction": ("drain", "1.5", 1.5),
    "switch": ("verbose", " Yes ", True),
    "list": ("api_key", "a, b,", ("a", "b")),
    "origin": ("allowed_origins", "HTTPS://Example.com:443/", ("https://example.com",)),
    "host name": ("allowed_hosts", "Example.COM", ("example.com",)),
    "choice": ("startup", "manual", Startup.MANUAL),
    "no path": ("log_file", "", None),
    "hook that is turned off": ("on_stop", "", ""),
}

MISTAKES: dict[str, tuple[str, object, str]] = {
    "id": ("id", "-a", "is not an id"),
    "empty host": ("host", " ", "it is empty, write 127.0.0.1"),
    "mode": ("uds_mode", "999", "is not a mode"),
    "hook": ("on_message", "on message", "is not the name of a method"),
    "range": ("port", 65536, "is not from 0 to 65535"),
    "not a number": ("drain", float("nan"), "is not a number, 0 or more"),
    "number as text": ("port", "80", "is text, write the number without quotes"),
    "switch as text": ("verbose", "no", "is text, write false without quotes"),
    "choice": ("startup", "later", "is not one of automatic, manual, disabled"),
    "not text": ("host", 7, "is not text, write it in quotes"),
    "control character in a path": ("log_file", "a\0b", "contains a NUL character"),
    "surrogate": ("host", "\ud800", "contains half of a surrogate pair"),
    "key with spaces": ("api_key", [" a"], "cannot be sent in a header"),
    "mapping": ("allowed_hosts", {"a": 1}, "is not a text or a list of texts"),
    "no list": ("api_key", None, "it is None, use a text or a list of texts, or leave it out"),
    "no number": ("port", None, "it is None, use a whole number, from 0 to 65535, or leave it out"),
    "no switch": ("verbose", None, "it is None, use true or false, or leave it out"),
    "no text": ("host", None, "it is None, use a text, or leave it out"),
    "no choice": ("startup", None, "it is None, use one of automatic, manual, disabled, or leave it out"),
    "bytes": ("api_key", b"key", "a value of type bytes is not a text or a list of texts"),
    "list with None": ("api_key", [None], "the list contains None, use texts that are not empty"),
    "list with a number": ("api_key", [5], "the list contains a value of type int"),
    "list with nothing": ("allowed_hosts", [""], "the list contains an empty text"),
    "long origin": ("allowed_origins", "https://" + "a" * 300, "is too long"),
}


@pytest.mark.parametrize("case", VALUES)
def test_text_becomes_a_value_of_the_settings_type(case: str) -> None:
    name, text, value = VALUES[case]
    assert convert(SPECS[name], text, text=True) == value


@pytest.mark.parametrize("case", MISTAKES)
def test_a_wrong_value_is_refused_with_a_sentence(case: str) -> None:
    name, value, text = MISTAKES[case]
    with pytest.raises(ValueError, match=text):
        convert(SPECS[name], value)


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(ValueError, match="is not an id") as caught:
        convert(SPECS["id"], "x" * 10_000)
    assert len(str(caught.value)) < 3 * MAX_QUOTED


@pytest.mark.parametrize(("name", "value"), [("api_key", ["secret\n"]), ("broker", 5), ("broker", "secret\0")])
def test_an_error_never_quotes_a_secret(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"key|it ") as caught:
        convert(SPECS[name], value)
    assert "secret" not in str(caught.value)


def test_only_a_written_secret_may_not_be_empty() -> None:
    assert convert(SPECS["api_key"], "") == ()
    with pytest.raises(ValueError, match="it is empty"):
        convert_written(SPECS["api_key"], " , ")


@pytest.mark.parametrize("name", ["uds", "log_file", "ssl_keyfile", "listener"])
def test_a_path_may_be_an_object_and_need_not_be_utf_8(name: str) -> None:
    assert convert(SPECS[name], Path("folder/\udcff")) == "folder/\udcff"


def test_each_text_with_a_form_of_its_own_has_a_kind() -> None:
    texts: set[Any] = {str, str | None, object}
    plain = [
        spec.name for spec in (*SPECS.values(), *fields(AdminSettings)) if spec.type in texts and not kind_of(spec)
    ]
    assert plain == ["password_hash", "read_password_hash"]
    assert {kind_of(spec) for spec in SPECS.values()} == {None, *Kind}


def test_the_items_of_a_list_are_separated_by_commas() -> None:
    assert parts_of(" a ,, b c ,") == ["a", "b c"]


def test_the_nearest_name_is_suggested_only_if_it_is_similar() -> None:
    assert nearest("prot", ["port", "host"]) == "port"
    assert nearest("zzz", ["port", "host"]) == ""

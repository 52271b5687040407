import json
from typing import Any

import pytest

from wsgateway import Gateway
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ConfigError
from wsgateway.text import cut, escape_controls, mask_query, mask_url, short


def test_a_long_text_is_cut() -> None:
    assert (cut("abc", 3), cut("abcd", 3)) == ("abc", "abc…")


class Rude:
    def __repr__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    "value", ["x" * 10**7, b"\x00" * 10**7, list(range(10**6)), {"a": {"b": Rude()}}, Rude(), [Rude()], "\n\x1b\ud800"]
)
def test_any_value_is_shown_shortly(value: Any) -> None:
    text = short(value)
    assert len(text) <= 60
    assert text.isprintable()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:SECRET@host:6379/0", "redis://host:6379/0"),
        ("rediss://user:SECRET@host", "rediss://host"),
        ("redis://:SECRET,REST@127.0.0.1:1", "redis://127.0.0.1:1"),
        ("redis://:SE@CRET@host/2", "redis://host/2"),
        ("redis://:SE/CRET@host:6379", "redis://host:6379"),
        ("redis://:SE?CRET@host", "redis://host"),
        ("redis://:SE#CRET@host/1", "redis://host/1"),
        ("redis://user:12/34SECRET@host", "redis://…"),
        ("redis://:SE/CR@ET@host", "redis://…"),
        ("redis://user:SECRET", "redis://…"),
        ("redis://user:SECRET/0", "redis://…"),
        ("redis://host?password=SECRET", "redis://host?…"),
        ("redis://:SECRET@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("user:SECRET@host:6379", "host:6379"),
        ("unix:///run/redis.sock?db=1&password=SECRET", "unix:///run/redis.sock?…"),
        ("unix://user:SECRET@/run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis@1.sock", "unix:///run/redis@1.sock"),
        ("ipc:///run/wsgateway", "ipc:///run/wsgateway"),
        ("nats://a:4222,b:4222", "nats://a:4222,b:4222"),
        ("nats://SECRET@host", "nats://host"),
        ("nats://u:SECRET@a:4222,nats://u:SECRET@b:4222", "nats://a:4222,nats://b:4222"),
        ("nats://u:SECRET@a:4222,b:4222", "nats://a:4222,b:4222"),
        ("nats://u:SECRET@a,u:SECRET@b", "nats://b"),
        ("tls://u:SEC,RET@a,tls://u:SE/CRET@b", "tls://a,tls://b"),
        ("wss://ann:SECRET@host/ws/room?key=SECRET", "wss://host/ws/room?…"),
        ("wss://host/ws?key=a@SECRET", "wss://…"),
        ("https://host/path#SECRET", "https://host/path"),
        ("SEC@RET://host", "…"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize("tail", ["", "/0", "?db=1", "/0?x=y"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "nats", "tls", "https", "wss", ""])
def test_no_part_of_any_password_is_shown(scheme: str, tail: str) -> None:
    before = f"{scheme}://" if scheme else ""
    for first in "@,/#?:%&=;! [":
        for second in "@,/#?:x":
            password = f"SECRET{first}SECRET{second}SECRET"
            for user in ("", "user"):
                url = f"{before}{user}:{password}@host:6379{tail}"
                assert "SECRET" not in mask_url(url), url
                assert "SECRET" not in json.dumps(Settings(broker=url).shown())
                try:
                    Gateway(broker=url)
                except ConfigError as exc:
                    assert "SECRET" not in str(exc)  # noqa: PT017  whether it raises depends on the URL


@pytest.mark.parametrize("url", ["redis://u:12#34@127.0.0.1:1", "redis://:5/6@127.0.0.1:1", "nats://u:p?q@127.0.0.1:1"])
def test_a_password_that_could_be_taken_for_a_host_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="%2F for `/`"):
        Gateway(broker=url)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("/ws?token=SECRET", "/ws?…"),
        ("/ws?a=b'SECRET", "/ws?…"),
        ('/ws?a=b"SECRET', "/ws?…"),
        ("/ws?a=b?SECRET", "/ws?…"),
        ("http://h?a=SECRET", "http://h?…"),
        ("?a=SECRET", "?…"),
        ('"GET /a?b=SECRET HTTP/1.1" is it there? yes', '"GET /a?… HTTP/1.1" is it there? yes'),
        ("really?", "really?"),
        ("/a?\x0bSECRET\xa0SECRET", "/a?…"),
    ],
)
def test_nothing_of_a_query_string_stays(text: str, masked: str) -> None:
    assert mask_query(text) == masked


@pytest.mark.parametrize("character", "\x00\x07\x1b\x7f\x80\x9b\u061c\u200e\u200f\u2028\u202a\u202e\u2066\u2069\ud800")
def test_characters_that_act_on_a_terminal_are_escaped(character: str) -> None:
    assert escape_controls(f"a{character}b") == f"a{ascii(character)[1:-1]}b"


def test_text_of_any_language_is_shown_as_it_is() -> None:
    text = "ü ñ 漢字 שלום مرحبا 👍🏽 e\u0301 \u200d"
    assert escape_controls(text) == text

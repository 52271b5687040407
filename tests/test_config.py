from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from wsgateway.config import SPECS, Options, Settings, normalized_origin
from wsgateway.exceptions import ConfigError
from wsgateway.layers import load


def read(
    flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, config: str | None = None
) -> tuple[Settings, dict[str, str]]:
    loaded = load(defaults={}, environ=environ or {}, flags=flags or {}, config=config)
    return loaded.settings, dict(loaded.sources)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_keyword_arguments_of_gateway_are_the_settings() -> None:
    assert list(get_type_hints(Options)) == [spec.name for spec in fields(Settings) if spec.name != "listener"]


def test_every_setting_says_what_it_is_for() -> None:
    assert all(spec.metadata["help"] for spec in SPECS.values())


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(
        "drain = 1\nport = 1\nsend_timeout = 1\nping_interval = 1\n"
        "[gateways.a]\nport = 2\nsend_timeout = 2\nping_interval = 2\n"
    )
    settings, sources = read({"ping_interval": "4"}, {"WSGATEWAY_SEND_TIMEOUT": "3", "WSGATEWAY_PING_INTERVAL": "3"})
    assert (settings.id, settings.drain, settings.port, settings.send_timeout, settings.ping_interval) == (
        "a",
        1,
        2,
        3,
        4,
    )
    assert [sources[name] for name in ("hook_timeout", "drain", "port", "send_timeout", "ping_interval")] == [
        "default",
        "wsgateway.toml",
        "wsgateway.toml [gateways.a]",
        "WSGATEWAY_SEND_TIMEOUT",
        "--ping-interval",
    ]


def test_the_gateway_is_chosen_by_id_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text("[gateways.Shop]\nport = 1\n[gateways.chat]\nport = 2\n")
    assert read({"id": "shop"})[0].port == 1
    assert read(environ={"WSGATEWAY_ID": "CHAT"})[0].port == 2
    with pytest.raises(ConfigError, match="Shop, chat: say which with --id"):
        read()


@pytest.mark.parametrize("text", ["true", "1", "YES", "on"])
def test_texts_become_what_the_setting_is(text: str) -> None:
    environ = {
        "WSGATEWAY_VERBOSE": text,
        "WSGATEWAY_PORT": "1",
        "WSGATEWAY_DRAIN": "0.5",
        "WSGATEWAY_ALLOWED_ORIGINS": "https://A.example, https://b.example:443/ ",
        "WSGATEWAY_SLOW_POLICY": "drop_oldest",
        "WSGATEWAY_ON_STOP": "",
    }
    settings, _ = read(environ=environ)
    assert (settings.verbose, settings.port, settings.drain, settings.on_stop) == (True, 1, 0.5, "")
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.slow_policy == "drop_oldest"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('prot = 1\nport = "1"\nverbose = 1\n')
    with pytest.raises(ConfigError) as error:
        read({"drain": "-1"}, {"WSGATEWAY_PING_INTERVAL": "often", "WSGATEWAY_LOG_FIEL": "x"}, "x.toml")
    assert error.value.mistakes == (
        "prot (x.toml): there is no such setting, did you mean port?",
        "port (x.toml): '1' is text, write the number without quotes",
        "verbose (x.toml): 1 is neither true nor false",
        "WSGATEWAY_PING_INTERVAL: 'often' is not a number, 0.05 or more",
        "--drain: -1.0 is not 0 or more",
    )


@pytest.mark.parametrize(
    "options",
    [
        {"port": 65536},
        {"port": True},
        {"port": 1.5},
        {"drain": float("nan")},
        {"hook_timeout": float("inf")},
        {"id": ""},
        {"id": "a b"},
        {"id": "x" * 65},
        {"on_message": "on message"},
        {"allowed_origins": "example.com"},
        {"allowed_origins": ["https://example.com/path"]},
        {"api_key": [""]},
        {"api_key": 5},
        {"api_key": [" spaces "]},
        {"api_key": ["line\nbreak"]},
        {"slow_policy": "wait"},
        {"uds": 5},
        {"ssl_keyfile": "key.pem"},
    ],
)
def test_a_wrong_value_names_its_setting(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        Settings(**options)
    assert next(iter(options)) in str(error.value)


def test_unknown_variables_are_warnings_and_kubernetes_ports_are_ignored() -> None:
    loaded = load(
        defaults={},
        environ={"WSGATEWAY_PORT": "tcp://10.0.0.1:80", "WSGATEWAY_SERVICE_HOST": "10.0.0.1", "OTHER": "x"},
        flags={},
    )
    assert loaded.settings.port == 10125
    assert len(loaded.warnings) == 1
    assert "WSGATEWAY_SERVICE_HOST" in loaded.warnings[0]


def test_the_key_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a,b\nsecond\n")
    assert read(environ={"WSGATEWAY_API_KEY_FILE": "key"})[0].api_key == ("a,b", "second")
    with pytest.raises(ConfigError, match="WSGATEWAY_API_KEY_FILE"):
        read(environ={"WSGATEWAY_API_KEY_FILE": "none"})
    Path("broker").write_text("redis://:pass@10.0.0.1\n")
    assert read(environ={"WSGATEWAY_BROKER_FILE": "broker"})[0].broker == "redis://:pass@10.0.0.1"
    with pytest.raises(ConfigError, match="WSGATEWAY_BROKER_FILE"):
        read(environ={"WSGATEWAY_BROKER_FILE": "none"})


def test_secrets_are_not_shown() -> None:
    assert Settings(api_key=("hidden",)).shown()["api_key"] == "***"
    assert "hidden" not in str(Settings(api_key=("hidden",)).shown())


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Example.COM", "https://example.com"),
        ("https://example.com:443/", "https://example.com"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://bücher.example", "http://xn--bcher-kva.example"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_origins_are_normalized(text: str, origin: str) -> None:
    assert normalized_origin(text) == origin

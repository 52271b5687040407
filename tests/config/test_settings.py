import json
import pickle
from collections.abc import Callable
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from wsgateway import Gateway
from wsgateway.auth.admin import AdminRules
from wsgateway.auth.rules import Rules
from wsgateway.config.origins import normalized_origin
from wsgateway.config.settings import SPECS, AdminSettings, Options, Settings
from wsgateway.config.sources import Loaded, load
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.supervisor.store import Described, Store
from wsgateway.testing import Client, serve


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
    with pytest.raises(ConfigError, match="Shop, chat: choose one with --id"):
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


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
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


def test_a_mistake_is_a_sentence_with_its_parts(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('prot = 1\nport = "1"\nverbose = 1\n')
    with pytest.raises(ConfigError) as error:
        read({"drain": "-1"}, {"WSGATEWAY_PING_INTERVAL": "often"}, "x.toml")
    assert [(mistake.setting, mistake.source, mistake.text) for mistake in error.value.mistakes] == [
        ("prot", "prot (x.toml)", "there is no such setting, did you mean port?"),
        ("port", "port (x.toml)", "'1' is text, write the number without quotes"),
        ("verbose", "verbose (x.toml)", "1 is neither true nor false"),
        ("ping_interval", "WSGATEWAY_PING_INTERVAL", "'often' is not a number, 0.05 or more"),
        ("drain", "--drain", "-1.0 is not 0 or more"),
    ]


def test_a_mistake_of_the_admin_interface_is_a_sentence_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[admin]\nprot = 1\nport = 1.5\n")
    with pytest.raises(ConfigError) as error:
        Store(config="x.toml").read()
    assert error.value.mistakes == (
        "prot (x.toml [admin]): there is no such setting, did you mean port?",
        "port (x.toml [admin]): 1.5 is not a whole number, from 0 to 65535",
    )


def test_mistakes_can_be_copied_and_compared() -> None:
    error = ConfigError([Mistake("port", "--port", "wrong"), "a sentence"])
    copied = pickle.loads(pickle.dumps(error))
    assert copied.mistakes == ("--port: wrong", "a sentence")
    assert copied.mistakes[0].setting == copy(error.mistakes[0]).setting == "port"
    assert str(copied) == "--port: wrong\na sentence"


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


HUGE = [10**309, 2**1024, 10**400, -(10**400), 10**5000, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("value", HUGE, ids=lambda value: f"{value:g}" if isinstance(value, float) else "whole")
@pytest.mark.parametrize("name", ["port", "drain", "max_message_size", "message_rate", "message_burst", "workers"])
def test_a_number_beyond_a_double_is_a_mistake(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name) as error:
        Settings(**{name: value})  # type: ignore[arg-type]  # one of the numbers
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("text", ["1e400", "-1e400", "9" * 400, "9" * 5000, "nan", "inf", "", " "])
@pytest.mark.parametrize("name", ["drain", "max_message_size", "port"])
def test_a_number_beyond_a_double_is_a_mistake_in_the_file_a_variable_and_a_flag(
    name: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--" + name.replace("_", "-")):
        read(flags={name: text})
    if not text.strip():
        return
    with pytest.raises(ConfigError, match=f"WSGATEWAY_{name.upper()}"):
        read(environ={f"WSGATEWAY_{name.upper()}": text})
    (tmp_path / "wsgateway.toml").write_text(f"{name} = {text}\n")
    with pytest.raises(ConfigError, match=r"wsgateway\.toml"):
        read()


def test_the_largest_numbers_are_taken() -> None:
    settings = Settings(drain=10**308, max_message_size=2**63 - 1)
    assert (settings.drain, settings.max_message_size) == (1e308, 2**63 - 1)


@pytest.mark.parametrize("compression", [False, True])
async def test_a_gateway_runs_with_the_largest_numbers(compression: bool) -> None:
    names = [name for name, spec in SPECS.items() if type(spec.default) in (int, float) and name not in LIMITED]
    options = {name: 2**63 - 1 if type(SPECS[name].default) is int else 1e308 for name in names}
    async with serve(Gateway(**options, compression=compression)) as url, Client(url) as ann:  # type: ignore[arg-type]
        await ann.send("x" * 1000)
        assert await ann.receive() == "x" * 1000


LIMITED = ("port", "workers")


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if type(spec.default) is int])
def test_a_whole_number_that_does_not_fit_into_64_bits_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: 2**63})  # type: ignore[arg-type]  # one of the numbers


ODD: list[Any] = [
    *(
        5,
        0,
        -1.5,
        True,
        None,
        "",
        "x",
        [],
        [1],
        [[]],
        {},
        {"a": {"b": 1}},
        b"x",
        object(),
        set(),
        float("nan"),
        10**5000,
    ),
    *("\0", "a\0b", "\ud800", "\udcff", ["\ud800"], ["\0"], "x" * 100_000, ["x"] * 1000, "\x1b[31m", "\u202e"),
]


@pytest.mark.parametrize("name", [spec for spec in SPECS if spec != "listener"])
def test_a_setting_of_any_type_is_taken_or_refused_in_a_sentence(name: str) -> None:
    for value in ODD:
        said = mistakes_of(Settings, name, value)
        assert len(said) < 400
        if said:
            assert name in said.partition(": ")[0]
        elif isinstance(value, str):
            assert "\0" not in value


def mistakes_of(kind: type, name: str, value: object) -> str:
    """What is wrong with the value, empty if nothing is."""
    try:
        kind(**{name: value})
    except ConfigError as exc:
        return str(exc) + str(exc.__cause__ or "")
    return ""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('port = "8080"', "'8080' is text, write the number without quotes"),
        ('drain = "1.5"', "'1.5' is text, write the number without quotes"),
        ('verbose = "true"', "'true' is text, write true without quotes"),
        ('echo_sender = "False"', "'False' is text, write false without quotes"),
        ('drain = "30s"', "'30s' is not a number"),
        ("host = 127", "127 is not text, write it in quotes"),
        ("listener = 5", "5 is not text"),
        ('listener = ["a:B"]', "is not text"),
        ("[gateways.a]\nlistener = {a = 1}", "is not text"),
        ("allowed_hosts = {a = 1}", "is not a text or a list of texts"),
        ("slow_policy = [1]", "is not one of disconnect"),
        ('host = ""', "127.0.0.1 for this machine only"),
        ("max-message-size = 1", "there is no such setting, did you mean max_message_size?"),
        ("Port = 1", "there is no such setting, did you mean port?"),
        ('token = ["x"]', "token is a setting of [admin], write it below [admin]"),
        ('admin_token = ["x"]', "token is a setting of [admin], write it below [admin]"),
        ('listeners = ["x"]', "write it below [admin], did you mean listener?"),
        ('[admin]\napi_key = ["x"]', "api_key is a setting of a gateway, write it at the top or below [gateways.ID]"),
        ("[admin]\nprot = 1", "there is no such setting, did you mean port?"),
        ("[admin]\nread-token = 1", "there is no such setting, did you mean read_token?"),
        ("[gateway.chat]\nport = 1", "there is no such table, did you mean [gateways.chat]?"),
        ("[gateway]\nport = 1", "did you mean [gateways.ID]?"),
        ("[Gateways.chat]\nport = 1", "did you mean [gateways.chat]?"),
        ("[admn]\nport = 1", "did you mean [admin]?"),
        ("[chat]\nport = 1", "there is no such table, a gateway is described below [gateways.chat]"),
        ("[[gateways]]\nport = 1", "each gateway is a table [gateways.ID]"),
        ("gateways = 5", "each gateway is a table [gateways.ID]"),
        ("gateways.a = 5", "each gateway is a table [gateways.ID]"),
        ("x = " + "[" * 100_000, "is not TOML"),
        ("port = " + "9" * 5000, "is not TOML"),
    ],
)
def test_a_mistake_in_the_file_says_what_is_right(setting: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_text(setting + "\n")
    with pytest.raises(ConfigError) as error:
        Store().read()
    assert said in str(error.value)
    assert "wsgateway.toml" in str(error.value)


# In code


def test_an_unknown_argument_names_the_nearest_setting_and_all_other_mistakes() -> None:
    with pytest.raises(ConfigError) as error:
        Gateway(lister="chat.py", port="80")  # type: ignore[call-arg, arg-type]  # it is tried
    assert isinstance(error.value, TypeError)
    assert error.value.mistakes == (
        "lister: there is no such setting, did you mean listener?",
        "port: '80' is text, write the number without quotes",
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Settings(maxconnections=1), "did you mean max_connections?"),  # type: ignore[call-arg]
        (lambda: Settings(**{"max-connections": 1}), "did you mean max_connections?"),  # type: ignore[arg-type]
        (lambda: Settings(token="x"), "token is a setting of [admin]"),  # type: ignore[call-arg]
        (lambda: AdminSettings(tokn="x"), "did you mean token?"),  # type: ignore[call-arg]
        (lambda: AdminSettings(send_rate=1), "send_rate is a setting of a gateway"),  # type: ignore[call-arg]
    ],
)
def test_settings_made_in_code_name_the_nearest_too(make: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError) as error:
        make()
    assert said in str(error.value)


def test_settings_can_be_copied() -> None:
    settings = Settings(id="a", api_key=("k",), listener=object)
    assert replace(settings) == copy(settings) == pickle.loads(pickle.dumps(settings)) == settings


# Secrets

HIDDEN = "HIDDEN-1234"


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": HIDDEN},
        {"api_key": (HIDDEN, "b")},
        {"broker": f"redis://:{HIDDEN}@h"},
        {"broker": f"redis://user:{HIDDEN}@h/0"},
        {"broker": f"redis://h?password={HIDDEN}"},
    ],
)
def test_a_secret_is_in_no_repr(options: dict[str, Any]) -> None:
    settings = Settings(**options)
    loaded = Loaded(settings, {}, ())
    for shown in (settings, [settings], loaded, Described({"a": loaded}, AdminSettings()), Rules(settings)):
        assert HIDDEN not in repr(shown)
        assert HIDDEN not in f"{shown} {shown!r}"
    assert HIDDEN not in json.dumps(settings.shown())
    assert "port=10125" in repr(settings)


@pytest.mark.parametrize("name", ["token", "read_token", "password_hash", "read_password_hash"])
def test_a_secret_of_the_admin_interface_is_in_no_repr(name: str) -> None:
    admin = AdminSettings(**{name: HIDDEN})  # type: ignore[arg-type]  # texts
    for shown in (admin, Described({}, admin), AdminRules(admin)):
        assert HIDDEN not in repr(shown)


@pytest.mark.parametrize(
    "value", [[HIDDEN, 5], [HIDDEN, ""], {HIDDEN: 1}, [[HIDDEN]], HIDDEN + "\n", [HIDDEN + "\ud800"]]
)
@pytest.mark.parametrize("name", ["api_key", "broker", "admin_token", "admin_password_hash"])
def test_a_secret_of_the_wrong_type_is_not_quoted(name: str, value: Any) -> None:
    kind = AdminSettings if name.startswith("admin_") else Settings
    assert HIDDEN not in mistakes_of(kind, name.removeprefix("admin_"), value)


def test_a_number_as_a_secret_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as error:
        Settings(api_key=31337, broker=31338)  # type: ignore[arg-type]  # it is tried
    assert "3133" not in str(error.value)


def test_settings_that_are_not_whole_yet_have_a_repr() -> None:
    assert "api_key=None" in repr(object.__new__(Settings))


# Byte order marks and line endings


@pytest.mark.parametrize(
    "text", ["port = 1\r\ndrain = 2\r\n", "\ufeffport = 1\ndrain = 2\n", "\ufeffport = 1\rdrain = 2"]
)
def test_a_settings_file_may_have_a_byte_order_mark_and_any_line_endings(text: str, tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_bytes(text.encode())
    settings, _ = read()
    assert (settings.port, settings.drain) == (1, 2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_settings_file_in_another_encoding_is_a_sentence(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_bytes("port = 1\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"^wsgateway\.toml is UTF-16 or binary, save it as UTF-8$"):
        read()


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "wsgateway.toml").write_bytes(b"port = 1\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8 \(at line 2\)"):
        read()


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


@pytest.mark.parametrize("name", ["allowed_hosts", "allowed_origins"])
def test_what_was_taken_is_taken_again(name: str) -> None:
    make: Any = Settings
    for host in ("ü" * 40, "Ü.example", "ü" * 300, "a" * 285, "a" * 301):
        value = host if name == "allowed_hosts" else f"https://{host}"
        if not mistakes_of(Settings, name, [value]):
            taken = getattr(make(**{name: [value]}), name)
            assert getattr(make(**{name: taken}), name) == taken

"""The settings of namespaces, in code and in the file."""

import json
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from wsgateway import Gateway
from wsgateway.config.channels import ChannelOptions, ChannelSettings
from wsgateway.config.settings import Settings
from wsgateway.config.sources import Loaded, load
from wsgateway.config.values import Keep
from wsgateway.exceptions import ConfigError, UnknownSetting
from wsgateway.limits import SlowPolicy

FILE = """
[channels."room:*"]
history = 100
presence = true
[channels."price:*"]
public = true
history = 500
keep = "last"
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str, environ: dict[str, str] | None = None, **flags: str) -> Loaded:
    Path("wsgateway.toml").write_text(text)
    return load(defaults={}, environ=environ or {}, flags=flags)


def mistakes_of(read: Callable[[], object]) -> list[str]:
    try:
        read()
    except ConfigError as exc:
        return [str(mistake) for mistake in exc.mistakes]
    return []


def test_the_options_are_the_settings() -> None:
    assert list(get_type_hints(ChannelOptions)) == [spec.name for spec in fields(ChannelSettings)]
    assert all(spec.metadata["help"] for spec in fields(ChannelSettings))


def test_the_settings_in_code() -> None:
    options: dict[str, ChannelOptions] = {
        "room:*": {"history": 100, "clients": "subscribe, publish"},
        "price:*": {"history": 1, "keep": "last", "slow_policy": "drop_oldest", "clients": []},
    }
    channels = Gateway(channels=options).settings.channels
    options["other"] = {}
    assert list(channels) == ["room:*", "price:*"]
    room, price = channels.values()
    assert (room.clients, room.history, room.history_ttl, room.keep) == (("subscribe", "publish"), 100, 86400, Keep.ALL)
    assert (price.clients, price.history_ttl, price.keep) == ((), None, Keep.LAST)
    assert (room.slow_policy, price.slow_policy) == (None, SlowPolicy.DROP_OLDEST)
    assert (room.public, room.presence) == (False, False)
    assert Settings().channels == {}


def test_the_settings_in_the_file() -> None:
    loaded = read(FILE)
    assert loaded.settings.channels == {
        "room:*": ChannelSettings(history=100, presence=True),
        "price:*": ChannelSettings(public=True, history=500, keep=Keep.LAST),
    }
    assert loaded.sources["channels"] == "wsgateway.toml"


def test_the_table_of_a_gateway_adds_to_the_one_at_the_top_and_replaces_a_namespace_as_a_whole() -> None:
    loaded = read(FILE + '[gateways.a.channels."room:*"]\nhistory = 5\n[gateways.a.channels.news]\n')
    assert loaded.settings.channels == {
        "room:*": ChannelSettings(history=5),
        "price:*": ChannelSettings(public=True, history=500, keep=Keep.LAST),
        "news": ChannelSettings(),
    }
    assert loaded.sources["channels"] == "wsgateway.toml and wsgateway.toml [gateways.a]"
    assert read('[gateways.a.channels."x"]\n').sources["channels"] == "wsgateway.toml [gateways.a]"


def test_all_mistakes_are_reported_together_with_their_places() -> None:
    text = """
prot = 1
[channels]
history = 5
[channels."room:*"]
histroy = 100
history = -1
history_ttl = "soon"
clients = ["subscribe", "publsh"]
keep = "lst"
slow_policy = "drop"
presence = "yes"
[channels."a*b"]
[channels."a b"]
[channels.""]
[channels."ä"]
keep = "last"
port = 1
[channels.shop.news]
history = 1
[gateways.a.channels."x:*"]
public = 1
"""
    room = '(wsgateway.toml [channels."room:*"])'
    assert mistakes_of(lambda: read(text)) == [
        "prot (wsgateway.toml): there is no such setting, did you mean port?",
        (
            "history (wsgateway.toml [channels]): it is not a table; write settings below a namespace, such as "
            '[channels."room:*"]'
        ),
        f"histroy {room}: there is no such setting, did you mean history?",
        f"clients {room}: 'publsh' is not one of subscribe, publish, did you mean publish?",
        f"history {room}: -1 is not from 0 to 10000",
        f"history_ttl {room}: 'soon' is not a number, from 0.05 to 31536000",
        f"keep {room}: 'lst' is not one of all, last",
        f"presence {room}: 'yes' is text, write true without quotes",
        f"slow_policy {room}: 'drop' is not one of disconnect, drop_oldest, drop_newest",
        ('wsgateway.toml [channels."a*b"]: the name of the namespace contains `*`, which is only allowed at the end'),
        (
            'wsgateway.toml [channels."a b"]: the name of the namespace contains a space or a character that is not '
            "printable"
        ),
        'wsgateway.toml [channels.""]: the name of the namespace is empty',
        (
            'port (wsgateway.toml [channels."ä"]): there is no such setting; a setting of the gateway belongs above '
            "the first table"
        ),
        'keep (wsgateway.toml [channels."ä"]): last requires a history, set history to 1 or more',
        (
            'news (wsgateway.toml [channels."shop"]): there is no such setting; a name with a dot is quoted: '
            '[channels."shop.news"]'
        ),
        'public (wsgateway.toml [gateways.a.channels."x:*"]): 1 is neither true nor false',
    ]


def test_mistakes_in_code_are_reported_with_those_of_the_gateway() -> None:
    with pytest.raises(UnknownSetting) as caught:
        Gateway(channels={"room:*": {"histroy": 1}}, prot=1)  # type: ignore[call-arg,typeddict-unknown-key]  # two mistakes
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        "prot: there is no such setting, did you mean port?",
        'histroy ([channels."room:*"]): there is no such setting, did you mean history?',
    ]


ODD: list[Any] = [5, "x", [], [1], b"x", object(), True, {1: {}}, {"x": 5}, {"x": [1]}, {"x": {1: 2}}]


@pytest.mark.parametrize("value", [*ODD, {"x" * 10**6: {}}, {"\ud800": {}}, {"a": {"b" * 10**6: 1}}, {"a": {"\n": 1}}])
def test_a_value_of_any_type_is_refused_in_a_sentence(value: Any) -> None:
    (mistake,) = mistakes_of(lambda: Settings(channels=value)) or [""]
    assert value == [] or "channels" in mistake
    assert len(mistake) < 400
    mistake.encode()


@pytest.mark.parametrize("name", [spec.name for spec in fields(ChannelSettings)])
def test_a_setting_of_any_type_is_taken_or_refused_in_a_sentence(name: str) -> None:
    for value in [*ODD, None, -1, 10**5000, float("nan"), float("inf"), "\0", "\ud800", ["\ud800"], "x" * 100_000]:
        channels: Any = {"room:*": {name: value}}
        mistakes = mistakes_of(partial(Settings, channels=channels))
        assert all(f'{name} ([channels."room:*"])' in mistake and len(mistake) < 400 for mistake in mistakes)


def test_a_value_in_the_environment_is_a_mistake_that_names_the_file() -> None:
    (mistake,) = mistakes_of(lambda: read("port = 1", {"WSGATEWAY_CHANNELS": "room:*"}))
    assert mistake.startswith("WSGATEWAY_CHANNELS: channels are described in the settings file, as tables")


def test_a_misspelled_table_is_suggested() -> None:
    (mistake,) = mistakes_of(lambda: read('[chanels."room:*"]\n'))
    assert mistake == 'chanels (wsgateway.toml): there is no such table, did you mean [channels."room:*"]?'


def test_settings_with_channels_are_values_like_all_others() -> None:
    options: Any = {"room:*": {"history": 1}, "p": {"history": 1, "keep": "last"}, "q": {}}
    settings = Settings(channels=options)
    for same in (
        copy(settings),
        deepcopy(settings),
        replace(settings),
        pickle.loads(pickle.dumps(settings)),
        Settings(**json.loads(json.dumps(asdict(settings)))),  # as worker processes get them
    ):
        assert same == settings
        assert hash(same) == hash(settings)
        assert type(same.channels["room:*"]) is ChannelSettings
    assert settings != replace(settings, channels={})
    shown = settings.shown()["channels"]
    assert json.loads(json.dumps(shown)) == shown
    assert shown["room:*"]["history"] == 1  # type: ignore[index]  # a table of tables
    assert "history=1" in repr(settings.channels["room:*"])


@pytest.mark.parametrize("url", ["nats://127.0.0.1", "NATS://a,nats://b", "tls://host:4222"])
def test_values_with_nats_are_a_mistake(url: str) -> None:
    read(f'broker = "{url}"\n[channels."room:*"]\nhistory = 1')
    (mistake,) = mistakes_of(lambda: read(f'broker = "{url}"\n' + FILE))
    assert mistake == (
        'broker: NATS cannot keep only the newest of each key ("price:*"), so set broker to redis:// or ipc://, or set '
        "keep to all"
    )


@pytest.mark.parametrize("url", ["ipc://", "redis://127.0.0.1", "REDISS://host", "unix:///run/redis.sock"])
def test_a_history_may_be_kept_with_other_brokers_and_by_several_workers(url: str) -> None:
    assert read(f'broker = "{url}"\n' + FILE, workers="2").settings.workers == 2
    assert read(FILE, workers="2").settings.workers == 2  # `wsgateway serve` makes a broker for them


def test_a_mistake_about_a_history_is_reported_with_all_others() -> None:
    options: Any = {f"{number}:*": {"history": 1, "keep": "last"} for number in range(100)}
    mistakes = mistakes_of(lambda: Settings(channels=options, broker="nats://h", workers=2, port=-1))
    assert [mistake.partition(":")[0] for mistake in mistakes] == ["port", "broker"]
    assert len(mistakes[1]) < 200
    (mistake,) = mistakes_of(lambda: Settings(channels=options, broker=5))  # type: ignore[arg-type]  # not text
    assert "not text" in mistake
    (mistake,) = mistakes_of(lambda: Settings(channels=options, workers="2"))  # type: ignore[arg-type]  # not a number
    assert "without quotes" in mistake

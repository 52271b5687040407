"""The form of a gateway."""

from dataclasses import replace

import pytest

from wsgateway import Settings
from wsgateway.admin.forms import EDITABLE, FormField, Topic, by_field, changes_in, form_of, settings_in, values_of
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.settings import SPECS
from wsgateway.config.topics import ESSENTIALS, TOPICS
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.limits import SlowPolicy
from wsgateway.supervisor.changes import HOST_ONLY


def fields_of(topics: list[Topic]) -> dict[str, FormField]:
    return {field.name: field for topic in topics for field in topic.fields}


def submitted_of(settings: Settings) -> dict[str, str]:
    """The form as a browser sends it when nobody has touched it."""
    fields = [field for field in fields_of(form_of(settings)).values() if field.kind != "fixed"]
    return {field.name: field.value for field in fields if field.kind != "check" or field.value == "true"}


def test_every_setting_is_in_one_topic_and_in_the_form_once() -> None:
    assert sorted(name for names in TOPICS.values() for name in names) == sorted(SPECS)
    assert sorted(EDITABLE) == sorted(SPECS.keys() - HOST_ONLY - {"id"})
    topics = form_of(Settings())
    assert sorted(field.name for topic in topics for field in topic.fields) == sorted(SPECS.keys() - {"id"})
    assert [field.name for field in topics[0].fields] == list(ESSENTIALS)


def test_what_differs_from_the_default_is_marked_and_what_only_the_file_can_change_is_fixed() -> None:
    settings = Settings(
        ping_interval=20, api_key=("hidden",), broker="redis://:hidden@h/0", channels={"room:*": ChannelSettings()}
    )
    for topics in (form_of(settings), values_of(settings, has_own_server=True)):
        fields = fields_of(topics)
        changed = {name for name, field in fields.items() if field.is_changed}
        assert changed == {"ping_interval", "api_key", "broker", "channels"}
        assert {name for name in HOST_ONLY if fields[name].kind != "fixed"} == set()
        assert "hidden" not in repr(topics)
    assert not {"host", "port", "startup"} & fields_of(values_of(settings, has_own_server=False)).keys()


def test_a_search_finds_names_and_explanations() -> None:
    topics = form_of(Settings())
    assert [topic.name for topic in topics if topic.matches("PONG")] == ["Slow and silent clients"]
    assert "Limits" in [topic.name for topic in topics if topic.matches("get 429")]
    assert not any(topic.matches("") for topic in topics)


def test_a_new_gateway_has_only_the_settings_of_its_form() -> None:
    before = Settings(listener="app:Listener", port=10126)
    submitted = {"id": "game", "port": "10200", "listener": "app:Game", "echo_sender": "false", "verbose": "true"}
    assert settings_in(submitted, before) == {"listener": "app:Game", "port": 10200}
    with pytest.raises(ConfigError) as caught:
        settings_in({"id": "a b", "port": "much"}, before)
    assert [mistake.setting for mistake in caught.value.mistakes] == ["id", "port"]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(listener="app:Listener", on_message="", allowed_origins=("https://a.example",), ping_interval=0.5),
        Settings(
            api_key=("secret",),
            echo_sender=False,
            slow_policy=SlowPolicy.DROP_OLDEST,
            max_connections=12345678,
            message_rate=1234567.5,
        ),
    ],
)
def test_a_form_that_nobody_has_touched_changes_nothing(settings: Settings) -> None:
    assert changes_in(submitted_of(settings), settings) == {}


def test_what_is_changed_is_converted() -> None:
    form = {**submitted_of(Settings()), "port": "10126", "allowed_hosts": "a.example, b.example", "drain": "1.5"}
    del form["echo_sender"]  # a box that is not selected is not sent
    assert changes_in(form, Settings()) == {
        "port": 10126,
        "allowed_hosts": ("a.example", "b.example"),
        "drain": 1.5,
        "echo_sender": False,
    }


def test_an_empty_field_takes_a_setting_back_and_an_empty_hook_turns_it_off() -> None:
    before = Settings(listener="app:Listener", port=1, allowed_hosts=("a.example",))
    form = {**submitted_of(before), "port": "", "allowed_hosts": "", "on_error": ""}
    assert changes_in(form, before) == {"port": None, "allowed_hosts": None, "on_error": ""}


def test_a_secret_is_never_shown_and_stays_unless_it_is_taken_away() -> None:
    before = Settings(api_key=("secret",))
    assert "secret" not in [field.value for field in fields_of(form_of(before)).values()]
    assert changes_in({**submitted_of(before), "api_key": "new"}, before) == {"api_key": ("new",)}
    assert changes_in({**submitted_of(before), "api_key.remove": "yes"}, before) == {"api_key": None}


def test_all_mistakes_are_reported_together_each_at_its_field() -> None:
    form = {**submitted_of(Settings()), "port": "much", "slow_policy": "wait", "drain": "-1"}
    with pytest.raises(ConfigError) as caught:
        changes_in(form, Settings())
    mistakes, others = by_field(caught.value.mistakes)
    assert sorted(mistakes) == ["drain", "port", "slow_policy"]
    assert others == []
    shown = form_of(Settings(), submitted=form, mistakes=mistakes)
    port = fields_of(shown)["port"]
    assert (port.value, len(port.mistakes)) == ("much", 1)


def test_a_mistake_outside_the_form_names_its_source() -> None:
    mistakes = (
        Mistake("log_file", "", "no"),
        Mistake("", "", "drain: the disk is full"),
        Mistake("port", "port (a.toml [gateways.other])", "wrong"),
    )
    assert by_field(mistakes) == (
        {},
        ["log_file: no", "drain: the disk is full", "port (a.toml [gateways.other]): wrong"],
    )


def test_the_same_settings_under_another_id_are_the_same_form() -> None:
    assert changes_in(submitted_of(replace(Settings(), id="a")), replace(Settings(), id="b")) == {}

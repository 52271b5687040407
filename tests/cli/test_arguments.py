"""The grammar of the command line: which words are values, and what is said of those that are unknown."""

from typing import Any

import click
import pytest

from wsgateway.cli.arguments import Argument, Command, seconds, setting_options, usage_sentence
from wsgateway.cli.main import command_line
from wsgateway.config.settings import ADMIN_SPECS, SPECS, flag
from wsgateway.config.values import is_switch


def command(*, is_optional: bool = False) -> Command:
    message = Argument("message", "the text", **({"default": "none"} if is_optional else {}))
    options = [
        click.Option(["--api-key", "key"]),
        click.Option(["--json", "as_json"], is_flag=True),
        click.Option(["--fast/--no-fast"], default=None),
        click.Option(["--lines"], type=int),
        click.Option(["--timeout"], callback=seconds),
    ]
    return Command("send", "Push a message.", lambda **_: 0, [message, *options])


def parsed(*words: str) -> dict[str, Any]:
    with command().make_context("send", list(words)) as ctx:
        return {name: value for name, value in ctx.params.items() if value not in (None, False)}


def mistake(*words: str) -> str:
    with pytest.raises(click.UsageError) as error:
        command(is_optional=True).make_context("send", list(words))
    return usage_sentence(error.value)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["hi", "--api-key", "-k"], {"message": "hi", "key": "-k"}),
        (["hi", "--api-key=--k"], {"message": "hi", "key": "--k"}),
        (["--api-key", "-", "hi"], {"message": "hi", "key": "-"}),
        (["hi", "--api-key="], {"message": "hi", "key": ""}),
        (["hi", "--api-key", "a", "--api-key", "b"], {"message": "hi", "key": "b"}),
        (["-5"], {"message": "-5"}),
        (["-.5", "--lines", "-1"], {"message": "-.5", "lines": -1}),
        (["-"], {"message": "-"}),
        (["--not an option"], {"message": "--not an option"}),
        (["--", "--json"], {"message": "--json"}),
        (["--json", "--", "-x"], {"message": "-x", "as_json": True}),
        (["hi", "--fast"], {"message": "hi", "fast": True}),
        (["hi", "--timeout", "0.5"], {"message": "hi", "timeout": 0.5}),
    ],
)
def test_a_value_may_begin_with_a_dash(words: list[str], values: dict[str, Any]) -> None:
    assert parsed(*words) == values


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--api-kye=SECRET"], "--api-kye is not known, did you mean --api-key?"),
        (["--api-kye", "SECRET"], "--api-kye is not known, did you mean --api-key?"),
        (["--api-kye=SECRET with spaces"], "--api-kye is not known, did you mean --api-key?"),
        (["--api", "x"], "--api is not known, did you mean --api-key?"),
        (["-k", "SECRET"], "-k is not known; see `send --help`"),
        (["--no-fats"], "--no-fats is not known, did you mean --no-fast?"),
        (["one", "two"], "two is one word too many; put a message of several words in quotes"),
        (["--zzz", "--jsno"], "--zzz is not known; see `send --help`\n--jsno is not known, did you mean --json?"),
        (["--api-key"], "--api-key requires a value; one that begins with -- is written --api-key=…"),
        (["--api-key", "--SECRET"], "--api-key requires a value; one that begins with -- is written --api-key=…"),
        (["--api-key", "--help"], "--api-key requires a value; one that begins with -- is written --api-key=…"),
        (["--json=SECRET"], "--json takes no value"),
        (["--lines", "x"], "--lines: 'x' is not a valid integer"),
        (["--timeout", "nan"], "--timeout: 'nan' is not a number of seconds, 0 or more"),
        (["--timeout", "-1"], "--timeout: '-1' is not a number of seconds, 0 or more"),
    ],
)
def test_a_mistake_is_a_sentence_without_secrets(words: list[str], sentence: str) -> None:
    assert mistake(*words) == sentence


def test_a_missing_word_is_named() -> None:
    with pytest.raises(click.UsageError) as error:
        command().make_context("send", ["--json"])
    assert usage_sentence(error.value) == "MESSAGE is missing; see `send --help`"


def test_help_is_shown_whatever_else_is_unknown() -> None:
    with pytest.raises(click.exceptions.Exit):
        command().make_context("send", ["--zzz", "-h"])


@pytest.mark.parametrize("name", command_line.commands)
def test_help_fits_a_narrow_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    one = command_line.commands[name]
    with click.Context(one, info_name=name) as ctx:
        assert max(map(len, one.get_help(ctx).splitlines())) <= 60  # the longest option


def test_every_setting_but_the_table_of_channels_has_an_option() -> None:
    options = {option.name: option for option in setting_options()}
    specs = {name: spec for name, spec in {**SPECS, **ADMIN_SPECS}.items() if name != "channels"}
    assert options.keys() - {"config"} == specs.keys()
    for name, spec in specs.items():
        no = [f"--no-{flag(name)[2:]}"] if is_switch(spec) else []
        assert (options[name].opts, options[name].secondary_opts) == ([flag(name)], no)

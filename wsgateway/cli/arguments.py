"""The grammar of the command line, on click. Knows no command.

Without this module, click takes `-5` for an option, stops at the first mistake, and quotes words that may be secrets.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field
from typing import Any

import click

from wsgateway.config.settings import ADMIN_SPECS, CONFIG_FILE, SPECS, flag
from wsgateway.config.values import Kind, is_switch, kind_of
from wsgateway.text import did_you_mean

HELP: Mapping[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings for the help of every command, which is as wide as the terminal, up to 100 columns."""


class UnknownWords(click.UsageError):
    """Words that are not known to a command. `ctx.params` holds the values of the other words."""

    def __init__(self, sentences: Sequence[str], ctx: click.Context) -> None:
        super().__init__("\n".join(sentences), ctx)


class Argument(click.Argument):
    """A positional argument with a line of help, which click's own has only since 8.5."""

    def __init__(self, name: str, text: str, **options: Any) -> None:
        super().__init__([name], type=click.UNPROCESSED, **options)
        self.text = text


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return `value` as a number of seconds to wait. The callback of an option."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not number >= 0:  # also not a number
        raise click.BadParameter(f"{value!r} is not a number of seconds, 0 or more", ctx, param)
    return number


class Command(click.Command):
    """A command that reports all its unknown words together, after its options have been read.

    The first sentence of its help stands in the list of all commands.
    """

    def __init__(self, name: str, text: str, callback: Callable[..., int], params: Sequence[click.Parameter]) -> None:
        super().__init__(
            name,
            help=text,
            short_help=f"{text.partition('. ')[0].removesuffix('.')}.",  # not cut by click
            callback=callback,
            params=list(params),
            context_settings={**HELP, "allow_extra_args": True},
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        takes_value = {name: not opt.is_flag for opt in options for name in (*opt.opts, *opt.secondary_opts)}
        words = _sort(args, takes_value, ctx)
        if not words.flags.isdisjoint(ctx.help_option_names):
            return super().parse_args(ctx, ["--help"])
        try:
            super().parse_args(ctx, [*words.options, "--", *words.values])
        except click.BadParameter:
            if not words.unknown:
                raise
        unknown = [*words.unknown, *ctx.args]
        if unknown:
            raise UnknownWords([_unknown(word, takes_value, ctx) for word in unknown], ctx)
        return ctx.args

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [(param.human_readable_name, param.text) for param in self.params if isinstance(param, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(ctx, formatter)


@dataclass(slots=True)
class _Words:
    """The words after a command, sorted. Each of `options` is `--name` or `--name=value`."""

    flags: set[str] = field(default_factory=set)
    options: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _sort(args: Sequence[str], takes_value: Mapping[str, bool], ctx: click.Context) -> _Words:
    words, waiting = _Words(), deque(args)
    while waiting:
        word = waiting.popleft()
        name, equals, _ = word.partition("=")
        if word == "--":
            words.values.extend(waiting)
            break
        if name in takes_value:
            words.flags.add(name)
            if takes_value[name] and not equals:
                word = f"{name}={_take_value(name, waiting, ctx)}"
            elif equals and not takes_value[name]:
                raise click.UsageError(f"{name} takes no value", ctx)
            words.options.append(word)
        elif _is_value(word):
            words.values.append(word)
        else:
            words.unknown.append(word)
            if waiting and not equals and _is_value(waiting[0]):
                waiting.popleft()  # its value, which may be a secret
    return words


_NUMBER = re.compile(r"-(\d+|\d*\.\d+)")

_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=|$)")


def _is_value(word: str) -> bool:
    """Return whether `word` is a value even though it may begin with a dash: `-`, a number, or text with spaces."""
    if not word.startswith("-") or word == "-" or _NUMBER.fullmatch(word):
        return True
    return " " in word and not _OPTION.match(word)


def _take_value(name: str, waiting: deque[str], ctx: click.Context) -> str:
    """Take the value of the option `name` from `waiting`. Raise `click.UsageError` if an option or nothing follows."""
    following = waiting[0] if waiting else "--"
    if following in ctx.help_option_names or (following.startswith("--") and not _is_value(following)):
        raise click.UsageError(f"{name} requires a value; one that begins with -- is written {name}=…", ctx)
    return waiting.popleft()


def _unknown(word: str, known: Iterable[str], ctx: click.Context) -> str:
    """Return a sentence about an unknown word, without the value after its `=`, which may be a secret."""
    if not word.startswith("-"):
        return _superfluous(word, known, ctx)
    name = word.partition("=")[0]
    hint = did_you_mean(name, [option for option in known if option.startswith("--")]) if name.startswith("--") else ""
    return f"{name} is not known{hint or f'; {_see_help(ctx)}'}"


def _superfluous(word: str, known: Iterable[str], ctx: click.Context) -> str:
    """Return a sentence about a word for which the command has no argument."""
    arguments = [param for param in ctx.command.get_params(ctx) if isinstance(param, click.Argument)]
    too_many = (
        f"{word} is one word too many"
        if arguments
        else f"`{ctx.command_path}` takes no arguments, so {word} is not expected"
    )
    option = flag(word.partition("=")[0])
    if "=" in word and option in known:
        return f"{option.removeprefix('--')}=… is not expected; write it as an option: {option}=…"
    if "--listener" in known and (".py" in word or ":" in word):
        return f"{too_many}; a listener is given as --listener {word}"
    if any(param.name == "message" for param in arguments):
        return f"{too_many}; put a message of several words in quotes"
    return f"{too_many}; {_see_help(ctx)}"


def _see_help(ctx: click.Context) -> str:
    return f"see `{ctx.command_path} --help`"


def usage_sentence(exc: click.UsageError) -> str:
    """Return a sentence about a mistake in the command line, without the value of a secret."""
    ctx = exc.ctx
    if isinstance(exc, click.NoSuchOption) and ctx is not None:
        return _unknown(exc.option_name, [name for param in ctx.command.get_params(ctx) for name in param.opts], ctx)
    if isinstance(exc, click.BadParameter) and exc.param is not None and ctx is not None:
        if isinstance(exc, click.MissingParameter):
            return f"{exc.param.human_readable_name} is missing; {_see_help(ctx)}"
        return f"{exc.param.opts[0]}: {exc.message.rstrip('.')}"
    return exc.message.rstrip(".")


def setting_options() -> list[click.Option]:
    """Return `--config` and an option for each setting except `channels`. An option that is not given is None."""
    options = [
        click.Option(["--config"], metavar="FILE", help=f"the settings file ({CONFIG_FILE} in the working folder)")
    ]
    for name, spec in {**SPECS, **ADMIN_SPECS}.items():
        text = spec.metadata["help"]
        if kind_of(spec) is Kind.CHANNELS:
            continue
        if is_switch(spec):
            switch = f"{flag(name)}/--no-{flag(name).removeprefix('--')}"
            options.append(click.Option([switch, name], default=None, help=text))
        else:
            options.append(click.Option([flag(name), name], metavar=_metavar(spec), type=click.UNPROCESSED, help=text))
    return options


def _metavar(spec: Field[Any]) -> str:
    """Return a word for the value of a setting, which is short, so that its help has space beside it."""
    if kind_of(spec) in (Kind.HOOK, Kind.PATH):
        return "HOOK" if kind_of(spec) is Kind.HOOK else "FILE"
    if spec.type is float and not spec.name.endswith("_rate"):
        return "SECONDS"
    return "NUMBER" if spec.type in (int, float) else spec.name.rpartition("_")[2].upper()

"""The command `wsgateway`. Exit codes: 0 success, 1 failure, 2 wrong usage, 3 a start that failed."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from wsgateway.cli.arguments import HELP, UnknownWords, usage_sentence
from wsgateway.cli.commands import COMMANDS, store_of
from wsgateway.cli.terminal import complain, discard_output, prepare_output
from wsgateway.config.settings import CONFIG_FILE
from wsgateway.exceptions import ConfigError, StartError
from wsgateway.text import did_you_mean

COMMAND_TOPICS: Mapping[str, Sequence[str]] = {
    "Begin": ("init", "serve", "check", "doctor", "password"),
    "Messages": ("send", "listen", "client-js"),
    "A running server": ("list", "reload", "drain", "logs"),
    "A gateway": ("show", "start", "stop", "restart", "roll", "nodes", "create", "edit", "delete"),
    "Connections": ("connections", "close"),
    "Channels": ("channels", "presence", "history", "forget", "unsubscribe"),
}
"""The commands by topic, in the order in which the help lists them."""


class CommandLine(click.Group):
    """The group of all commands, listed by topic."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in COMMAND_TOPICS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for topic, names in COMMAND_TOPICS.items():
            with formatter.section(topic):
                formatter.write_dl([(name.ljust(width), self.commands[name].get_short_help_str(99)) for name in names])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(_next_step())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands:
            hint = did_you_mean(name, self.commands)
            raise click.UsageError(f"{name!r} is not a command{hint or '; see `wsgateway --help`'}", ctx)
        return super().resolve_command(ctx, args)


def _next_step() -> str:
    """Return the sentence that ends the list of commands."""
    if Path(CONFIG_FILE).is_file():
        return f"Next: `wsgateway serve` runs the gateways of {CONFIG_FILE}."
    return "Next: `wsgateway init` writes a listener, and `wsgateway serve` runs it."


@click.group(
    cls=CommandLine,
    commands=COMMANDS,
    help="A WebSocket gateway for Python web applications.",
    context_settings=HELP,
    invoke_without_command=True,
    no_args_is_help=False,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.version_option(package_name="wsgateway", message="wsgateway %(version)s")
@click.pass_context
def command_line(ctx: click.Context) -> int:
    """Print the help if the command is missing. Return the exit code."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)  # as click and uvicorn do
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, by default those of the process, and return the exit code."""
    prepare_output()
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return 1


def _run(arguments: list[str]) -> int:
    """Run a command without click's own `main`, which would print errors and exit itself."""
    try:
        with command_line.make_context("wsgateway", arguments) as ctx:
            code: int = command_line.invoke(ctx)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.UsageError as exc:
        return _report(exc)
    except (ConfigError, StartError) as exc:
        from wsgateway.server.process import end_process

        complain(exc)
        return end_process(3)
    except KeyboardInterrupt:
        return 0
    return code


def _report(error: click.UsageError) -> int:
    """Print the mistakes of the command line, and also those of the settings."""
    complain(usage_sentence(error))
    if isinstance(error, UnknownWords) and error.ctx is not None and "config" in error.ctx.params:
        try:
            store_of(error.ctx.params).read()
        except ConfigError as exc:
            complain(exc)
    return 2

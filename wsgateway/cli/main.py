"""The command `wsgateway`. Exit codes: 0 success, 1 failure, 2 wrong usage, 3 a start that failed."""

import sys
from collections.abc import Sequence

import click

from wsgateway.cli.arguments import HELP, UnknownWords, usage_sentence
from wsgateway.cli.commands import COMMANDS, store_of
from wsgateway.cli.terminal import complain, discard_output, prepare_output
from wsgateway.config.values import did_you_mean
from wsgateway.exceptions import ConfigError, StartError


class CommandLine(click.Group):
    """The group of all commands, in the order of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands:
            hint = did_you_mean(name, self.commands)
            raise click.UsageError(f"{name!r} is not a command{hint or '; see `wsgateway --help`'}", ctx)
        return super().resolve_command(ctx, args)


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
def command_line(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        raise click.UsageError(
            f"a command is missing, one of {', '.join(command_line.commands)}; see `wsgateway --help`", ctx
        )


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

"""The commands that manage a running server through its REST interface."""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import click

from wsgateway.cli.arguments import Argument, Command, seconds
from wsgateway.cli.progress import Progress
from wsgateway.cli.terminal import complain, to_json
from wsgateway.config.addresses import url_host
from wsgateway.config.settings import ENV, SPECS
from wsgateway.config.sources import admin_settings, config_path, read_tables
from wsgateway.config.values import convert, plain_value
from wsgateway.exceptions import ConfigError, SendError
from wsgateway.gateway.registry import GatewayState
from wsgateway.text import did_you_mean, escape_controls, mask_url

TIMEOUT = 65.0
"""Seconds to wait for an answer, longer than the interface itself waits for an operation."""


class Unanswered(Exception):  # noqa: N818  named after the event
    """The interface cannot be reached. Not an `OSError`, because printing may raise one too."""


class Remote:
    """The REST interface of a running server."""

    def __init__(self, admin_url: str | None, token: str | None, *, as_json: bool) -> None:
        path = config_path(os.environ, None)
        admin = admin_settings(read_tables(path) if path else {}, path, os.environ, {})
        if admin_url and not admin_url.lower().startswith(("http://", "https://")):
            raise ConfigError(
                [f"--admin-url {mask_url(admin_url)!r} is not a URL; one looks like http://127.0.0.1:10120"]
            )
        self.url = (admin_url or f"http://{url_host(admin.host)}:{admin.port}").rstrip("/")
        self._token = token or next(iter((*admin.token, *admin.read_token)), None)
        self._as_json = as_json

    def ask(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Return the answer of the interface. Raise `SendError`, `ValueError`, or `Unanswered`."""
        from wsgateway import client

        query_string = urlencode({name: value for name, value in query.items() if value not in (None, "")})
        url = f"{self.url}/api{path}{'?' + query_string if query_string else ''}"
        try:
            return client.request(method, url, body, token=self._token, timeout=TIMEOUT)
        except OSError as exc:
            raise Unanswered(exc.strerror or str(exc)) from exc

    def show(self, answer: object, text: str) -> int:
        """Print `answer` for programs, or `text` for people."""
        print(to_json(answer, indent=2) if self._as_json else "\n".join(map(escape_controls, text.split("\n"))))
        return 0


def table(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> str:
    lines = [tuple(heads.values())]
    lines += [tuple("" if row[name] is None else escape_controls(str(row[name])) for name in heads) for row in rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


Run = Callable[..., int]
"""Runs a command, with a `Remote` and the values of the command's own parameters as arguments."""

_COMMON: list[click.Parameter] = [
    click.Option(["--json", "as_json"], is_flag=True, help="print JSON"),
    click.Option(
        ["--admin-url"],
        metavar="URL",
        help="URL of the admin interface ([admin] of the settings file, otherwise http://127.0.0.1:10120)",
    ),
    click.Option(["--token"], metavar="TOKEN", help=f"the admin token; the variable {ENV}ADMIN_TOKEN is safer"),
]

GATEWAY_ID = Argument("gateway_id", "id of the gateway", metavar="ID")

_YES = click.Option(["--yes", "is_sure"], is_flag=True, help="do not ask for confirmation")

_CHANGES = Argument("changes", "a setting; NAME= resets it to the default", metavar="[NAME=VALUE]...", nargs=-1)


def command(name: str, text: str, *params: click.Parameter) -> Callable[[Run], Command]:
    def decorate(run: Run) -> Command:
        def callback(*, admin_url: str | None, token: str | None, as_json: bool, **values: Any) -> int:
            try:
                remote = Remote(admin_url, token, as_json=as_json)
            except ConfigError as exc:
                complain(exc)
                return 2
            return _carry_out(remote, lambda: run(remote, **values))

        return Command(name, text, callback, [*params, *_COMMON])

    return decorate


def _carry_out(remote: Remote, run: Callable[[], int]) -> int:
    try:
        return run()
    except SendError as exc:
        complain(exc.problem.get("detail", exc))
    except (ConfigError, ValueError) as exc:
        complain(exc)
        return 2
    except Unanswered as exc:
        where = mask_url(remote.url)
        complain(f"no server answers at {where}: {exc}; does `wsgateway serve` run, with its admin interface?")
    return 1


def path_of(gateway_id: str, *segments: str) -> str:
    """Return the path of a gateway in the interface, or of what is below it."""
    return "/gateways/" + "/".join([quote(segment, safe="") for segment in (gateway_id, *segments)])


# The server


GATEWAYS = {
    "id": "ID",
    "state": "STATE",
    "port": "PORT",
    "connections": "CONNECTIONS",
    "startup": "STARTUP",
    "failure": "WHY",
}


@command("list", "List the gateways of a running server.")
def _list(remote: Remote) -> int:
    answer = remote.ask("GET", "/gateways")
    return remote.show(answer, table(answer["gateways"], GATEWAYS))


@command("reload", "Reload the settings file of a running server. Gateways whose settings have changed restart.")
def _reload(remote: Remote) -> int:
    try:
        answer = remote.ask("POST", "/reload", wait=60)
    except SendError as exc:
        if exc.status != 401:
            raise
        advice = "if you have changed [admin] token, send the former one with --token, or SIGHUP to the server"
        complain(f"{exc.problem.get('detail', exc)}; {advice}")
        return 1
    return remote.show(answer, table(answer["gateways"], GATEWAYS))


POLL_SECONDS = 1.0
"""Seconds between two looks at an action that takes long."""

BUSY = frozenset({GatewayState.STARTING, GatewayState.RUNNING, GatewayState.STOPPING})
"""States of a gateway that is not drained."""


@command(
    "drain",
    "Refuse new clients, and close all connections of a server. Return when all are closed.",
    click.Option(
        ["--timeout"],
        callback=seconds,
        metavar="SECONDS",
        help="seconds to wait at most (the server's own limit)",
    ),
)
def _drain(remote: Remote, timeout: float | None) -> int:
    """Drain the server. Return 1 if clients are left after `timeout`; the server then continues to drain."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    before = _open_connections(remote.ask("GET", "/gateways"))
    with Progress("drain", before, "connections closed") as progress:
        while True:
            left = max(0.0, until - time.monotonic())
            answer = remote.ask("POST", "/drain", wait=min(POLL_SECONDS, left))
            closed = max(0, before - _open_connections(answer))
            busy = [gateway["id"] for gateway in answer["gateways"] if gateway["state"] in BUSY]
            progress.update(closed)
            if not busy or not left:
                break
    waiting = f"; gateway [{']['.join(busy)}] is still draining" if busy else ""
    remote.show({**answer, "closed": closed}, f"{closed} connection{'' if closed == 1 else 's'} closed{waiting}")
    return 1 if busy else 0


def _open_connections(answer: Any) -> int:
    return sum(gateway["connections"] for gateway in answer["gateways"])


@command(
    "logs",
    "Print the last lines of the log.",
    click.Option(["--gateway"], metavar="ID", help="only lines of the gateway with this id"),
    click.Option(["--level"], metavar="LEVEL", default="INFO", help="lowest level that is printed (INFO)"),
    click.Option(["--lines"], type=int, metavar="LINES", default=100, help="number of lines (100)"),
)
def _logs(remote: Remote, gateway: str | None, level: str, lines: int) -> int:
    answer = remote.ask("GET", "/log", lines=lines, gateway=gateway, level=level)
    return remote.show(answer, "\n".join(answer["lines"]))


# One gateway


@command("show", "Show a gateway and its settings.", GATEWAY_ID)
def _show(remote: Remote, gateway_id: str) -> int:
    answer = remote.ask("GET", path_of(gateway_id))
    settings = answer.get("settings", {})
    lines = [f"{name} = {to_json(value)}" for name, value in settings.items()]
    return remote.show(answer, table([answer], GATEWAYS) + "\n\n" + "\n".join(lines))


def _change(remote: Remote, method: str, path: str, body: object = None) -> int:
    """Change a gateway, print its state, and return the exit code: 1 if it has failed."""
    answer = remote.ask(method, path, body, wait=60)
    reason = f": {answer['failure']}" if answer["failure"] else ""
    remote.show(answer, f"gateway [{answer['id']}] is {answer['state']}{reason}")
    return 1 if answer["state"] == GatewayState.FAILED else 0


@command("start", "Start a gateway.", GATEWAY_ID)
def _start(remote: Remote, gateway_id: str) -> int:
    return _change(remote, "POST", path_of(gateway_id) + "/start")


@command("restart", "Restart a gateway. Its connections are closed with 1012, so clients reconnect.", GATEWAY_ID)
def _restart(remote: Remote, gateway_id: str) -> int:
    return _change(remote, "POST", path_of(gateway_id) + "/restart")


@command("roll", "Replace the workers of a gateway one after the other. Print how many were replaced.", GATEWAY_ID)
def _roll(remote: Remote, gateway_id: str) -> int:
    """Roll a gateway. Return 1 if not all of its workers were replaced."""
    answer = remote.ask("POST", path_of(gateway_id) + "/roll", wait=POLL_SECONDS)
    workers = answer["settings"]["workers"]
    with Progress("roll", workers, "workers replaced") as progress:
        while answer["roll"] is None or answer["roll"]["running"]:
            if answer["state"] not in BUSY:
                break  # it was stopped meanwhile
            progress.update(answer["roll"]["replaced"] if answer["roll"] else 0)
            time.sleep(POLL_SECONDS)  # REST reports a roll only when it is asked
            answer = remote.ask("GET", path_of(gateway_id))
        roll = answer["roll"] or {"workers": workers, "replaced": 0, "failure": None}
        progress.update(roll["replaced"])
    text = f"gateway [{answer['id']}] is {answer['state']}: {roll['replaced']} of {roll['workers']} workers replaced"
    remote.show(answer, text + (f"; {roll['failure']}" if roll["failure"] else ""))
    return 0 if roll["replaced"] == roll["workers"] else 1


def _confirm(remote: Remote, gateway_id: str, action: str, *, is_sure: bool) -> bool:
    """Print how many connections will be closed. On a terminal, return whether the user agrees."""
    count = remote.ask("GET", path_of(gateway_id))["connections"]
    text = f"{action} gateway [{gateway_id}]: {count} connection{'' if count == 1 else 's'} will be closed"
    print(text, file=sys.stderr)
    if is_sure or not sys.stdin.isatty():
        return True
    try:
        return input("continue? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


@command("stop", "Stop a gateway. Its connections are closed with 1012, so clients reconnect.", GATEWAY_ID, _YES)
def _stop(remote: Remote, gateway_id: str, is_sure: bool) -> int:
    if not _confirm(remote, gateway_id, "stopping", is_sure=is_sure):
        return 1
    return _change(remote, "POST", path_of(gateway_id) + "/stop")


@command("delete", "Stop a gateway and delete it from the settings file.", GATEWAY_ID, _YES)
def _delete(remote: Remote, gateway_id: str, is_sure: bool) -> int:
    if not _confirm(remote, gateway_id, "deleting", is_sure=is_sure):
        return 1
    answer = remote.ask("DELETE", path_of(gateway_id), wait=60)
    return remote.show(answer, f"gateway [{gateway_id}] is deleted")


@command("create", "Create a gateway.", GATEWAY_ID, _CHANGES)
def _create(remote: Remote, gateway_id: str, changes: Sequence[str]) -> int:
    return _change(remote, "POST", "/gateways", {"id": gateway_id, **_settings_of(changes)})


@command("edit", "Change settings of a gateway.", GATEWAY_ID, _CHANGES)
def _edit(remote: Remote, gateway_id: str, changes: Sequence[str]) -> int:
    if not changes:
        raise ValueError("name at least one setting, such as port=10126")
    return _change(remote, "PATCH", path_of(gateway_id), _settings_of(changes))


def _settings_of(changes: Sequence[str]) -> dict[str, Any]:
    """Return the settings in `changes`, each NAME=VALUE, as JSON values. Raise `ConfigError`."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for text in changes:
        name, equals, value = text.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if name not in SPECS:
            mistakes.append(f"{name!r} is not a setting{did_you_mean(name, SPECS) or ', write it like port=10126'}")
        elif not equals:
            mistakes.append(f"{name} has no value, write it like port=10126, or {name}= to reset it to the default")
        elif not value:
            values[name] = None
        else:
            try:
                values[name] = plain_value(convert(SPECS[name], value, text=True))
            except ValueError as exc:
                mistakes.append(f"{name}: {exc}")
    if mistakes:
        raise ConfigError(mistakes)
    return values


COMMANDS = [
    _list,
    _reload,
    _show,
    _start,
    _restart,
    _roll,
    _stop,
    _delete,
    _create,
    _edit,
    _drain,
    _logs,
]
"""The commands of this module."""

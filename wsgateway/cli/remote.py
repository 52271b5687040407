"""The commands that manage a server through its REST interface: list, create, show, edit, start, stop, drain, …"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from wsgateway import client
from wsgateway.addresses import url_host
from wsgateway.cli.terminal import complain, to_json
from wsgateway.config.settings import ENV, SPECS, flag
from wsgateway.config.sources import admin_settings, config_path, read_tables
from wsgateway.config.values import convert, did_you_mean, plain_value
from wsgateway.exceptions import ConfigError, SendError
from wsgateway.text import escape_controls, mask_url

TIMEOUT = 65.0
"""Seconds to wait for an answer; longer than the interface itself waits for what it has begun."""


class AddCommand(Protocol):
    def __call__(self, name: str, text: str) -> argparse.ArgumentParser: ...


def add_commands(command: AddCommand) -> None:
    """Add every command to the parser."""
    for name, text, run in (
        ("list", "List the gateways of a running server.", _list),
        ("reload", "Let the server read its settings file again.", _reload),
    ):
        _common(command(name, text), run)
    for name, text, run in (
        ("show", "Show a gateway, with its settings.", _show),
        ("start", "Start a gateway.", _start),
        ("restart", "Restart a gateway; its clients are closed with 1012, so they reconnect.", _restart),
        ("roll", "Replace a gateway's workers one after the other.", _roll),
        ("nodes", "List the processes that a gateway runs in.", _nodes),
    ):
        _common(command(name, text), run).add_argument("id", help="the gateway's id")
    for name, text, run in (
        ("stop", "Stop a gateway; its clients are closed with 1012, so they reconnect.", _stop),
        ("delete", "Stop a gateway and delete it from the settings file.", _delete),
    ):
        parser = _common(command(name, text), run)
        parser.add_argument("id", help="the gateway's id")
        parser.add_argument("--yes", action="store_true", help="do not ask")
    for name, text, run in (
        ("create", "Create a gateway.", _create),
        ("edit", "Change settings of a gateway.", _edit),
    ):
        parser = _common(command(name, text), run)
        parser.add_argument("id", help="the gateway's id")
        parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="a setting; NAME= takes it back")
    drain = _common(command("drain", "Take no client any more, close all, and wait until they are gone."), _drain)
    drain.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="wait no longer (until the server gives up)")
    connections = _common(command("connections", "List the connections of a gateway."), _connections)
    connections.add_argument("id", help="the gateway's id")
    connections.add_argument("--search", default="", help="a part of id, address, path or user")
    connections.add_argument("--limit", type=int, default=100, help="how many at most (%(default)s)")
    close = _common(command("close", "Close connections of a gateway."), _close)
    close.add_argument("id", help="the gateway's id")
    close.add_argument("connections", nargs="*", metavar="CONNECTION", help="ids of connections")
    close.add_argument("--all", action="store_true", help="all of them")
    close.add_argument("--code", type=int, default=1000, help="close code (%(default)s)")
    close.add_argument("--reason", default="", help="close reason")
    logs = _common(command("logs", "Print the end of the log."), _logs)
    logs.add_argument("--gateway", help="only of the gateway with this id")
    logs.add_argument("--level", default="INFO", help="this level and above (%(default)s)")
    logs.add_argument("--lines", type=int, default=100, help="how many (%(default)s)")


def _seconds(text: str) -> float:
    """For argparse: a time that can be waited for."""
    seconds = float(text)
    if not seconds >= 0:
        raise ValueError(text)
    return seconds


_seconds.__name__ = "number of seconds, 0 or more"  # which argparse names


def _common(parser: argparse.ArgumentParser, run: Callable[["Remote"], int]) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--admin-url", help="where the interface is (the settings file's [admin], http://127.0.0.1:10120)"
    )
    parser.add_argument("--token", help=f"the token; better in the variable {ENV}ADMIN_TOKEN")
    parser.set_defaults(run=lambda options: _run(run, options))
    return parser


def _run(run: Callable[["Remote"], int], options: argparse.Namespace) -> int:
    try:
        remote = Remote(options)
    except ConfigError as exc:
        complain(exc)
        return 2
    try:
        return run(remote)
    except SendError as exc:
        complain(exc.problem.get("detail", exc))
    except (ConfigError, ValueError) as exc:
        complain(exc)
        return 2
    except Unanswered as exc:
        where = mask_url(remote.url)
        complain(f"nobody answers at {where}: {exc}; does `wsgateway serve` run, with its admin interface?")
    return 1


class Unanswered(Exception):  # noqa: N818  what has happened
    """The interface cannot be reached. Not an `OSError`, as printing may raise too."""


class Remote:
    """The interface of a running server."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        path = config_path(os.environ, None)
        admin = admin_settings(read_tables(path) if path else {}, path, os.environ, {})
        if options.admin_url and not options.admin_url.lower().startswith(("http://", "https://")):
            raise ConfigError(
                [f"--admin-url {mask_url(options.admin_url)!r} is not a URL; one looks like http://127.0.0.1:10120"]
            )
        self.url: str = (options.admin_url or f"http://{url_host(admin.host)}:{admin.port}").rstrip("/")
        self._token: str | None = options.token or next(iter((*admin.token, *admin.read_token)), None)

    def ask(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Return what the interface answers. Raises `SendError`, `ValueError`, and `Unanswered`."""
        asked = urlencode({name: value for name, value in query.items() if value not in (None, "")})
        url = f"{self.url}/api{path}{'?' + asked if asked else ''}"
        try:
            return client.request(method, url, body, token=self._token, timeout=TIMEOUT)
        except OSError as exc:
            raise Unanswered(str(exc)) from exc

    @property
    def gateway(self) -> str:
        """The path of the gateway that the command line names."""
        return "/gateways/" + quote(self.options.id, safe="")

    def tell(self, found: object, text: str) -> int:
        """Print `found` for programs, or `text` for people."""
        print(to_json(found, indent=2) if self.options.json else "\n".join(map(escape_controls, text.split("\n"))))
        return 0


def _table(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> str:
    lines = [tuple(heads.values())]
    lines += [tuple("" if row[name] is None else escape_controls(str(row[name])) for name in heads) for row in rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


GATEWAYS = {
    "id": "ID",
    "state": "STATE",
    "port": "PORT",
    "connections": "CONNECTIONS",
    "startup": "STARTUP",
    "failure": "WHY",
}


def _list(remote: Remote) -> int:
    found = remote.ask("GET", "/gateways")
    return remote.tell(found, _table(found["gateways"], GATEWAYS))


def _reload(remote: Remote) -> int:
    found = remote.ask("POST", "/reload", wait=60)
    return remote.tell(found, _table(found["gateways"], GATEWAYS))


def _drain(remote: Remote) -> int:
    """1 if clients are left when the time is over. The server goes on draining then."""
    timeout = remote.options.timeout
    until = math.inf if timeout is None else time.monotonic() + timeout
    closed = 0
    while True:
        left = max(0.0, until - time.monotonic())
        found = remote.ask("POST", "/drain", wait=min(60.0, left))
        closed += found["closed"]
        busy = [gateway for gateway in found["gateways"] if gateway["state"] in BUSY]
        if not busy or not left:
            break
    waiting = f"; gateway [{']['.join(gateway['id'] for gateway in busy)}] is still draining" if busy else ""
    remote.tell({**found, "closed": closed}, f"{closed} connection{'' if closed == 1 else 's'} closed{waiting}")
    return 1 if busy else 0


BUSY = ("starting", "running", "stopping")
"""States of a gateway that is not drained."""


def _show(remote: Remote) -> int:
    found = remote.ask("GET", remote.gateway)
    settings = found.get("settings", {})
    lines = [f"{name} = {to_json(value)}" for name, value in settings.items()]
    return remote.tell(found, _table([found], GATEWAYS) + "\n\n" + "\n".join(lines))


def _changed(remote: Remote, found: Any) -> int:
    """Say what became of a gateway; 1 if it has failed."""
    why = f": {found['failure']}" if found["failure"] else ""
    remote.tell(found, f"gateway [{found['id']}] is {found['state']}{why}")
    return 1 if found["state"] == "failed" else 0


def _start(remote: Remote) -> int:
    return _changed(remote, remote.ask("POST", remote.gateway + "/start", wait=60))


def _restart(remote: Remote) -> int:
    return _changed(remote, remote.ask("POST", remote.gateway + "/restart", wait=60))


def _roll(remote: Remote) -> int:
    return _changed(remote, remote.ask("POST", remote.gateway + "/roll", wait=60))


NODES = {
    "id": "ID",
    "state": "STATE",
    "host": "HOST",
    "pid": "PID",
    "connections": "CONNECTIONS",
    "silent": "SILENT FOR",
}


def _nodes(remote: Remote) -> int:
    found = remote.ask("GET", remote.gateway + "/nodes")
    alone = "it runs in one process: no broker is set"
    return remote.tell(found, _table(found["nodes"], NODES) if found["nodes"] else alone)


def _sure(remote: Remote, what: str) -> bool:
    """Say how many connections will go, and ask on a terminal."""
    count = remote.ask("GET", remote.gateway)["connections"]
    text = f"{what} gateway [{remote.options.id}]: {count} connection{'' if count == 1 else 's'} will be closed"
    print(text, file=sys.stderr)
    if remote.options.yes or not sys.stdin.isatty():
        return True
    try:
        return input("go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _stop(remote: Remote) -> int:
    if not _sure(remote, "stopping"):
        return 1
    return _changed(remote, remote.ask("POST", remote.gateway + "/stop", wait=60))


def _delete(remote: Remote) -> int:
    if not _sure(remote, "deleting"):
        return 1
    found = remote.ask("DELETE", remote.gateway, wait=60)
    return remote.tell(found, f"gateway [{remote.options.id}] is deleted")


def _create(remote: Remote) -> int:
    return _changed(remote, remote.ask("POST", "/gateways", {"id": remote.options.id, **_settings(remote)}, wait=60))


def _edit(remote: Remote) -> int:
    return _changed(remote, remote.ask("PATCH", remote.gateway, _settings(remote), wait=60))


def _settings(remote: Remote) -> dict[str, Any]:
    """The settings that the command line names, as JSON values. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for text in remote.options.settings:
        name, equals, value = text.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if name not in SPECS:
            mistakes.append(f"{name!r} is no setting like {flag('port')[2:]}=10126{did_you_mean(name, SPECS)}")
        elif not equals:
            mistakes.append(f"{name} has no value, write it like {flag('port')[2:]}=10126, or {name}= for its default")
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


CONNECTIONS = {"id": "ID", "address": "ADDRESS", "path": "PATH", "user": "USER", "age": "AGE"}


def _connections(remote: Remote) -> int:
    options = remote.options
    found = remote.ask("GET", remote.gateway + "/connections", limit=options.limit, search=options.search)
    more = found["total"] - len(found["connections"])
    text = _table(found["connections"], CONNECTIONS) + (f"\n… and {more} more" if more > 0 else "")
    return remote.tell(found, text)


def _close(remote: Remote) -> int:
    options = remote.options
    if bool(options.connections) == options.all:
        raise ValueError("say which connections, by their ids, or --all")
    body: dict[str, Any] = {"code": options.code, "reason": options.reason}
    body |= {"all": True} if options.all else {"connections": options.connections}
    found = remote.ask("POST", remote.gateway + "/connections/close", body)
    rest = "" if found["complete"] else ", but not every process has answered: say it again"
    remote.tell(found, f"{found['closed']} closed{rest}")
    if options.all or found["closed"]:
        return 0
    complain("no connection with such an id is open; `wsgateway connections` lists them")
    return 1


def _logs(remote: Remote) -> int:
    options = remote.options
    found = remote.ask("GET", "/log", lines=options.lines, gateway=options.gateway, level=options.level)
    return remote.tell(found, "\n".join(found["lines"]))

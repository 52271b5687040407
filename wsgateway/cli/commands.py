"""The commands of `wsgateway`. Each imports its modules when it runs, which halves the time of most commands."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from getpass import getpass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsgateway.cli import channels, connections, remote
from wsgateway.cli.arguments import Argument, Command, seconds, setting_options
from wsgateway.cli.terminal import complain, decode_argument, read_line, read_text
from wsgateway.config.channels import ChannelSettings
from wsgateway.config.settings import ADMIN_SPECS, CONFIG_FILE, ENV, SPECS
from wsgateway.exceptions import SendError
from wsgateway.text import escape_controls, mask_url

if TYPE_CHECKING:
    from wsgateway.supervisor.store import Store

SERVE_DEFAULTS = {"local_access": True, "log_file": "WebSocket.log"}
"""Settings whose default differs between `wsgateway serve` and code."""


def store_of(options: Mapping[str, Any]) -> "Store":
    """Return the store of the settings, in which the `options` of the command line win. It reads the file later."""
    from wsgateway.supervisor.store import Store

    sys.path.insert(0, str(Path.cwd()))  # where listeners are found
    given = {name: value for name, value in options.items() if value is not None}
    flags = {name: value for name, value in given.items() if name in SPECS or name in ADMIN_SPECS}
    return Store(options["config"], defaults=SERVE_DEFAULTS, environ=os.environ, flags=flags)


# init


def _init(folder: str) -> int:
    path = Path(folder)
    texts = {
        "listener.py": (files("wsgateway.supervisor") / "starter.py").read_text(encoding="utf-8"),
        CONFIG_FILE: _starter_settings(),
    }
    existing = [name for name in texts if (path / name).exists()]
    if existing:
        complain(f"{path / existing[0]} exists already, nothing was written")
        return 1
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (path / name).write_text(text, encoding="utf-8")
            print(f"wrote {path / name}")
    except OSError as exc:
        complain(f"cannot write to {path}: {exc.strerror}")
        return 1
    print(f"now run: {'' if folder == '.' else f'cd {path} && '}wsgateway serve")
    return 0


EXAMPLES = {"token_jwks": '"https://issuer.example/jwks.json"'}
"""Values in the starter settings for settings whose default cannot be written, because an empty value is a mistake."""


def _starter_settings() -> str:
    lines = [
        "# Settings of the gateway. A line that is commented out shows the default, unless it is called an example.",
        "# `wsgateway check` prints the effective settings, and where each comes from.",
        "",
        'listener = "listener.py:Listener"',
    ]
    defaults = {**{name: spec.default for name, spec in SPECS.items()}, **SERVE_DEFAULTS}
    for name, spec in SPECS.items():
        if name not in ("listener", "id", "channels"):
            value = json.dumps("" if defaults[name] is None else defaults[name])  # a tuple becomes a list
            value, note = (EXAMPLES[name], "; this is an example") if name in EXAMPLES else (value, "")
            lines += ["", f"# {spec.metadata['help']}{note}", f"# {name} = {value}"]
    lines += ["", f"# {SPECS['channels'].metadata['help']}", '# [channels."room:*"]']
    values = {**ChannelSettings().shown(), "slow_policy": defaults["slow_policy"]}
    for spec in fields(ChannelSettings):
        lines += ["", f"# {spec.metadata['help']}", f"# {spec.name} = {json.dumps(values[spec.name])}"]
    return "\n".join(lines) + "\n"


# serve, check, doctor


def _serve(**options: Any) -> int:
    from wsgateway.cli import serve

    return serve.run(store_of(options))


def _check(**options: Any) -> int:
    from wsgateway.cli import check

    return check.run(store_of(options))


def _doctor(
    *, url: str | None, proxy_timeout: float | None, stop_timeout: float | None, as_json: bool, **options: Any
) -> int:
    from wsgateway.cli import doctor

    asked = doctor.Surroundings(url, proxy_timeout, stop_timeout)
    return doctor.run(store_of(options), asked, as_json=as_json)


# password


def _password(*, read_only: bool, hash_only: bool, config: str | None) -> int:
    from wsgateway.admin.passwords import hash_password, write_password
    from wsgateway.auth.admin import Access
    from wsgateway.supervisor.store import Store

    store = Store(config, environ=os.environ)
    admin = store.read().admin
    try:
        password = _ask_password()
        if hash_only:
            print(hash_password(password))
            return 0
        path = store.path.parent / admin.password_file
        write_password(path, password, Access.READ if read_only else Access.FULL)
    except BrokenPipeError:
        raise
    except ValueError as exc:
        complain(exc)
        return 1
    except OSError as exc:
        complain(f"the password cannot be saved: {exc}")
        return 1
    print(f"saved in {path}; it is valid from now on, and all users have to log in again")
    if not admin.token:
        print("REST and commands like `wsgateway list` now need a token: set [admin] token in the settings file")
    return 0


def _ask_password() -> str:
    """Return the password typed twice at the terminal, or the first line of standard input. Raise `ValueError`."""
    if sys.stdin is None or not sys.stdin.isatty():
        return read_line()
    password = getpass("Password of the panel: ")
    if getpass("Once more: ") != password:
        raise ValueError("the two passwords differ, nothing was set")
    return password


# send, listen, client-js


def _send(
    *,
    message: str,
    as_json: bool,
    to: tuple[str, ...],
    gateway: str | None,
    url: str,
    api_key: str | None,
    tags: tuple[str, ...],
    **options: Any,
) -> int:
    from wsgateway import client

    try:
        text = read_text() if message == "-" else decode_argument(message)
        value: object = json.loads(text) if as_json else text
    except (ValueError, RecursionError) as exc:
        complain(f"the message is not JSON: {exc}" if as_json else exc)
        return 2
    api_key = api_key or os.environ.get(ENV + "API_KEY", "").partition(",")[0] or None
    try:
        options["tags"], options["connections"] = _tags_of(tags), to or None
        target: Any = {name: value for name, value in options.items() if value is not None}
        sent = client.send(url, value, id=gateway, api_key=api_key, **target)
    except SendError as exc:
        advice = "" if exc.status not in (404, 405) or url.endswith("/send") else "; the URL has to end with /send"
        complain(f"{exc}{advice}")
        return 1
    except ValueError as exc:
        complain(exc)
        return 2
    except OSError as exc:
        complain(f"no server answers at {mask_url(url)}: {exc.strerror or exc}; is the gateway running?")
        return 1
    at = f", at {escape_controls(sent.at)}" if sent.at else ""
    print(f"recipients {sent.recipients}, queued {sent.queued}, dropped {sent.dropped}{at}")
    if not sent.is_new:
        print("not sent again: a message with this idempotency key was published before", file=sys.stderr)
    return 0


def _not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return `value`. The callback of an option that has no meaning if it is empty, as an unset variable is."""
    if value == "":
        raise click.BadParameter("it is empty; give a text, or leave it out", ctx, param)
    return value


def _tags_of(words: tuple[str, ...]) -> dict[str, str] | None:
    """Return the tags in `words`, each K=V, None if there are none. Raise `ValueError`."""
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise ValueError(f"--tag {word!r} has no name or no value, write it like --tag color=red")
    return {name: value for name, _, value in (word.partition("=") for word in words)} or None


def _listen(*, url: str, channels: tuple[str, ...], since: tuple[str, ...], headers: tuple[str, ...]) -> int:
    from wsgateway.cli import listen

    try:
        positions, fields = listen.positions_of(channels, since), listen.headers_of(headers)
    except ValueError as exc:
        complain(exc)
        return 2
    return listen.run(url, positions, fields)


def _client_js(*, types: bool) -> int:
    from wsgateway.gateway.http.script import SCRIPT, TYPES, script_text

    print(script_text(TYPES if types else SCRIPT), end="")
    return 0


DEFAULT_SEND = "http://127.0.0.1:10125/send"

DEFAULT_LISTEN = "ws://127.0.0.1:10125/ws"

_SETTINGS = setting_options()

_DOCTOR = [
    click.Option(
        ["--url"], metavar="URL", help="where clients reach the gateway, through the proxy: https://example.com/live"
    ),
    click.Option(
        ["--proxy-timeout"],
        callback=seconds,
        metavar="SECONDS",
        help="seconds of silence after which the proxy cuts a connection",
    ),
    click.Option(
        ["--stop-timeout"],
        callback=seconds,
        metavar="SECONDS",
        help="seconds from SIGTERM until the service manager kills the process",
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="print JSON"),
]

_SEND = [
    Argument("message", "the text; - reads standard input"),
    click.Option(["--json", "as_json"], is_flag=True, help="the message is JSON, not text"),
    click.Option(
        ["--to"], multiple=True, metavar="CONNECTION", help="id of a connection that receives it; may be repeated"
    ),
    click.Option(["--channel"], metavar="CHANNEL", help="the subscribers of this channel receive it"),
    click.Option(["--user"], metavar="USER", help="all connections of this user receive it"),
    click.Option(["--name"], metavar="NAME", help="the name of an event"),
    click.Option(
        ["--key"],
        metavar="KEY",
        help="with --channel: a newer message replaces one with the same key, if the channel keeps the last",
    ),
    click.Option(["--tag", "tags"], multiple=True, metavar="NAME=VALUE", help="with --channel; may be repeated"),
    click.Option(
        ["--ttl"], callback=seconds, metavar="SECONDS", help="with --channel: the message expires after this time"
    ),
    click.Option(
        ["--idempotency-key"],
        callback=_not_empty,
        metavar="KEY",
        help="with --channel: of several messages with the same key, one is published",
    ),
    click.Option(["--id", "gateway"], metavar="ID", help="id of the gateway, if the process has several"),
    click.Option(["--url"], metavar="URL", default=DEFAULT_SEND, help=f"URL of the gateway's /send ({DEFAULT_SEND})"),
    click.Option(["--api-key"], metavar="KEY", help=f"the API key; the variable {ENV}API_KEY is safer"),
]

_LISTEN = [
    Argument("url", f"URL of the WebSocket ({DEFAULT_LISTEN})", default=DEFAULT_LISTEN),
    click.Option(
        ["--channel", "channels"], multiple=True, metavar="CHANNEL", help="subscribe to this channel; may be repeated"
    ),
    click.Option(
        ["--since"],
        multiple=True,
        metavar="EPOCH:OFFSET",
        help="also print the publications after this position; with several channels CHANNEL@EPOCH:OFFSET",
    ),
    click.Option(
        ["--header", "headers"],
        multiple=True,
        metavar="NAME:VALUE",
        help="send this header with the handshake, such as the cookie of a session; may be repeated",
    ),
]

_PASSWORD = [
    click.Option(["--read-only"], is_flag=True, help="set the password that only allows viewing"),
    click.Option(
        ["--hash", "hash_only"],
        is_flag=True,
        help="print the hash for [admin] password_hash instead of setting the password",
    ),
    click.Option(["--config"], metavar="FILE", help="the settings file; the password is saved in the same folder"),
]

COMMANDS = [
    Command(
        "init",
        "Write a listener.py and a wsgateway.toml to start from.",
        _init,
        [Argument("folder", "the folder to write to (the working folder)", default=".")],
    ),
    Command(
        "serve",
        "Run the gateways of the settings file, and the admin interface. Without a file, run one gateway.",
        _serve,
        _SETTINGS,
    ),
    Command(
        "check",
        "Print the settings, and load the listener. The settings that differ from their defaults come first.",
        _check,
        _SETTINGS,
    ),
    Command(
        "doctor",
        "Find problems of this installation, and print how to fix each.",
        _doctor,
        [*_SETTINGS, *_DOCTOR],
    ),
    Command("send", "Push a message, and print how many clients receive it.", _send, _SEND),
    Command(
        "listen",
        "Print the messages of a WebSocket or of channels. Every line that you type is sent.",
        _listen,
        _LISTEN,
    ),
    Command(
        "client-js",
        "Print client.js, the client for browsers, for a bundler. A gateway also serves it at /client.js.",
        _client_js,
        [click.Option(["--types"], is_flag=True, help="print client.d.ts, its types for TypeScript")],
    ),
    Command(
        "password",
        "Set the password of the admin panel. It is saved as a hash, in a file that only you can read.",
        _password,
        _PASSWORD,
    ),
    *remote.COMMANDS,
    *connections.COMMANDS,
    *channels.COMMANDS,
]
"""Every command. `COMMAND_TOPICS` of `main` gives their order."""

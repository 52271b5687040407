"""The command `wsgateway`. Exit codes: 0; 1 it did not work; 2 usage; 3 the start failed."""

import argparse
import asyncio
import contextlib
import getpass
import json
import os
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from wsgateway import client
from wsgateway.admin.passwords import hash_password, write_password
from wsgateway.auth.admin import Access
from wsgateway.cli import doctor, remote, serve
from wsgateway.cli.terminal import (
    argument,
    complain,
    discard_output,
    prepare_output,
    read_line,
    read_lines,
    read_text,
    safe_for,
    to_json,
)
from wsgateway.cluster.brokers import opener
from wsgateway.config.settings import ADMIN_SPECS, CONFIG_FILE, ENV, SPECS, flag
from wsgateway.config.values import did_you_mean, is_switch
from wsgateway.exceptions import ConfigError, ListenerError, SendError, StartError
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog
from wsgateway.server.process import end_process
from wsgateway.supervisor.store import Store
from wsgateway.text import escape_controls, mask_url

SERVE_DEFAULTS = {"local_access": True, "log_file": "WebSocket.log"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, by default the process's own; the exit code."""
    prepare_output()
    try:
        try:
            return _main(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return 1


def _main(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        return _unknown(options, unknown)
    try:
        code: int = options.run(options)
    except (ConfigError, StartError) as exc:
        complain(exc)
        return end_process(1 if options.run is _check else 3)
    except KeyboardInterrupt:
        return 0
    return code


def _unknown(options: argparse.Namespace, unknown: list[str]) -> int:
    """Name what is unknown on the command line, and whatever else is wrong with the settings."""
    known = ["--config", "--help", *(flag(name) for name in (*SPECS, *ADMIN_SPECS))]
    before = ""
    for extra in unknown:
        name = extra.partition("=")[0]  # what follows may be a secret
        if name.startswith("--"):
            complain(f"{name} is not known{did_you_mean(name, known)}")
        elif not before.startswith("--") or "=" in before:
            complain(f"{extra} is not known: `--help` after the command names what it takes")
        before = extra
    if "config" in options:
        try:
            _store(options).read()
        except ConfigError as exc:
            complain(exc)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wsgateway", description="A WebSocket gateway for Python web applications.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"wsgateway {version('wsgateway')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    init = command("init", "Write a listener.py and a wsgateway.toml to begin from.")
    init.add_argument("folder", nargs="?", default=".", help="where (the working folder)")
    init.set_defaults(run=_init)

    serve = command("serve", "Run the gateways of the settings file, or one without a file, and an admin interface.")
    serve.set_defaults(run=_serve)
    _add_settings(serve)

    check = command("check", "Print the effective settings, and where each comes from.")
    check.set_defaults(run=_check)
    _add_settings(check)

    examine = command("doctor", "Look for what is wrong with this installation, and say what to do about it.")
    examine.set_defaults(run=_doctor)
    _add_settings(examine)
    doctor.add_options(examine)

    send = command("send", "Push a message, and print how many received it.")
    send.add_argument("message", help="the text; - reads it from standard input")
    send.add_argument("--json", action="store_true", help="the message is JSON, not text")
    send.add_argument("--to", action="append", metavar="CONNECTION", help="id of a connection; may be repeated")
    send.add_argument("--id", help="id of another gateway of that process")
    send.add_argument("--url", default="http://127.0.0.1:10125/send", help="where to post it (%(default)s)")
    send.add_argument("--api-key", help=f"the key; better in the variable {ENV}API_KEY")
    send.set_defaults(run=_send)

    listen = command("listen", "Print what a WebSocket receives; lines that you type are sent.")
    listen.add_argument("url", nargs="?", default="ws://127.0.0.1:10125/ws", help="where to connect (%(default)s)")
    listen.set_defaults(run=_listen)

    password = command("password", "Set the admin panel's password, which is kept as a hash in a file of mode 600.")
    password.add_argument("--read-only", action="store_true", help="the password of those who may only look")
    password.add_argument(
        "--hash", action="store_true", help="print the hash, for [admin] password_hash, and set nothing"
    )
    password.add_argument("--config", metavar="FILE", help="the settings file, beside which it is kept")
    password.set_defaults(run=_password)
    remote.add_commands(command)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help=f"the settings file ({CONFIG_FILE} in the working folder)")
    for name, spec in {**SPECS, **ADMIN_SPECS}.items():
        text = spec.metadata["help"].replace("%", "%%")
        if is_switch(spec):
            parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=text, default=argparse.SUPPRESS)
        else:
            parser.add_argument(flag(name), metavar=name.upper(), help=text, default=argparse.SUPPRESS)


def _store(options: argparse.Namespace) -> Store:
    sys.path.insert(0, str(Path.cwd()))  # where a listener is looked for
    flags = {name: value for name, value in vars(options).items() if name in SPECS or name in ADMIN_SPECS}
    return Store(options.config, defaults=SERVE_DEFAULTS, environ=os.environ, flags=flags)


# init


def _init(options: argparse.Namespace) -> int:
    folder = Path(options.folder)
    texts = {
        "listener.py": (files("wsgateway.supervisor") / "starter.py").read_text(encoding="utf-8"),
        CONFIG_FILE: _starter_settings(),
    }
    there = [name for name in texts if (folder / name).exists()]
    if there:
        complain(f"{folder / there[0]} is there already, nothing was written")
        return 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            print(f"wrote {folder / name}")
    except OSError as exc:
        complain(f"cannot write to {folder}: {exc.strerror}")
        return 1
    print(f"now run: {'' if options.folder == '.' else f'cd {folder} && '}wsgateway serve")
    return 0


def _starter_settings() -> str:
    lines = [
        "# Settings of the gateway. What is commented out is the default.",
        "# `wsgateway check` prints what is in effect, and where it comes from.",
        "",
        'listener = "listener.py:Listener"',
    ]
    defaults = {**{name: spec.default for name, spec in SPECS.items()}, **SERVE_DEFAULTS}
    for name, spec in SPECS.items():
        if name not in ("listener", "id"):
            value = json.dumps("" if defaults[name] is None else defaults[name])  # a tuple becomes a list
            lines += ["", f"# {spec.metadata['help']}", f"# {name} = {value}"]
    return "\n".join(lines) + "\n"


def _serve(options: argparse.Namespace) -> int:
    return serve.run(_store(options))


# check


def _check(options: argparse.Namespace) -> int:
    described = _store(options).read()
    mistakes: list[str] = []
    for gateway_id, loaded in described.gateways.items():
        settings = loaded.settings
        try:
            if settings.broker or settings.workers > 1:
                opener(settings.broker or "ipc://")
        except ConfigError as exc:
            mistakes += exc.mistakes
        try:
            Hooks(settings.listener, settings, GatewayLog(gateway_id)).close()
        except ListenerError as exc:
            mistakes.append(f"[{gateway_id}] {exc}" if len(described.gateways) > 1 else str(exc))
        if len(described.gateways) > 1:
            print(f"[gateways.{gateway_id}]")
        for name, value in settings.shown().items():
            print(f"{name} = {to_json(value)}  # {escape_controls(loaded.sources[name])}")
    for line in described.warnings:
        complain(line)
    if mistakes:
        raise ConfigError(mistakes)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    return doctor.run(_store(options), options)


# password


def _password(options: argparse.Namespace) -> int:
    store = Store(options.config, environ=os.environ)
    admin = store.read().admin
    try:
        password = _asked_password()
        if options.hash:
            print(hash_password(password))
            return 0
        path = store.path.parent / admin.password_file
        write_password(path, password, Access.READ if options.read_only else Access.FULL)
    except BrokenPipeError:
        raise
    except ValueError as exc:
        complain(exc)
        return 1
    except OSError as exc:
        complain(f"the password cannot be kept: {exc}")
        return 1
    print(f"kept in {path}, it counts from now on; whoever was logged in has to log in again")
    if not admin.token:
        print("REST and commands like `wsgateway list` now need a token: set [admin] token in the settings file")
    return 0


def _asked_password() -> str:
    """From the terminal, twice, or the first line of standard input. Raises `ValueError`."""
    if sys.stdin is None or not sys.stdin.isatty():
        return read_line()
    password = getpass.getpass("Password of the panel: ")
    if getpass.getpass("Once more: ") != password:
        raise ValueError("the two are not the same, nothing was set")
    return password


# send


def _send(options: argparse.Namespace) -> int:
    try:
        text = read_text() if options.message == "-" else argument(options.message)
        message: object = json.loads(text) if options.json else text
    except (ValueError, RecursionError) as exc:
        complain(f"the message is not JSON: {exc}" if options.json else exc)
        return 2
    key = options.api_key or os.environ.get(ENV + "API_KEY", "").partition(",")[0] or None
    try:
        sent = client.send(options.url, message, id=options.id, connections=options.to, api_key=key)
    except SendError as exc:
        advice = "" if exc.status not in (404, 405) or options.url.endswith("/send") else "; it is posted to …/send"
        complain(f"{exc}{advice}")
        return 1
    except ValueError as exc:
        complain(exc)
        return 2
    except OSError as exc:
        complain(f"nobody answers at {mask_url(options.url)}: {exc}; is the gateway running?")
        return 1
    print(f"recipients {sent.recipients}, queued {sent.queued}, dropped {sent.dropped}")
    return 0


# listen


def _listen(options: argparse.Namespace) -> int:
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_listen_to(client.websocket_url(options.url)))
    return 0


async def _listen_to(url: str) -> int:
    shown = mask_url(url)
    try:
        connecting = client.connect(url)
    except (InvalidURI, ValueError):
        complain(f"{shown!r} is not a WebSocket URL; one looks like ws://localhost:10125/ws")
        return 2
    try:
        socket = await connecting
    except (InvalidHandshake, OSError) as exc:
        complain(f"cannot connect to {shown}: {_reason(exc)}")
        return 1
    print(escape_controls(f"connected to {shown}; lines that you type are sent, Ctrl-C ends"), file=sys.stderr)
    lines = asyncio.create_task(_send_lines(socket))
    try:
        async for message in socket:
            if isinstance(message, bytes):
                message = f"binary, {len(message)} bytes: {message.hex()}"
            print(safe_for(sys.stdout, message) + "\n", end="", flush=True)  # in one write, for readers by lines
    except ConnectionClosed:
        pass
    finally:
        lines.cancel()
        await socket.close()
    print(f"closed with {socket.close_code} {escape_controls(socket.close_reason or '')}", file=sys.stderr)
    return 0


def _reason(error: Exception) -> str:
    """Why there is no connection. A redirect is not followed, so its goal is named."""
    if isinstance(error, InvalidStatus):
        status, where = error.response.status_code, error.response.headers.get("location", "")
        if where and 300 <= status <= 399:
            return f"the server answers {status} and points to {mask_url(where)}, give that URL if it is right"
    return str(error)


async def _send_lines(socket: client.ClientConnection) -> None:
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in read_lines():
            try:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            except RuntimeError:
                return  # the loop has ended

    threading.Thread(target=read, daemon=True).start()  # daemon: nothing ends a read of a terminal
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.send(await lines.get())

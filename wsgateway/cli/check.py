"""The command `wsgateway check`: prints the settings of each gateway, and loads its listener as a start would."""

from collections.abc import Iterator

from wsgateway.cli.terminal import complain, to_json
from wsgateway.cluster.brokers import opener
from wsgateway.config.settings import SPECS, AdminSettings
from wsgateway.config.sources import Layer, Loaded
from wsgateway.exceptions import ConfigError, ListenerError, StartError
from wsgateway.gateway.keys import read_keys
from wsgateway.listeners.hooks import HOOKS
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog
from wsgateway.server.process import end_process
from wsgateway.supervisor.store import Store
from wsgateway.text import escape_controls


def run(store: Store) -> int:
    """Print the settings as TOML, and return the exit code: 1 if a mistake would prevent the start."""
    try:
        _check(store)
    except ConfigError as exc:
        complain(exc)
        return end_process(1)
    return 0


def _check(store: Store) -> None:
    """Print every setting and its source. Raise `ConfigError` with every mistake that would prevent the start."""
    described = store.read()
    has_several = len(described.gateways) > 1
    mistakes: list[str] = []
    for gateway_id, loaded in described.gateways.items():
        hooks, wrong = _load(loaded)
        mistakes += [f"[{gateway_id}] {text}" if has_several else text for text in wrong]
        if has_several:
            print(f"[gateways.{gateway_id}]")
        print("\n".join(_lines(loaded, hooks)))
    print("\n".join(_admin_lines(described.admin)))
    for line in described.warnings:
        complain(line)
    if mistakes:
        raise ConfigError(mistakes)
    print("# no mistakes found")


def _load(loaded: Loaded) -> tuple[list[str], list[str]]:
    """Load the packages and the listener. Return the hooks of the listener, and what is wrong."""
    settings, mistakes = loaded.settings, []
    try:
        if settings.broker or settings.workers > 1:
            opener(settings.broker or "ipc://")
    except ConfigError as exc:
        mistakes += [str(mistake) for mistake in exc.mistakes]
    try:
        if settings.checks_tokens:
            read_keys(settings)
    except StartError as exc:
        mistakes.append(str(exc))
    try:
        hooks = Hooks(settings.listener, settings, GatewayLog(settings.id))
    except ListenerError as exc:
        return [], [*mistakes, str(exc)]
    hooks.close()
    return [hook for hook in HOOKS if hooks[hook] is not None], mistakes


def _lines(loaded: Loaded, hooks: list[str]) -> Iterator[str]:
    settings, sources = loaded.settings, loaded.sources
    written = {
        name
        for name, spec in SPECS.items()
        if sources[name].layer is not Layer.DEFAULT and getattr(settings, name) != spec.default
    }
    lines = {
        name: f"{name} = {to_json(value)}  # {escape_controls(sources[name])}"
        for name, value in settings.shown().items()
    }
    yield "# different from the default:" if written else "# every setting has its default"
    yield from (line for name, line in lines.items() if name in written)
    if hooks:
        yield f"# the listener has the hooks {', '.join(hooks)}"
    elif settings.listener is None and settings.channels:
        yield "# no listener is set, so a client can only send to a channel"
    elif settings.listener is None:
        yield "# no listener is set, so every message of a client is sent to all clients"
    yield "# defaults:"
    yield from (line for name, line in lines.items() if name not in written)


def _admin_lines(settings: AdminSettings) -> Iterator[str]:
    defaults = AdminSettings().shown()
    lines = {name: f"{name} = {to_json(value)}" for name, value in settings.shown().items()}
    written = [name for name, value in settings.shown().items() if value != defaults[name]]
    yield "[admin]"
    yield from (lines[name] for name in written)
    yield "# defaults:"
    yield from (line for name, line in lines.items() if name not in written)

"""Reads settings from the defaults, the file, the environment, and the command line; a later source wins."""

import enum
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, replace
from pathlib import Path
from typing import Any, Self

from wsgateway.config.channels import quoted, read_channels
from wsgateway.config.exposure import outside_of_environment
from wsgateway.config.files import read_text
from wsgateway.config.settings import (
    ADMIN_SPECS,
    CONFIG_FILE,
    SPECS,
    AdminSettings,
    Settings,
    flag,
    no_such_setting,
    serves_outside,
)
from wsgateway.config.values import Kind, convert_written, kind_of
from wsgateway.config.variables import Variables, config_of, read_secret, read_variables, variable_of
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.text import nearest

_OLD_STARTER = "wsgateway.starter.listener"
_STARTER = "wsgateway.supervisor.starter"
"""The module of the listener that the panel writes for a new gateway; `_OLD_STARTER` is its former path."""


class Layer(enum.Enum):
    """The kinds of sources, of which a later one wins."""

    DEFAULT = enum.auto()
    FILE = enum.auto()
    ENVIRONMENT = enum.auto()
    FLAG = enum.auto()


class Source(str):
    """Where the value of a setting comes from, as the reader sees it, such as `--port`. `layer` is its kind."""

    __slots__ = ("layer",)

    layer: Layer

    def __new__(cls, layer: Layer, text: str) -> Self:
        source = super().__new__(cls, text)
        source.layer = layer
        return source


DEFAULT = Source(Layer.DEFAULT, "default")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, the source of each, and warnings."""

    settings: Settings
    sources: Mapping[str, Source]
    warnings: tuple[str, ...]


def load(
    *,
    defaults: Mapping[str, object],
    environ: Mapping[str, str],
    flags: Mapping[str, str | bool],
    config: str | None = None,
) -> Loaded:
    """Return the settings of one gateway from `defaults`, the file, `environ`, and `flags`; a later source wins.

    `flags` are the options of the command line, by setting; `config` is its `--config`. Without it, the file is the one
    that `WSGATEWAY_CONFIG` names, or `wsgateway.toml` in the working folder if it exists. Raise `ConfigError`.
    """
    path = config_path(environ, config)
    return layered(read_tables(path) if path else {}, path, defaults=defaults, environ=environ, flags=flags)


def config_path(environ: Mapping[str, str], config: str | None) -> Path | None:
    """Return the settings file: the one that is named, or `wsgateway.toml` if it exists, else None."""
    named = config or config_of(environ)
    path = Path(named or CONFIG_FILE)
    return path if named or path.exists() else None


def read_tables(path: Path) -> dict[str, Any]:
    """Return the tables of the file. Raise `ConfigError`, with line and column, if it is not TOML."""
    return parse_tables(read_settings(path), path)


def read_settings(path: Path) -> str:
    """Return the text of the settings file at `path`. Raise `ConfigError` if it cannot be read."""
    try:
        return read_text(path)
    except OSError as exc:
        raise ConfigError([f"cannot read the settings file {str(path)!r}: {exc.strerror}"]) from exc
    except ValueError as exc:
        raise ConfigError([f"{path} {exc}"]) from None


def parse_tables(text: str, path: Path) -> dict[str, Any]:
    """Return the tables in `text`, which the file at `path` has or will have. Raise `ConfigError` as `read_tables`."""
    if not text.strip():  # another program is writing it, or the disk was full
        raise ConfigError([f"{path} is empty (at line 1): fill it, or remove it"])
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # also a number of more than 4,300 digits, or arrays too deep
        raise ConfigError([f"{path} is not TOML: {exc}"]) from exc


def is_table_of_tables(value: object) -> bool:
    """Return whether `value` has the form of `[gateways]`, which has a table for each gateway."""
    return isinstance(value, dict) and all(isinstance(table, dict) for table in value.values())


def layered(
    tables: Mapping[str, Any],
    path: Path | None,
    *,
    defaults: Mapping[str, object],
    environ: Mapping[str, str],
    flags: Mapping[str, str | bool],
    gateway: str | None = None,
) -> Loaded:
    """Return the same as `load`, for `tables` of the file. `gateway` is the id of one of several gateways in it."""
    reading = _Reading(SPECS)
    for name, value in defaults.items():
        reading.take(name, value, DEFAULT)
    variables = read_variables(environ)
    reading.warnings.extend(variables.warnings)
    gateway_id = gateway or flags.get("id") or variables.texts.get("id")
    _take_file(dict(tables), str(path), str(gateway_id) if gateway_id else None, reading)
    _take_environ(variables, reading)
    for name, value in flags.items():
        if name in SPECS:
            reading.take(name, value, Source(Layer.FLAG, flag(name)), text=isinstance(value, str))
    if not reading.mistakes:
        try:
            settings = _with_local_access(Settings(**reading.values), environ, reading.sources)
            return Loaded(settings, reading.sources, tuple(reading.warnings))
        except ConfigError as exc:
            reading.mistakes.extend(exc.mistakes)
    raise ConfigError(reading.mistakes)


def _with_local_access(settings: Settings, environ: Mapping[str, str], sources: dict[str, Source]) -> Settings:
    """Return `settings`, without keyless access if it is only the default and the gateway is reachable from outside.

    Another setting or the environment shows whether it is reachable.
    """
    outside = serves_outside(settings) or outside_of_environment(environ)
    if outside is None or not settings.local_access or sources["local_access"].layer is not Layer.DEFAULT:
        return settings
    sources["local_access"] = Source(Layer.DEFAULT, f"default, because {outside}")
    return replace(settings, local_access=False)


def admin_settings(
    tables: Mapping[str, Any], path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str | bool]
) -> AdminSettings:
    """Return `[admin]` of the file with `WSGATEWAY_ADMIN_…` and `--admin-…`. Raise `ConfigError`."""
    reading = _Reading({spec.name: spec for spec in ADMIN_SPECS.values()}, is_admin=True)
    table = tables.get("admin", {})
    if not isinstance(table, Mapping):
        raise ConfigError([Mistake("", f"admin ({path})", "it is a table, [admin]")])
    _take_table(table, str(path), "admin", reading)
    variables = read_variables(environ)
    for name, spec in ADMIN_SPECS.items():
        if name in variables.texts:
            reading.take(spec.name, variables.texts[name], Source(Layer.ENVIRONMENT, variable_of(name)), text=True)
        if name in flags:
            reading.take(spec.name, flags[name], Source(Layer.FLAG, flag(name)), text=isinstance(flags[name], str))
    if reading.mistakes:
        raise ConfigError(reading.mistakes)
    if variables.empty_secret(of_admin=True) is not None and reading.values.get("local_access") is None:
        reading.values["local_access"] = False
    return AdminSettings(**reading.values)


def _with_new_path(value: object) -> object:
    """Return the value of `listener` or of `[admin] listeners` with the current path of the starter listener."""
    if isinstance(value, tuple):
        return tuple(map(_with_new_path, value))
    module, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    return f"{_STARTER}{colon}{name}" if module == _OLD_STARTER else value


class _Reading:
    """The values of settings as they are read, the source of each, and every mistake."""

    def __init__(self, specs: Mapping[str, Field[Any]], *, is_admin: bool = False) -> None:
        self.specs = specs
        self.is_admin = is_admin
        self.values: dict[str, Any] = {}
        self.sources = dict.fromkeys(specs, DEFAULT)
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []

    def take(self, name: str, value: object, source: Source, *, text: bool = False) -> None:
        """Take the value of a setting. With `text` the source is a flag or a variable, which names the setting."""
        try:
            converted = convert_written(self.specs[name], value, text=text)
            self.values[name] = _with_new_path(converted) if name in ("listener", "listeners") else converted
            self.sources[name] = source
        except ValueError as exc:
            self.mistakes.append(Mistake(name, source if text else f"{name} ({source})", str(exc)))

    def take_channels(self, value: object, source: Source, *, file: str, table: str) -> None:
        """Take the namespaces that `file` declares in `table`. One of the same name, taken before, is replaced."""
        channels, mistakes = read_channels(value, file=file, table=table)
        earlier = self.values.get("channels", {})
        self.values["channels"] = {**earlier, **channels}
        self.sources["channels"] = Source(
            source.layer, f"{self.sources['channels']} and {source}" if earlier else source
        )
        self.mistakes.extend(mistakes)


def _take_environ(variables: Variables, reading: _Reading) -> None:
    """Take the variables of a gateway's settings. A secret in a file of its own wins."""
    for name, text in variables.texts.items():
        if name in SPECS:
            reading.take(name, text, Source(Layer.ENVIRONMENT, variable_of(name)), text=True)
    for name, path in variables.files.items():
        source = Source(Layer.ENVIRONMENT, variable_of(name) + "_FILE")
        try:
            value = read_secret(name, path)
        except ValueError as exc:
            reading.mistakes.append(Mistake(name, source, str(exc)))
        else:
            reading.take(name, value, source, text=True)
    for name, variable in variables.empty_guards:
        text = "it is empty, so no token would be checked; set it, or remove the variable"
        reading.mistakes.append(Mistake(name, variable, text))
    empty = variables.empty_secret(of_admin=False)
    if empty is not None and reading.sources["local_access"].layer is Layer.DEFAULT:
        reading.take("local_access", False, Source(Layer.DEFAULT, f"default, because {empty} is empty"))


def _take_file(tables: dict[str, Any], path: str, gateway_id: str | None, reading: _Reading) -> None:
    """Take the settings of every gateway, then those of the gateway `gateway_id`, or of the only one."""
    gateways = tables.pop("gateways", {})
    tables.pop("admin", None)
    _take_table(tables, path, "", reading)
    if not is_table_of_tables(gateways):
        reading.mistakes.append(Mistake("", f"gateways ({path})", "each gateway is a table [gateways.ID]"))
        return
    gateway_id = gateway_id or tables.get("id")
    if gateway_id is None and len(gateways) > 1:
        text = f"{path} describes {', '.join(sorted(gateways))}: choose one with --id"
        reading.mistakes.append(Mistake("", "", text))
    for name, table in gateways.items():
        if len(gateways) == 1 if gateway_id is None else name.casefold() == str(gateway_id).casefold():
            place = f"{path} [gateways.{name}]"
            if table.get("id", name) != name:
                text = "the table's name is the id, leave the key out"
                reading.mistakes.append(Mistake("id", f"id ({place})", text))
            _take_table({**table, "id": name}, path, f"gateways.{name}", reading)


def _take_table(table: Mapping[str, object], path: str, header: str, reading: _Reading) -> None:
    """Take the settings in `table` of the file at `path`, which begins with `[header]`, or with the file if empty."""
    place = f"{path} [{header}]" if header else path
    for name, value in table.items():
        if name in reading.specs and kind_of(reading.specs[name]) is Kind.CHANNELS:
            reading.take_channels(
                value, Source(Layer.FILE, place), file=path, table=f"{header}.{name}".removeprefix(".")
            )
        elif name in reading.specs:
            reading.take(name, value, Source(Layer.FILE, place))
        elif not header and isinstance(value, Mapping):
            reading.mistakes.append(Mistake("", f"{name} ({place})", _no_such_table(name, value)))
        else:
            text = no_such_setting(name, is_admin=reading.is_admin)
            reading.mistakes.append(Mistake(name, f"{name} ({place})", text))


def _no_such_table(name: str, table: Mapping[str, object]) -> str:
    """Return what is wrong with the table `name` at the top of the file, with a suggestion."""
    close = nearest(name.lower(), ("gateways", "admin", "channels"))
    if close == "gateways":
        ids = [key for key, value in table.items() if isinstance(value, Mapping)]
        return f"there is no such table, did you mean [gateways.{ids[0] if ids else 'ID'}]?"
    if close == "admin":
        return "there is no such table, did you mean [admin]?"
    if close == "channels":
        patterns = [quoted(key) for key, value in table.items() if isinstance(value, Mapping)]
        return f"there is no such table, did you mean [channels.{patterns[0] if patterns else quoted('room:*')}]?"
    return f"there is no such table, a gateway is described below [gateways.{name}]"

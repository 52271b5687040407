"""Where settings come from: defaults, the file, the environment, the command line; later wins."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from wsgateway.config.values import convert_written, nearest
from wsgateway.config.variables import Variables, config_of, read_secret, read_variables, variable_of
from wsgateway.exceptions import ConfigError


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, where each came from, and what is worth a warning."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def load(
    *,
    defaults: Mapping[str, object],
    environ: Mapping[str, str],
    flags: Mapping[str, str | bool],
    config: str | None = None,
) -> Loaded:
    """The settings of one gateway from `defaults`, the file, `environ` and `flags`; later wins.

    `flags` are the command line's, by setting; `config` is its `--config`. Without one, `WSGATEWAY_CONFIG` or
    `wsgateway.toml` in the working folder is read. Raises `ConfigError`.
    """
    path = config_path(environ, config)
    return layered(read_tables(path) if path else {}, path, defaults=defaults, environ=environ, flags=flags)


def config_path(environ: Mapping[str, str], config: str | None) -> Path | None:
    """The settings file: the one that is named, or `wsgateway.toml` if there is one."""
    named = config or config_of(environ)
    path = Path(named or CONFIG_FILE)
    return path if named or path.exists() else None


def read_tables(path: Path) -> dict[str, Any]:
    """What the file holds. Raises `ConfigError`, with line and column, if it is no TOML."""
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
    """Return what `text`, which is in the file at `path` or will be, holds. Raise `ConfigError` as `read_tables`."""
    if not text.strip():  # somebody is writing it, or a disk was full
        raise ConfigError([f"{path} is empty (at line 1): fill it, or remove it"])
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # also a number of more than 4,300 digits, or arrays too deep
        raise ConfigError([f"{path} is not TOML: {exc}"]) from exc


def layered(
    tables: Mapping[str, Any],
    path: Path | None,
    *,
    defaults: Mapping[str, object],
    environ: Mapping[str, str],
    flags: Mapping[str, str | bool],
    gateway: str | None = None,
) -> Loaded:
    """`load` for the file's `tables`. `gateway` is the id of the one that is wanted, where there are several."""
    reading = _Reading()
    for name, value in defaults.items():
        reading.take(name, value, "default")
    variables = read_variables(environ)
    reading.warnings.extend(variables.warnings)
    wanted = gateway or flags.get("id") or variables.texts.get("id")
    _file(dict(tables), str(path), str(wanted) if wanted else None, reading)
    _environ(variables, reading)
    for name, value in flags.items():
        if name in SPECS:
            reading.take(name, value, flag(name), text=isinstance(value, str))
    if not reading.mistakes:
        try:
            settings = _with_local_access(Settings(**reading.values), environ, reading.sources)
            return Loaded(settings, reading.sources, tuple(reading.warnings))
        except ConfigError as exc:
            reading.mistakes.extend(exc.mistakes)
    raise ConfigError(reading.mistakes)


def _with_local_access(settings: Settings, environ: Mapping[str, str], sources: dict[str, str]) -> Settings:
    """Return `settings` without keyless access if `local_access` is not set and another setting, or the environment,
    makes the gateway reachable from outside."""
    outside = serves_outside(settings) or outside_of_environment(environ)
    if outside is None or not settings.local_access or sources["local_access"] != "default":
        return settings
    sources["local_access"] = f"default, because {outside}"
    return replace(settings, local_access=False)


def admin_settings(
    tables: Mapping[str, Any], path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str | bool]
) -> AdminSettings:
    """`[admin]` of the file, with `WSGATEWAY_ADMIN_…` and `--admin-…`. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []

    def take(name: str, value: object, source: str, *, text: bool = False) -> None:
        plain = name.removeprefix("admin_")
        if name not in ADMIN_SPECS:
            mistakes.append(f"{plain} ({source}): {no_such_setting(plain, is_admin=True)}")
            return
        try:
            value = _with_new_path(value) if plain == "listeners" else value
            values[plain] = convert_written(ADMIN_SPECS[name], value, text=text)
        except ValueError as exc:
            mistakes.append(f"{source}: {exc}")

    table = tables.get("admin", {})
    if not isinstance(table, Mapping):
        raise ConfigError([f"admin ({path}): it is a table, [admin]"])
    for name, value in table.items():
        take(f"admin_{name}", value, f"{path} [admin] {name}")
    variables = read_variables(environ)
    for name in ADMIN_SPECS:
        if name in variables.texts:
            take(name, variables.texts[name], variable_of(name), text=True)
        if name in flags:
            take(name, flags[name], flag(name), text=isinstance(flags[name], str))
    if mistakes:
        raise ConfigError(mistakes)
    if variables.empty_secret(of_admin=True) is not None and values.get("local_access") is None:
        values["local_access"] = False
    return AdminSettings(**values)


_OLD_STARTER = "wsgateway.starter.listener"
_STARTER = "wsgateway.supervisor.starter"
"""The module of the listener that the panel writes for a new gateway, and the path it had before."""


def _with_new_path(value: object) -> object:
    """Return the value of `listener` or of `[admin] listeners` with the present path of the starter listener."""
    if isinstance(value, str):
        return value.replace(_OLD_STARTER, _STARTER)
    return [_with_new_path(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Reading:
    """Values as they are gathered, their sources, and all that is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources = dict.fromkeys(SPECS, "default")
        self.mistakes: list[str] = []
        self.warnings: list[str] = []

    def take(self, name: str, value: object, source: str, *, text: bool = False) -> None:
        try:
            value = _with_new_path(value) if name == "listener" else value
            self.values[name] = convert_written(SPECS[name], value, text=text)
            self.sources[name] = source
        except ValueError as exc:
            self.mistakes.append(f"{source if text else f'{name} ({source})'}: {exc}")


def _environ(variables: Variables, reading: _Reading) -> None:
    """Take what the environment says of a gateway; a file of its own wins."""
    for name, text in variables.texts.items():
        if name in SPECS:
            reading.take(name, text, variable_of(name), text=True)
    for name, path in variables.files.items():
        source = variable_of(name) + "_FILE"
        try:
            value = read_secret(name, path)
        except ValueError as exc:
            reading.mistakes.append(f"{source}: {exc}")
        else:
            reading.take(name, value, source, text=True)
    empty = variables.empty_secret(of_admin=False)
    if empty is not None and reading.sources["local_access"] == "default":
        reading.take("local_access", False, f"default, because {empty} is empty")


def _file(tables: dict[str, Any], path: str, wanted: str | None, reading: _Reading) -> None:
    """Take what the file says of every gateway, then of the one with the id `wanted`."""
    gateways = tables.pop("gateways", {})
    tables.pop("admin", None)
    _table(tables, path, reading, is_top=True)
    if not isinstance(gateways, dict) or not all(isinstance(table, dict) for table in gateways.values()):
        reading.mistakes.append(f"gateways ({path}): each gateway is a table [gateways.ID]")
        return
    wanted = wanted or tables.get("id")
    if wanted is None and len(gateways) > 1:
        reading.mistakes.append(f"{path} describes {', '.join(sorted(gateways))}: say which with --id")
    for name, table in gateways.items():
        if len(gateways) == 1 if wanted is None else name.casefold() == str(wanted).casefold():
            if table.get("id", name) != name:
                reading.mistakes.append(f"id ({path} [gateways.{name}]): the table's name is the id, leave the key out")
            _table({**table, "id": name}, f"{path} [gateways.{name}]", reading)


def _table(table: Mapping[str, object], source: str, reading: _Reading, *, is_top: bool = False) -> None:
    for name, value in table.items():
        if name in SPECS:
            reading.take(name, value, source)
        elif is_top and isinstance(value, Mapping):
            reading.mistakes.append(f"{name} ({source}): {_no_such_table(name, value)}")
        else:
            reading.mistakes.append(f"{name} ({source}): {no_such_setting(name)}")


def _no_such_table(name: str, table: Mapping[str, object]) -> str:
    """Return what is wrong with the table `name` at the top of the file, and what is right."""
    close = nearest(name.lower(), ("gateways", "admin"))
    if "gateways" in close:
        ids = [key for key, value in table.items() if isinstance(value, Mapping)]
        return f"there is no such table, did you mean [gateways.{ids[0] if ids else 'ID'}]?"
    hint = ", did you mean [admin]?" if close else f", a gateway is described below [gateways.{name}]"
    return f"there is no such table{hint}"

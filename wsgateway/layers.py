"""Where settings come from: defaults, the file, the environment, the command line; later wins."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsgateway.config import (
    ADMIN_SPECS,
    CONFIG_FILE,
    ENV,
    SPECS,
    AdminSettings,
    Settings,
    convert,
    flag,
    nearest,
    serves_outside,
)
from wsgateway.exceptions import ConfigError
from wsgateway.surroundings import outside_of_environment


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
    named = config or environ.get(ENV + "CONFIG")
    path = Path(named or CONFIG_FILE)
    return path if named or path.exists() else None


def read_tables(path: Path) -> dict[str, Any]:
    """What the file holds. Raises `ConfigError`, with line and column, if it is no TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():  # somebody is writing it, or a disk was full
            raise ConfigError([f"{path} is empty (at line 1): fill it, or remove it"])
        return tomllib.loads(text)
    except OSError as exc:
        raise ConfigError([f"cannot read the settings file {str(path)!r}: {exc.strerror}"]) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
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
    from_environ = _environ(environ, reading)
    wanted = gateway or flags.get("id") or from_environ.get("id")
    _file(dict(tables), str(path), str(wanted) if wanted else None, reading)
    for name, text in from_environ.items():
        reading.take(name, text, ENV + name.upper(), text=True)
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
    """Return `settings` without keyless access if nobody has written it down and something speaks of the outside."""
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
        if name not in ADMIN_SPECS:
            hint = nearest(name, ADMIN_SPECS).replace("admin_", "")
            mistakes.append(f"{name.removeprefix('admin_')} ({source}): there is no such setting{hint}")
            return
        try:
            values[name.removeprefix("admin_")] = convert(ADMIN_SPECS[name], value, text=text)
        except ValueError as exc:
            mistakes.append(f"{source}: {exc}")

    table = tables.get("admin", {})
    if not isinstance(table, Mapping):
        raise ConfigError([f"admin ({path}): it is a table, [admin]"])
    for name, value in table.items():
        take(f"admin_{name}", value, f"{path} [admin] {name}")
    for name in ADMIN_SPECS:
        if ENV + name.upper() in environ:
            take(name, environ[ENV + name.upper()], ENV + name.upper(), text=True)
        if name in flags:
            take(name, flags[name], flag(name), text=isinstance(flags[name], str))
    if mistakes:
        raise ConfigError(mistakes)
    return AdminSettings(**values)


class _Reading:
    """Values as they are gathered, their sources, and all that is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources = dict.fromkeys(SPECS, "default")
        self.mistakes: list[str] = []
        self.warnings: list[str] = []

    def take(self, name: str, value: object, source: str, *, text: bool = False) -> None:
        try:
            self.values[name] = convert(SPECS[name], value, text=text)
            self.sources[name] = source
        except ValueError as exc:
            self.mistakes.append(f"{source if text else f'{name} ({source})'}: {exc}")


_FILE_VARIABLES = {ENV + "API_KEY_FILE": "api_key", ENV + "BROKER_FILE": "broker"}
"""What is secret can stand in a file of its own."""

_ADMIN_VARIABLES = frozenset(ENV + name.upper() for name in ADMIN_SPECS)


def _environ(environ: Mapping[str, str], reading: _Reading) -> dict[str, str | tuple[str, ...]]:
    """The settings among the environment's variables, as text; what a file of its own holds as it is."""
    known = {ENV + name.upper(): name for name in SPECS}
    found: dict[str, str | tuple[str, ...]] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV) or variable == ENV + "CONFIG" or variable in _ADMIN_VARIABLES:
            continue
        if variable in _FILE_VARIABLES:
            name = _FILE_VARIABLES[variable]
            try:
                lines = tuple(Path(text).read_text(encoding="utf-8").split())
            except (OSError, UnicodeDecodeError) as exc:
                reading.mistakes.append(f"{variable}: cannot read {name} from {text!r}: {exc}")
            else:
                found[name] = lines if name == "api_key" else " ".join(lines)
        elif variable not in known:
            reading.warnings.append(f"{variable} is no setting and is ignored{nearest(variable, known)}")
        elif variable == ENV + "PORT" and text.startswith("tcp://"):
            continue  # Kubernetes sets it so for a service that is called wsgateway
        else:
            found[known[variable]] = text
    return found


def _file(tables: dict[str, Any], path: str, wanted: str | None, reading: _Reading) -> None:
    """Take what the file says of every gateway, then of the one with the id `wanted`."""
    gateways = tables.pop("gateways", {})
    tables.pop("admin", None)
    _table(tables, path, reading)
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


def _table(table: Mapping[str, object], source: str, reading: _Reading) -> None:
    for name, value in table.items():
        if name in SPECS:
            reading.take(name, value, source)
        else:
            reading.mistakes.append(f"{name} ({source}): there is no such setting{nearest(name, SPECS)}")

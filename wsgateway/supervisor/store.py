"""The settings file as a supervisor keeps it: read whole, edited in place so that comments and order stay, written
atomically. Knows nothing of what runs."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from wsgateway.config.files import BYTE_ORDER_MARK
from wsgateway.config.settings import CONFIG_FILE, ENV, SPECS, AdminSettings, Settings
from wsgateway.config.sources import (
    Loaded,
    admin_settings,
    config_path,
    layered,
    parse_tables,
    read_settings,
    read_tables,
)
from wsgateway.config.values import convert_written, plain_value
from wsgateway.config.variables import read_variables
from wsgateway.exceptions import ConfigError
from wsgateway.supervisor.patterns import warnings_about

ONE_GATEWAY_ONLY = ("port", "uds")
"""Settings that several gateways cannot share, so that neither flag nor variable may give them to all."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the file, the environment and the command line say: gateways by id, and the admin interface."""

    gateways: Mapping[str, Loaded]
    admin: AdminSettings
    warnings: tuple[str, ...] = ()
    """What is worth a line, each once however many gateways it concerns."""


class Store:
    """Where the gateways of a server are described. Without a file: one gateway, from environment and flags."""

    def __init__(
        self,
        config: str | None = None,
        *,
        defaults: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, str | bool] | None = None,
    ) -> None:
        self._defaults = defaults or {}
        self._environ = environ or {}
        self._flags = flags or {}
        self._path = config_path(self._environ, config)

    @property
    def path(self) -> Path:
        """The file, which need not be there yet."""
        return self._path or Path(CONFIG_FILE)

    @property
    def has_file(self) -> bool:
        return self._path is not None

    def read(self) -> Described:
        """All that is described. Raises `ConfigError` with every mistake, and with line and column for broken TOML."""
        return self._described(read_tables(self._path) if self._path else {})

    def _described(self, tables: Mapping[str, Any]) -> Described:
        mistakes: list[str] = []
        gateways: dict[str, Loaded] = {}
        ids = self._ids(tables, mistakes)
        for wanted in ids:
            try:
                loaded = layered(
                    tables,
                    self._path,
                    defaults=self._defaults,
                    environ=self._environ,
                    flags=self._flags,
                    gateway=wanted,
                )
                gateways[loaded.settings.id] = loaded
            except ConfigError as exc:
                mistakes.extend(mistake for mistake in exc.mistakes if mistake not in mistakes)
        try:
            admin = admin_settings(tables, self._path, self._environ, self._flags)
        except ConfigError as exc:
            mistakes.extend(exc.mistakes)
        if mistakes:
            raise ConfigError(mistakes)
        lines = [*read_variables(self._environ).warnings, *warnings_about(admin.listeners)]
        for loaded in gateways.values():
            lines.extend(loaded.warnings)
        return Described(gateways, admin, tuple(dict.fromkeys(lines)))

    def _ids(self, tables: Mapping[str, Any], mistakes: list[str]) -> list[str | None]:
        """The ids to be served; None stands for the one that is described without a table of its own."""
        table = tables.get("gateways")
        texts = read_variables(self._environ).texts
        one = self._flags.get("id") or texts.get("id") or tables.get("id")
        if table is None or not isinstance(table, Mapping) or (one and len(table) < 2):
            return [None]
        if one:
            return [str(one)]
        folded = [name.casefold() for name in table]
        twice = [name for name in table if folded.count(name.casefold()) > 1]
        mistakes += [f"gateways ({self._path}): [{name}] is there twice, ids differ not only in case" for name in twice]
        if len(table) > 1:
            given = [name for name in ONE_GATEWAY_ONLY if name in self._flags or name in texts]
            text = f"{self._path} describes several gateways, say with --id which one is meant"
            mistakes += [f"{name}: {text}" for name in given]
        return list(table)

    def new_settings(self) -> Settings:
        """What a gateway would have that is added without a setting of its own. Raises `ConfigError`."""
        tables = read_tables(self._path) if self._path else {}
        own = {name: value for name, value in tables.items() if name not in ("gateways", "id")}
        flags = {name: value for name, value in self._flags.items() if name != "id"}
        environ = {name: value for name, value in self._environ.items() if name != ENV + "ID"}
        return layered(own, self._path, defaults=self._defaults, environ=environ, flags=flags).settings

    # Changes

    def put(self, gateway_id: str, changes: Mapping[str, Any]) -> Described:
        """Write `changes` of the gateway, which may be new; None takes a setting back to its default.

        What the file has become. Raises `ConfigError`, and then has written nothing.
        """
        values = self._checked(gateway_id, changes)
        document, tables = self._document()
        name = _key(tables["gateways"], gateway_id) or gateway_id
        _change(tables["gateways"].setdefault(name, {}), values)
        with _editing(self.path):
            gateways = document["gateways"]
            if name not in gateways:
                gateways[name] = tomlkit.table()
            _edit(gateways[name], values)
        return self._write(document, tables, name)

    def remove(self, gateway_id: str) -> Described:
        """Take the gateway out of the file. Raises `ConfigError`."""
        document, tables = self._document()
        name = _key(tables["gateways"], gateway_id)
        if name is not None:
            del tables["gateways"][name]
            with _editing(self.path):
                del document["gateways"][name]
                if not tables["gateways"]:  # without the table the file would describe one gateway, from its top
                    document.pop("gateways", None)
                    document["gateways"] = tomlkit.table()
        return self._write(document, tables)

    def _checked(self, gateway_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return `changes` as TOML has them. Raise `ConfigError` for values that are not what their setting is."""
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        for name, value in changes.items():
            try:
                converted = convert_written(SPECS[name], value) if name in SPECS and value is not None else value
                is_plain = value is None or type(value) in (str, bool, int, float, list)
                values[name] = value if is_plain else _plain(converted)  # what is plain is written as it was given
            except ValueError as exc:
                mistakes.append(f"{name} ({self.path} [gateways.{gateway_id}]): {exc}")
        if mistakes:
            raise ConfigError(mistakes)
        return values

    def _document(self) -> tuple[tomlkit.TOMLDocument, dict[str, Any]]:
        """Return the file to be edited, and what it holds, both with a table of gateways.

        A gateway described by keys at the top is moved into a table of its own, because adding another gateway would
        otherwise remove it.
        """
        text = read_settings(self._path) if self._path is not None else ""
        tables = parse_tables(text, self._path) if self._path is not None else {}
        with _editing(self.path):
            document = tomlkit.parse(text)
        if "gateways" not in tables:
            loaded = next(iter(self.read().gateways.values()))
            own: dict[str, Any] = {}
            for name in SPECS:
                if loaded.sources[name].startswith("--") and name != "id":
                    own[name] = _plain(getattr(loaded.settings, name))
            tables.pop("id", None)
            tables["gateways"] = {loaded.settings.id: own}
            with _editing(self.path):
                table: Table = tomlkit.table(is_super_table=True)
                table[loaded.settings.id] = tomlkit.item(own)
                document.pop("id", None)
                document["gateways"] = table
        elif not _is_table_of_tables(tables["gateways"]):
            raise ConfigError([f"gateways ({self.path}): each gateway is a table [gateways.ID]"])
        return document, deepcopy(tables)

    def _write(self, document: tomlkit.TOMLDocument, tables: Mapping[str, Any], needed: str | None = None) -> Described:
        """Write, unless it would not be read again as `tables`, or the gateway `needed` would not be served."""
        text = tomlkit.dumps(document)
        before = self._path, self._flags
        if self._path is None:  # what the flags say of the one gateway is in the file now
            self._path = self.path
            self._flags = {name: value for name, value in self._flags.items() if name not in SPECS}
        try:
            written = parse_tables(text, self.path)
            if not _is_same(written, tables):
                raise ConfigError([f"{self.path} cannot be changed in place; change it by hand, then reload it"])
            described = self._described(written)
            if needed is not None and needed not in described.gateways:
                only = ", ".join(described.gateways)
                raise ConfigError(
                    [f"this server was started for [{only}] only, by --id, WSGATEWAY_ID or id in the file"]
                )
            replace_file(self.path, _styled(text, self.path))
        except BaseException as exc:
            self._path, self._flags = before
            if isinstance(exc, (OSError, UnicodeEncodeError)):
                said = getattr(exc, "strerror", None) or "a name of a file in it is not UTF-8"
                raise ConfigError([f"cannot write the settings file {str(self.path)!r}: {said}"]) from exc
            raise
        return described


@contextmanager
def _editing(path: Path) -> Iterator[None]:
    """Raise `ConfigError` where tomlkit, which keeps comments and order, cannot do what it should."""
    try:
        yield
    except (TOMLKitError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as exc:
        raise ConfigError([f"{path} cannot be changed in place ({exc}); change it by hand, then reload it"]) from exc


def _change(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    for setting, value in values.items():
        if value is None:
            table.pop(setting, None)
        else:
            table[setting] = value


def _edit(table: Any, values: Mapping[str, Any]) -> None:
    """`_change` of a table of tomlkit's."""
    for setting, value in values.items():
        if value is None:
            table.pop(setting, None)
        elif setting in table or not table or not isinstance(table, Table):
            table[setting] = value
        else:  # after the last key: tomlkit would add it behind the comment that belongs to the next table
            table.value._insert_after(list(table)[-1], setting, tomlkit.item(value))


def _is_same(one: Any, other: Any) -> bool:
    """Whether two files hold the same. Unlike `==`, 1 and true differ here."""
    return json.dumps(one, sort_keys=True, default=repr) == json.dumps(other, sort_keys=True, default=repr)


def _styled(text: str, path: Path) -> str:
    """Return `text` with the byte order mark and the line endings of the file at `path`, if there is one."""
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        return text
    if b"\r\n" in before:
        text = text.replace("\n", "\r\n")
    return BYTE_ORDER_MARK + text if before.startswith(BYTE_ORDER_MARK.encode()) else text


def _is_table_of_tables(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(table, dict) for table in value.values())


def _key(gateways: Mapping[str, Any], gateway_id: str) -> str | None:
    return next((name for name in gateways if name.casefold() == gateway_id.casefold()), None)


def _plain(value: object) -> object:
    """Return the value of a setting as TOML has it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    return plain_value(value)


def replace_file(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write `text` to `path` so that whoever reads it, after a crash too, finds the old text or the new one.

    `mode` is that of the file; None: as it was, 600 for a new one. Raises `OSError`.
    """
    target = path.resolve()
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if mode is None:
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""The settings file as a supervisor keeps it: read whole, edited in place so that comments and order stay, written
atomically. Knows nothing of what runs."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AbstractTable, Table

from wsgateway.config import CONFIG_FILE, ENV, SPECS, AdminSettings, Settings
from wsgateway.exceptions import ConfigError
from wsgateway.layers import Loaded, admin_settings, config_path, layered, read_tables

ONE_GATEWAY_ONLY = ("port", "uds")
"""Settings that several gateways cannot share, so that neither flag nor variable may give them to all."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the file, the environment and the command line say: gateways by id, and the admin interface."""

    gateways: Mapping[str, Loaded]
    admin: AdminSettings


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
        return Described(gateways, admin)

    def _ids(self, tables: Mapping[str, Any], mistakes: list[str]) -> list[str | None]:
        """The ids to be served; None stands for the one that is described without a table of its own."""
        table = tables.get("gateways")
        one = self._flags.get("id") or self._environ.get(ENV + "ID") or tables.get("id")
        if table is None or not isinstance(table, Mapping) or (one and len(table) < 2):
            return [None]
        if one:
            return [str(one)]
        folded = [name.casefold() for name in table]
        twice = [name for name in table if folded.count(name.casefold()) > 1]
        mistakes += [f"gateways ({self._path}): [{name}] is there twice, ids differ not only in case" for name in twice]
        if len(table) > 1:
            given = [name for name in ONE_GATEWAY_ONLY if name in self._flags or ENV + name.upper() in self._environ]
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
        document = self._document()
        gateways = self._gateways(document)
        name = _key(gateways, gateway_id) or gateway_id
        if name not in gateways:
            gateways[name] = tomlkit.table()
        table = gateways[name]
        for setting, value in changes.items():
            if value is None:
                table.pop(setting, None)
            elif setting in table or not table:
                table[setting] = _plain(value)
            else:  # after the last key: tomlkit would add it behind the comment that belongs to the next table
                table.value._insert_after(list(table)[-1], setting, tomlkit.item(_plain(value)))
        return self._write(document, name)

    def remove(self, gateway_id: str) -> Described:
        """Take the gateway out of the file. Raises `ConfigError`."""
        document = self._document()
        gateways = self._gateways(document)
        name = _key(gateways, gateway_id)
        if name is not None:
            del gateways[name]
        return self._write(document)

    def _document(self) -> tomlkit.TOMLDocument:
        if self._path is None:
            return tomlkit.document()
        read_tables(self._path)  # which tells line and column
        try:
            return tomlkit.parse(self._path.read_text(encoding="utf-8"))
        except (TOMLKitError, OSError) as exc:
            raise ConfigError([f"{self._path} cannot be edited: {exc}"]) from exc

    def _gateways(self, document: tomlkit.TOMLDocument) -> AbstractTable:
        """The table of gateways. The one that had none of its own gets one, or it would go with the first other."""
        if "gateways" not in document:
            loaded = next(iter(self.read().gateways.values()))
            table: Table = tomlkit.table(is_super_table=True)
            own = tomlkit.table()
            for name in SPECS:
                if loaded.sources[name].startswith("--") and name != "id":
                    own[name] = _plain(getattr(loaded.settings, name))
            table[loaded.settings.id] = own
            document.pop("id", None)
            document["gateways"] = table
            if self._path is None:
                self._flags = {
                    name: value for name, value in self._flags.items() if name not in SPECS
                }  # now the file's
        found = document["gateways"]
        assert isinstance(found, AbstractTable)
        return found

    def _write(self, document: tomlkit.TOMLDocument, needed: str | None = None) -> Described:
        """Write, unless it could not be read again, or the gateway `needed` would not be served."""
        text = tomlkit.dumps(document)
        before, self._path = self._path, self.path
        try:
            described = self._described(document.unwrap())
            if needed is not None and needed not in described.gateways:
                only = ", ".join(described.gateways)
                raise ConfigError(
                    [f"this server was started for [{only}] only, by --id, WSGATEWAY_ID or id in the file"]
                )
            replace_file(self.path, text)
        except ConfigError:
            self._path = before
            raise
        except OSError as exc:
            self._path = before
            raise ConfigError([f"cannot write the settings file {str(self.path)!r}: {exc.strerror}"]) from exc
        return described


def _key(gateways: AbstractTable, gateway_id: str) -> str | None:
    return next((name for name in gateways if name.casefold() == gateway_id.casefold()), None)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def replace_file(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write `text` to `path` so that whoever reads it, after a crash too, finds the old text or the new one.

    `mode` is that of the file; None: as it was, 600 for a new one. Raises `OSError`.
    """
    target = path.resolve()
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
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

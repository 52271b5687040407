"""The settings file of a supervisor: read as a whole, edited through `document`, and written atomically.

Does not know which gateways run.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsgateway.config.files import BYTE_ORDER_MARK
from wsgateway.config.settings import CONFIG_FILE, ENV, SPECS, AdminSettings, Settings
from wsgateway.config.sources import (
    Layer,
    Loaded,
    admin_settings,
    config_path,
    layered,
    read_settings,
    read_tables,
)
from wsgateway.config.values import convert_written, plain_value
from wsgateway.config.variables import read_variables
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.supervisor.patterns import warnings_about

ONE_GATEWAY_ONLY = ("port", "uds")
"""Settings that several gateways cannot share, so no flag or variable may set them for all."""


@dataclass(frozen=True, slots=True)
class Described:
    """The settings that file, environment, and command line give: of gateways, by id, and of the admin interface."""

    gateways: Mapping[str, Loaded]
    admin: AdminSettings
    warnings: tuple[str, ...] = ()
    """Lines for the log, each once even if it concerns several gateways."""


class Store:
    """The settings file of a server. Without a file, environment and flags describe one gateway."""

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
        """The file, which need not exist yet."""
        return self._path or Path(CONFIG_FILE)

    @property
    def has_file(self) -> bool:
        return self._path is not None

    def read(self) -> Described:
        """Return all settings. Raise `ConfigError` with every mistake, or with line and column of broken TOML."""
        return self._described(read_tables(self._path) if self._path else {}, self._path, self._flags)

    def _described(self, tables: Mapping[str, Any], path: Path | None, flags: Mapping[str, str | bool]) -> Described:
        """Return what `tables` of the file at `path` describe under `flags`. Raise `ConfigError`."""
        gateways: dict[str, Loaded] = {}
        ids, mistakes = self._ids(tables, path, flags)
        for gateway_id in ids:
            try:
                loaded = layered(
                    tables, path, defaults=self._defaults, environ=self._environ, flags=flags, gateway=gateway_id
                )
                gateways[loaded.settings.id] = loaded
            except ConfigError as exc:
                mistakes.extend(mistake for mistake in exc.mistakes if mistake not in mistakes)
        try:
            admin = admin_settings(tables, path, self._environ, flags)
        except ConfigError as exc:
            mistakes.extend(exc.mistakes)
        if mistakes:
            raise ConfigError(mistakes)
        lines = [*read_variables(self._environ).warnings, *warnings_about(admin.listeners)]
        for loaded in gateways.values():
            lines.extend(loaded.warnings)
        return Described(gateways, admin, tuple(dict.fromkeys(lines)))

    def _ids(
        self, tables: Mapping[str, Any], path: Path | None, flags: Mapping[str, str | bool]
    ) -> tuple[list[str | None], list[Mistake]]:
        """Return the ids to serve, and what is wrong with them. None is the gateway that top-level keys describe."""
        table = tables.get("gateways")
        texts = read_variables(self._environ).texts
        only = flags.get("id") or texts.get("id") or tables.get("id")
        if table is None or not isinstance(table, Mapping) or (only and len(table) < 2):
            return [None], []
        if only:
            return [str(only)], []
        folded = [name.casefold() for name in table]
        mistakes = [
            Mistake("", f"gateways ({path})", f"[{name}] is there twice, ids must differ in more than case")
            for name in table
            if folded.count(name.casefold()) > 1
        ]
        if len(table) > 1:
            given = [name for name in ONE_GATEWAY_ONLY if name in flags or name in texts]
            text = f"{path} describes several gateways, choose one with --id"
            mistakes += [Mistake(name, "", text) for name in given]
        return list(table), mistakes

    def new_settings(self) -> Settings:
        """Return the settings of a new gateway that sets none itself. Raise `ConfigError`."""
        tables = read_tables(self._path) if self._path else {}
        own = {name: value for name, value in tables.items() if name not in ("gateways", "id")}
        flags = {name: value for name, value in self._flags.items() if name != "id"}
        environ = {name: value for name, value in self._environ.items() if name != ENV + "ID"}
        return layered(own, self._path, defaults=self._defaults, environ=environ, flags=flags).settings

    # Changes

    def put(self, gateway_id: str, changes: Mapping[str, Any]) -> Described:
        """Write `changes` of the gateway, which may be new. None resets a setting to its default.

        Return what the file describes then. Raise `ConfigError` if nothing was written.
        """
        return self._change(gateway_id, self._checked(gateway_id, changes))

    def remove(self, gateway_id: str) -> Described:
        """Remove the gateway from the file. Return what the file describes then. Raise `ConfigError`."""
        return self._change(gateway_id, None)

    def _checked(self, gateway_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return `changes` as TOML writes them. Raise `ConfigError` for values that do not fit their setting."""
        values: dict[str, Any] = {}
        mistakes: list[Mistake] = []
        for name, value in changes.items():
            try:
                converted = convert_written(SPECS[name], value) if name in SPECS and value is not None else value
                is_plain = value is None or type(value) in (str, bool, int, float, list)
                values[name] = value if is_plain else _plain(converted)  # a plain value is written as it was given
            except ValueError as exc:
                mistakes.append(Mistake(name, f"{name} ({self.path} [gateways.{gateway_id}])", str(exc)))
        if mistakes:
            raise ConfigError(mistakes)
        return values

    def _change(self, gateway_id: str, values: Mapping[str, Any] | None) -> Described:
        """Write `values` of the gateway, or remove it if they are None."""
        from wsgateway.supervisor.document import (
            Document,
        )  # imports tomlkit, which a worker never needs

        document = Document(None if self._path is None else read_settings(self._path), self.path)
        if not document.has_gateways:
            loaded = next(iter(self.read().gateways.values()))
            document.add_gateways(loaded.settings.id, _given_by_flags(loaded))
        flags = self._flags
        if self._path is None:  # the file contains the settings of these flags from now on
            flags = {name: value for name, value in flags.items() if name not in SPECS}
        if values is None:
            document.remove_gateway(gateway_id)
        else:
            gateway_id = document.change_gateway(gateway_id, values)
        text, tables = document.dump()
        described = self._described(tables, self.path, flags)
        if values is not None:
            _check_served(gateway_id, described)
        self._write(text)
        self._path, self._flags = self.path, flags
        return described

    def _write(self, text: str) -> None:
        try:
            replace_file(self.path, _styled(text, self.path))
        except (OSError, UnicodeEncodeError) as exc:
            reason = getattr(exc, "strerror", None) or "a name of a file in it is not UTF-8"
            raise ConfigError([f"cannot write the settings file {str(self.path)!r}: {reason}"]) from exc


def _given_by_flags(loaded: Loaded) -> dict[str, object]:
    """Return the settings that flags have given to the only gateway, as TOML writes them."""
    names = [name for name in SPECS if loaded.sources[name].layer is Layer.FLAG and name != "id"]
    return {name: _plain(getattr(loaded.settings, name)) for name in names}


def _check_served(gateway_id: str, described: Described) -> None:
    """Raise `ConfigError` if a server that reads `described` would not serve the gateway."""
    if gateway_id not in described.gateways:
        only = ", ".join(described.gateways)
        raise ConfigError([f"this server was started for [{only}] only, by --id, WSGATEWAY_ID or id in the file"])


def _styled(text: str, path: Path) -> str:
    """Return `text` with the byte order mark and the line endings of the file at `path`, if it exists."""
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        return text
    if b"\r\n" in before:
        text = text.replace("\n", "\r\n")
    return BYTE_ORDER_MARK + text if before.startswith(BYTE_ORDER_MARK.encode()) else text


def _plain(value: object) -> object:
    """Return the value of a setting as TOML writes it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    return plain_value(value)


def replace_file(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write `text` to `path` so that every reader, also after a crash, sees the old text or the new one.

    None as `mode` keeps the mode of the file, which is 600 if the file is new. Raise `OSError`.
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

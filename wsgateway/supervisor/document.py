"""The text of a settings file, edited in place so that comments and order stay. Does not know what a setting means."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from wsgateway.config.sources import is_table_of_tables, parse_tables
from wsgateway.exceptions import ConfigError


class Document:
    """The text of a settings file and the tables it describes, which change together.

    Every method raises `ConfigError` if tomlkit, which keeps comments and order, cannot edit the text.
    """

    def __init__(self, text: str | None, path: Path) -> None:
        """`text` is what the file at `path` contains, None if the file does not exist yet."""
        self._path = path
        self._tables: dict[str, Any] = {} if text is None else parse_tables(text, path)
        with self._editing():
            self._toml = tomlkit.parse(text or "")
        if self.has_gateways and not is_table_of_tables(self._tables["gateways"]):
            raise ConfigError([f"gateways ({path}): each gateway is a table [gateways.ID]"])

    @property
    def has_gateways(self) -> bool:
        """Whether the file has the table `[gateways]`. Without it, its top-level keys describe the only gateway."""
        return "gateways" in self._tables

    def add_gateways(self, gateway_id: str, values: Mapping[str, Any]) -> None:
        """Add the table `[gateways]` with the gateway that top-level keys describe.

        The keys stay at the top, where they apply to every gateway; `values` go into the gateway's own table.
        """
        self._tables.pop("id", None)
        self._tables["gateways"] = {gateway_id: dict(values)}
        with self._editing():
            table: Table = tomlkit.table(is_super_table=True)
            table[gateway_id] = tomlkit.item(dict(values))
            self._toml.pop("id", None)
            self._toml["gateways"] = table

    def change_gateway(self, gateway_id: str, values: Mapping[str, Any]) -> str:
        """Set `values` of the gateway, and add it if it is new; None removes a setting. Return its id as written."""
        name = self._name_of(gateway_id) or gateway_id
        table = self._tables["gateways"].setdefault(name, {})
        for setting, value in values.items():
            if value is None:
                table.pop(setting, None)
            else:
                table[setting] = value
        with self._editing():
            gateways = self._toml["gateways"]
            if name not in gateways:
                gateways[name] = tomlkit.table()
            _edit(gateways[name], values)
        return name

    def remove_gateway(self, gateway_id: str) -> None:
        """Remove the gateway's table, if it has one. The table `[gateways]` stays."""
        name = self._name_of(gateway_id)
        if name is None:
            return
        del self._tables["gateways"][name]
        with self._editing():
            del self._toml["gateways"][name]
            if not self._tables["gateways"]:
                self._toml.pop("gateways", None)
                self._toml["gateways"] = tomlkit.table()

    def dump(self) -> tuple[str, dict[str, Any]]:
        """Return the text, and the tables that are read from it."""
        with self._editing():
            text = tomlkit.dumps(self._toml)
        tables = parse_tables(text, self._path)
        if not _is_same(tables, self._tables):
            raise ConfigError([f"{self._path} cannot be changed in place; change it by hand, then reload it"])
        return text, tables

    def _name_of(self, gateway_id: str) -> str | None:
        return next((name for name in self._tables["gateways"] if name.casefold() == gateway_id.casefold()), None)

    @contextmanager
    def _editing(self) -> Iterator[None]:
        try:
            yield
        except (TOMLKitError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as exc:
            text = f"{self._path} cannot be changed in place ({exc}); change it by hand, then reload it"
            raise ConfigError([text]) from exc


def _edit(table: Any, values: Mapping[str, Any]) -> None:
    """Set `values` in a table of tomlkit."""
    for setting, value in values.items():
        if value is None:
            table.pop(setting, None)
        elif setting in table or not isinstance(table, Table):
            table[setting] = value
        else:
            _append(table, setting, value)


def _append(table: Table, setting: str, value: object) -> None:
    """Add `setting` after the last key. tomlkit would add it after the comment that belongs to the next table."""
    body = table.value.body
    trailing = []
    while body and body[-1][0] is None:
        trailing.append(body.pop())
    table.append(setting, value)
    body.extend(reversed(trailing))


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two files contain the same. Unlike with `==`, 1 and true differ."""
    return json.dumps(one, sort_keys=True, default=repr) == json.dumps(other, sort_keys=True, default=repr)

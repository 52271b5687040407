"""Rules for settings that a remote caller changes, over REST or in the panel. Knows no gateway."""

from collections.abc import Callable, Mapping
from typing import Any

from wsgateway.config.settings import SPECS, no_such_setting
from wsgateway.config.values import convert_written
from wsgateway.exceptions import ConfigError, Mistake, SettingForbidden

SHIPPED_LISTENER = "wsgateway.supervisor.starter:Listener"
"""The listener of a new gateway. `wsgateway init` writes a copy of it."""

_FILE_OF_THE_HOST = "names a file of the host"

HOST_ONLY = {
    "broker": "names a server",
    "token_jwks": "names a server",
    "token_public_key": _FILE_OF_THE_HOST,
    "log_file": _FILE_OF_THE_HOST,
    "uds": _FILE_OF_THE_HOST,
    "uds_mode": _FILE_OF_THE_HOST,
    "ssl_keyfile": _FILE_OF_THE_HOST,
    "ssl_certfile": _FILE_OF_THE_HOST,
    "channels": "has a table for each namespace",
}
"""Settings that are changed in the settings file only, each with the reason.

They name files of the host or servers it connects to, or need more than one field of a form.
"""


def check_remote_changes(values: Mapping[str, Any], *, may_name: Callable[[str], bool]) -> None:
    """Raise `SettingForbidden` for settings of `HOST_ONLY`, and for a listener that `may_name` does not allow.

    Raise `ConfigError` for names that are not settings, and for values that do not fit their setting.
    """
    check_names(values)
    forbidden = sorted(HOST_ONLY.keys() & values.keys())
    if forbidden:
        raise SettingForbidden(
            Mistake(name, "", f"{HOST_ONLY[name]}, so it is only set in the settings file") for name in forbidden
        )
    _check_values(values)
    listener = values.get("listener")
    if listener and not may_name(listener):
        text = f"{listener[:100]!r} may not be named here; add it to listeners in [admin]"
        raise SettingForbidden([Mistake("listener", "", text)])


def check_names(values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for names that are not settings."""
    unknown = [name for name in values if name not in SPECS]
    if unknown:
        raise ConfigError(Mistake(name[:100], "", no_such_setting(name)) for name in unknown)


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for values that do not fit their setting. None fits every setting."""
    mistakes: list[Mistake] = []
    for name, value in values.items():
        try:
            if value is not None:
                convert_written(SPECS[name], value)
        except ValueError as exc:
            mistakes.append(Mistake(name, "", str(exc)))
    if mistakes:
        raise ConfigError(mistakes)

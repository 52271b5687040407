"""The form of a gateway, made from the one declaration of its settings. Knows nothing of pages."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wsgateway.config.settings import SPECS, Settings
from wsgateway.config.values import SlowPolicy, Startup, convert, plain_value
from wsgateway.exceptions import ConfigError
from wsgateway.supervisor.supervisor import HOST_ONLY

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Gateway": (
        "id", "host", "port", "startup", "workers", "broker_timeout", "listener", "echo_sender", "test_page", "verbose",
    ),
    "Who is let in": ("allowed_origins", "allowed_hosts", "api_key", "local_access"),
    "Clients that do not read or answer": (
        "ping_interval", "pong_timeout", "outbox_bytes", "outbox_messages", "send_timeout", "slow_policy", "drain",
    ),
    "Limits": (
        "max_message_size", "max_send_size", "max_connections", "max_connections_per_address", "message_rate",
        "message_burst", "connect_rate", "connect_burst", "send_rate", "send_burst",
        "handshake_timeout", "hook_timeout", "compression",
    ),
    "Names of the hooks": tuple(name for name in SPECS if name.startswith("on_")),
}  # fmt: skip
"""Every setting that can be changed from afar, as the form shows them."""

CHOICES: Mapping[str, tuple[str, ...]] = {"startup": tuple(Startup), "slow_policy": tuple(SlowPolicy)}


@dataclass(frozen=True, slots=True)
class FormField:
    """One setting in the form. `kind` is the control: text, number, check, choice or secret."""

    name: str
    kind: str
    value: str
    help: str
    default: str
    mistakes: tuple[str, ...]
    choices: tuple[str, ...] = ()


def form_of(
    settings: Settings, *, submitted: Mapping[str, str] | None = None, mistakes: Iterable[str] = ()
) -> dict[str, list[FormField]]:
    """The fields by group: as `settings` are or, once somebody has sent the form, as `submitted`."""
    told = sorted_mistakes(mistakes)[0]
    return {
        group: [_field(name, settings, submitted, told.get(name, ())) for name in names]
        for group, names in GROUPS.items()
    }


def _field(name: str, settings: Settings, submitted: Mapping[str, str] | None, mistakes: Iterable[str]) -> FormField:
    spec = SPECS[name]
    kind = _kind(name)
    value = "" if kind == "secret" else _text(getattr(settings, name))
    if submitted is not None and kind != "secret":
        value = submitted.get(name, "false" if kind == "check" else "")
    text = spec.metadata["help"].replace("`", "")
    default = "" if kind == "secret" else _text(convert(spec, spec.default))
    return FormField(name, kind, value, text, default, tuple(mistakes), CHOICES.get(name, ()))


def _kind(name: str) -> str:
    spec = SPECS[name]
    if spec.metadata["secret"]:
        return "secret"
    if name in CHOICES:
        return "choice"
    if isinstance(spec.default, bool):
        return "check"
    return "number" if isinstance(spec.default, (int, float)) else "text"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def changes_in(submitted: Mapping[str, str], before: Settings) -> dict[str, Any]:
    """What the form changes of `before`; None takes a setting back to its default. Raises `ConfigError`."""
    changes: dict[str, Any] = {}
    mistakes: list[str] = []
    for name in (name for names in GROUPS.values() for name in names if name != "id"):
        try:
            value = _submitted(name, submitted)
        except ValueError as exc:
            mistakes.append(f"{name}: {exc}")
            continue
        current = getattr(before, name)
        if (
            value is KEEP
            or value == current
            or (value is None and current == convert(SPECS[name], SPECS[name].default))
        ):
            continue
        changes[name] = plain_value(value)
    if mistakes:
        raise ConfigError(mistakes)
    return changes


KEEP = object()
"""A secret that was left empty stays as it is."""


def _submitted(name: str, submitted: Mapping[str, str]) -> Any:
    kind, text = _kind(name), submitted.get(name, "").strip()
    if kind == "check":
        return text == "true"
    if kind == "secret" and not text:
        return None if submitted.get(f"{name}.remove") else KEEP
    if not text:
        return "" if name.startswith("on_") else None  # an empty name turns a hook off
    return convert(SPECS[name], text, text=True)


_FIELD = re.compile(r"([a-z_]+)(?: \([^)]*\))?: ")


def sorted_mistakes(mistakes: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Mistakes by the field that they name, and those that name none the form has."""
    by_field: dict[str, list[str]] = {}
    others: list[str] = []
    for mistake in mistakes:
        match = _FIELD.match(mistake)
        if match and match[1] in SPECS and match[1] not in HOST_ONLY:
            by_field.setdefault(match[1], []).append(mistake[match.end() :])
        else:
            others.append(mistake)
    return by_field, others

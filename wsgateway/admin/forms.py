"""The form of a gateway, derived from the declaration of its settings. Does not know pages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsgateway.config.settings import SPECS, Settings
from wsgateway.config.values import Kind, Startup, convert, kind_of
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.limits import SlowPolicy
from wsgateway.supervisor.changes import HOST_ONLY

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Gateway": (
        "id", "host", "port", "startup", "workers", "broker_timeout", "listener", "echo_sender", "test_page", "verbose",
    ),
    "Access": ("allowed_origins", "allowed_hosts", "api_key", "local_access", "protocols", "centrifuge_channel"),
    "Tokens": (
        "token_secret", "token_algorithms", "token_issuer", "token_audience", "token_user_claim", "token_leeway",
        "token_cookie", "anonymous",
    ),
    "Clients that do not read or answer": (
        "ping_interval", "pong_timeout", "outbox_bytes", "outbox_messages", "send_timeout", "slow_policy", "drain",
    ),
    "Limits": (
        "max_message_size", "max_send_size", "max_connections", "max_connections_per_address", "max_channels",
        "history_bytes", "message_rate",
        "message_burst", "connect_rate", "connect_burst", "send_rate", "send_burst",
        "handshake_timeout", "hook_timeout", "compression",
    ),
    "Names of hooks": tuple(name for name, spec in SPECS.items() if kind_of(spec) is Kind.HOOK),
}  # fmt: skip
"""Every setting that can be changed remotely, as the form groups them."""

CHOICES: Mapping[str, tuple[str, ...]] = {"startup": tuple(Startup), "slow_policy": tuple(SlowPolicy)}


@dataclass(frozen=True, slots=True)
class FormField:
    """One setting in the form. `kind` is its control: text, number, check, choice, or secret."""

    name: str
    kind: str
    value: str
    help: str
    default: str
    mistakes: tuple[str, ...]
    choices: tuple[str, ...] = ()


def form_of(
    settings: Settings,
    *,
    submitted: Mapping[str, str] | None = None,
    mistakes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[FormField]]:
    """Return the fields by group: as `settings` are or, if the form was sent, as `submitted`, with its `mistakes`."""
    mistakes = mistakes or {}
    return {
        group: [_field(name, settings, submitted, mistakes.get(name, ())) for name in names]
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


def settings_in(submitted: Mapping[str, str], before: Settings) -> dict[str, Any]:
    """Return the settings of a new gateway from the form, which has shown `before`. Raise `ConfigError`."""
    mistakes = _mistakes_of_id(submitted.get("id", "").strip())
    try:
        changes = changes_in(submitted, before)
    except ConfigError as exc:
        raise ConfigError([*mistakes, *exc.mistakes]) from exc
    if mistakes:
        raise ConfigError(mistakes)
    offered = {"listener": before.listener, "port": before.port}
    return offered | {name: value for name, value in changes.items() if value is not None}


def _mistakes_of_id(gateway_id: str) -> tuple[Mistake, ...]:
    try:
        Settings(id=gateway_id)
    except ConfigError as exc:
        return exc.mistakes
    return ()


KEEP = object()
"""The value of a secret that was left empty, which does not change it."""


def changes_in(submitted: Mapping[str, str], before: Settings) -> dict[str, Any]:
    """Return the settings that the form changes. None resets a setting to its default. Raise `ConfigError`."""
    changes: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name in (name for names in GROUPS.values() for name in names if name != "id"):
        try:
            value = _submitted(name, submitted)
        except ValueError as exc:
            mistakes.append(Mistake(name, "", str(exc)))
            continue
        current = getattr(before, name)
        is_default = value is None and current == convert(SPECS[name], SPECS[name].default)
        if value is not KEEP and value != current and not is_default:
            changes[name] = value
    if mistakes:
        raise ConfigError(mistakes)
    return changes


def _submitted(name: str, submitted: Mapping[str, str]) -> Any:
    kind, text = _kind(name), submitted.get(name, "").strip()
    if kind == "check":
        return text == "true"
    if kind == "secret" and not text:
        return None if submitted.get(f"{name}.remove") else KEEP
    if not text:
        return "" if kind_of(SPECS[name]) is Kind.HOOK else None  # an empty name turns a hook off
    return convert(SPECS[name], text, text=True)


def by_field(mistakes: Iterable[Mistake]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the mistakes in the fields of the form, by field, and all others.

    A mistake with a source is about a value outside the form, such as one in another table of the file.
    """
    in_form: dict[str, list[str]] = {}
    others: list[str] = []
    for mistake in mistakes:
        if mistake.setting in SPECS and mistake.setting not in HOST_ONLY and not mistake.source:
            in_form.setdefault(mistake.setting, []).append(mistake.text)
        else:
            others.append(str(mistake))
    return in_form, others

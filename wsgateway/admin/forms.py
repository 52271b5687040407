"""The form of a gateway, derived from the declaration of its settings. Does not know pages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsgateway.config.settings import SPECS, Settings
from wsgateway.config.topics import ESSENTIALS, TOPICS
from wsgateway.config.values import Kind, Startup, convert, kind_of
from wsgateway.exceptions import ConfigError, Mistake
from wsgateway.limits import SlowPolicy
from wsgateway.supervisor.changes import HOST_ONLY

EDITABLE = tuple(name for names in TOPICS.values() for name in names if name != "id" and name not in HOST_ONLY)
"""The settings in the form of a gateway."""

OF_NEW = ("listener", "port")
"""The settings in the form of a new gateway, besides its id."""

OF_OWN_SERVER = ("host", "port", "uds", "uds_mode", "ssl_keyfile", "ssl_certfile", "startup", "workers")
"""Settings of the server of a gateway. They do not apply to a gateway that an application serves."""

CHOICES: Mapping[str, tuple[str, ...]] = {"startup": tuple(Startup), "slow_policy": tuple(SlowPolicy)}


@dataclass(frozen=True, slots=True)
class FormField:
    """One setting in the form. `kind` is its control: text, number, check, choice, or secret; fixed without one.

    `reason` is why a fixed setting cannot be changed in a form.
    """

    name: str
    kind: str
    value: str
    help: str
    default: str
    is_changed: bool
    """Whether the gateway's value differs from the default."""
    mistakes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Topic:
    """Fields about one subject."""

    name: str
    fields: Sequence[FormField]

    @property
    def changed(self) -> int:
        """The number of settings that differ from their defaults."""
        return sum(field.is_changed for field in self.fields)

    @property
    def is_wrong(self) -> bool:
        return any(field.mistakes for field in self.fields)

    def matches(self, search: str) -> bool:
        """Return whether a name or a help text contains `search`, in any case. Nothing contains an empty text."""
        text = "\n".join(f"{field.name} {field.help}" for field in self.fields)
        return bool(search) and search.casefold() in text.casefold()


def form_of(
    settings: Settings,
    *,
    submitted: Mapping[str, str] | None = None,
    mistakes: Mapping[str, Sequence[str]] | None = None,
) -> list[Topic]:
    """Return the settings that are changed most often, then all others by topic.

    The values are those of `settings` or, if the form was sent, those `submitted`, with their `mistakes`.
    """
    mistakes = mistakes or {}

    def topic(title: str, names: Iterable[str]) -> Topic:
        return Topic(title, [field_of(name, settings, submitted, mistakes.get(name, ())) for name in names])

    others = {title: [name for name in names if name not in (*ESSENTIALS, "id")] for title, names in TOPICS.items()}
    return [topic("First", ESSENTIALS), *(topic(title, names) for title, names in others.items())]


def field_of(
    name: str, settings: Settings, submitted: Mapping[str, str] | None = None, mistakes: Iterable[str] = ()
) -> FormField:
    """Return one setting as its form shows it."""
    spec = SPECS[name]
    kind = "fixed" if name in HOST_ONLY else _kind(name)
    current = getattr(settings, name)
    is_changed = bool(current) if name == "channels" else current != convert(spec, spec.default)
    value = _mask_value(name, settings) if kind == "fixed" else "" if kind == "secret" else _text(current)
    if submitted is not None and kind not in ("secret", "fixed"):
        value = submitted.get(name, "false" if kind == "check" else "")
    default = "" if kind == "secret" or name == "channels" else _text(convert(spec, spec.default))
    return FormField(
        name=name,
        kind=kind,
        value=value,
        help=_help_of(name),
        default=default,
        is_changed=is_changed,
        mistakes=tuple(mistakes),
        choices=CHOICES.get(name, ()),
        reason=HOST_ONLY.get(name, ""),
    )


def _help_of(name: str) -> str:
    text: str = SPECS[name].metadata["help"]
    return text.replace("`", "")


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


def _mask_value(name: str, settings: Settings) -> str:
    """Return the value of a setting without secrets."""
    value = settings.shown()[name]
    if isinstance(value, dict):
        return "; ".join(f"{pattern} ({_options(options)})" for pattern, options in value.items())
    return _text(tuple(value) if isinstance(value, list) else value)


def _options(options: Mapping[str, object]) -> str:
    parts = []
    for name, value in options.items():
        if value is not None:
            text = "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            parts.append(f"{name} {text}")
    return ", ".join(parts)


def values_of(settings: Settings, *, has_own_server: bool) -> list[Topic]:
    """Return the settings by topic for a reader, without secrets, and without those that do not apply."""
    hidden = {"id"} if has_own_server else {"id", *OF_OWN_SERVER}
    fields = {
        name: FormField(
            name=name,
            kind="fixed",
            value=_mask_value(name, settings),
            help=_help_of(name),
            default="",
            is_changed=field_of(name, settings).is_changed,
        )
        for name in SPECS
    }
    return [Topic(title, [fields[name] for name in names if name not in hidden]) for title, names in TOPICS.items()]


def settings_in(submitted: Mapping[str, str], before: Settings) -> dict[str, Any]:
    """Return the settings of a new gateway from its form, which has shown `before`. Raise `ConfigError`."""
    mistakes = _mistakes_of_id(submitted.get("id", "").strip())
    try:
        changes = changes_in(submitted, before, OF_NEW)
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


def changes_in(submitted: Mapping[str, str], before: Settings, names: Iterable[str] = EDITABLE) -> dict[str, Any]:
    """Return which of the settings `names` the form changes. None resets a setting to its default.

    Raise `ConfigError`.
    """
    changes: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name in names:
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

"""What every declaration of settings shares. Does not know which settings there are."""

from dataclasses import Field, field, fields
from typing import Any, Self

from wsgateway.config.values import Kind, convert, is_secret, kind_of, plain_value
from wsgateway.exceptions import ConfigError, Mistake, UnknownSetting
from wsgateway.text import did_you_mean, mask_url


def setting(
    default: Any,
    text: str,
    *,
    kind: Kind | None = None,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    guards: bool = False,
) -> Any:
    """Return a field with its default, help text, kind, and range. A `secret` value must never be shown.

    `choices` are the items that a list may contain; empty means any. If the setting `guards` the gateway, a value that
    is empty where it is written is a mistake, because it would open the gateway.
    """
    metadata = {"help": text, "kind": kind, "least": least, "most": most, "choices": choices, "secret": secret}
    metadata["guards"] = guards
    is_hashable = kind is not Kind.CHANNELS
    return field(default=default, hash=None if is_hashable else False, metadata=metadata)


class Declared:
    """The base of each declaration. Refuses unknown names, suggests the nearest, and never prints a secret."""

    __slots__ = ()

    def __new__(cls, *_: object, **options: object) -> Self:
        known = names_of(cls)
        unknown = [name for name in options if name not in known]
        if unknown:
            mistakes = [Mistake(name, "", cls.no_such_setting(name)) for name in unknown]
            try:
                cls(**{name: value for name, value in options.items() if name in known})
            except ConfigError as exc:
                mistakes.extend(exc.mistakes)
            raise UnknownSetting(mistakes)
        return object.__new__(cls)

    @classmethod
    def no_such_setting(cls, name: str) -> str:
        """Return what is wrong with `name`, which is not a setting of this declaration."""
        return f"there is no such setting{did_you_mean(name.lower().replace('-', '_'), names_of(cls))}"

    def shown(self) -> dict[str, object]:
        """Return every setting as JSON can carry it, secrets as `"***"`, even before they are converted."""
        specs = fields(self)  # type: ignore[arg-type]  # each subclass is a dataclass
        return {spec.name: _shown(spec, getattr(self, spec.name, None)) for spec in specs}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"


def names_of(declaration: type[Declared]) -> list[str]:
    """Return the names of the settings in `declaration`."""
    return [spec.name for spec in fields(declaration)]  # type: ignore[arg-type]  # each subclass is a dataclass


def convert_fields(settings: Any, table: str = "") -> list[Mistake]:
    """Convert every field of `settings` in place, and return the mistakes. `table` is its table in a settings file.

    A listener that is not text is left as it is, and so are channels, which have settings of their own.
    """
    mistakes: list[Mistake] = []
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        if kind_of(spec) is Kind.CHANNELS or (kind_of(spec) is Kind.LISTENER and not isinstance(value, str)):
            continue
        try:
            object.__setattr__(settings, spec.name, convert(spec, value))
        except ValueError as exc:
            mistakes.append(Mistake(spec.name, f"{spec.name} ({table})" if table else "", str(exc)))
    return mistakes


def _shown(spec: Field[Any], value: object) -> object:
    if spec.metadata["secret"]:
        return "***" if value else None
    if kind_of(spec) is Kind.LISTENER and not isinstance(value, (str, type(None))):
        listener_class = value if isinstance(value, type) else type(value)
        return f"{listener_class.__module__}.{listener_class.__qualname__}"
    if kind_of(spec) is Kind.CHANNELS and isinstance(value, dict):
        return {name: one.shown() if isinstance(one, Declared) else one for name, one in value.items()}
    if is_secret(spec) and value is not None:
        return mask_url(value) if isinstance(value, str) else "***"
    return plain_value(value)

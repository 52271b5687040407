"""Reads the variables `WSGATEWAY_…` of an environment, and warns about ignored ones.

Knows nothing of the file and the command line.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsgateway.config.files import read_text
from wsgateway.config.settings import ADMIN_SPECS, ENV, SPECS
from wsgateway.config.values import Kind, is_switch, kind_of, parts_of
from wsgateway.text import did_you_mean

CONFIG = ENV + "CONFIG"

MAX_NAMED = 3
"""Variables of Kubernetes that a warning names."""

_FILES = {
    ENV + "API_KEY_FILE": "api_key",
    ENV + "BROKER_FILE": "broker",
    ENV + "TOKEN_SECRET_FILE": "token_secret",
}
"""Variables that name a file with a secret."""

_SETTINGS = {**SPECS, **ADMIN_SPECS}
_VARIABLES = {ENV + name.upper(): name for name in _SETTINGS}

_SERVICE = re.compile(
    ENV + r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with `wsgateway`, as Docker does for a
link. Another one, `…_PORT`, may also be the variable of a setting."""

_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)
"""Prefix of the value of `…_PORT` if Kubernetes has set it."""


@dataclass(frozen=True, slots=True)
class Variables:
    """The settings in an environment, by name. Those of the admin interface have names such as `admin_port`."""

    texts: Mapping[str, str] = field(repr=False)
    files: Mapping[str, str]
    """Paths of files that hold a setting."""
    empty_secrets: tuple[str, ...]
    """Variables for a secret that are empty, such as one that a compose file could not fill in."""
    empty_guards: tuple[tuple[str, str], ...]
    """Settings without which tokens would not be checked, and the variable of each, which is empty."""
    warnings: tuple[str, ...]

    def empty_secret(self, *, of_admin: bool) -> str | None:
        """Return the first of `empty_secrets` for the admin interface, or for a gateway."""
        return next((name for name in self.empty_secrets if _is_of_admin(name) is of_admin), None)


def read_variables(environ: Mapping[str, str]) -> Variables:
    """Return the settings in `environ`. An empty variable counts as not set, unless an empty value has a meaning."""
    texts: dict[str, str] = {}
    files: dict[str, str] = {}
    empty_secrets: list[str] = []
    empty_guards: list[tuple[str, str]] = []
    services: list[str] = []
    warnings: list[str] = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV):
            continue
        if is_of_service(variable, text):
            services.append(variable)
        elif variable not in _VARIABLES and variable not in _FILES and variable != CONFIG:
            warnings.append(
                f"{variable} is not a setting and is ignored{did_you_mean(variable, [*_VARIABLES, *_FILES])}"
            )
        elif _is_empty(variable, text) and (guard := _guard_of(variable)):
            empty_guards.append((guard, variable))
        elif _is_empty(variable, text):
            if _is_of_secret(variable):
                empty_secrets.append(variable)
            warnings.extend(_warnings_about_empty(variable))
        elif variable in _FILES:
            files[_FILES[variable]] = text
        elif variable != CONFIG:
            texts[_VARIABLES[variable]] = text
            if not text.strip() and kind_of(_SETTINGS[_VARIABLES[variable]]) is Kind.HOOK:
                warnings.append(f"{variable} is empty, so the hook is turned off")
    if services:
        warnings.insert(0, _warning_about_services(services))
    return Variables(texts, files, tuple(empty_secrets), tuple(empty_guards), tuple(warnings))


def config_of(environ: Mapping[str, str]) -> str | None:
    """Return the settings file that the environment names; None if it names none."""
    text = environ.get(CONFIG, "")
    return text if text.strip() else None


def variable_of(name: str) -> str:
    """Return the variable of the setting `name`."""
    return ENV + name.upper()


def read_secret(name: str, path: str) -> str | tuple[str, ...]:
    """Return the value of the setting `name` from the file at `path`: a key on each line, or one URL.

    Raise `ValueError`, which never quotes the text.
    """
    is_list = isinstance(_SETTINGS[name].default, tuple)
    try:
        text = read_text(Path(path))
    except OSError as exc:
        raise ValueError(f"cannot read {name} from {path!r}: {exc.strerror}") from None
    except ValueError as exc:
        raise ValueError(f"cannot read {name} from {path!r}: the file {exc}") from None
    # an API key has no spaces, so several may share a line
    words = [line.strip() for line in text.split("\n") if line.strip()] if name == "token_secret" else text.split()
    if not words:
        content = "key" if is_list else "URL"
        raise ValueError(f"{path!r} does not contain a {content}, write one into it, or remove the variable")
    return tuple(words) if is_list else " ".join(words)


def is_of_service(variable: str, text: str) -> bool:
    """Return whether Kubernetes has set the variable, for a Service."""
    is_url = variable.endswith("_PORT") and _SERVICE_URL.match(text)
    return bool(is_url or _SERVICE.fullmatch(variable))


def _warning_about_services(variables: list[str]) -> str:
    named, more = ", ".join(variables[:MAX_NAMED]), len(variables) - MAX_NAMED
    return (
        f"{named}{f' and {more} more variables' if more > 0 else ''} of a Kubernetes Service are ignored, "
        "set enableServiceLinks: false in the pod to leave them out"
    )


def _warnings_about_empty(variable: str) -> Iterator[str]:
    """Yield a warning about an empty variable, unless the setting is a number or a switch, which has its default."""
    name = _FILES.get(variable) or _VARIABLES.get(variable)
    if _is_of_secret(variable):
        owner, place = ("the admin interface", " below [admin]") if _is_of_admin(variable) else ("the gateway", "")
        yield (
            f"{variable} is empty and counts as not set; {owner} also refuses callers on this host without a key, "
            f"unless you set local_access = true{place}"
        )
    elif name is None or not (isinstance(_SETTINGS[name].default, (int, float)) or is_switch(_SETTINGS[name])):
        yield f"{variable} is empty and counts as not set"


def _is_of_admin(variable: str) -> bool:
    return _VARIABLES.get(variable) in ADMIN_SPECS


def _guard_of(variable: str) -> str:
    """Return the setting of the variable if it guards the gateway, otherwise an empty text."""
    name = _FILES.get(variable) or _VARIABLES.get(variable, "")
    return name if name and _SETTINGS[name].metadata["guards"] else ""


def _is_of_secret(variable: str) -> bool:
    name = _FILES.get(variable) or _VARIABLES.get(variable)
    return name is not None and _SETTINGS[name].metadata["secret"]


def _is_empty(variable: str, text: str) -> bool:
    """Return whether the variable counts as not set. An empty name turns a hook off; an empty log file means none."""
    name = _VARIABLES.get(variable, "")
    if name == "log_file" or (name and kind_of(_SETTINGS[name]) in (Kind.HOOK, Kind.CHANNEL_NAME)):
        return False
    is_list = name in _SETTINGS and isinstance(_SETTINGS[name].default, tuple)
    return not (parts_of(text) if is_list else text.strip())

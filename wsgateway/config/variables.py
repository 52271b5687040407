"""The variables `WSGATEWAY_…` of an environment: which of them are settings, and what is worth a line about the others.
Knows nothing of the file and the command line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsgateway.config.files import read_text
from wsgateway.config.settings import ADMIN_SPECS, ENV, SPECS
from wsgateway.config.values import did_you_mean, is_switch, parts_of

CONFIG = ENV + "CONFIG"

_FILES = {ENV + "API_KEY_FILE": "api_key", ENV + "BROKER_FILE": "broker"}
"""What is secret can stand in a file of its own."""

_SETTINGS = {**SPECS, **ADMIN_SPECS}
_VARIABLES = {ENV + name.upper(): name for name in _SETTINGS}

_SERVICE = re.compile(
    ENV + r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with `wsgateway`, as Docker does for a
link. There is one more, which may also be the variable of a setting."""

_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)
"""Start of the value of `…_PORT` if Kubernetes has set it."""

MAX_NAMED = 3
"""Variables of Kubernetes that a line names."""


@dataclass(frozen=True, slots=True)
class Variables:
    """What an environment says. `texts` and `files` are by setting, those of the admin interface as `admin_port`."""

    texts: Mapping[str, str] = field(repr=False)
    files: Mapping[str, str]
    """Paths of files that hold a setting."""
    empty_secrets: tuple[str, ...]
    """Variables that should hold a secret and are empty, as one that a compose file could not fill in."""
    warnings: tuple[str, ...]

    def empty_secret(self, *, of_admin: bool) -> str | None:
        """Return the first of `empty_secrets` that is the admin interface's, or a gateway's."""
        return next((name for name in self.empty_secrets if name.startswith(ENV + "ADMIN_") is of_admin), None)


def read_variables(environ: Mapping[str, str]) -> Variables:
    """Sort the variables of `environ`. One that is empty counts as not set, except where empty means something."""
    texts: dict[str, str] = {}
    files: dict[str, str] = {}
    empty_secrets: list[str] = []
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
        elif _is_empty(variable, text):
            if _is_of_secret(variable):
                empty_secrets.append(variable)
            warnings.extend(_line_about_empty(variable))
        elif variable in _FILES:
            files[_FILES[variable]] = text
        elif variable != CONFIG:
            texts[_VARIABLES[variable]] = text
            if not text.strip() and _VARIABLES[variable].startswith("on_"):
                warnings.append(f"{variable} is empty, so the listener's hook is never called")
    if services:
        warnings.insert(0, _line_about_services(services))
    return Variables(texts, files, tuple(empty_secrets), tuple(warnings))


def config_of(environ: Mapping[str, str]) -> str | None:
    """Return the settings file that the environment names."""
    text = environ.get(CONFIG, "")
    return text if text.strip() else None


def variable_of(name: str) -> str:
    """Return the variable of the setting `name`."""
    return ENV + name.upper()


def read_secret(name: str, path: str) -> str | tuple[str, ...]:
    """Return what the file at `path` holds for the setting `name`: a key on each line, or one URL.

    Raise `ValueError`, which quotes nothing of it.
    """
    what = "key" if name == "api_key" else "URL"
    try:
        words = read_text(Path(path)).split()
    except OSError as exc:
        raise ValueError(f"cannot read {name} from {path!r}: {exc.strerror}") from None
    except ValueError as exc:
        raise ValueError(f"cannot read {name} from {path!r}: the file {exc}") from None
    if not words:
        raise ValueError(f"there is no {what} in {path!r}, write one into it, or remove the variable")
    return tuple(words) if name == "api_key" else " ".join(words)


def is_of_service(variable: str, text: str) -> bool:
    """Return whether Kubernetes has set the variable, for a Service."""
    is_url = variable.endswith("_PORT") and _SERVICE_URL.match(text)
    return bool(is_url or _SERVICE.fullmatch(variable))


def _line_about_services(variables: list[str]) -> str:
    named, more = ", ".join(variables[:MAX_NAMED]), len(variables) - MAX_NAMED
    return (
        f"{named}{f' and {more} more variables' if more > 0 else ''} of a Kubernetes Service are ignored, "
        "enableServiceLinks: false in the pod leaves them out"
    )


def _line_about_empty(variable: str) -> Iterator[str]:
    """Yield a line about an empty variable, unless it is one of a number, which has its default then."""
    name = _FILES.get(variable) or _VARIABLES.get(variable)
    if _is_of_secret(variable):
        is_admin = variable.startswith(ENV + "ADMIN_")
        owner, place = ("the admin interface", " below [admin]") if is_admin else ("the gateway", "")
        yield (
            f"{variable} is empty and counts as not set; {owner} does not let callers on this host in without a key "
            f"either, unless local_access = true is written down{place}"
        )
    elif name is None or not (isinstance(_SETTINGS[name].default, (int, float)) or is_switch(_SETTINGS[name])):
        yield f"{variable} is empty and counts as not set"


def _is_of_secret(variable: str) -> bool:
    name = _FILES.get(variable) or _VARIABLES.get(variable)
    return name is not None and _SETTINGS[name].metadata["secret"]


def _is_empty(variable: str, text: str) -> bool:
    """Whether the variable counts as not set. An empty name turns a hook off, an empty log file means none."""
    name = _VARIABLES.get(variable, "")
    if name == "log_file" or name.startswith("on_"):
        return False
    is_list = name in _SETTINGS and isinstance(_SETTINGS[name].default, tuple)
    return not (parts_of(text) if is_list else text.strip())

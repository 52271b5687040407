"""Decides which listeners may be set remotely, by the patterns of `[admin] listeners`, such as `hooks/*.py:*`."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from wsgateway.listeners.loader import ListenerName, parse_name

_ARE_ODD = frozenset({"", ".", ".."})
_ODD = re.compile(r"[\\%:\x00-\x1f\x7f]")


def is_allowed(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of `patterns` allows the listener `name`. Check files, but do not load them.

    In the path of a file, `*` does not match a slash. The file, with every link resolved, has to be below the folder
    with which the pattern begins. In the name of a module `*` matches identifiers and dots. A pattern without
    `.py` allows only modules. A pattern without an attribute allows the module or file itself and, if it is for modules
    and ends with `*`, every attribute.
    """
    asked = parse_name(name)
    return _is_plain(asked) and any(_matches(asked, pattern) for pattern in patterns)


def warnings_about(patterns: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each of `patterns` that allows nothing."""
    for pattern in patterns:
        where, attribute = _split(pattern)
        is_file = where.endswith(".py")
        parts = where.removeprefix("/").split("/") if is_file else where.split(".")
        is_odd = (
            _ODD.search(where) or ("/" in where and not is_file) or not {"/", "\\", "."}.isdisjoint(attribute or "")
        )
        if is_odd or not _ARE_ODD.isdisjoint(parts):
            advice = "write a file as hooks/*.py:*, a module as shop.*"
            yield f"listeners ([admin]): {pattern[:100]!r} allows nothing, {advice}"


def _is_plain(asked: ListenerName) -> bool:
    """Return whether the name has only one spelling: no `..`, `//`, backslashes, or encoded characters."""
    if not asked.is_file:
        return all(part.isidentifier() for part in asked.where.split("."))
    return _ARE_ODD.isdisjoint(asked.where.removeprefix("/").split("/")) and not _ODD.search(asked.where)


def _split(pattern: str) -> tuple[str, str | None]:
    """Return the part of `pattern` for the file or module, and the part for the attribute, or None."""
    where, colon, attribute = pattern.rpartition(":")
    return (where, attribute) if colon else (pattern, None)


def _matches(asked: ListenerName, pattern: str) -> bool:
    where, attribute = _split(pattern)
    if where.endswith(".py") is not asked.is_file:
        return False
    if attribute is not None:
        fits = bool(asked.attribute) and _fits(asked.attribute, attribute)
    else:
        fits = not asked.attribute or (where.endswith("*") and not asked.is_file)
    return fits and (_is_below if asked.is_file else _is_module)(asked.where, where)


def _is_below(path: str, pattern: str) -> bool:
    """Return whether the file at `path` matches `pattern`, and is below its folder when links are followed."""
    parts, patterns = path.split("/"), pattern.split("/")
    if len(parts) != len(patterns) or not all(map(_fits, parts, patterns)):
        return False
    folder = "/".join([*takewhile(_is_literal, patterns[:-1]), ""])  # empty: the working folder
    try:
        return Path(path).resolve().is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name that is too long
        return False


def _is_module(name: str, pattern: str) -> bool:
    package = list(takewhile(_is_literal, pattern.split(".")[:-1]))
    return _fits(name, pattern) and not _is_elsewhere(name.split("."), package)


def _is_elsewhere(parts: Sequence[str], package: Sequence[str]) -> bool:
    """Return whether a module would come from a folder other than the first that has `package`.

    Without an `__init__.py`, Python joins the folders of a package from all of `sys.path` (PEP 420). Therefore a folder
    that other users can write to could add a module.
    """
    if not package:
        return False
    folders = [folder for place in sys.path if any((folder := Path(place, *package)).glob("*.py"))]
    if any((folder / "__init__.py").exists() for folder in folders):
        return False  # Python uses only that folder
    inner = parts[len(package) :]
    return any(_has(folder, inner) for folder in folders) and not _has(folders[0], inner)


def _has(folder: Path, parts: Sequence[str]) -> bool:
    path = folder.joinpath(*parts)
    return path.is_dir() or any(path.parent.glob(f"{path.name}.*"))


def _is_literal(part: str) -> bool:
    return not any(mark in part for mark in "*?[")


def _fits(text: str, pattern: str) -> bool:
    return _regex(pattern).fullmatch(text) is not None


@lru_cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))

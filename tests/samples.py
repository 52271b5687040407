"""The samples of the documentation: blocks of code whose first line is a comment with their name."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent

_SAMPLE = re.compile(r"^```(python|js)\n(?:#|//) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def samples(page: str, language: str) -> dict[str, str]:
    """Return the samples of `page` in `language`, code by name."""
    blocks: list[tuple[str, str, str]] = _SAMPLE.findall((ROOT / page).read_text())
    return {name: code for found, name, code in blocks if found == language}


def run_sample(page: str, name: str, replace: Mapping[str, str] | None = None) -> Any:
    """Run a Python sample, and return its module. The caller uses the names that the sample defines.

    `replace` replaces what is different in a test, such as the URL of a broker.
    """
    module = ModuleType(name.removesuffix(".py"))
    code = samples(page, "python")[name]
    for written, in_test in (replace or {}).items():
        assert written in code, written
        code = code.replace(written, in_test)
    exec(compile(code, f"{page}: {name}", "exec", dont_inherit=True), module.__dict__)
    return module

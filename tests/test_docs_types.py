"""The Python of the documentation passes the type checker, strictly, as its readers' own code would."""

import re
from pathlib import Path

import mypy.api
import pytest

from tests.samples import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# (\S+)\n")


def modules(page: Path) -> dict[str, str]:
    """Return the code of each sample of `page`, by the name of a module. Samples of a page may import each other."""
    prefix = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix(""))).lower()
    names: dict[str, str] = {}
    codes: dict[str, str] = {}
    for number, code in enumerate(_BLOCK.findall(page.read_text())):
        if page.parent.name == "coming-from" and "wsgateway" not in code:
            continue  # shows another library
        found = _NAME.match(code)
        own = found[1].removesuffix(".py").replace("/", ".") if found else f"block_{number}"
        if page.parent.name == "coming-from" and own.startswith("chat_"):
            continue  # the half for the other system, such as `chat_channels.py`
        names[own] = f"{prefix}_{own.replace('.', '_')}"
        codes[own] = code
    for own, code in codes.items():
        for other, name in names.items():
            code = re.sub(rf"^( *from| *import) {re.escape(other)}\b", rf"\1 {name}", code, flags=re.MULTILINE)
        codes[own] = code
    return {names[own]: code for own, code in codes.items()}


def test_the_samples_pass_the_type_checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {name: code for page in PAGES for name, code in modules(page).items()}
    assert len(samples) > 40
    for name, code in samples.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("MYPYPATH", str(tmp_path))
    cache = str(ROOT / ".mypy_cache")
    config = str(ROOT / "pyproject.toml")
    files = [str(tmp_path / f"{name}.py") for name in samples]
    output, errors, status = mypy.api.run(["--config-file", config, "--cache-dir", cache, *files])
    assert status == 0, output + errors

"""The reference is that of the code: generated parts are current, and every name and line on a page exists."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = runpy.run_path(str(ROOT / "tools" / "reference.py"))


@pytest.mark.parametrize(("page", "name"), REFERENCE["PARTS"])
def test_a_generated_part_is_current(page: str, name: str) -> None:
    _, part, _ = REFERENCE["split"]((ROOT / page).read_text(), name)
    assert part == REFERENCE["PARTS"][page, name](), "run: make reference"

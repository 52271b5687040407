"""The page of guarantees names tests that exist, and each guarantee has one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "explanation" / "guarantees.md"

ROW = re.compile(r"^\| (?!guarantee \|)(?!---)(.+?) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")

ROWS = {guarantee: NAMED.findall(tests) for guarantee, tests in ROW.findall(PAGE.read_text())}


def test_each_guarantee_names_a_test() -> None:
    assert len(ROWS) >= 40
    assert [guarantee for guarantee, tests in ROWS.items() if not tests] == []


@pytest.mark.parametrize(("file", "name"), sorted({test for tests in ROWS.values() for test in tests}))
def test_each_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}

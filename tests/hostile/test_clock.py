"""The clock of the wall goes back an hour: what lasts is measured on the one that does not."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "wsgateway"

WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

TOLD = {"cli/doctor.py": 1, "hub/connection.py": 1, "hub/recording.py": 1}
"""Where a time of day is wanted, which somebody is told: when a connection opened, when something happened,
until when a certificate is valid."""


def test_only_what_is_told_to_somebody_is_the_time_of_day() -> None:
    found: dict[str, int] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL:
                name = path.relative_to(PACKAGE).as_posix()
                found[name] = found.get(name, 0) + 1
            assert not (isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime")), path
    assert found == TOLD

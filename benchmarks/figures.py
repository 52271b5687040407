"""What was measured: one value for each round, by table, row, and column."""

import json
import statistics
from pathlib import Path

Key = tuple[str, str, str]


class Figures:
    """Values by table, row, and column, of which `round` is measured now. Ratios compare the values of one round."""

    def __init__(self) -> None:
        self.round = 0
        self.found: dict[Key, dict[int, float]] = {}
        self.failed: dict[str, str] = {}

    def note(self, table: str, row: str, column: str, value: float) -> None:
        self.found.setdefault((table, row, column), {})[self.round] = value

    def values(self, key: Key) -> list[float]:
        return list(self.found.get(key, {}).values())

    def median(self, table: str, row: str, column: str) -> float | None:
        values = self.values((table, row, column))
        return statistics.median(values) if values else None

    def ratios(self, above: Key, below: Key) -> list[float]:
        """Return the ratio of two figures for each round that has both."""
        first, second = self.found.get(above, {}), self.found.get(below, {})
        return [first[number] / second[number] for number in first if second.get(number)]

    def rows(self, table: str) -> list[str]:
        return list(dict.fromkeys(row for found, row, _ in self.found if found == table))

    def forget(self, tables: list[str]) -> None:
        """Discard the figures of `tables`, because they are measured again."""
        self.found = {key: values for key, values in self.found.items() if key[0] not in tables}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps([[*key, list(values.items())] for key, values in self.found.items()]))

    def load(self, path: Path) -> None:
        for table, row, column, values in json.loads(path.read_text()):
            self.found[table, row, column] = {int(number): float(value) for number, value in values}

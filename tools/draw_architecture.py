"""Draws docs/explanation/architecture.svg from the imports of the package: the rooms, their modules, their imports.

Run it as `python -m tools.draw_architecture`, after a module was added, moved, or removed. A test compares the result.
"""

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "wsgateway"
PICTURE = ROOT / "docs" / "explanation" / "architecture.svg"

ENTRY_POINTS = {"__init__", "__main__", "app", "publisher", "testing"}
"""Files at the top level that use the rooms. The other files there are the ground, and the client."""

ROW, CELL, LEFT, NAMES, WIDTH = 20, 26, 16, 150, 620
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .room { font-weight: 600 } .small { fill: #59636e }
.line { stroke: #d1d9e0 } .box { fill: #f6f8fa } .cell { fill: #0969da } .own { fill: #d1d9e0 } .back { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 } .line { stroke: #3d444d } .box { fill: #151b23 } .cell { fill: #4493f8 }
.own { fill: #3d444d } .back { fill: #0d1117 } }
""".strip().replace("\n", " ")


def room_of(module: str) -> str:
    """Return the room of a module, given its name without `wsgateway.`."""
    room, dot, _ = module.partition(".")
    if dot or (PACKAGE / room).is_dir():
        return room
    return "client" if room == "client" else "entry points" if room in ENTRY_POINTS else "ground"


def modules() -> dict[str, Path]:
    """Return the path of each module that has code, by its name without `wsgateway.`."""
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {
        name.removesuffix(".__init__"): path
        for name, path in paths.items()
        if not name.endswith(".__init__") or any(isinstance(node, ast.FunctionDef) for node in parsed(path).body)
    }


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the name, without `wsgateway.`, of each module of the package that is imported."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("wsgateway"):
            folder = node.module.removeprefix("wsgateway").removeprefix(".")
            for alias in node.names:
                inner = f"{folder}.{alias.name}".removeprefix(".")
                yield inner if (PACKAGE / inner.replace(".", "/")).with_suffix(".py").exists() else folder or "__init__"


def uses() -> dict[str, set[str]]:
    """Return the rooms that each room imports from."""
    imported: dict[str, set[str]] = {}
    for name, path in modules().items():
        if name != "supervisor.starter":  # application code that `wsgateway init` copies
            imported.setdefault(room_of(name), set()).update(map(room_of, imports_of(path)))
    return {room: others - {room} for room, others in imported.items()}


def in_order(graph: dict[str, set[str]]) -> list[str]:
    """Return the rooms in an order in which each follows all rooms that it imports from."""
    order: list[str] = []
    while len(order) < len(graph):
        ready = [room for room in graph if room not in order and graph[room] <= set(order)]
        if not ready:
            raise SystemExit(f"an import cycle: {sorted(graph.keys() - set(order))}")
        order.append(min(ready, key=lambda room: (len(graph[room]), room)))
    return order


def drawn() -> str:
    """Return the picture."""
    graph = uses()
    order = in_order(graph)
    inside: dict[str, list[str]] = {room: [] for room in order}
    for name in modules():
        inside[room_of(name)].append(name.removeprefix(f"{room_of(name)}."))
    matrix = LEFT + NAMES + WIDTH
    rows: list[str] = []
    top = 110
    for number, room in enumerate(order):
        lines = wrap(", ".join(inside[room]), 92, break_long_words=False)
        height = ROW * len(lines) + 8
        if number % 2 == 0:
            rows.append(
                f'<rect class="box" x="0" y="{top}" width="{matrix + CELL * len(order) + LEFT}" height="{height}"/>'
            )
        rows.append(f'<text class="room" x="{LEFT}" y="{top + ROW - 2}">{escape(room)}</text>')
        for line_number, line in enumerate(lines):
            rows.append(
                f'<text class="small" x="{LEFT + NAMES}" y="{top + ROW * (line_number + 1) - 2}">{escape(line)}</text>'
            )
        for column, other in enumerate(order):
            kind = "own" if other == room else "cell" if other in graph[room] else ""
            if kind:
                x = matrix + CELL * column + 5
                rows.append(f'<rect class="{kind}" x="{x}" y="{top + 5}" width="16" height="16" rx="3"/>')
        top += height
    heads = "".join(
        f'<text transform="translate({matrix + CELL * column + 18},100) rotate(-50)">{escape(room)}</text>'
        for column, room in enumerate(order)
    )
    width, height = matrix + CELL * len(order) + 90, top + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="The rooms of wsgateway: a blue square means that the room in '
        f'its row imports from the room in its column">\n'
        f'<style>{STYLE}</style>\n<rect class="back" width="{width}" height="{height}"/>\n'
        f'<text class="small" x="{LEFT}" y="90">Each room imports only from the rooms above it.</text>\n{heads}\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")

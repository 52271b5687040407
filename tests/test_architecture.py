"""The layout of DESIGN 4, read from the imports: they go down only, and each dependency has its doorway."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "wsgateway"

LEVELS = [
    ["exceptions", "metrics", "logs"],
    ["messages", "config"],
    ["auth", "limits"],
    ["connection", "listeners"],
    ["hub", "events"],
    ["wire", "transports", "routes"],
    ["gateway"],
    ["sockets", "protocols", "store", "server", "client", "testing"],
    ["instances"],
    ["openapi", "api"],
    ["control", "cli"],
    ["app", "__main__", "__init__"],
]
ORDER = {module: (height, place) for height, level in enumerate(LEVELS) for place, module in enumerate(level)}

DOORWAYS = {
    "starlette": {"api", "wire", "transports", "routes", "gateway", "app", "testing"},
    "uvicorn": {"protocols", "server"},
    "websockets": {"sockets", "protocols", "client", "cli"},  # cli knows the errors of the client
    "concurrent_log_handler": {"logs"},
    "uvloop": {"cli"},
    "tomlkit": {"store"},
    "anyio": {"transports", "client", "testing"},
}

PURE = {"exceptions", "metrics", "messages", "auth", "limits"}
IMPURE = {"asyncio", "anyio", "socket", "time", "threading", "os", "logging"}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports_of(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module
            if node.module == "wsgateway":
                yield from (f"wsgateway.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_its_level() -> None:
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_imports_go_down_only(module: str) -> None:
    for name in imports_of(module):
        if name.startswith("wsgateway."):
            assert ORDER[name.split(".")[1]] < ORDER[module], f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_each_dependency_has_its_doorway(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(module)}
    for dependency, doorways in DOORWAYS.items():
        assert dependency not in roots or module in doorways, f"{module} imports {dependency}"


@pytest.mark.parametrize("module", sorted(PURE))
def test_rules_do_no_io_and_read_no_clock(module: str) -> None:
    assert not {name.split(".")[0] for name in imports_of(module)} & IMPURE


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module: str) -> None:
    assert len((PACKAGE / f"{module}.py").read_text().splitlines()) < 600

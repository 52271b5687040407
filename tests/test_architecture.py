"""The layout of DESIGN 4, read from the imports: they go down only, and each dependency has its doorway."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "wsgateway"

LEVELS = [
    [
        "addresses",
        "surroundings",
        "origins",
        "forwarding",
        "closing",
        "exceptions",
        "metrics",
        "logfile",
        "logs",
        "masking",
        "files",
        "loops",
        "unawaited",
    ],
    ["encoding", "messages", "config", "variables", "layers"],
    ["grace", "auth", "limits", "frames", "recordings", "envelopes", "findings"],
    [
        "operations",
        "brokers",
        "brokers.ipc",
        "brokers.redis",
        "brokers.nats",
        "nodes",
        "uplink",
        "connection",
        "hooks",
        "listeners",
        "patterns",
        "watchdog",
    ],
    ["hub", "confirmations", "asks", "cluster", "lanes", "events"],
    ["scopes", "wire", "transports", "directory", "routes"],
    ["gateway"],
    [
        "parser",
        "tcp",
        "sockets",
        "admission",
        "ws_protocol",
        "http_protocol",
        "proxy_headers",
        "store",
        "server",
        "workers",
        "worker",
        "publisher",
        "client",
        "testing",
    ],
    ["supervised", "instances"],
    ["openapi", "api"],
    ["admin.passwords", "admin.sessions", "admin.forms", "admin.live", "admin.views", "admin.panel", "admin"],
    ["terminal", "control", "doctor", "serve", "cli"],
    ["app", "__main__", "__init__"],
]
ORDER = {module: (height, place) for height, level in enumerate(LEVELS) for place, module in enumerate(level)}

DOORWAYS = {
    "starlette": {
        "proxy_headers",
        "connection",
        "scopes",
        "api",
        "wire",
        "transports",
        "routes",
        "gateway",
        "app",
        "testing",
        "admin.live",
        "admin.views",
        "admin.panel",
    },
    "uvicorn": {"proxy_headers", "ws_protocol", "http_protocol", "server"},
    "websockets": {
        "parser",
        "tcp",
        "sockets",
        "ws_protocol",
        "http_protocol",
        "client",
        "cli",  # knows the errors of the client
    },
    "idna": {"origins"},
    "uvloop": {"server"},
    "tomlkit": {"store"},
    "jinja2": {"admin.panel"},
    "itsdangerous": {"admin.sessions"},
    "anyio": {"transports", "publisher", "client", "testing"},
    "msgspec": {"encoding", "envelopes", "operations"},
    "zmq": {"brokers.ipc"},
    "redis": {"brokers.redis"},
    "nats": {"brokers.nats"},
}

PURE = {
    "addresses",
    "origins",
    "forwarding",
    "closing",
    "exceptions",
    "frames",
    "masking",
    "metrics",
    "encoding",
    "messages",
    "auth",
    "limits",
    "grace",
    "envelopes",
    "nodes",
    "operations",
    "findings",
}
IMPURE = {"asyncio", "anyio", "socket", "time", "threading", "os", "logging"}

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in (*PACKAGE.glob("*.py"), *(PACKAGE / "admin").glob("*.py"), *(PACKAGE / "brokers").glob("*.py"))
)


def source_of(module: str) -> str:
    path = PACKAGE / module.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def imports_of(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source_of(module))):
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
            imported = name.removeprefix("wsgateway.")
            imported = imported if imported in ORDER else imported.partition(".")[0]
            assert ORDER[imported] < ORDER[module], f"{module} imports {name}"


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
    assert len(source_of(module).splitlines()) < 600

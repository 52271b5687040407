"""The rooms of the package, by its imports, which only point down. Only doorways import a dependency."""

import ast
import re
import runpy
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "wsgateway"
DOCS = PACKAGE.parent / "docs" / "explanation"

ROOMS = {
    "ground": [
        "closing",
        "text",
        "exceptions",
        "logfile",
        "logs",
        "metrics",
        "limits",
        "encoding",
        "messages",
        "frames",
    ],
    "client": ["client"],
    "config": [
        "addresses",
        "origins",
        "files",
        "exposure",
        "values",
        "declaration",
        "channels",
        "namespaces",
        "tokens",
        "settings",
        "topics",
        "variables",
        "grace",
        "sources",
    ],
    "auth": ["headers", "forwarding", "rules", "admin", "masking", "claims", "tokens"],
    "cluster": [
        "history.store",
        "history.tail",
        "history.recovery",
        "history.expiry",
        "history.memory",
        "envelopes",
        "history.requests",
        "history.server",
        "history.service",
        "nodes",
        "brokers",
        "brokers.ipc",
        "brokers.sentinel",
        "brokers.redis_server",
        "brokers.redis",
        "brokers.republished",
        "brokers.nats",
        "topics",
        "bus",
        "records",
        "routing",
        "pulse",
        "acks",
        "tally",
        "sequences",
        "questions",
        "sending",
        "asking",
        "local",
        "heartbeats",
        "cluster",
        "single",
        "members",
        "owners",
        "history.scripts",
        "history.faults",
        "history.pipeline",
        "history.examination",
        "history.redis",
        "history.jetstream",
        "history.stream_reader",
        "history.nats",
        "history.replica",
        "history.ipc",
        "history.stores",
    ],
    "hub": [
        "loops",
        "unawaited",
        "recording",
        "request",
        "outbox",
        "credentials",
        "connection",
        "watched",
        "audience",
        "fan_out",
        "turn_log",
        "hub",
        "target",
        "roster",
        "channel",
        "revocations",
        "shared_history",
        "shared_channel",
        "presence",
        "counting",
        "following",
        "channels",
        "pubsub",
    ],
    "listeners": [
        "event",
        "hooks",
        "loader",
        "inbox",
        "runner",
        "routing",
        "publishing",
        "handshake",
        "subscriptions",
        "requests",
        "reports",
        "dispatcher",
    ],
    "transports": ["framing", "stall", "peer", "posted", "takeover", "native", "asgi", "stream"],
    "protocols": [
        "commands",
        "deadlines",
        "query",
        "identity",
        "expiry",
        "requests",
        "session",
        "posted",
        "v1",
        "jsonrpc",
        "plain",
        "v1_session",
        "lines",
        "sse",
        "centrifuge",
        "centrifuge.codes",
        "centrifuge.commands",
        "centrifuge.replies",
        "centrifuge.formats",
        "centrifuge.json",
        "centrifuge.client_pb2",
        "centrifuge.protobuf",
        "centrifuge.pings",
        "centrifuge.queries",
        "centrifuge.tokens",
        "centrifuge.execution",
        "centrifuge.session",
        "centrifuge.streams",
        "centrifuge.protobuf_session",
    ],
    "gateway": [
        "descriptors",
        "http.paths",
        "lifespan",
        "watchdog",
        "registry",
        "shapes",
        "http.problems",
        "wheel",
        "drain",
        "signals",
        "jwks",
        "keys",
        "clients",
        "admission",
        "members",
        "http.send",
        "posts",
        "emulation",
        "relay",
        "requests",
        "channels",
        "choosing",
        "answers",
        "inspector",
        "api_shapes",
        "overview",
        "trend",
        "parts",
        "running",
        "messaging",
        "http.streams",
        "http.emulation",
        "http.channels",
        "http.testpage",
        "http.script",
        "http.api_fields",
        "http.server_api",
        "http.description",
        "http.routes",
        "gateway",
    ],
    "server": [
        "process",
        "binding",
        "tcp",
        "remote_end",
        "pacing",
        "head",
        "attributes",
        "lingering",
        "guards",
        "taken",
        "keepalive",
        "parser",
        "socket",
        "takeover",
        "stream",
        "websocket",
        "direct",
        "proxy_headers",
        "http",
        "serving",
    ],
    "supervisor": [
        "patterns",
        "changes",
        "document",
        "store",
        "observer",
        "workers",
        "worker",
        "instance",
        "supervisor",
    ],
    "admin": [
        "passwords",
        "logins",
        "credentials",
        "handlers",
        "rest",
        "openapi",
        "api",
        "visit",
        "authentication",
        "forms",
        "rates",
        "trends",
        "connect",
        "live",
        "site",
        "pages.gateway",
        "pages.pager",
        "pages.sending",
        "pages.connections",
        "pages.channels",
        "pages.editing",
        "pages.overview",
        "pages.log",
        "pages.login",
        "pages.table",
        "panel",
        "app",
    ],
    "cli": [
        "terminal",
        "checks",
        "probe",
        "doctor",
        "check",
        "arguments",
        "progress",
        "remote",
        "connections",
        "channels",
        "serve",
        "listen",
        "commands",
        "main",
    ],
    "top": ["publisher", "testing", "app", "__init__", "__main__"],
}
"""The rooms in their order, and the modules of each room in theirs. A module imports only modules before it."""

FLAT = {"ground", "client", "top"}
"""Rooms whose modules are files at the top level."""

UNKNOWN = {
    "config": {"auth", "cluster", "hub", "listeners"},
    "auth": {"hub", "transports"},
    "cluster": {"hub", "listeners"},
    "hub": {"listeners", "protocols", "transports"},
    "transports": {"auth", "cluster", "listeners"},
    "protocols": {"server"},
    "gateway": {"server"},
    "server": {"supervisor", "admin"},
    "admin": {"cli"},
}
"""Rooms that a room may not know."""

TEMPLATES = {"supervisor.starter"}
"""Application code, which `wsgateway init` copies. It imports the public package."""

DOORWAYS = {
    "starlette": {
        "hub.request",
        "hub.connection",
        "transports.native",
        "transports.asgi",
        "transports.stream",
        "gateway.lifespan",
        "gateway.http.paths",
        "gateway.http.problems",
        "gateway.http.send",
        "gateway.http.streams",
        "gateway.http.emulation",
        "gateway.http.channels",
        "gateway.http.testpage",
        "gateway.http.script",
        "gateway.http.routes",
        "gateway.clients",
        "gateway.admission",
        "gateway.gateway",
        "server.proxy_headers",
        "admin.logins",
        "admin.handlers",
        "admin.rest",
        "admin.api",
        "admin.connect",
        "admin.live",
        "admin.visit",
        "admin.authentication",
        "admin.site",
        "admin.pages.gateway",
        "admin.pages.sending",
        "admin.pages.connections",
        "admin.pages.channels",
        "admin.pages.editing",
        "admin.pages.overview",
        "admin.pages.log",
        "admin.pages.login",
        "admin.panel",
        "admin.app",
        "testing",
        "app",
    },
    "uvicorn": {
        "server.attributes",
        "server.guards",
        "server.takeover",
        "server.websocket",
        "server.direct",
        "server.proxy_headers",
        "server.http",
        "server.serving",
    },
    "websockets": {
        "server.parser",
        "server.socket",
        "server.takeover",
        "server.websocket",
        "server.direct",
        "client",
        "cli.listen",  # knows the errors of the client
    },
    "click": {
        "cli.arguments",
        "cli.progress",
        "cli.remote",
        "cli.connections",
        "cli.channels",
        "cli.commands",
        "cli.main",
    },
    "idna": {"config.origins"},
    "uvloop": {"server.process"},
    "tomlkit": {"supervisor.document"},
    "jinja2": {"admin.panel"},
    "itsdangerous": {"admin.logins"},
    "anyio": {"client", "transports.asgi", "transports.stream", "publisher", "testing"},
    "msgspec": {
        "protocols.centrifuge.commands",
        "protocols.centrifuge.json",
        "encoding",
        "cluster.envelopes",
        "cluster.questions",
        "cluster.sending",
        "protocols.centrifuge.protobuf",
        "gateway.answers",
        "gateway.shapes",
        "gateway.api_shapes",
        "gateway.http.server_api",
        "admin.handlers",
        "admin.rest",
        "admin.openapi",
        "admin.live",
        "admin.pages.channels",
        "gateway.http.problems",
        "gateway.http.routes",
    },
    "prometheus_client": {"metrics"},
    "zmq": {"cluster.brokers.ipc", "cluster.history.service", "cluster.history.ipc"},
    "redis": {
        "cluster.brokers.sentinel",
        "cluster.brokers.redis_server",
        "cluster.brokers.redis",
        "cluster.history.pipeline",
        "cluster.history.examination",
    },
    "nats": {"cluster.brokers.nats", "cluster.history.jetstream"},
    "jwt": {"auth.tokens"},
    "cryptography": {"auth.tokens"},
    "google": {"protocols.centrifuge.client_pb2", "protocols.centrifuge.protobuf"},
}
"""The modules that may import each dependency."""

PURE = {
    "config.addresses",
    "closing",
    "exceptions",
    "text",
    "metrics",
    "limits",
    "encoding",
    "messages",
    "frames",
    "config.origins",
    "config.grace",
    "config.declaration",
    "config.channels",
    "config.namespaces",
    "config.tokens",
    "config.topics",
    "auth.claims",
    "auth.forwarding",
    "auth.headers",
    "auth.rules",
    "auth.admin",
    "auth.masking",
    "auth.tokens",
    "cluster.envelopes",
    "cluster.nodes",
    "cluster.questions",
    "cluster.sequences",
    "cluster.history.scripts",
    "cluster.history.faults",
    "hub.roster",
    "cluster.history.tail",
    "cluster.history.recovery",
    "cluster.history.expiry",
    "cluster.history.memory",
    "cluster.history.requests",
    "cluster.history.server",
    "cluster.history.replica",
    "gateway.shapes",
    "gateway.api_shapes",
    "gateway.http.api_fields",
    "gateway.wheel",
    "supervisor.changes",
    "cli.checks",
    "server.head",
}
"""Modules that do no I/O and read no clock."""

IMPURE = {"asyncio", "anyio", "socket", "time", "threading", "os", "logging"}

MAX_LINES = 400
MAX_FUNCTION = 60

PLACES = {
    (module if room in FLAT else f"{room}.{module}"): (height, place)
    for height, (room, modules) in enumerate(ROOMS.items())
    for place, module in enumerate(modules)
}
ROOM_OF = {
    (module if room in FLAT else f"{room}.{module}"): room for room, modules in ROOMS.items() for module in modules
}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" or path.parent == PACKAGE
}
FILES |= {name: PACKAGE / name.replace(".", "/") / "__init__.py" for name in PLACES if name not in FILES}
FRONTS = {
    ".".join(path.parent.relative_to(PACKAGE).parts): path for path in PACKAGE.rglob("*/__init__.py")
}.keys() - FILES.keys()
"""Folders whose `__init__` only re-exports public names."""


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full name of each imported module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module
            folder = node.module.removeprefix("wsgateway").removeprefix(".").replace(".", "/")
            for alias in node.names:
                is_module = node.module.startswith("wsgateway") and (PACKAGE / folder / f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def own_imports(path: Path) -> Iterator[str]:
    """Yield the name of each imported module of this package, without the package's name."""
    for name in imports_of(path):
        if name == "wsgateway":
            yield "__init__"
        elif name.startswith("wsgateway."):
            yield name.removeprefix("wsgateway.")


def test_every_module_has_its_place() -> None:
    assert FILES.keys() == PLACES.keys() | TEMPLATES


@pytest.mark.parametrize("module", sorted(PLACES.keys() - {"__init__"}))
def test_imports_point_down(module: str) -> None:
    for imported in own_imports(FILES[module]):
        assert imported not in FRONTS, f"{module} imports from {imported}, import from the module"
        assert PLACES[imported] < PLACES[module], f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(PLACES))
def test_a_room_does_not_know_what_it_must_not_know(module: str) -> None:
    known = {ROOM_OF[imported] for imported in own_imports(FILES[module])}
    assert not known & UNKNOWN.get(ROOM_OF[module], set())


@pytest.mark.parametrize("folder", sorted(FRONTS))
def test_the_front_of_a_room_only_exports_names(folder: str) -> None:
    tree = ast.parse((PACKAGE / folder.replace(".", "/") / "__init__.py").read_text())
    assert all(isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign)) for node in tree.body)
    assert ast.get_docstring(tree)
    assert all(
        name.startswith(f"{folder}.") for name in own_imports(PACKAGE / folder.replace(".", "/") / "__init__.py")
    )


@pytest.mark.parametrize("module", sorted(FILES))
def test_each_dependency_has_its_doorway(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(FILES[module])}
    for dependency, doorways in DOORWAYS.items():
        assert dependency not in roots or module in doorways, f"{module} imports {dependency}"


@pytest.mark.parametrize("module", sorted(PURE))
def test_rules_do_no_io_and_read_no_clock(module: str) -> None:
    assert not {name.split(".")[0] for name in imports_of(FILES[module])} & IMPURE


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_module_is_too_long(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_function_fits_on_a_screen(module: str) -> None:
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{module}.{node.name}"


# The page about the architecture


def test_the_picture_of_the_rooms_is_drawn_from_the_imports() -> None:
    script = runpy.run_path(str(DOCS.parent.parent / "tools" / "draw_architecture.py"))
    drawn = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == script["drawn"](), "run: python -m tools.draw_architecture"


def names_on_the_page() -> list[str]:
    """Return each name on the page that begins with a room or a module, such as `hub.hub.Hub.deliver`."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    first = {name.partition(".")[0] for name in FILES} | ROOMS.keys()
    return sorted({name for name in re.findall(r"`([\w.]+\.\w+)`", text) if name.partition(".")[0] in first})


@pytest.mark.parametrize("name", names_on_the_page())
def test_a_name_on_the_page_exists(name: str) -> None:
    parts = name.split(".")
    known = max(
        count for count in range(1, len(parts) + 1) if ".".join(parts[:count]) in FILES.keys() | FRONTS | PLACES.keys()
    )
    owner: object = import_module("wsgateway." + ".".join(parts[:known]))
    for part in parts[known:]:
        owner = getattr(owner, part)

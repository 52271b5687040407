"""The servers that are attacked, one of each kind for all the tests, and what the attacks have cost."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.hostile.attack import FIGURES, Target, own_server, plain_server

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]  # memory and descriptors are read from /proc

OPTIONS = {
    "allowed_origins": "https://good.com",
    "handshake_timeout": 1.5,
    "hook_timeout": 1.0,
    "ping_interval": 1.0,
    "pong_timeout": 3.0,
    "send_timeout": 1.5,
    "outbox_bytes": 200_000,
    "max_connections_per_address": 300,
    "message_rate": 500.0,
    "message_burst": 1000,
    "protocols": "plain,v1,sse,centrifuge",
}
"""Deadlines are shorter than the defaults, so that the tests are: what holds at 1.5 seconds holds at 10."""


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with own_server(tmp_path_factory.mktemp("own"), "--compression", *flags(OPTIONS)) as target:
        yield target


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with plain_server(tmp_path_factory.mktemp("plain"), **OPTIONS) as target:
        yield target


@pytest.fixture(params=["own", "plain"])
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """Both paths, with pings so rare that a client which answers none is not ended for that."""
    options = {**OPTIONS, "ping_interval": 25.0}
    with (
        own_server(tmp_path, *flags(options)) if request.param == "own" else plain_server(tmp_path, **options) as found
    ):
        yield found


def flags(options: Mapping[str, object]) -> list[str]:
    return [text for name, value in options.items() for text in ("--" + name.replace("_", "-"), str(value))]


@pytest.fixture(params=["own", "plain"])
def target(request: pytest.FixtureRequest) -> Target:
    """Both paths: the gateway's own server, and plain uvicorn."""
    found: Target = request.getfixturevalue(request.param)
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        slowest = max(FIGURES, key=lambda figures: figures.p99)
        largest = max(FIGURES, key=lambda figures: figures.kept)
        terminalreporter.write_line(
            f"{len(FIGURES)} attacks: a bystander's p99 at most {slowest.p99 * 1000:.0f} ms ({slowest.test}), "
            f"memory kept at most {largest.kept:.1f} MB ({largest.test})"
        )

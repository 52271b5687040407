"""Gateways with the settings of this folder: alone, below a prefix, and in two processes."""

import base64
import hashlib
import hmac
import json
import os
import shutil
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.processes import serving
from tests.services import broker
from wsgateway import Gateway, testing

HERE = Path(__file__).parent
LISTENER = HERE / "personal.py"
MODULES = HERE / "node_modules"
PREFIX = "/live"


def _skip(text: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


def node() -> str:
    """The path of Node. Without it, or without the packages of this folder, the test is skipped, and fails in CI."""
    path = shutil.which("node") or shutil.which("nodejs")
    if path is None:
        _skip("node is not installed: install Debian's packages nodejs and npm, and run make sdks")
    if not MODULES.exists():
        _skip("the SDKs for JavaScript are not installed: run make sdks")
    return path


@contextmanager
def served(settings: str, kind: str, folder: Path) -> Iterator[str]:
    """`wsgateway serve` with a file of this folder. `kind` is `alone`, or the broker of two processes."""
    for file in (*HERE.glob("*.toml"), LISTENER):
        shutil.copy(file, folder)
    config = ("--config", f"{settings}.toml", "--admin-port", "0")
    if kind == "alone":
        with serving(*config, cwd=folder) as process:
            yield process.url
    else:
        with (
            broker(kind, folder / "broker") as service,
            serving(*config, "--workers", "2", "--broker", service.url, cwd=folder) as process,
        ):
            yield process.url


def options(settings: str) -> dict[str, Any]:
    """The settings of a file, for a gateway in this process."""
    found = tomllib.loads((HERE / f"{settings}.toml").read_text())
    del found["port"]
    if "listener" in found:
        found["listener"] = str(HERE / found["listener"])
    return {"local_access": True, **found}


@asynccontextmanager
async def mounted(settings: str) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway in this process, below `PREFIX`."""
    gateway = Gateway(**options(settings))
    app = Starlette(routes=[Mount(PREFIX, gateway)], lifespan=gateway.lifespan)
    async with testing.serve(app) as url:
        yield gateway, url + PREFIX


def token(**claims: Any) -> str:
    """A JWT that is signed with the secret of those settings."""
    header, body = (_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{header}.{body}.{_encoded(hmac.digest(b'secret', f'{header}.{body}'.encode(), hashlib.sha256))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

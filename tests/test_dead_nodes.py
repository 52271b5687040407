"""The members of processes that are killed, stopped, or blocked, as another process sees them."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.processes import serving
from tests.services import broker
from wsgateway import testing

BLOCKED = float(os.environ.get("BLOCKED", "6"))
"""Seconds that a process is blocked, which are more than it takes to notice a dead one."""

LISTENER = """
import time

class Listener:
    async def on_message(self, event):
        time.sleep(float(event.message))
        event.message = None
"""

SETTINGS = '[channels."room:*"]\npublic = true\npresence = true\n'

ROOM = "room:1"


@pytest.fixture(params=["redis", "ipc"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with broker(request.param, tmp_path / "ipc") as service:
        yield service.url


class Remote:
    """A process, a client of it, and the id by which others know that client."""

    def __init__(self, pid: int, client: testing.Client) -> None:
        self.pid = pid
        self.client = client
        self.id = ""


@asynccontextmanager
async def remote(folder: Path, url: str, name: str) -> AsyncIterator[Remote]:
    folder = folder / name
    folder.mkdir()
    (folder / "listener.py").write_text(LISTENER)
    (folder / "wsgateway.toml").write_text(SETTINGS)
    with serving("listener.py:Listener", "--broker", url, "--no-admin", cwd=folder) as served:
        client = testing.Client(served.url, channels=[ROOM])
        async with client:
            await client.subscribed(ROOM)
            yield Remote(served.process.pid, client)

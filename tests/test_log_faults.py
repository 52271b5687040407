"""A log that cannot be written, on a full disk or in a folder that is gone or forbidden: the gateway goes on."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.processes import COMMAND, Served, serving
from wsgateway.testing import Client


async def log_errors(served: Served) -> int:
    async with httpx.AsyncClient(base_url=served.url) as http:
        text = (await http.get("/metrics")).text
    found = re.search(r"^wsgateway_log_errors_total\{[^}]*\} (\d+)\.0$", text, re.MULTILINE)
    assert found
    return int(found[1])


async def serves(served: Served) -> None:
    async with Client(served.url) as ann, httpx.AsyncClient(base_url=served.url) as http:
        await ann.send("hi")
        assert await ann.receive() == "hi"
        assert (await http.post("/send", json={"message": "pushed"})).status_code == 200
        assert await ann.receive() == "pushed"
        assert (await http.post("/send", json=[])).status_code == 400  # which is a line in the log


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def forbid(folder: Path) -> None:
    folder.chmod(0o500)


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize("fault", [remove, forbid, replace_by_a_file])
async def test_a_folder_that_cannot_be_written_any_more(tmp_path: Path, fault: Callable[[Path], None]) -> None:
    if fault is forbid and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = tmp_path / "logs"
    folder.mkdir()
    with serving("--verbose", "--log-file", str(folder / "WebSocket.log"), cwd=tmp_path) as served:
        await serves(served)
        assert await log_errors(served) == 0
        fault(folder)
        await serves(served)
        assert await log_errors(served) > 0
        if fault is not remove:
            folder.unlink() if folder.is_file() else remove(folder)
        folder.mkdir()
        await serves(served)
        assert "received 2 bytes" in (folder / "WebSocket.log").read_text()
        assert await anyio.to_thread.run_sync(served.terminate) == 0
    assert "Traceback" not in served.stderr


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")


@needs_full
async def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "WebSocket.log").symlink_to("/dev/full")
    with serving("--verbose", cwd=tmp_path) as served:
        await serves(served)
        assert await log_errors(served) > 0
        assert await anyio.to_thread.run_sync(served.terminate) == 0
    assert "Traceback" not in served.stderr
    assert "stopped on" in served.stderr


@needs_full
async def test_a_terminal_that_is_full_too(tmp_path: Path) -> None:
    (tmp_path / "WebSocket.log").symlink_to("/dev/full")
    command = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh"]
    with serving("--verbose", cwd=tmp_path, command=[*command, *COMMAND, "serve", "--port", "0"]) as served:
        await serves(served)
        assert await log_errors(served) > 0
        assert await anyio.to_thread.run_sync(served.terminate) == 0

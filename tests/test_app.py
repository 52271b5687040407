"""`uvicorn wsgateway.app:app`, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import pytest

from tests.ports import free_port
from tests.processes import environment
from wsgateway.testing import Client


def command(port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "uvicorn", "wsgateway.app:app", "--port", str(port), *more]


@pytest.mark.parametrize("more", [(), ("--ws", "wsgateway.server:WebSocketProtocol")], ids=["plain", "own protocol"])
async def test_it_is_served_by_uvicorn_and_logs_no_query(more: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("async def on_message(event):\n    event.message = 'said ' + event.message\n")
    port = free_port()
    env = environment({"WSGATEWAY_LISTENER": "chat.py"})
    async with await anyio.open_process(
        command(port, *more), cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient() as http:
            with anyio.fail_after(20):
                while True:
                    try:
                        assert (await http.get(url + "/ready")).status_code == 200
                        break
                    except httpx.ConnectError:
                        await anyio.sleep(0.05)  # between two tries of what another process opens
            async with Client(url, "/ws?token=secret") as ann:
                assert (await http.post(url + "/send?key=secret", json={"message": "hi"})).status_code == 200
                assert await ann.receive() == "said hi"
        process.terminate()
        assert process.stdout
        output = b"".join([chunk async for chunk in process.stdout])
        await process.wait()
    assert b"secret" not in output
    assert b"Traceback" not in output, output
    assert list(tmp_path.iterdir()) == [tmp_path / "chat.py"] or not (tmp_path / "WebSocket.log").exists()


def test_wrong_settings_stop_the_start_with_all_mistakes(tmp_path: Path) -> None:
    env = environment({"WSGATEWAY_DRAIN": "x", "WSGATEWAY_PING_INTERVAL": "y"})
    failed = subprocess.run(
        command(free_port()), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert failed.returncode == 3
    assert "WSGATEWAY_DRAIN: 'x'" in failed.stderr
    assert "WSGATEWAY_PING_INTERVAL: 'y'" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_import_reads_nothing(tmp_path: Path) -> None:
    env = environment({"WSGATEWAY_DRAIN": "x"})
    code = "import wsgateway.app; print(wsgateway.app.app.gateway)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"

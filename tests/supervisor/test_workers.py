"""`wsgateway serve` with workers that cannot start, and signals that come early: in processes of their own."""

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import processes
from tests.servers import free_socket
from wsgateway import Settings, StartError
from wsgateway.supervisor.workers import start_worker

FRAGILE = """
from pathlib import Path

class Listener:
    def __init__(self):
        if Path("broken").exists():
            raise RuntimeError("it is broken")

    def on_message(self, event):
        pass
"""

SETTINGS = """
[admin]
port = 0

[gateways.fragile]
port = 0
workers = 2
listener = "fragile.py:Listener"

[gateways.sound]
port = 0
workers = 2
"""

NO_DRIVER = """
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "zmq" else find_spec(name, package)
"""


def wait_for(found: "processes.Served | Path", text: str, count: int = 1) -> None:
    """Wait until the log has `text` so often."""
    deadline = time.monotonic() + 30
    while (shown := found.read_text() if isinstance(found, Path) else found.stderr).count(text) < count:
        assert time.monotonic() < deadline, shown
        time.sleep(0.02)  # another process writes the log


def test_a_roll_that_ends_early_is_logged_and_the_next_gateway_is_rolled(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "wsgateway.toml").write_text(SETTINGS)
    with processes.serving(cwd=tmp_path, command=[*processes.COMMAND, "serve"]) as served:
        (tmp_path / "broken").touch()
        served.process.send_signal(signal.SIGUSR2)
        wait_for(served, "[fragile] not all workers were replaced, the others continue")
        wait_for(served, "replaces worker", 2)
        assert served.terminate() == 0
    assert "Traceback" not in served.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_while_it_starts_does_not_end_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "wsgateway.toml").write_text(
        '[admin]\nport = 0\n[gateways.late]\nport = 0\nlistener = "tests.slow_start"\n'
    )
    errors = tmp_path / "errors.txt"
    env = processes.environment({"PYTHONPATH": str(Path(__file__).parent.parent.parent)})
    with errors.open("w") as stderr:
        process = subprocess.Popen([*processes.COMMAND, "serve"], cwd=tmp_path, env=env, stderr=stderr)
    with process:
        try:
            wait_for(errors, "[late] starting on")
            process.send_signal(number)
            wait_for(errors, "[late] started on")
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(30)


def test_workers_without_the_driver_say_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_DRIVER)
    command = [sys.executable, "-m", "wsgateway", "serve", "--workers", "2", "--port", "0", "--admin-port", "0"]
    env = processes.environment({"PYTHONPATH": str(tmp_path)})
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "pip install 'wsgateway[ipc]'" in done.stderr
    assert "Traceback" not in done.stderr


HANGING = """
import time

def on_start(event):
    time.sleep(1000)  # hangs on purpose: the process is ended long before
"""


def test_an_on_start_that_never_returns_is_given_up_with_3(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    options = ["--port", "0", "--workers", "2", "--listener", "hanging.py", "--hook-timeout", "0.5"]
    done = processes.run("serve", *options, cwd=tmp_path)
    assert done.returncode == 3
    assert "on_start failed" in done.stderr


async def test_a_worker_that_cannot_be_started_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with free_socket() as listening:
        monkeypatch.setattr("os.pipe", pipe)  # as at the limit of open files
        with pytest.raises(StartError, match="Too many open files"):
            await start_worker(Settings(), [listening])

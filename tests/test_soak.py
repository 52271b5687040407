"""The short form of `make soak`: nothing is lost, and order is kept. Times are not judged: other things run here."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.skipif(sys.platform != "linux", reason="memory and CPU of the server are read from /proc")
def test_a_short_soak_loses_nothing() -> None:
    done = subprocess.run([sys.executable, SOAK, "--short"], capture_output=True, text=True, timeout=180, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("no loss") == 7


def test_clients_on_a_bad_network_lose_nothing() -> None:
    command = [sys.executable, str(SOAK), "--wifi", "--minutes", "0.1", "--clients", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wifi PASS ipc" in done.stdout
    assert "0 lost silently or doubled" in done.stdout

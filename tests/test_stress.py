"""Some scenarios of `make stress`: clients find a fault if there is one, and the command reports it."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
COMMAND = [sys.executable, str(BENCHMARKS / "stress.py"), "--jobs", "1"]

FAULTY = """
import sys
sys.path.insert(0, {folder!r})

import stress
from scenarios import scenario
from scenarios.lab import Lab


@scenario()
async def faulty(lab: Lab) -> None:
    node = await lab.start_node(broker=False)
    client = lab.client(node, "kept:1")
    await lab.join([client])
    await lab.publish(node, "kept:1")
    await lab.all_current()
    view = client.views["kept:1"]
    {fault}
    await lab.publish(node, "kept:1")
    await lab.all_current(seconds=0.5)


outcome = stress.run_one("faulty", 1)
print(outcome.mistakes)
sys.exit(1 if outcome.mistakes else 0)
"""
"""A client that has received everything has not, according to its view."""


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_scenarios_pass_and_print_their_counts() -> None:
    done = run(*COMMAND, "--seed", "1", "--only", "everything-arrives", "--only", "idempotent-publications")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 clients, 600 published, 1800 received" in done.stdout
    assert ", 0 failed, " in done.stdout


def test_a_scenario_that_does_not_exist_is_an_error() -> None:
    done = run(*COMMAND, "--only", "nowhere")
    assert done.returncode == 2
    assert "no scenario contains nowhere" in done.stderr


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("pass", "[]"),
        ("view.position = (view.position[0], 0)", "1 are missing"),
        ("view.position = ('other', 1)", "came after ('other', 1)"),
        ("view.numbers['s'] = 2", "s 2 came after s 2"),
        ("client.wire._received = lambda text: None", "1 views are not current"),
    ],
)
def test_a_client_that_misses_something_is_found(fault: str, text: str, tmp_path: Path) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY.format(folder=str(BENCHMARKS), fault=fault))
    done = run(sys.executable, str(script))
    assert text in done.stdout, done.stdout + done.stderr
    assert done.returncode == (0 if fault == "pass" else 1)

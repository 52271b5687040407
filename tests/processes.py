"""The command `wsgateway`, in processes of its own and in this one."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from wsgateway.cli.main import main

COMMAND = [sys.executable, "-m", "wsgateway"]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without settings of a gateway."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WSGATEWAY_")}
    return {**kept, "PYTHONWARNINGS": "error", **(extra or {})}


def run_here(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `wsgateway arguments` in this process, which saves the start of another one."""
    with chdir(cwd), redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run `wsgateway arguments` to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Served:
    """A process that serves, and what it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, errors: Path) -> None:
        self.process = process
        self.url = url
        self._errors = errors

    @property
    def stderr(self) -> str:
        return self._errors.read_text()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def serving(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, command: list[str] | None = None
) -> Iterator[Served]:
    """`wsgateway serve` on a free port, once it listens."""
    errors = cwd / "stderr.txt"
    argv = command or [*COMMAND, "serve", "--port", "0"]
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [*argv, *arguments], cwd=cwd, env=environment(env), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert process.stdout is not None
    with process:
        try:
            first = process.stdout.readline()
            found = re.search(r"(https?://\S+|unix:\S+)$", first.strip())
            assert found, f"{first!r}\n{errors.read_text()}"
            yield Served(process, found[1], errors)
        finally:
            if process.poll() is None:
                process.kill()

"""The log's file and the thread that writes it: nobody waits, nothing is lost at an end, nobody else may read."""

import fcntl
import logging
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.processes import environment, run_here, serving
from wsgateway.logfile import MAX_WAITING, LogThread, SharedFile
from wsgateway.logs import LineFormatter, flush_log, log_to_file, logger, tail
from wsgateway.testing import Client


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("wsgateway", logging.INFO, "", 1, text, (), None)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def threaded(path: Path) -> Iterator[LogThread]:
    handler = LogThread(SharedFile(path))
    handler.setFormatter(LineFormatter())
    try:
        yield handler
    finally:
        handler.close()
        handler.file.close()


@pytest.mark.parametrize(("mask", "expected"), [(0o000, 0o640), (0o022, 0o640), (0o077, 0o600)])
def test_no_other_user_may_read_a_file_or_a_rotated_one(tmp_path: Path, mask: int, expected: int) -> None:
    file = SharedFile(tmp_path / "WebSocket.log")
    file.max_bytes = 1000
    with umask(mask):
        for number in range(100):
            file.write([f"{number} {'x' * 100}"])
    file.close()
    files = list(tmp_path.iterdir())
    assert {path.name for path in files} == {"WebSocket.log", *(f"WebSocket.log.{number}" for number in range(1, 6))}
    assert {mode(path) for path in files} == {expected}


def test_the_mode_of_a_file_that_exists_stays(tmp_path: Path) -> None:
    path = tmp_path / "WebSocket.log"
    path.touch()
    path.chmod(0o604)
    file = SharedFile(path)
    file.write(["x"])
    file.close()
    assert mode(path) == 0o604


def test_rotated_files_are_in_order_and_complete(tmp_path: Path) -> None:
    file = SharedFile(tmp_path / "WebSocket.log")
    file.max_bytes = 100
    for number in range(60):
        file.write([f"line {number:03d}"])
    file.close()
    names = [f"WebSocket.log.{number}" for number in range(5, 0, -1)] + ["WebSocket.log"]
    lines = [line for name in names if (tmp_path / name).exists() for line in (tmp_path / name).read_text().split("\n")]
    assert [line for line in lines if line] == [f"line {number:03d}" for number in range(60)]


def test_a_rotation_that_is_hindered_loses_nothing_and_happens_at_twice_the_size(tmp_path: Path) -> None:
    path = tmp_path / "WebSocket.log"
    file = SharedFile(path)
    file.max_bytes = 1000
    file.write(["x" * 1200])
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        file.write(["first"])
        assert list(tmp_path.iterdir()) == [path]
        file.write(["y" * 1200])
        file.write(["last"])
    file.close()
    assert path.read_text() == "last\n"
    assert (tmp_path / "WebSocket.log.1").read_text() == f"{'x' * 1200}\nfirst\n{'y' * 1200}\n"


def test_a_link_to_a_file_elsewhere_is_rotated_there(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "WebSocket.log").symlink_to(tmp_path / "far" / "real.log")
    file = SharedFile(tmp_path / "WebSocket.log")
    file.max_bytes = 10
    for text in ("first, and long", "second"):
        file.write([text])
    file.close()
    assert (tmp_path / "WebSocket.log").is_symlink()
    assert (tmp_path / "far" / "real.log").read_text() == "second\n"
    assert (tmp_path / "far" / "real.log.1").read_text() == "first, and long\n"


def test_what_a_full_disk_has_cut_off_does_not_join_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "WebSocket.log"
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom wsgateway.logfile import SharedFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "file = SharedFile(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))\n"
        "file.write(['one', 'twothree', 'four'])\n"
        "assert file.failures == 2, file.failures\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "file.write(['five'])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment(), check=True, timeout=120)
    assert path.read_text() == "one\ntwothr\nfive\n"


class StuckFile(SharedFile):
    """A file on a disk that hangs until it is let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.goes_on = threading.Event()

    def open(self) -> None:
        assert self.goes_on.wait(60)
        super().open()


def test_a_disk_that_hangs_is_waited_for_by_the_thread_only(tmp_path: Path) -> None:
    file = StuckFile(tmp_path / "WebSocket.log")
    handler = LogThread(file)
    line = "x" * 10_000
    count = 2 * MAX_WAITING // len(line)
    for _ in range(count):
        handler.handle(record(line))  # would never return
    assert 0.4 * count < handler.failures < 0.6 * count
    assert not handler.flush_within(0.01)
    file.goes_on.set()
    handler.flush()
    assert len((tmp_path / "WebSocket.log").read_text().splitlines()) == count - handler.failures
    handler.close()
    file.close()


def test_lines_of_many_threads_are_all_written_and_those_of_each_in_order(tmp_path: Path) -> None:
    with threaded(tmp_path / "WebSocket.log") as handler:

        def write(name: str) -> None:
            for number in range(300):
                handler.handle(record(f"{name} {number}"))

        threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        handler.flush()
        lines = [line.split()[-2:] for line in (tmp_path / "WebSocket.log").read_text().splitlines()]
    for name in "abc":
        assert [int(number) for found, number in lines if found == name] == list(range(300))


def test_a_line_after_the_end_is_written_all_the_same(tmp_path: Path) -> None:
    handler = LogThread(SharedFile(tmp_path / "WebSocket.log"))
    handler.setFormatter(LineFormatter())
    handler.handle(record("before"))
    handler.close()
    handler.handle(record("after"))
    handler.file.close()
    assert [line.split()[-1] for line in (tmp_path / "WebSocket.log").read_text().splitlines()] == ["before", "after"]


def test_a_forked_process_has_a_thread_of_its_own(tmp_path: Path) -> None:
    code = (
        "import logging, os, sys\nfrom pathlib import Path\nfrom wsgateway.logs import log_to_file, logger\n"
        "log_to_file(Path(sys.argv[1]))\n"
        "logger.info('parent')\n"
        "child = os.fork()\n"
        "logger.info('child' if child == 0 else 'parent again')\n"
        "if child:\n    os.waitpid(child, 0)\n"
    )
    path = tmp_path / "WebSocket.log"
    subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment({"PYTHONWARNINGS": ""}), check=True, timeout=120
    )
    words = sorted(line.split(" INFO    ")[1] for line in path.read_text().splitlines())
    assert words == ["child", "parent", "parent again"]


ENDS = {
    "the end of the program": "",
    "an exit": "sys.exit(3)",
    "an exception": "1 / 0",
    "end_process beside a hook that still runs": (
        "import threading, time\nfrom wsgateway.listeners.loader import HOOK_THREAD\n"
        "from wsgateway.server.process import end_process\n"
        "threading.Thread(target=time.sleep, args=(600,), name=HOOK_THREAD).start()\nend_process(0)"
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_nothing_is_lost_when_a_process_ends(tmp_path: Path, name: str) -> None:
    path = tmp_path / "WebSocket.log"
    code = (
        "import sys\nfrom pathlib import Path\nfrom wsgateway.logs import log_to_file, logger\n"
        "log_to_file(Path(sys.argv[1]))\nfor number in range(5000):\n    logger.info('line %d', number)\n" + ENDS[name]
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment(), check=False, timeout=120, capture_output=True
    )
    lines = [line for line in path.read_text().splitlines() if " line " in line]
    assert [int(line.split()[-1]) for line in lines] == list(range(5000))


APP = """
from starlette.applications import Starlette
from starlette.routing import Mount
from wsgateway import Gateway

gateway = Gateway(log_file="WebSocket.log", local_access=True)
app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
"""


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Plain uvicorn with a gateway inside, on a free port; its standard error is in `stderr.txt`."""
    argv = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0", *options]
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(argv, cwd=folder, env=environment(), stderr=stderr, text=True)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


async def stderr_has(folder: Path, text: str) -> str:
    with anyio.fail_after(60):
        while text not in (found := (folder / "stderr.txt").read_text()):
            await anyio.sleep(0.02)  # another process writes it
    return found


async def url_of(folder: Path) -> str:
    return (await stderr_has(folder, "Uvicorn running on ")).split("running on ")[1].split()[0]


async def test_a_sigterm_under_plain_uvicorn_loses_no_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with mounted(tmp_path) as process:
        await url_of(tmp_path)
        process.send_signal(signal.SIGTERM)
        await anyio.to_thread.run_sync(lambda: process.wait(60))
    assert "[default] stopped" in (tmp_path / "WebSocket.log").read_text().splitlines()[-1]


async def test_a_second_sigterm_loses_no_line(tmp_path: Path) -> None:
    (tmp_path / "listener.py").write_text(
        "import asyncio\nasync def on_client_close(event):\n"
        "    event.gateway.log.info('the last line')\n    await asyncio.sleep(1000)\n"
    )
    with serving("--listener", "listener.py", "--hook-timeout", "1000", cwd=tmp_path) as served:
        async with Client(served.url):
            served.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(10):
                while "the last line" not in served.stderr:
                    await anyio.sleep(0.01)  # another process writes it
            served.process.send_signal(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(lambda: served.process.wait(60)) == 1
    assert "the last line" in (tmp_path / "WebSocket.log").read_text()


def hold_lock(paths: list[str], locked: "multiprocessing.synchronize.Event") -> None:
    files = [Path(path).open() for path in paths]  # noqa: SIM115  held as long as the process lives
    for file in files:
        fcntl.flock(file, fcntl.LOCK_EX)
    locked.set()
    time.sleep(600)  # holds the lock until the test ends this process


async def test_locks_that_others_hold_stop_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    locked = context.Event()
    with serving("--verbose", cwd=tmp_path) as served:
        paths = [str(path) for path in tmp_path.iterdir() if path.is_file()]
        holder = context.Process(target=hold_lock, args=(paths, locked), daemon=True)
        holder.start()
        try:
            assert await anyio.to_thread.run_sync(locked.wait, 60)
            async with Client(served.url) as ann, httpx.AsyncClient() as http:
                for _ in range(20):
                    await ann.send("hi")
                    assert await ann.receive() == "hi"
                    assert (await http.post(served.url + "/health")).status_code == 405
            assert await anyio.to_thread.run_sync(served.terminate) == 0
            text = (tmp_path / "WebSocket.log").read_text()
            assert text.count("received 2 bytes") == 20
            assert "[default] stopped" in text
        finally:
            holder.kill()


async def test_the_end_of_the_log_has_the_latest_line(tmp_path: Path) -> None:
    log_to_file(tmp_path / "WebSocket.log")
    handler = next(found for found in logger.handlers if isinstance(found, LogThread))
    try:
        for number in range(200):
            handler.handle(record(f"[shop] line {number}"))
            last = (await anyio.to_thread.run_sync(lambda: tail(1, gateway="shop")))[0]
            assert last.endswith(f"line {number}")
    finally:
        flush_log()
        for name in ("wsgateway", "uvicorn", "asyncio"):
            logging.getLogger(name).removeHandler(handler)
        handler.close()
        handler.file.close()


MOUNTED = APP.replace('log_file="WebSocket.log", ', "")


async def test_a_mounted_gateway_says_once_that_nobody_has_configured_its_log(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MOUNTED)
    with mounted(tmp_path):
        url = await url_of(tmp_path)
        async with httpx.AsyncClient() as http:
            assert (await http.post(url + "/live/send", content=b"x")).status_code == 415
        text = await stderr_has(tmp_path, "[default] ")
    assert text.count("no handler is configured for the logger 'wsgateway'") == 1
    assert "docs/how-to/logging.md#see-the-log" in text
    assert "started" not in text.replace("Started", "")


async def test_the_two_lines_of_the_documentation_show_all(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "logging.md").read_text()
    lines = page.partition("# logged.py\n")[2].partition("```")[0]
    (tmp_path / "app.py").write_text(lines + MOUNTED)
    with mounted(tmp_path):
        url = await url_of(tmp_path)
        assert "[default] started" in await stderr_has(tmp_path, "[default] started")
        async with httpx.AsyncClient() as http:
            assert (await http.post(url + "/live/send", content=b"x")).status_code == 415
        text = await stderr_has(tmp_path, "WARNING [default] ")
    assert "no handler is configured" not in text


async def test_uvicorn_logs_no_secret_of_a_handshake_even_at_debug(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "uvicorn", "wsgateway.app:app", "--port", "0", "--log-level", "debug"]
    with (tmp_path / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(argv, cwd=tmp_path, env=environment(), stdout=stderr, stderr=stderr, text=True)
    try:
        url = await url_of(tmp_path)
        headers = {"authorization": "Bearer SECRET1", "cookie": "session=SECRET2"}
        async with Client(url, "/ws?token=SECRET3'SECRET4", additional_headers=headers) as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
        async with httpx.AsyncClient(headers=headers) as http:
            await http.get(url + "/health?token=SECRET5'SECRET6\"SECRET7")
        text = await stderr_has(tmp_path, "GET /health?…")
        assert "/ws?…" in text
        assert "SECRET" not in text
    finally:
        process.kill()
        process.wait()


def test_doctor_warns_of_a_log_that_everybody_may_read(tmp_path: Path) -> None:
    path = tmp_path / "WebSocket.log"
    path.touch()
    path.chmod(0o644)
    assert "can be read by every user of this host" in run_here("doctor", cwd=tmp_path).stdout
    path.chmod(0o640)
    assert "can be read by every user of this host" not in run_here("doctor", cwd=tmp_path).stdout

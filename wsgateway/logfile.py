"""A log file, which several processes may share, and the thread that writes it. Does not know what a line means."""

import logging
import os
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from queue import Empty, SimpleQueue

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows does not have it
    fcntl = None  # type: ignore[assignment]  # a module or nothing

MAX_LOG_FILE = 10 * 1024 * 1024
"""Bytes at which the file is rotated."""

OLD_FILES = 5
"""Rotated files that are kept: `WebSocket.log.1` is the newest."""

MODE = 0o640
"""Permissions of every file that is created, minus the umask. The log contains addresses and paths."""

MAX_WAITING = 4 * 1024 * 1024
"""Characters that may wait for the thread. If more wait, a new line is lost and counted."""

LINE_COST = 100
"""Characters that are added to the length of each line, because an empty line takes memory, too."""

BATCH = 200
"""Maximum number of lines that one system call writes."""

FLUSH_SECONDS = 2.0
"""Seconds that a process waits for the disk when it ends."""


class SharedFile:
    """Appends lines to a file and rotates it. Several processes may share the file.

    Lines are appended without a lock, by one `write` that starts at the end of the file (`O_APPEND`), so no other
    process can delay or split them. Only a rotation takes a lock, on the file itself, and never waits for it. Lines
    that cannot be written (full disk, removed folder) are counted in `failures`. No error is raised.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  so that one file has one path, without `..`
        self.max_bytes = MAX_LOG_FILE
        self.failures = 0
        self._descriptor = -1
        self._is_torn = False

    def write(self, lines: Sequence[str]) -> None:
        """Append `lines`. Count those that cannot be written."""
        pieces = [f"{line}\n".encode("utf-8", "backslashreplace") for line in lines]
        if self._is_torn:
            pieces[0] = b"\n" + pieces[0]  # after a partial line, because the disk was full
        data = memoryview(b"".join(pieces))
        done = 0
        try:
            self.open()
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError:
            self.close()
        ends = list(accumulate(map(len, pieces)))
        self.failures += sum(end > done for end in ends)
        if done:
            self._is_torn = done not in ends
        if fcntl is None:  # pragma: no cover  Windows does not rename an open file
            self.close()

    def open(self) -> None:
        """Open the file at the path, and rotate it first if it is full. Raise `OSError`."""
        if self._descriptor >= 0 and not self._is_at_path():
            self.close()
        if self._descriptor < 0:
            self._descriptor = self._open_file()
        if self._size() >= self.max_bytes and self._rotate():
            self.close()
            self._descriptor = self._open_file()

    def _open_file(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
        return os.open(self.path, flags, MODE)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def _is_at_path(self) -> bool:
        """Return whether the open file is still the one at the path, neither rotated nor removed."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False

    def _size(self) -> int:
        """Return the size of the file; 0 for a device or a pipe, which cannot be rotated."""
        status = os.fstat(self._descriptor)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def _rotate(self) -> bool:
        """Rename the file to `.1` and older ones to the next number. Return whether the path must be opened again.

        Another process may hold the lock because it rotates the file, or in order to block the rotation. At twice the
        limit, the lock is ignored.
        """
        if not self._take_lock() and self._size() < 2 * self.max_bytes:
            return False
        try:
            if self._is_at_path():  # else another process has rotated it
                self._rename()
        except OSError:
            return not self._is_at_path()
        finally:
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return True

    def _take_lock(self) -> bool:
        """Return False if another process holds the lock."""
        if fcntl is None:  # pragma: no cover
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _rename(self) -> None:
        if fcntl is None:  # pragma: no cover
            self.close()
        real = os.path.realpath(self.path)
        aside = f"{real}.rotating"
        with suppress(FileNotFoundError):
            os.replace(aside, f"{real}.1")  # noqa: PTH105  left by a process that ended in between
        os.replace(real, aside)  # noqa: PTH105  if this fails, nothing has changed
        for number in range(OLD_FILES - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{real}.{number}", f"{real}.{number + 1}")  # noqa: PTH105
        os.replace(aside, f"{real}.1")  # noqa: PTH105


class LogThread(logging.Handler):
    """Passes lines to a thread that writes them to `file`, in order, so no caller waits for the disk.

    If more than `MAX_WAITING` characters wait, a line is lost. `failures` counts lost lines and lines that cannot be
    written.
    `flush` waits at most `FLUSH_SECONDS` until all lines are written; `logging.shutdown` calls it when the process
    ends. May be used after a fork.
    """

    def __init__(self, file: SharedFile) -> None:
        super().__init__()
        self.file = file
        self._lost = 0
        self._is_closed = False
        self._reset()

    @property
    def failures(self) -> int:
        """Lines that were lost or could not be written."""
        return self._lost + self.file.failures

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._queue: SimpleQueue[str | threading.Event] = SimpleQueue()  # safe in signal handlers too
        self._given = 0  # the cost of all lines, counted by callers, which hold the handler's lock
        self._taken = 0  # the same, counted by the thread

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._pid != os.getpid():
            self._reset()  # a forked process does not have the thread; its parent writes the lines that waited
        cost = len(line) + LINE_COST
        if self._given - self._taken + cost > MAX_WAITING:
            self._lost += 1
        elif self._is_closed or not self._ensure_running():
            self.file.write([line])
        else:
            self._given += cost
            self._queue.put(line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        del record
        self._lost += 1

    def _ensure_running(self) -> bool:
        """Start the thread unless it runs. Return False if it cannot be started, as when the interpreter exits."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, args=(self._queue,), name="wsgateway log", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _run(self, queue: "SimpleQueue[str | threading.Event]") -> None:
        while True:
            batch = [queue.get()]
            with suppress(Empty):
                while len(batch) < BATCH:
                    batch.append(queue.get_nowait())
            lines = [line for line in batch if isinstance(line, str)]
            try:
                self.file.write(lines)
            except Exception:  # such as MemoryError; the thread must continue
                self._lost += len(lines)
            self._taken += sum(len(line) + LINE_COST for line in lines)
            for mark in batch:
                if isinstance(mark, threading.Event):
                    mark.set()

    def flush(self) -> None:
        self.flush_within(FLUSH_SECONDS)

    def flush_within(self, seconds: float) -> bool:
        """Wait until every line so far is written. Return False if that takes more than `seconds`. Thread-safe."""
        if self._thread is None or self._pid != os.getpid():
            return True
        mark = threading.Event()
        self._queue.put(mark)
        return mark.wait(seconds)

    def close(self) -> None:
        self._is_closed = self.flush_within(FLUSH_SECONDS)
        super().close()

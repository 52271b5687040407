"""The log: the logger `wsgateway`, its lines, and `WebSocket.log`. Knows only the ids of gateways."""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

from wsgateway.logfile import FLUSH_SECONDS, LogThread, SharedFile
from wsgateway.text import cut, escape_controls, has_controls, mask_query

logger = logging.getLogger("wsgateway")

MAX_TEXT = 4000
"""Characters of a line, and of each line of a traceback. A longer one is cut, because a remote peer may cause it."""

REPEAT_SECONDS = 1.0
"""Seconds in which a kind of limited line is written once, or as often as its burst allows."""

MAX_KINDS = 1000
"""Kinds of limited lines that are remembered. If there are more, all are forgotten."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

MAX_TAIL = 1024 * 1024
"""Bytes at the end of a log file that `tail` reads."""

TAIL_SECONDS = 1.0
"""Seconds that `tail` waits until the latest lines are in the file."""

GONE = "the handler is closed"
"""Text of uvloop's error for a response to a disconnected client. asyncio's own loop logs nothing then."""

HEADER_LINES = ("< %s: %s", "> %s: %s")
"""Messages that websockets logs at DEBUG for each header of a handshake, through uvicorn's logger."""

_LINE = re.compile(r"\S+Z (?P<level>[A-Z]+) +(?:pid \d+ )?(?:\[(?P<gateway>[^\]]+)\] )?")


class Repeats:
    """Limits lines that a remote peer can cause to a few per second, and counts the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[
            object, tuple[float, int]
        ] = {}  # by kind: the time of the last line that was written, and the number of lines since

    def more(self, kind: object, burst: int = 1) -> str | None:
        """Return None if the line is suppressed, else the suffix to add to it."""
        with self._lock:
            now = self._clock()
            since, count = self._seen.get(kind, (-math.inf, 0))
            if now - since < REPEAT_SECONDS:
                self._seen[kind] = since, count + 1
                return "" if count < burst else None
            if len(self._seen) > MAX_KINDS:
                self._seen.clear()
            self._seen[kind] = now, 1
        suppressed = count - burst
        return f" … {suppressed} more like this in {now - since:.0f} s" if suppressed > 0 else ""


class Log(logging.LoggerAdapter[logging.Logger]):
    """The logger `wsgateway`, without control characters in the arguments of a line."""

    def __init__(self, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(logger, extra or {})
        self._repeats = Repeats()

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # this frame is not the caller's
            super().log(level, msg, *map(_harmless, args), **kwargs)

    def limited(self, kind: object, burst: int = 1) -> "LimitedLog":
        """Return a log for lines of one `kind`, of which at most `burst` are written per second.

        The next line that is written contains the number of suppressed lines. A kind is a constant or a place in code,
        never text that a remote peer chooses, because kinds are remembered.
        """
        return LimitedLog(self, self._repeats, kind, burst)


class LimitedLog(logging.LoggerAdapter[Log]):
    """Writes lines of one kind to a `Log`, a few per second."""

    def __init__(self, log: Log, repeats: Repeats, kind: object, burst: int) -> None:
        super().__init__(log, {})
        self._repeats = repeats
        self._kind = kind
        self._burst = burst

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        more = self._repeats.more(self._kind, self._burst)
        if more is not None:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # this frame is not the caller's
            msg = f"{msg}{more}"
            self.logger.log(level, msg, *args, **kwargs)


def _harmless(arg: object) -> object:
    """Return `arg`, or its escaped text if that has control characters. The application's handlers do not escape."""
    if isinstance(arg, (int, float)):
        return arg
    text = str(arg)
    return escape_controls(cut(text, MAX_TEXT)) if len(text) > MAX_TEXT or has_controls(text) else arg


class GatewayLog(Log):
    """The log of one gateway. A line begins with its id and, with `extra={"conn": id}`, the id of the connection."""

    def __init__(self, gateway_id: str) -> None:
        super().__init__({"gateway": gateway_id})
        self._prefix = f"[{gateway_id}] "

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = {**(self.extra or {}), **kwargs.get("extra", {})}
        kwargs["extra"] = extra
        conn = f"[{extra['conn']}] " if "conn" in extra else ""
        return f"{self._prefix}{conn}{msg}", kwargs


class LineFormatter(logging.Formatter):
    """Writes time, level, ids, and message on one line, with a traceback indented below it.

    Control characters are escaped, so no client can write a line of its own or color a terminal. With `has_pid`, the id
    of the process stands before the message, because several processes write to the same terminal and file.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, *, has_pid: bool = False) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {'pid %(process)d ' if has_pid else ''}%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        record.message = escape_controls(cut(record.message, MAX_TEXT))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  logging's name
        return _indented(stack_info)


def _indented(text: str) -> str:
    return "\n".join("    " + escape_controls(cut(line, MAX_TEXT)) for line in text.splitlines())


def log_to_terminal(*, has_pid: bool = False) -> None:
    """Print the lines of gateways, and warnings of uvicorn and asyncio, on standard error.

    With `has_pid`, each line contains the id of this process, also in a file that `log_to_file` adds later.
    """
    console = logging.StreamHandler()
    console.setFormatter(LineFormatter(has_pid=has_pid))
    _add_handler(console)


def log_to_file(path: Path) -> None:
    """Write the lines of gateways, and warnings of uvicorn and asyncio, to `path`.

    A second call for the same file does nothing. Raise `OSError` if the file cannot be written.
    """
    file = SharedFile(path)
    file.open()  # an error in the thread would only be counted
    if any(handler.file.path == file.path for handler in _file_handlers()):
        file.close()
    else:
        handler = LogThread(file)
        handler.setFormatter(_formatter())
        _add_handler(handler)


def _formatter() -> logging.Formatter:
    """Return the formatter of the terminal, so that a file has the same lines."""
    formatters = [handler.formatter for handler in logger.handlers]
    return next((known for known in formatters if isinstance(known, LineFormatter)), LineFormatter())


def log_failures() -> int:
    """Return how many lines could not be written to a file."""
    return sum(handler.failures for handler in _file_handlers())


def flush_log(seconds: float = FLUSH_SECONDS) -> None:
    """Wait at most `seconds` until all lines are in the files. For a process that ends without `atexit`."""
    for handler in _file_handlers():
        handler.flush_within(seconds)


def warn_if_unseen() -> None:
    """Warn once if the log is not configured, as when an application mounts a gateway under plain uvicorn."""
    if not logger.hasHandlers():
        _warn_unseen()


@cache
def _warn_unseen() -> None:
    logger.warning(
        "no handler is configured for the logger 'wsgateway', so only warnings and errors are shown; "
        "docs/how-to/logging.md#see-the-log shows how to see every line"
    )


def tail(lines: int, *, gateway: str | None = None, level: str = "INFO") -> list[str]:
    """Return the last `lines` lines of the log file, of `gateway` and of `level` or above.

    A traceback belongs to its line. Return an empty list if no file is configured. Blocks, so call it in a thread.
    """
    flush_log(TAIL_SECONDS)
    shown: list[str] = []
    is_shown = False
    for text in _end_of_file():
        match = _LINE.match(text)
        if match:
            is_own = gateway is None or (match["gateway"] or "").casefold() == gateway.casefold()
            is_shown = is_own and match["level"] in LEVELS[LEVELS.index(level) :]
        if is_shown:
            shown.append(text)
    return shown[-lines:]


def _end_of_file() -> list[str]:
    handlers = _file_handlers()
    if not handlers:
        return []
    try:
        with handlers[0].file.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - MAX_TAIL))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _file_handlers() -> list[LogThread]:
    return [handler for handler in logger.handlers if isinstance(handler, LogThread)]


def _add_handler(handler: logging.Handler) -> None:
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    for name in ("uvicorn", "asyncio"):
        other = logging.getLogger(name)
        if not other.handlers or isinstance(
            other.handlers[0].formatter, LineFormatter
        ):  # else the application configured it
            if name == "uvicorn" or other.level == logging.NOTSET:  # the application may have chosen it
                other.setLevel(logging.WARNING)
            other.addHandler(handler)


def limit_repeats() -> None:
    """Limit each warning of uvicorn and asyncio to one per second, such as that of an invalid request."""
    for name in ("uvicorn.error", "asyncio"):
        other = logging.getLogger(name)
        if not any(isinstance(known, RepeatFilter) for known in other.filters):
            other.addFilter(RepeatFilter())


class RepeatFilter(logging.Filter):
    """Limits warnings and errors of a logger. Lines that begin with the same text line are of one kind."""

    def __init__(self, repeats: Repeats | None = None) -> None:
        super().__init__()
        self._repeats = repeats or Repeats()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and GONE in str(record.exc_info[1]):
            return False
        if record.levelno >= logging.WARNING:
            more = self._repeats.more(str(record.msg).partition("\n")[0])
            if more is None:
                return False
            record.msg = f"{record.msg}{more}"
        return True


class QueryMask(logging.Filter):
    """Masks query strings and the values of headers in the lines of a logger, such as `uvicorn.access`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in HEADER_LINES and isinstance(record.args, tuple) and len(record.args) == 2:
            record.args = (record.args[0], "…")
        elif isinstance(record.args, tuple) and record.args:
            record.args = tuple(_without_query(arg) if isinstance(arg, str) else arg for arg in record.args)
        elif isinstance(record.msg, str):
            record.msg = mask_query(record.msg)
        return True


FRAME_PARAMETER = "cf_connect"
"""The parameter with the first commands of a Centrifuge client, which contain its token."""


class FrameMask(QueryMask):
    """Masks only the lines whose query string contains `FRAME_PARAMETER`."""

    def filter(self, record: logging.LogRecord) -> bool:
        parts = (record.msg, *record.args) if isinstance(record.args, tuple) else (record.msg,)
        if any(isinstance(part, str) and FRAME_PARAMETER in part for part in parts):
            return super().filter(record)
        return True


_MASK, _FRAME_MASK = QueryMask(), FrameMask()


def mask_frames() -> None:
    """Mask the query strings of Centrifuge clients in the lines of uvicorn, also where an application serves itself."""
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addFilter(_FRAME_MASK)


def mask_queries() -> None:
    """Mask query strings, which may contain tokens, in uvicorn's lines."""
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addFilter(_MASK)


def _without_query(arg: str) -> str:
    if arg.startswith(("/", "?")):  # only a path, whose query string may contain spaces
        path, mark, _ = arg.partition("?")
        return f"{path}{mark}…" if mark else arg
    return mask_query(arg)

"""The log: the logger `wsgateway`, its lines, and `WebSocket.log`. Knows nothing of gateways but their ids."""

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from concurrent_log_handler import ConcurrentRotatingFileHandler

logger = logging.getLogger("wsgateway")

MAX_LOG_FILE = 10 * 1024 * 1024
"""Bytes at which `WebSocket.log` is rotated; five old ones are kept."""

_QUERY = re.compile(r"(/[^\s?\"']*)\?[^\s\"']+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


REPEAT_SECONDS = 1.0
"""Seconds in which a kind of line that others can cause is written once, or as often as its burst says."""


MAX_KINDS = 1000
"""Kinds that are remembered; past them, all are forgotten."""


class Repeats:
    """Of lines that others can cause, as many as they like, a few in each second pass. The others are counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[object, tuple[float, int]] = {}  # by kind: since when, and how many since then

    def more(self, kind: object, burst: int = 1) -> str | None:
        """None to keep the line back, else what it has to end with. Kinds are few: they are what the code can say."""
        with self._lock:
            now = self._clock()
            since, count = self._seen.get(kind, (-math.inf, 0))
            if now - since < REPEAT_SECONDS:
                self._seen[kind] = since, count + 1
                return "" if count < burst else None
            if len(self._seen) > MAX_KINDS:
                self._seen.clear()
            self._seen[kind] = now, 1
        kept = count - burst
        return f" … {kept} more like this in {now - since:.0f} s" if kept > 0 else ""


class ThinnedLog(logging.LoggerAdapter[logging.Logger]):
    """A log in which lines with `extra={"kind": …}` are thinned out: one a second, or `burst` of them."""

    def __init__(self, extra: Mapping[str, object]) -> None:
        super().__init__(logger, extra)
        self._repeats = Repeats()

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        extra = dict(kwargs.get("extra") or {})
        kind, burst = extra.pop("kind", None), extra.pop("burst", 1)
        if kind is not None and self.isEnabledFor(level):
            more = self._repeats.more(kind, burst)
            if more is None:
                return
            msg, kwargs["extra"] = f"{msg}{more}", extra
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # this call is none of the caller's
        super().log(level, msg, *args, **kwargs)


class GatewayLog(ThinnedLog):
    """The lines of one gateway: each begins with its id and, with `extra={"conn": id}`, the connection's."""

    def __init__(self, gateway_id: str) -> None:
        super().__init__({"gateway": gateway_id})
        self._prefix = f"[{gateway_id}] "

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = {**(self.extra or {}), **kwargs.get("extra", {})}
        kwargs["extra"] = extra
        conn = f"[{extra['conn']}] " if "conn" in extra else ""
        return f"{self._prefix}{conn}{msg}", kwargs


class LineFormatter(logging.Formatter):
    """Time, level, ids and message on one line; a traceback is indented below it.

    Control characters are escaped, so that no client can write a line of its own or colour a terminal.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        record.message = escape_controls(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        lines = super().formatException(ei).splitlines()
        return "\n".join("    " + escape_controls(line) for line in lines)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  logging's name
        return "\n".join("    " + escape_controls(line) for line in stack_info.splitlines())


class LogFile(ConcurrentRotatingFileHandler):
    """`WebSocket.log`: one file for all the gateways of a host, rotated safely when several processes write.

    A line that cannot be written (full disk, folder removed) is counted in `failures` and never raised.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_LOG_FILE, backupCount=5, encoding="utf-8")
        self.failures = 0
        self.setFormatter(LineFormatter())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        self.failures += 1


def log_to_terminal() -> None:
    """Print what gateways log, and warnings of uvicorn and asyncio, on standard error."""
    console = logging.StreamHandler()
    console.setFormatter(LineFormatter())
    _add(console)


def log_to_file(path: Path) -> None:
    """Write what gateways log, and warnings of uvicorn and asyncio, to `path`, once however often it is called.

    Raises `OSError` if it cannot be written.
    """
    path.open("a").close()  # the handler would tell nobody
    if all(file.baseFilename != os.path.abspath(path) for file in _files()):  # noqa: PTH100  as `logging` does
        _add(LogFile(path))


def log_failures() -> int:
    """Lines that could not be written to a file."""
    return sum(file.failures for file in _files())


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

MAX_TAIL = 1024 * 1024
"""Bytes at the end of a log that are looked at."""

_LINE = re.compile(r"\S+Z (?P<level>[A-Z]+) +(?:\[(?P<gateway>[^\]]+)\] )?")


def tail(lines: int, *, gateway: str | None = None, level: str = "INFO") -> list[str]:
    """The last `lines` lines of the log file that is written, of `gateway` and of `level` or above.

    A traceback goes with its line. Nothing where there is no file. Blocks: call it in a thread.
    """
    found: list[str] = []
    is_wanted = False
    for text in _end_of_file():
        match = _LINE.match(text)
        if match:
            at_least = match["level"] in LEVELS[LEVELS.index(level) :]
            own = gateway is None or (match["gateway"] or "").casefold() == gateway.casefold()
            is_wanted = at_least and own
        if is_wanted:
            found.append(text)
    return found[-lines:]


def _end_of_file() -> list[str]:
    files = _files()
    if not files:
        return []
    try:
        with Path(files[0].baseFilename).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - MAX_TAIL))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _files() -> list[LogFile]:
    return [handler for handler in logger.handlers if isinstance(handler, LogFile)]


def _add(handler: logging.Handler) -> None:
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    for name in ("uvicorn", "asyncio"):
        other = logging.getLogger(name)
        if not other.handlers or isinstance(other.handlers[0].formatter, LineFormatter):  # else it has its own
            if name == "uvicorn" or other.level == logging.NOTSET:  # a level of asyncio's is the host's choice
                other.setLevel(logging.WARNING)
            other.addHandler(handler)


def limit_repeats() -> None:
    """Let uvicorn and asyncio say the same only once a second, as of requests that nobody can read."""
    for name in ("uvicorn.error", "asyncio"):
        found = logging.getLogger(name)
        if not any(isinstance(known, RepeatFilter) for known in found.filters):
            found.addFilter(RepeatFilter())


GONE = "the handler is closed"
"""What uvloop raises where an answer is written to a client that has gone; asyncio's own loop says nothing then."""


class RepeatFilter(logging.Filter):
    """Thins out warnings and errors of a logger; a kind of them is what their text begins with."""

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


def mask_queries() -> None:
    """Keep query strings, which hold tokens, out of uvicorn's lines."""
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addFilter(_MASK)


class QueryMask(logging.Filter):
    """Takes query strings out of the lines of a logger. For `uvicorn.error` and `uvicorn.access` of a host."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(mask_query(arg) if isinstance(arg, str) else arg for arg in record.args)
        return True


_MASK = QueryMask()


def mask_query(text: str) -> str:
    """`text` with `?…` instead of the query string of each path or URL in it."""
    return _QUERY.sub(r"\1?…", text)


def mask_url(url: str) -> str:
    """`url` without the user, password and query string that it may hold."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        scheme, rest = "", url
    parts = [part.rpartition("@")[2] for part in rest.split(",")]  # a password may hold a slash; NATS takes a list
    return mask_query(scheme + slashes + ",".join(parts))


def escape_controls(text: str) -> str:
    r"""`text` with control characters, line separators and lone surrogates written as `\x1b` or `\u2028`."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)

"""The log: the logger `wsgateway`, its lines, and `WebSocket.log`. Knows nothing of gateways but their ids."""

import logging
import re
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from concurrent_log_handler import ConcurrentRotatingFileHandler

logger = logging.getLogger("wsgateway")

MAX_LOG_FILE = 10 * 1024 * 1024
"""Bytes at which `WebSocket.log` is rotated; five old ones are kept."""

_QUERY = re.compile(r"(/[^\s?\"']*)\?[^\s\"']+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class GatewayLog(logging.LoggerAdapter[logging.Logger]):
    """The lines of one gateway: each begins with its id and, with `extra={"conn": id}`, the connection's."""

    def __init__(self, gateway_id: str) -> None:
        super().__init__(logger, {"gateway": gateway_id})
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
    """Print what gateways log, and uvicorn's warnings, on standard error."""
    console = logging.StreamHandler()
    console.setFormatter(LineFormatter())
    _add(console)


def log_to_file(path: Path) -> None:
    """Write what gateways log, and uvicorn's warnings, to `path`, once however often it is called.

    Raises `OSError` if it cannot be written.
    """
    path.open("a").close()  # the handler would tell nobody
    if all(Path(file.baseFilename) != path.absolute() for file in _files()):
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
    uvicorn = logging.getLogger("uvicorn")
    if not uvicorn.handlers or isinstance(uvicorn.handlers[0].formatter, LineFormatter):  # else it has its own
        uvicorn.setLevel(logging.WARNING)
        uvicorn.addHandler(handler)


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
    host, slash, path = rest.partition("/")
    return mask_query(scheme + slashes + host.rpartition("@")[2] + slash + path)


def escape_controls(text: str) -> str:
    r"""`text` with control characters, line separators and lone surrogates written as `\x1b` or `\u2028`."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)

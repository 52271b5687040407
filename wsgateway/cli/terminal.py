"""What the commands read from standard input, and print for people or for programs. Text of others never acts on a
terminal, and no character that cannot be shown ends a command."""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from wsgateway.config.files import decode, unify_line_ends
from wsgateway.text import escape_controls


def prepare_output() -> None:
    """Let standard output and standard error write `\\xe4` for a character that they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Let nothing more be written to standard output, because its reader has ended (`| head`)."""
    with suppress(OSError, ValueError, AttributeError):  # it may be no file at all
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def complain(text: object) -> None:
    """Print `text` on standard error, each line after the command's name, without control characters."""
    for line in str(text).splitlines():
        print(f"wsgateway: {escape_controls(line)}", file=sys.stderr)


def safe_for(stream: TextIO, text: str) -> str:
    """Return `text`, with its control characters escaped if `stream` is a terminal. A pipe gets it as it is."""
    return escape_controls(text) if stream.isatty() else text


def to_json(value: object, *, indent: int | None = None) -> str:
    """Return `value` as JSON: in ASCII where standard output or a terminal could not show its text as it is."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        is_safe = all(line == escape_controls(line) for line in text.split("\n"))
    except UnicodeEncodeError:
        is_safe = False
    return text if is_safe else json.dumps(value, indent=indent)


def read_text() -> str:
    """Return standard input up to its end, with `\n` for each line end. Raises `ValueError` if it is not UTF-8."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    return unify_line_ends(_decode(data))


def read_line() -> str:
    """Return the first line of standard input without its end. Raises `ValueError` if it is not UTF-8."""
    return _decode(b"" if sys.stdin is None else sys.stdin.buffer.readline()).rstrip("\r\n")


def read_lines() -> Iterator[str]:
    """Yield each line of standard input without its end. Complain of those that are not UTF-8, and leave them out.

    For a thread that nobody ends: it shares no lock with `sys.stdin`, which the interpreter closes at its end.
    """
    if sys.stdin is None:
        return
    with open(sys.stdin.fileno(), "rb", closefd=False) as lines:
        for line in lines:
            try:
                yield _decode(line).rstrip("\r\n")
            except ValueError as exc:
                complain(f"{exc}; the line is not sent")


def argument(text: str) -> str:
    """Return `text`, an argument of the command line, read as UTF-8 where the locale could not read it.

    Raises `ValueError` if it is not UTF-8.
    """
    return _decode(os.fsencode(text)) if any("\ud800" <= character <= "\udfff" for character in text) else text


def _decode(data: bytes) -> str:
    try:
        return decode(data)
    except UnicodeDecodeError as exc:
        raise ValueError(f"the input is not UTF-8: byte {exc.start} is 0x{data[exc.start]:02x}") from None

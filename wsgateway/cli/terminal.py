"""Standard input and output of the commands.

Text from other people never controls a terminal, and a character that cannot be shown never ends a command.
"""

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
    """Discard everything that is still written to standard output, because its reader has ended (`| head`)."""
    with suppress(OSError, ValueError, AttributeError):  # standard output may not be a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def complain(text: object) -> None:
    """Print `text` to standard error, each line after the command's name, with control characters escaped."""
    for line in str(text).splitlines():
        print(f"wsgateway: {escape_controls(line)}", file=sys.stderr)


def safe_for(stream: TextIO, text: str) -> str:
    """Return `text` for `stream`, with control characters escaped if that is a terminal."""
    return escape_controls(text) if stream.isatty() else text


def to_json(value: object, *, indent: int | None = None) -> str:
    """Return `value` as JSON, in ASCII if standard output or a terminal could not show the text."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        is_safe = all(line == escape_controls(line) for line in text.split("\n"))
    except UnicodeEncodeError:
        is_safe = False
    return text if is_safe else json.dumps(value, indent=indent)


def read_text() -> str:
    """Return all of standard input, with every line ended by a line feed. Raise `ValueError` if it is not UTF-8."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    return unify_line_ends(_decode(data))


def read_line() -> str:
    """Return the first line of standard input without its line end. Raise `ValueError` if it is not UTF-8."""
    return _decode(b"" if sys.stdin is None else sys.stdin.buffer.readline()).rstrip("\r\n")


def read_lines() -> Iterator[str]:
    """Yield each line of standard input without its line end. Print a complaint for each line that is not UTF-8.

    Meant for a daemon thread, because it shares no lock with `sys.stdin`, which the interpreter closes when it exits.
    """
    if sys.stdin is None:
        return
    with open(sys.stdin.fileno(), "rb", closefd=False) as lines:
        for line in lines:
            try:
                yield _decode(line).rstrip("\r\n")
            except ValueError as exc:
                complain(f"{exc}; the line is not sent")


def decode_argument(text: str) -> str:
    """Return an argument of the command line, decoded as UTF-8 if the locale could not decode it.

    Raise `ValueError` if it is not UTF-8.
    """
    return _decode(os.fsencode(text)) if any("\ud800" <= character <= "\udfff" for character in text) else text


def _decode(data: bytes) -> str:
    try:
        return decode(data)
    except UnicodeDecodeError as exc:
        raise ValueError(f"the input is not UTF-8: byte {exc.start} is 0x{data[exc.start]:02x}") from None

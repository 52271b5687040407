"""Shows the progress of a long command on standard error: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

import click

LINE_SECONDS = 2.0
"""Seconds between two lines by default, so that the log of a long command stays short."""


class Progress:
    """Shows how many of `total` parts are done, inside `with`: `Progress("roll", 8, "workers replaced")` shows
    "roll: 3 of 8 workers replaced".
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        line_seconds: float = LINE_SECONDS,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._text = f"{label}: {{}} of {total} {unit}"
        self._stream = stream or sys.stderr
        self._clock = clock
        self._line_seconds = line_seconds
        self._shown = 0
        self._next_line = 0.0
        self._bar = None
        if total and self._stream.isatty():
            template = f"{label}  [%(bar)s]  %(info)s {unit}"
            self._bar = click.progressbar(
                length=total,
                file=self._stream,
                show_pos=True,
                show_percent=False,
                show_eta=False,
                bar_template=template,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, exc, traceback)

    def update(self, done: int) -> None:
        """Show that `done` parts are done. Do nothing if the number has not grown."""
        if done <= self._shown:
            return
        if self._bar is not None:
            self._bar.update(done - self._shown)
        elif self._clock() >= self._next_line:
            self._next_line = self._clock() + self._line_seconds
            print(self._text.format(done), file=self._stream, flush=True)
        self._shown = done

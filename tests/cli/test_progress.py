"""Progress of a command: a bar on a terminal, lines elsewhere."""

import io

from wsgateway.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_a_line_is_written_now_and_then() -> None:
    stream, now = io.StringIO(), [10.0]
    with Progress("drain", 60, "connections closed", stream=stream, clock=lambda: now[0]) as progress:
        for seconds, done in ((0, 0), (0, 5), (1, 6), (3, 6), (3, 40)):
            now[0] = 10.0 + seconds
            progress.update(done)
    assert stream.getvalue() == "drain: 5 of 60 connections closed\ndrain: 40 of 60 connections closed\n"


def test_a_terminal_has_a_bar() -> None:
    stream = Terminal()
    with Progress("roll", 2, "workers replaced", stream=stream) as progress:
        progress.update(1)
        progress.update(2)
    assert "roll  [" in stream.getvalue()
    assert "2/2 workers replaced" in stream.getvalue()


def test_nothing_to_do_is_no_bar() -> None:
    stream = Terminal()
    with Progress("drain", 0, "connections closed", stream=stream) as progress:
        progress.update(0)
    assert stream.getvalue() == ""

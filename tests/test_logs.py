import logging
import multiprocessing
import time
from pathlib import Path

import pytest

from wsgateway.logfile import SharedFile
from wsgateway.logs import FrameMask, GatewayLog, LineFormatter, QueryMask, RepeatFilter, Repeats


def line(message: str, *args: object, **extra: str) -> str:
    log = GatewayLog("shop")
    text, kwargs = log.process(message, {"extra": extra})
    record = logging.LogRecord("wsgateway", logging.INFO, __file__, 1, text, args, None)
    assert kwargs["extra"]["gateway"] == "shop"
    return LineFormatter().format(record)


def test_an_answer_to_a_client_that_has_gone_is_no_error() -> None:
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "x", 1, "Exception in ASGI application", None, None)
    assert RepeatFilter().filter(record)
    gone = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    record.exc_info = (RuntimeError, gone, None)
    assert not RepeatFilter().filter(record)


def test_a_line_has_time_level_gateway_and_connection() -> None:
    text = line("opened %s", "/ws", conn="abc")
    assert text.endswith("Z INFO    [shop] [abc] opened /ws")
    assert text[10] == "T"


def test_nobody_writes_lines_or_colours_of_his_own() -> None:
    text = line("agent %s", "a\r\nINFO forged\x1b[31m\u2028\x00\x9b%s<script>")
    assert "\n" not in text
    assert "\x1b" not in text
    assert r"a\r\nINFO forged\x1b[31m\u2028\x00\x9b%s<script>" in text


def test_a_traceback_is_indented_below_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as exc:
        info = (ValueError, exc, exc.__traceback__)
    record = logging.LogRecord("wsgateway", logging.ERROR, __file__, 1, "failed", (), info)
    first, *rest = LineFormatter().format(record).splitlines()
    assert first.endswith("failed")
    assert all(text.startswith("    ") for text in rest)


def test_the_filter_masks_paths_whatever_they_hold_and_whole_messages(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("masked.by.a.test")
    log.addFilter(QueryMask())
    log.warning('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/a?b= SECRET 'SECRET", "1.1", 200)
    log.warning("cannot read http://h/x?key=SECRET")
    log.warning("50% of %s?")
    assert caplog.messages == [
        '1.2.3.4:5 - "GET /a?… HTTP/1.1" 200',
        "cannot read http://h/x?…",
        "50% of %s?",
    ]


def test_a_filter_masks_only_what_may_hold_the_token_of_a_centrifuge_client(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("masked.frames.by.a.test")
    log.addFilter(FrameMask())
    line = '%s - "%s %s HTTP/%s" %d'
    log.warning(line, "1.2.3.4:5", "GET", "/connection/sse?a=b&cf_connect=SECRET 'SECRET", "1.1", 200)
    log.warning(line, "1.2.3.4:5", "GET", "/search?q=hi", "1.1", 200)
    log.warning("at http://h/connection/sse?cf_connect=SECRET")
    log.warning("took %(seconds)s s", {"seconds": 1})
    assert caplog.messages == [
        '1.2.3.4:5 - "GET /connection/sse?… HTTP/1.1" 200',
        '1.2.3.4:5 - "GET /search?q=hi HTTP/1.1" 200',
        "at http://h/connection/sse?…",
        "took 1 s",
    ]


@pytest.mark.parametrize("text", ["/" * 100_000, "/?" * 50_000, "?" * 100_000, "/a?b=" + "%22" * 30_000, " " * 100_000])
def test_masking_takes_time_proportional_to_the_length(text: str) -> None:
    began = time.perf_counter()
    for path in (text, "cf_connect=" + text):
        record = logging.LogRecord("uvicorn.access", logging.INFO, "", 1, "%s", (path,), None)
        assert FrameMask().filter(record)
        assert QueryMask().filter(record)
    assert time.perf_counter() - began < 1  # a quadratic expression takes minutes


def test_the_filter_masks_a_query_string() -> None:
    record = logging.LogRecord(
        "uvicorn.error", logging.INFO, "", 1, '%s - "WebSocket %s"', ("1.2.3.4", "/ws?k=s"), None
    )
    assert QueryMask().filter(record)
    assert record.getMessage() == '1.2.3.4 - "WebSocket /ws?…"'


def test_a_log_that_cannot_be_written_is_counted_and_never_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = SharedFile(folder / "WebSocket.log")
    file.write(["x"])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    file.write(["x"])
    assert file.failures == 1
    folder.mkdir()
    file.write(["x"])
    assert "x" in (folder / "WebSocket.log").read_text()
    file.close()
    assert capsys.readouterr().err == ""


def write_lines(path: Path, name: str) -> None:
    file = SharedFile(path)
    file.max_bytes = 20_000
    for number in range(500):
        file.write([f"2026-01-01T00:00:00.000Z INFO    {name} {number}"])
    file.close()


def test_several_processes_rotate_one_file_without_losing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "WebSocket.log"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_lines, args=(path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    files = sorted(tmp_path.glob("WebSocket.log*"))
    assert len(files) > 1
    lines = [text for file in files for text in file.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 1000


def test_a_kind_of_line_is_written_once_a_second_and_then_says_how_many_were_kept_back() -> None:
    now = 100.0
    repeats = Repeats(lambda: now)
    assert [repeats.more("origin") for _ in range(4)] == ["", None, None, None]
    assert repeats.more("key") == ""
    now = 101.5
    assert repeats.more("origin") == " … 3 more like this in 2 s"
    now = 110
    assert repeats.more("origin") == ""
    assert [repeats.more("error", burst=2) for _ in range(3)] == ["", "", None]
    now = 120
    assert repeats.more("error", burst=2) == " … 1 more like this in 10 s"


def test_a_limited_line_is_written_once_a_second_beside_others_and_names_its_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = GatewayLog("shop")
    for number in range(3):
        log.limited("key").warning("refused %d", number, extra={"conn": "abc"})
        log.warning("shown %d", number)
    assert caplog.messages == ["[shop] [abc] refused 0", "[shop] shown 0", "[shop] shown 1", "[shop] shown 2"]
    assert {record.filename for record in caplog.records} == {"test_logs.py"}
    assert {record.funcName for record in caplog.records} == {
        "test_a_limited_line_is_written_once_a_second_beside_others_and_names_its_caller"
    }
    GatewayLog("shop").limited("key").warning("refused")
    assert caplog.messages[-1] == "[shop] refused"


def test_a_limited_line_of_a_disabled_level_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = GatewayLog("shop")
    for _ in range(2):
        log.limited("double").debug("dropped")
    with caplog.at_level("DEBUG", "wsgateway"):
        log.limited("double").debug("dropped")
    assert caplog.messages == ["[shop] dropped"]


def test_a_burst_of_limited_lines_is_written(caplog: pytest.LogCaptureFixture) -> None:
    log = GatewayLog("shop")
    for number in range(3):
        log.limited("lost", burst=2).warning("lost %d", number)
    assert caplog.messages == ["[shop] lost 0", "[shop] lost 1"]


def test_what_uvicorn_and_asyncio_repeat_is_thinned_out_by_its_first_line() -> None:
    now = 100.0
    thinning = RepeatFilter(Repeats(lambda: now))

    def passes(level: int, text: str) -> bool:
        return bool(thinning.filter(logging.LogRecord("asyncio", level, "", 1, text, (), None)))

    assert [passes(logging.ERROR, f"out of system resource\n{number}") for number in range(3)] == [True, False, False]
    assert passes(logging.ERROR, "another")
    assert [passes(logging.INFO, "connection open") for _ in range(2)] == [True, True]
    now = 105
    record = logging.LogRecord("asyncio", logging.ERROR, "", 1, "another", (), None)
    assert thinning.filter(record)
    assert record.getMessage() == "another"

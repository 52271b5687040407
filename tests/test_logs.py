import logging
import multiprocessing
from pathlib import Path

import pytest

from wsgateway.logs import GatewayLog, LineFormatter, LogFile, QueryMask, mask_query, mask_url


def line(message: str, *args: object, **extra: str) -> str:
    log = GatewayLog("shop")
    text, kwargs = log.process(message, {"extra": extra})
    record = logging.LogRecord("wsgateway", logging.INFO, __file__, 1, text, args, None)
    assert kwargs["extra"]["gateway"] == "shop"
    return LineFormatter().format(record)


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


def test_query_strings_are_masked() -> None:
    assert mask_query("/ws?token=secret") == "/ws?…"
    assert mask_query('"GET /a?b=c HTTP/1.1" is it there? yes') == '"GET /a?… HTTP/1.1" is it there? yes'
    assert mask_url("wss://ann:pw@host/ws?key=secret") == "wss://host/ws?…"
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
    handler = LogFile(folder / "WebSocket.log")
    record = logging.LogRecord("wsgateway", logging.INFO, "", 1, "x", (), None)
    handler.handle(record)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    handler.handle(record)
    assert handler.failures == 1
    folder.mkdir()
    handler.handle(record)
    assert "x" in (folder / "WebSocket.log").read_text()
    handler.close()
    assert capsys.readouterr().err == ""


def write_lines(path: Path, name: str) -> None:
    handler = LogFile(path)
    handler.maxBytes = 20_000
    for number in range(500):
        handler.handle(logging.LogRecord("wsgateway", logging.INFO, "", 1, "%s %d", (name, number), None))
    handler.close()


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

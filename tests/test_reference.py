"""The reference is that of the code: generated parts are current, and every name and line on a page exists."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

from wsgateway import closing
from wsgateway.gateway.http import routes
from wsgateway.hub.channels import LOST
from wsgateway.protocols.centrifuge import codes

ROOT = Path(__file__).parent.parent
REFERENCE = runpy.run_path(str(ROOT / "tools" / "reference.py"))


@pytest.mark.parametrize(("page", "name"), REFERENCE["PARTS"])
def test_a_generated_part_is_current(page: str, name: str) -> None:
    _, part, _ = REFERENCE["split"]((ROOT / page).read_text(), name)
    assert part == REFERENCE["PARTS"][page, name](), "run: make reference"


VALUE = re.compile(r"%[-.\d]*[sdrgf]")
LINES = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/reference/log-lines.md").read_text(), re.MULTILINE)


def test_every_line_of_the_log_exists() -> None:
    texts = [path.read_text() for path in (ROOT / "wsgateway").rglob("*.py")]
    joined = [VALUE.sub("…", re.sub(r'"\n +"', "", text)) for text in texts]  # a string over several lines is one
    assert len(LINES) > 50
    assert [line for line in LINES if not any(line in text for text in joined)] == []


ROW = re.compile(r"^\| (\d{4}) \| (yes|no) \|", re.MULTILINE)


def test_the_page_of_close_codes_has_every_code_and_what_clients_do() -> None:
    closes, subscriptions = (ROOT / "docs/reference/close-codes.md").read_text().split("## Codes of subscriptions")
    rows = {int(code): answer == "yes" for code, answer in ROW.findall(closes)}
    assert rows == {code: closing.may_reconnect(code) for code in rows}
    assert closing.OWN_CODES | closing._CLOSE_CODES | codes._CLOSES.keys() <= rows.keys()
    ended = {int(code): answer == "yes" for code, answer in ROW.findall(subscriptions)}
    assert ended == {code: code >= LOST for code in codes._UNSUBSCRIBES}


def test_the_page_of_routes_has_every_route() -> None:
    """Those of clients and operators are written by hand, the others are generated."""
    source = inspect.getsource(routes.router)
    paths = {path for path in re.findall(r'"(/[\w/{}:.]*)"', source) if path not in ("/", "/channels/")}
    page = (ROOT / "docs/reference/http.md").read_text()
    internal = {"/pages/connection", "/pages/{name}", "/{name}"}  # of the test page, and the scripts for clients
    shown = {path for path in paths if re.sub(r"/?{\w+:path}", "", path) in page}
    assert paths - shown == internal

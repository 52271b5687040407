"""The script that takes pictures of the panel knows every page, and the pictures of the documentation are small."""

import re

from tools.screenshots import DOCS, IN_DOCS, ROOT, State, pages
from wsgateway.admin.pages.table import PAGES
from wsgateway.supervisor.supervisor import Supervisor

MAX_BYTES = 80_000


def test_there_is_a_picture_of_every_page() -> None:
    shown = [f"/{page.path.partition('?')[0]}" for page in pages(State(Supervisor(), "", "none"))]
    for page in PAGES:
        if page.method == "GET" and page.path != "/login":
            pattern = re.sub(r"\{\w+\}", "[^/]+", page.path)
            assert any(re.fullmatch(pattern, path) for path in shown), page.path


def test_the_pictures_of_the_documentation_are_those_that_the_script_writes() -> None:
    pictures = {path.name: path.stat().st_size for path in DOCS.glob("*.png")}
    assert set(pictures) == {*(f"{name}.png" for name in IN_DOCS), "phone.png"}
    assert max(pictures.values()) <= MAX_BYTES
    texts = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    assert [name for name in pictures if f"panel/{name}" not in texts] == []

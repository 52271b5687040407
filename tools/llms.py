"""Writes llms.txt and llms-full.txt into the site, for programs that read documentation as text (llmstxt.org).

`llms.txt` lists the pages of the navigation, each as a link to its Markdown. `llms-full.txt` contains all of them.
Zensical can do this only for a site whose address is in mkdocs.yml.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads mkdocs.yml. Its tags for Python objects become None."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def read(config: Path) -> dict[str, Any]:
    """Return the content of mkdocs.yml."""
    content: dict[str, Any] = yaml.load(config.read_text(encoding="utf-8"), _Loader)
    return content


Entry = tuple[str, str, str]
"""The section, the title, and the path of a page; the section of a page at the top is empty."""


def entries(nav: list[dict[str, Any]], section: str = "") -> Iterator[Entry]:
    """Yield each page of the navigation, in order."""
    for entry in nav:
        for title, value in entry.items():
            if isinstance(value, str):
                yield section, title, value
            else:
                yield from entries(value, title)


def write(config: Path, pages: Path, site: Path) -> None:
    """Write both files into `site`, and beside them the Markdown in `pages` of each page in the navigation."""
    settings = read(config)
    index = [f"# {settings['site_name']}\n\n> {settings['site_description']}\n"]
    full = []
    last = ""
    for section, title, path in entries(settings["nav"]):
        text = (pages / path).read_text(encoding="utf-8")
        if section != last or len(index) == 1:
            index.append(f"\n## {section or 'More' if len(index) > 1 else 'Start'}\n\n")
            last = section
        summary = _summary_of(text)
        index.append(f"- [{title}]({path})" + (f": {summary}\n" if summary else "\n"))
        full.append(f"<!-- {path} -->\n\n{text.rstrip()}\n")
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pages / path, site / path)
    (site / "llms.txt").write_text("".join(index), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n\n".join(full), encoding="utf-8")


def _summary_of(text: str) -> str:
    """Return the first sentence of the first paragraph, without links; empty if no paragraph is prose."""
    without_code = re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", without_code):
        if re.match(r"[A-Z`]", paragraph):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
            return re.split(r"(?<=\.)\s", plain)[0].rstrip(":")
    return ""

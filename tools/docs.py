"""Builds the documentation site, or serves it: `python -m tools.docs build`, `python -m tools.docs serve`.

Zensical reads a copy of docs/ in build/docs. In the copy, each link to a file outside docs/ leads to a page that shows
that file, because such a link works on a Git host but not in a site.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tools import llms

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIG = ROOT / "mkdocs.yml"
STAGE = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
FILES = "files"
"""Folder of the site with the files from outside docs/."""

LANGUAGES = {".conf": "nginx", ".html": "html", ".js": "js", ".py": "python", ".service": "ini", ".sh": "sh"}
LANGUAGES |= {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
IMAGES = {".png", ".svg"}
STYLE = DOCS / "site.css"
"""The style sheet of the site. Every other one is shown as a page."""
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^ *(`{3,}|~{3,})")
COLOR = re.compile(r"\x1b\[[0-9;]*m")
MAX_LINE = 160
"""Characters of a line of Zensical's warnings, which contain whole paragraphs."""
POLL = 0.5
"""Seconds between two looks at the files, while the site is served."""


class Stage:
    """The copy of docs/ that Zensical reads, with the pages for files from outside."""

    def __init__(self, folder: Path = STAGE) -> None:
        self.folder = folder
        self.pages: dict[Path, str] = {}
        """Text of each page, by its path in the copy."""
        self.assets: dict[Path, Path] = {}
        """Original of each picture, by its path in the copy."""
        self.broken: list[str] = []
        """A sentence about each link to a file that does not exist."""

    def fill(self) -> None:
        """Copy docs/ and all files that it links to. Write only what differs; remove what is left over."""
        self.pages.clear()
        self.assets.clear()
        self.broken.clear()
        for path in sorted(DOCS.rglob("*")):
            if path.is_file():
                self.add(path)
        self.add(ROOT / "CHANGELOG.md")
        for target, text in self.pages.items():
            _write(self.folder / target, text.encode())
        for target, original in self.assets.items():
            _write(self.folder / target, original.read_bytes())
        for path in self.folder.rglob("*"):
            if path.is_file() and path.relative_to(self.folder) not in self.pages.keys() | self.assets.keys():
                path.unlink()

    def add(self, original: Path) -> Path:
        """Add the page that shows the file or folder `original`. Return the path of the page in the copy."""
        target = _target(original)
        if target in self.pages or target in self.assets:
            return target
        if original.suffix in IMAGES or original == STYLE:
            self.assets[target] = original
        elif original.suffix == ".md":
            self.pages[target] = ""  # a page may link to itself
            self.pages[target] = self._relinked(original, target)
        elif original.is_dir():
            self.pages[target] = ""
            self.pages[target] = self._folder_page(original, target)
        else:
            language = LANGUAGES.get(original.suffix, "text")
            name = original.relative_to(ROOT)
            self.pages[target] = f"# {name}\n\n``````{language}\n{original.read_text().rstrip()}\n``````\n"
        return target

    def _relinked(self, original: Path, target: Path) -> str:
        def relink(match: re.Match[str]) -> str:
            address, hash_mark, anchor = match[2].partition("#")
            if not address or ":" in address:
                return match[0]
            linked = (original.parent / address).resolve()
            if not linked.exists():
                self.broken.append(f"{original.relative_to(ROOT)}: {address} does not exist")
                return match[0]
            # The site has one first page
            page = self.add(DOCS / "index.md" if linked == ROOT / "README.md" else linked)
            return f"{match[1]}{_relative(page, target)}{hash_mark}{anchor}{match[3]}"

        return _outside_code(original.read_text(), lambda line: LINK.sub(relink, line))

    def _folder_page(self, original: Path, target: Path) -> str:
        readme = original / "README.md"
        head = self._relinked(readme, target) if readme.exists() else f"# {original.relative_to(ROOT)}\n"
        files = sorted(path for path in original.iterdir() if path.is_file() and path != readme)
        lines = [f"- [{path.name}]({_relative(self.add(path), target)})\n" for path in files]
        return f"{head}\n## Files\n\n{''.join(lines)}"


def _target(original: Path) -> Path:
    """Return where the copy shows `original`."""
    if original.is_relative_to(DOCS):
        return original.relative_to(DOCS)
    if original.name == "README.md":
        original = original.parent
    path = FILES / original.relative_to(ROOT)
    if original.is_dir():
        return path / "index.md"
    return path if original.suffix in IMAGES | {".md"} else path.with_name(path.name.replace(".", "-") + ".md")


def _relative(page: Path, target: Path) -> str:
    return Path(os.path.relpath(page, target.parent)).as_posix()


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return `text` with each line changed that is not in a fenced block."""
    lines: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        if fence:
            lines.append(line)
            fence = "" if mark and mark[1].startswith(fence) else fence
        else:
            fence = mark[1] if mark else ""
            lines.append(line if mark else change(line))
    return "".join(lines)


def _write(path: Path, content: bytes) -> None:
    """Write a file unless it has that content, so that Zensical builds only pages that have changed."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def zensical(command: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "zensical", command, "--config-file", str(CONFIG), *options]


def build() -> None:
    """Build the site into build/site. End the process with 1 after a warning."""
    stage = Stage()
    stage.fill()
    shutil.rmtree(SITE, ignore_errors=True)
    command = zensical("build", "--strict", "--clean")
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    for line in COLOR.sub("", built.stdout).partition("Traceback")[0].splitlines():
        print(line[:MAX_LINE])
    for sentence in stage.broken:
        print(sentence)
    if built.returncode or stage.broken:
        raise SystemExit(1)
    llms.write(CONFIG, STAGE, SITE)


def serve(*options: str) -> None:
    """Serve the site until the process is interrupted, and rebuild each page whose file changes."""
    stage = Stage()
    stage.fill()
    with subprocess.Popen(zensical("serve", *options), cwd=ROOT) as server:
        try:
            while server.poll() is None:
                time.sleep(POLL)  # nothing in the standard library watches files
                stage.fill()
        except KeyboardInterrupt:
            server.terminate()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build"]:
            build()
        case ["serve", *options]:
            serve(*options)
        case _:
            raise SystemExit("usage: python -m tools.docs build | serve [--dev-addr HOST:PORT]")

"""Which listeners may be named remotely."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsgateway.supervisor.patterns import is_allowed, warnings_about


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`work`, the working folder, with `hooks`, and `elsewhere` beside it."""
    work = tmp_path / "work"
    for name in ("work/hooks/inner", "work/shop.egg-info", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("work/hooks/chat.py", "work/hooks/inner/deep.py", "work/top.py", "elsewhere/evil.py"):
        (tmp_path / name).write_text("")
    (work / "hooks" / "link.py").symlink_to(tmp_path / "elsewhere" / "evil.py")
    (work / "hooks" / "within.py").symlink_to(work / "hooks" / "inner" / "deep.py")
    (work / "hooks" / "loop.py").symlink_to(work / "hooks" / "loop.py")
    (work / "hooks" / "out").symlink_to(tmp_path / "elsewhere")
    (work / "linked").symlink_to(work / "hooks")
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(work)
    before = set(sys.modules)
    yield work
    assert set(sys.modules) - before <= {"shop"}, "a pattern loads nothing"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("hooks/*.py:*", "hooks/chat.py:Chat"),
        ("hooks/*.py:*", "hooks/not_there_yet.py:Chat"),
        ("hooks/ch?t.py:C*", "hooks/chat.py:Chat"),
        ("hooks/*.py", "hooks/chat.py"),
        ("*/*.py:*", "hooks/chat.py:Chat"),
        ("*.py:*", "top.py:L"),
        ("hooks/chat.py:Chat", "hooks/chat.py:Chat"),
        ("hooks/*.py:*", "hooks/within.py:L"),
        ("linked/*.py:*", "linked/chat.py:Chat"),
        ("shop.*", "shop.chat:Chat"),
        ("shop.*", "shop.chat"),
        ("shop.*", "shop.deep.er:Chat"),
        ("shop.*:Chat", "shop.chat:Chat"),
        ("shop.chat", "shop.chat"),
        ("shop.chat:Chat", "shop.chat:Chat"),
        ("*", "shop.chat:Chat"),
    ],
)
def test_it_allows(pattern: str, name: str) -> None:
    assert is_allowed(name, [pattern])
    assert is_allowed(name, ["nothing", pattern])
    assert not is_allowed(name, [])


def test_a_link_to_itself_is_not_followed_for_ever() -> None:
    assert is_allowed("hooks/loop.py:L", ["hooks/*.py:*"]) in (True, False)  # there is nothing that could be loaded


def test_an_absolute_pattern_allows_absolute_paths_below_it(folder: Path) -> None:
    assert is_allowed(f"{folder}/hooks/chat.py:Chat", [f"{folder}/hooks/*.py:*"])
    assert not is_allowed(f"{folder}/hooks/link.py:L", [f"{folder}/hooks/*.py:*"])
    assert not is_allowed(f"{folder}/hooks/../top.py:L", [f"{folder}/*/*/*.py:*"])
    assert not is_allowed("hooks/chat.py:Chat", [f"{folder}/hooks/*.py:*"])


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        # out of the folder
        ("hooks/*.py:*", "hooks/../top.py:L"),
        ("hooks/*.py:*", "hooks/../../elsewhere/evil.py:L"),
        ("*/*/*.py:*", "hooks/../top.py:L"),
        ("hooks/*.py:*", "hooks/link.py:L"),
        ("hooks/link.py:L", "hooks/link.py:L"),
        ("hooks/*/*.py:*", "hooks/out/evil.py:L"),
        ("*/*/*.py:*", "hooks/out/evil.py:L"),
        ("hooks/*.py:*", "{folder}/hooks/chat.py:L"),
        ("*", "{folder}/hooks/chat.py:L"),
        ("*.py:*", "/etc/evil.py:L"),
        ("/*.py:*", "/etc/evil.py:L"),
        # further down than the pattern
        ("hooks/*.py:*", "hooks/inner/deep.py:L"),
        ("*.py:*", "hooks/chat.py:L"),
        # another spelling
        ("hooks/*.py:*", "./hooks/chat.py:L"),
        ("hooks/*.py:*", "hooks/./chat.py:L"),
        ("hooks/*/*.py:*", "hooks/./chat.py:L"),
        ("hooks/*.py:*", "hooks//chat.py:L"),
        ("hooks/*/*.py:*", "hooks//chat.py:L"),
        ("hooks/*.py:*", "Hooks/chat.py:L"),
        ("hooks/*.py:*", "hooks/chat.PY:L"),
        ("hooks/*.py:*", "hooks\\chat.py:L"),
        ("hooks/*.py:*", "hooks/..\\..\\elsewhere\\evil.py:L"),
        ("hooks/*.py:*", "hooks/%2e%2e%2ftop.py:L"),
        ("hooks/*.py:*", "hooks/a\0b.py:L"),
        ("hooks/*.py:*", "hooks/a\nb.py:L"),
        ("hooks/*.py:*", " hooks/chat.py:L"),
        ("hooks/*.py:*", "hooks/chat.py:L "),
        # two colons
        ("hooks/*.py:*", "hooks/chat.py:L:M"),
        ("hooks/*.py:*", "hooks/chat.py::L"),
        ("hooks/*.py:*", "hooks/a:b.py:L"),
        ("*:*", "os:path:join"),
        ("*", "os::system"),
        # modules and files are not each other
        ("shop.*", "shop.py:L"),
        ("shop.*", "shop.egg-info/../../elsewhere/evil.py:L"),
        ("shop.*", "shop./etc/evil.py:L"),
        ("shop.*", "shop.egg-info"),
        ("hooks/*", "hooks/chat.py:L"),
        ("hooks/*", "hooks/chat:L"),
        ("*", "top.py:L"),
        ("*.py", "shop.chat"),
        # modules
        ("shop.*", "shop"),
        ("shop.*", "Shop.chat:L"),
        ("shop.*", "shop..chat:L"),
        ("shop.*", "shop.:L"),
        ("shop.*", ".shop.chat:L"),
        ("shop.*", "shopping.chat:L"),
        ("shop.*", "os:system"),
        ("shop.*", "shop.a b:L"),
        ("shop.chat", "shop.chat:Other"),
        ("shop.*:Chat", "shop.chat:Other"),
        ("shop.*:Chat", "shop.chat"),
        ("hooks/*.py", "hooks/chat.py:Chat"),
        ("*", ""),
        ("*", ":"),
        ("[", "["),
    ],
)
def test_it_does_not_allow(pattern: str, name: str, folder: Path) -> None:
    assert not is_allowed(name.format(folder=folder) if "{" in name else name, [pattern])


def test_a_folder_of_the_module_path_adds_nothing_to_a_package_without_an_init(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (folder / "shop" / "chat.py", tmp_path / "elsewhere" / "shop" / "evil.py"):
        file.parent.mkdir()
        file.write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "elsewhere")])
    assert is_allowed("shop.chat:L", ["shop.*"])
    assert not is_allowed("shop.evil:L", ["shop.*"])
    (folder / "shop" / "__init__.py").write_text("")  # now Python does not look elsewhere
    assert is_allowed("shop.evil:L", ["shop.*"])


@pytest.mark.parametrize("pattern", ["hooks/*", "../hooks/*.py:*", "./x.py", "a//b.py", "C:\\x.py", "shop..x", ""])
def test_a_pattern_that_allows_nothing_is_reported(pattern: str) -> None:
    assert "allows nothing" in next(warnings_about([pattern]))


def test_other_patterns_are_no_warning() -> None:
    assert not list(warnings_about(["shop.*", "*", "*:*", "hooks/*.py:*", "/srv/hooks/[a-z]*.py:L", "*.py"]))

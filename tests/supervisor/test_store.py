"""The settings file, as it is kept."""

import random
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import anyio
import pytest

from wsgateway import ConfigError
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor

FILE = """\
# defaults of every gateway
hook_timeout = 3  # seconds

[gateways.chat]   # the first
port = 0
echo_sender = false

# prices, for the shop
[gateways.prices]
port = 0

[admin]
token = ["secret"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "wsgateway.toml"
    file.write_text(FILE)
    return file


def test_comments_and_order_survive_an_edit(path: Path) -> None:
    store = Store(str(path))
    store.put("chat", {"echo_sender": None, "hook_timeout": 7.5, "allowed_origins": ["https://a.example"]})
    assert path.read_text() == FILE.replace(
        "echo_sender = false\n", 'hook_timeout = 7.5\nallowed_origins = ["https://a.example"]\n'
    )
    found = store.read().gateways["chat"].settings
    assert (found.hook_timeout, found.echo_sender, found.allowed_origins) == (7.5, True, ("https://a.example",))


def test_a_gateway_is_added_and_taken_out(path: Path) -> None:
    store = Store(str(path))
    assert list(store.put("game", {"port": 10999}).gateways) == ["chat", "prices", "game"]
    assert list(store.remove("PRICES").gateways) == ["chat", "game"]
    assert "# defaults of every gateway" in path.read_text()
    store.remove("chat")
    assert list(store.remove("game").gateways) == []  # none, and not the one of a file without gateways


def test_a_change_that_cannot_be_is_not_written(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"port .*70000.* is not from 0 to 65535"):
        Store(str(path)).put("chat", {"port": 70000})
    assert path.read_text() == FILE


@pytest.mark.parametrize("broken", ["[gateways.chat\nport = 1", "port = 1\nport = 2\n", "", "hook_timeout = {"])
def test_a_broken_file_is_refused_with_line_and_column_and_not_overwritten(path: Path, broken: str) -> None:
    store = Store(str(path))
    path.write_text(broken)
    for action in (store.read, lambda: store.put("chat", {"port": 1}), lambda: store.remove("chat")):
        with pytest.raises(ConfigError, match=r"line \d+|end of document"):
            action()
    assert path.read_text() == broken


def test_the_mistakes_of_all_gateways_are_reported_together(path: Path) -> None:
    path.write_text(FILE + "\n[gateways.CHAT]\nprot = 1\n[gateways.other]\nhook_timeout = 'x'\n")
    with pytest.raises(ConfigError) as caught:
        Store(str(path)).read()
    text = str(caught.value)
    assert "[CHAT] is there twice" in text
    assert "prot" in text
    assert "did you mean port?" in text
    assert "hook_timeout" in text


def test_a_port_on_the_command_line_cannot_be_that_of_several(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"port: .* choose one with --id"):
        Store(str(path), flags={"port": "1"}).read()
    found = Store(str(path), flags={"port": "1", "id": "chat"}).read().gateways
    assert {name: loaded.settings.port for name, loaded in found.items()} == {"chat": 1}


def test_a_server_for_one_gateway_takes_no_other(path: Path) -> None:
    store = Store(str(path), flags={"id": "chat"})
    with pytest.raises(ConfigError, match=r"started for .chat. only"):
        store.put("game", {"port": 0})
    assert path.read_text() == FILE
    assert store.put("chat", {"hook_timeout": 2}).gateways["chat"].settings.hook_timeout == 2


def test_without_a_file_there_is_one_and_the_first_created_makes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(flags={"port": "10777", "echo_sender": False})
    assert list(store.read().gateways) == ["default"]
    store.put("second", {"port": 10778})
    found = tomllib.loads((tmp_path / "wsgateway.toml").read_text())
    assert found == {"gateways": {"default": {"port": 10777, "echo_sender": False}, "second": {"port": 10778}}}
    assert (tmp_path / "wsgateway.toml").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link_and_the_mode_stays(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    Store(str(link)).put("chat", {"port": 1})
    assert link.is_symlink()
    assert "port = 1" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store()
    monkeypatch.setattr("tempfile.mkstemp", _refuse)  # a disk that is full
    with pytest.raises(ConfigError, match="cannot write the settings file"):
        store.put("a", {})
    assert not store.has_file


def _refuse(**_: object) -> None:
    raise PermissionError(13, "Permission denied")


EDITOR = """
import random, sys
from wsgateway.supervisor.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
for number in range(200):
    name = random.choice("abcdefgh")
    if random.random() < 0.3:
        store.remove(name)
    else:
        store.put(name, {"port": 0, "hook_timeout": number + 1, "allowed_hosts": ["x" * random.randrange(2000)]})
"""


async def test_killed_at_any_moment_the_file_is_whole_and_the_supervisor_runs_what_it_says(path: Path) -> None:
    for attempt in range(12):
        process = subprocess.Popen([sys.executable, "-c", EDITOR, str(path)], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        await anyio.sleep(random.random() * 0.4)  # the moment is what is tried
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        tables = tomllib.loads(path.read_text())
        assert "# defaults of every gateway" in path.read_text()
        if attempt % 4 == 0:
            async with Supervisor(Store(str(path))) as supervisor:
                assert [found.id for found in supervisor.all()] == list(tables["gateways"])
                assert {found.state for found in supervisor.all()} == {"running"}


# The text that is written


LAYOUTS = {
    "tables": "[gateways.a]\nport = 0\n[gateways.b]\nport = 0\n",
    "tables around another": "[gateways.a]\nport = 0\n[admin]\ntoken = ['x']\n[gateways.b]\nport = 0\n",
    "a table of tables": "[gateways]\n  [gateways.a]\n  port = 0\n\n  [gateways.b]\n  port = 0\n",
    "inline tables": "gateways = {a = {port = 0}, b = {port = 0}}\n",
    "an inline table in a table": "[gateways]\na = {port = 0}\n\n[gateways.b]\nport = 0\n",
    "dotted keys": "gateways.a.port = 0\ngateways.b.port = 0\n",
    "dotted keys in a table": "[gateways]\na.port = 0\nb.port = 0\n",
    "quoted keys": "[\"gateways\".'a']\nport = 0\n['gateways'.b]\nport = 0\n",
    "no line at the end": "[gateways.a]\nport = 0\n[gateways.b]\nport = 0",
    "no gateways": "port = 0\n# the end\n",
    "channels": (
        '[channels."room:*"]\nhistory = 1 # one\n[gateways.a]\nport = 0\n[gateways.a.channels."room:*"]\nhistory = 2\n'
        "[gateways.b.channels.news]\n[gateways.c]\nport = 0\n"
    ),
    "channels around another": (
        '[gateways.a]\nport = 0\n[channels."x:*"]\n[gateways.b]\nport = 1\n[gateways.a.channels.x]\npublic = true\n'
    ),
    "channels without gateways": 'port = 0\n# rooms\n[channels."room:*"]\nhistory = 1\n',
    "channels in inline tables": 'gateways = {a = {channels = {"room:*" = {history = 1}}}, b = {port = 0}}\n',
    "channels with dotted keys": '[gateways.a]\nchannels."room:*".history = 1\n[gateways.b]\n',
    "windows": "# top\r\n[gateways.a]\r\nport = 0\r\n[gateways.b]\r\nport = 0\r\n",
    "byte order mark": "\ufeff[gateways.a]\nport = 0\n[gateways.b]\nport = 0\n",
}

CHANGES: tuple[dict[str, object], ...] = (
    {"drain": 1.5},
    {"port": None},
    {"allowed_hosts": ["a", "ü" * 200], "echo_sender": False},
    {"listener": "we\"ird'\\\n\t\x7f\x01é.py:X", "api_key": ["k#]=\"'x"]},
    {"max_message_size": 2**63 - 1, "hook_timeout": 1e300, "on_stop": ""},
    {},
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_change_is_written_as_it_was_meant_or_not_at_all(tmp_path: Path, layout: str) -> None:
    file = tmp_path / "wsgateway.toml"
    for changes in CHANGES:
        for wanted in ("a", "new"):
            file.write_bytes(LAYOUTS[layout].encode())
            meant = {name: described_of(file, name) for name in Store(str(file)).read().gateways}
            mistake = mistake_of(file, wanted, changes)
            if mistake:
                assert "cannot be changed in place" in mistake
                assert file.read_bytes() == LAYOUTS[layout].encode()
                assert "dotted" in layout or "inline" in layout
                continue
            table = meant.setdefault(wanted, {}) | changes
            meant[wanted] = {name: value for name, value in table.items() if value is not None}
            assert {name: described_of(file, name) for name in Store(str(file)).read().gateways} == meant


def mistake_of(file: Path, wanted: str, changes: dict[str, object]) -> str:
    try:
        Store(str(file)).put(wanted, changes)
    except ConfigError as exc:
        return str(exc)
    return ""


def described_of(file: Path, name: str) -> dict[str, object]:
    text = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    found: dict[str, object] = tomllib.loads(text).get("gateways", {}).get(name, {})
    return found


def test_line_endings_and_a_byte_order_mark_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "wsgateway.toml"
    file.write_bytes(b"\xef\xbb\xbf# caf\xc3\xa9\r\n[gateways.a]\r\nport = 0\r\n")
    store = Store(str(file))
    store.put("a", {"drain": 2})
    store.put("b", {"port": 0})
    store.remove("a")
    data = file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf# caf\xc3\xa9\r\n")
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert data.count(b"\xef\xbb\xbf") == 1


@pytest.mark.parametrize("value", [5, ["os"], {"a": 1}, True, {"a": {"b": 1}}])
def test_a_listener_that_is_no_text_is_not_written(path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match=r"listener \(.*\[gateways\.chat\]\): .* is not text"):
        Store(str(path)).put("chat", {"listener": value})
    assert path.read_text() == FILE


@pytest.mark.parametrize(
    "changes", [{"port": 70000}, {"port": 1}, {"prot": 1}], ids=["mistake", "no folder", "misspelled"]
)
def test_a_failed_first_write_keeps_the_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.mkstemp", _refuse)  # a disk that is full
    store = Store(flags={"port": "7777"})
    with pytest.raises(ConfigError):
        store.put("second", changes)
    assert store.read().gateways["default"].settings.port == 7777
    assert not store.has_file

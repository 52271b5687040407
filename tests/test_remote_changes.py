"""Settings that are changed over REST and in the panel: of any type, and listeners that nobody has allowed. What is
refused changes neither the file nor the gateway that runs."""

import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests import processes
from tests.panels import admin, visitor
from wsgateway.config.settings import SPECS
from wsgateway.exceptions import ConfigError
from wsgateway.supervisor.changes import HOST_ONLY
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client

NOBODY = """
from wsgateway import Refused

class Listener:
    async def on_handshake(self, event):
        raise Refused(401, "nobody may enter")
"""

FILE = """\
# a comment
[gateways.chat]
port = 0
listener = "hooks/chat.py:Listener"

[gateways.odd]
startup = "manual"
listener = "hooks/[c]*.py:Listener"

[admin]
listeners = ["hooks/*.py:*", "shop.*"]
"""

RAN = "ran.txt"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder. Each file outside `hooks` would leave a trace if its code ran."""
    monkeypatch.chdir(tmp_path)
    for name in ("hooks", "outside", "shop.egg-info"):
        (tmp_path / name).mkdir()
    (tmp_path / "hooks" / "chat.py").write_text(NOBODY)
    trace = f"open({str(tmp_path / RAN)!r}, 'a').close()\n"
    (tmp_path / "outside" / "evil.py").write_text(trace + NOBODY)
    (tmp_path / "hooks" / "link.py").symlink_to(tmp_path / "outside" / "evil.py")
    yield tmp_path
    assert not (tmp_path / RAN).exists(), "code of a listener that is not allowed has run"


@pytest.fixture
async def running(folder: Path) -> AsyncIterator[tuple[Supervisor, httpx.AsyncClient]]:
    async with admin(folder, FILE) as (supervisor, url), httpx.AsyncClient(base_url=url, timeout=20) as http:
        yield supervisor, http
        assert (folder / "wsgateway.toml").read_text() == FILE
        with pytest.raises(InvalidStatus, match="401"):
            async with Client(supervisor.find("chat").url):
                pass


ODD: list[Any] = [5, 0, 1.5, True, False, [], ["os"], [["os:system"]], {}, {"a": 1}, {"a": {"b": []}}, 10**400, "a\0b"]


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(value)[:20].replace("\0", "NUL"))
async def test_a_listener_that_is_no_text_is_422(running: tuple[Supervisor, httpx.AsyncClient], value: Any) -> None:
    _, http = running
    answers = [
        await http.patch("/api/gateways/chat?wait=5", json={"listener": value}),
        await http.post("/api/gateways?wait=5", json={"id": "new", "listener": value}),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert "listener: " in answer.json()["detail"]
        assert len(answer.text) < 500


@pytest.mark.parametrize("name", sorted(SPECS.keys() - HOST_ONLY - {"id", "listener"}))
async def test_a_setting_of_any_type_is_refused_or_written_whole(folder: Path, name: str) -> None:
    (folder / "wsgateway.toml").write_text('[gateways.a]\nstartup = "manual"\n')
    store = Store("wsgateway.toml")
    async with Supervisor(store) as supervisor:
        for value in [*ODD, "", "x", "\r\n\t\x7f\u2028", "'''\"\"\"\\", "ü" * 300, ["x", "y"], -1, 1e300]:
            before = (folder / "wsgateway.toml").read_bytes()
            mistake = await mistake_of(supervisor, {name: value})
            if mistake:
                assert f"{name}: " in mistake
                assert (folder / "wsgateway.toml").read_bytes() == before
            else:
                table = tomllib.loads((folder / "wsgateway.toml").read_text())["gateways"]["a"]
                assert set(table) <= {"startup", name}
                assert not isinstance(table[name], dict)
            assert store.read().gateways["a"].settings == supervisor.find("a").settings
        await supervisor.edit("a", {name: None, "drain": 3.0})
        await supervisor.edit("a", {"drain": 4.0})
        assert store.read().gateways["a"].settings.drain == 4


async def mistake_of(supervisor: Supervisor, changes: dict[str, Any]) -> str:
    """What is wrong with `changes` of gateway `a`, empty if they are made."""
    try:
        supervisor.check_remote_changes(changes)
        await supervisor.edit("a", changes)
    except ConfigError as exc:
        return str(exc)
    return ""


async def test_null_takes_a_listener_back_to_its_default(folder: Path) -> None:
    async with admin(folder, FILE) as (supervisor, url), httpx.AsyncClient(base_url=url, timeout=20) as http:
        answer = await http.patch("/api/gateways/chat?wait=10", json={"listener": None})
        assert (answer.status_code, answer.json()["settings"]["listener"]) == (200, None)
        assert supervisor.find("chat").settings.listener is None


@pytest.mark.parametrize("digits", [309, 400, 4000, 4299])
@pytest.mark.parametrize("name", ["max_message_size", "drain", "port", "message_rate", "workers"])
async def test_a_huge_number_is_422(running: tuple[Supervisor, httpx.AsyncClient], name: str, digits: int) -> None:
    _, http = running
    body = f'{{"{name}": 1{"0" * digits}}}'
    headers = {"content-type": "application/json"}
    answer = await http.patch("/api/gateways/chat?wait=5", content=body, headers=headers)
    assert answer.status_code == 422, answer.text
    assert f"{name}: " in answer.json()["detail"]
    assert len(answer.text) < 500


REFUSED = [
    "hooks/../outside/evil.py:Listener",
    "hooks/link.py:Listener",
    "./hooks/chat.py:Listener",
    "hooks//chat.py:Listener",
    "hooks\\chat.py:Listener",
    "outside/evil.py:Listener",
    "{folder}/outside/evil.py:Listener",
    "{folder}/hooks/chat.py:Listener",
    "shop.egg-info/../outside/evil.py:Listener",
    "Hooks/chat.py:Listener",
    "hooks/chat.py:Listener:Listener",
    "hooks/%2e%2e/outside/evil.py:Listener",
    "os:system",
]


@pytest.mark.parametrize("name", REFUSED)
async def test_a_listener_that_no_pattern_allows_is_refused_everywhere(
    running: tuple[Supervisor, httpx.AsyncClient], name: str, folder: Path
) -> None:
    supervisor, http = running
    listener = name.format(folder=folder)
    edited = await http.patch("/api/gateways/chat?wait=5", json={"listener": listener})
    created = await http.post("/api/gateways?wait=5", json={"id": "new", "listener": listener})
    assert (edited.status_code, created.status_code) == (403, 403)
    assert "add it to listeners in [admin]" in edited.json()["detail"]
    async with visitor(str(http.base_url)) as panel:
        form = {"listener": listener, "port": "0"}
        for page, more in (("/gateways/chat/settings", {}), ("/new", {"id": "new"})):
            answer = await panel.submit(page, {**form, **more})
            assert answer.status_code == 422
            assert "may not be named here" in answer.text
    assert [found.id for found in supervisor.all()] == ["chat", "odd"]


async def test_the_command_edit_is_refused_too(running: tuple[Supervisor, httpx.AsyncClient], folder: Path) -> None:
    argv = [*processes.COMMAND, "edit", "chat", "listener=hooks/link.py:Listener"]
    argv += ["--admin-url", str(running[1].base_url)]
    done = await anyio.run_process(argv, env=processes.environment(), check=False)
    assert done.returncode == 1
    assert b"may not be named here" in done.stderr


async def test_what_the_file_names_is_a_name_and_no_pattern(
    running: tuple[Supervisor, httpx.AsyncClient], folder: Path
) -> None:
    supervisor, _ = running
    (folder / "hooks" / "other").mkdir()
    assert supervisor.may_name("hooks/[c]*.py:Listener")
    supervisor.admin = supervisor.admin.__class__()
    assert supervisor.may_name("hooks/[c]*.py:Listener")
    assert supervisor.may_name("hooks/chat.py:Listener")
    assert not supervisor.may_name("hooks/c.py:Listener")
    assert not supervisor.may_name("hooks/[c].py:Listener")


async def test_a_listener_that_a_pattern_allows_is_taken(folder: Path) -> None:
    (folder / "hooks" / "fine.py").write_text(
        "def on_message(event): ...\nclass L:\n    def on_stop(self, event): ...\n"
    )
    async with admin(folder, FILE) as (supervisor, url), httpx.AsyncClient(base_url=url, timeout=20) as http:
        answer = await http.patch("/api/gateways/chat?wait=10", json={"listener": "hooks/fine.py:L"})
        assert (answer.status_code, answer.json()["state"]) == (200, "running")
        again = await http.patch("/api/gateways/chat?wait=10", json={"listener": "hooks/fine.py"})
        assert again.status_code == 403
        assert supervisor.find("chat").settings.listener == "hooks/fine.py:L"


async def test_a_listener_without_hooks_is_a_failed_start_with_what_to_write(folder: Path) -> None:
    async with admin(folder, FILE) as (_, url), httpx.AsyncClient(base_url=url, timeout=20) as http:
        (folder / "hooks" / "chat.py").write_text("class Chat:\n    def on_message(self, event): ...\n")
        answer = await http.post("/api/gateways/chat/restart?wait=10")
        assert answer.status_code == 409
        shown = (await http.get("/api/gateways/chat")).json()
        assert shown["state"] == "failed"
        assert "hooks/chat.py has no Listener" in shown["failure"]


async def test_an_empty_key_does_not_take_the_key_away(folder: Path) -> None:
    text = '[gateways.chat]\nport = 0\napi_key = ["a key"]\n'
    async with admin(folder, text) as (supervisor, url), httpx.AsyncClient(base_url=url, timeout=20) as http:
        for value in ("", " ", ","):
            answer = await http.patch("/api/gateways/chat?wait=5", json={"api_key": value})
            assert answer.status_code == 422
            assert "api_key: it is empty" in answer.json()["detail"]
        assert supervisor.find("chat").settings.api_key == ("a key",)
        assert (folder / "wsgateway.toml").read_text() == text
        assert (await http.patch("/api/gateways/chat?wait=10", json={"api_key": None})).status_code == 200
        assert supervisor.find("chat").settings.api_key == ()


async def test_what_is_worth_a_line_is_said_once_at_the_start_and_when_it_is_new(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = '[gateways.a]\nport = 0\n[gateways.b]\nport = 0\n[admin]\nlisteners = ["hooks/*"]\n'
    async with admin(folder, text) as (supervisor, _):
        assert sum("'hooks/*' allows nothing" in line for line in caplog.messages) == 1
        (folder / "wsgateway.toml").write_text(text.replace('"hooks/*"', '"hooks/*", "../x.py"'))
        await supervisor.reload()
    assert sum("'hooks/*' allows nothing" in line for line in caplog.messages) == 1
    assert sum("'../x.py' allows nothing" in line for line in caplog.messages) == 1

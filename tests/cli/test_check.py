"""The command `wsgateway check`: what differs from the defaults comes first, and the listener is loaded."""

import os
from pathlib import Path

import pytest

from wsgateway.cli import check
from wsgateway.supervisor.store import Store

LISTENER = """
class Chat:
    def on_client_open(self, event): ...
    def on_message(self, event): ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.py").write_text(LISTENER)
    return tmp_path


def test_what_differs_comes_first_and_the_listener_is_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wsgateway.toml").write_text('listener = "chat.py:Chat"\nport = 8123\npong_timeout = 8\n')
    assert check.run(Store(environ={"WSGATEWAY_API_KEY": "hidden"})) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "# different from the default:",
        "port = 8123  # wsgateway.toml",
        'listener = "chat.py:Chat"  # wsgateway.toml',
        'api_key = "***"  # WSGATEWAY_API_KEY',
        "# the listener has the hooks on_client_open, on_message",
        "# defaults:",
    ]
    assert "pong_timeout = 8.0  # wsgateway.toml" in lines[6:]
    assert lines[-1] == "# no mistakes found"


def test_without_settings_it_says_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(Store()) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "# every setting has its default"
    assert second == "# no listener is set, so every message of a client is sent to all clients"


def test_with_namespaces_it_says_what_happens_and_shows_the_admin_interface(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wsgateway.toml").write_text('[channels."room:*"]\n[admin]\nport = 0\ntoken = ["hidden"]\n')
    assert check.run(Store()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "# no listener is set, so a client can only send to a channel" in lines
    start = lines.index("[admin]")
    assert lines[start + 1 : start + 4] == ["port = 0", 'token = "***"', "# defaults:"]
    assert "hidden" not in "".join(lines)


def test_keys_of_tokens_that_cannot_be_used_are_a_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wsgateway.toml").write_text('token_public_key = "key.pem"\n')
    (folder / "key.pem").write_text("not a key")
    assert check.run(Store()) == 1
    assert "token_public_key" in capsys.readouterr().err


def test_listeners_that_cannot_be_loaded_are_reported_by_gateway(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wsgateway.toml").write_text(
        '[gateways.a]\nlistener = "chat.py:Chta"\n[gateways.b]\nlistener = "chat.py:Chat"\nbroker = "none://"\n'
    )
    assert check.run(Store(environ=os.environ)) == 1
    shown = capsys.readouterr()
    assert "wsgateway: [a] listener 'chat.py:Chta': " in shown.err
    assert "did you mean Chat?" in shown.err
    assert "wsgateway: [b] broker" in shown.err
    assert "no mistakes found" not in shown.out

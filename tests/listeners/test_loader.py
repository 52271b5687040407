import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsgateway.config.settings import Settings
from wsgateway.exceptions import ListenerError
from wsgateway.listeners.hooks import HOOKS
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog

LOG = GatewayLog("test")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


class Chat:
    async def on_message(self, event: object) -> None: ...


def found(listener: object, **options: str) -> set[str]:
    made = Hooks(listener, Settings(**options), LOG)  # type: ignore[arg-type]  # texts only
    return {hook for hook in HOOKS if made[hook] is not None}


SOURCE = "class Chat:\n    def on_start(self, event): ...\ndef on_message(event): ...\nmade = Chat()\n"


@pytest.mark.parametrize(
    ("name", "hooks"),
    [
        ("chat_module:Chat", {"on_start"}),
        ("chat_module:made", {"on_start"}),
        ("chat_module", {"on_message"}),
        ("chat_module.py", {"on_message"}),
        ("chat_module.py:Chat", {"on_start"}),
        ("pack.age:Chat", {"on_start"}),
        ("{folder}/chat_module.py:Chat", {"on_start"}),
    ],
)
def test_a_listener_is_named_by_a_text(name: str, hooks: set[str], folder: Path) -> None:
    (folder / "chat_module.py").write_text(SOURCE)
    (folder / "pack").mkdir()
    (folder / "pack" / "age.py").write_text(SOURCE)
    assert found(name.format(folder=folder)) == hooks


def test_a_listener_is_a_class_an_instance_a_module_or_none() -> None:
    module = types.ModuleType("written")
    exec("def on_stop(event): ...", module.__dict__)
    assert found(Chat) == found(Chat()) == {"on_message"}
    assert found(module) == {"on_stop"}
    assert found(None) == set()


def test_a_restart_loads_a_named_module_anew(folder: Path) -> None:
    for name in ("chat_module", "chat_module.py"):
        (folder / "chat_module.py").write_text("def on_start(event): ...\n")
        assert found(name) == {"on_start"}
        (folder / "chat_module.py").write_text("def on_message(event): ...  # another length\n")
        again = Hooks(name, Settings(), LOG, reload=True)
        assert again["on_message"] is not None
        assert again["on_start"] is None


def test_names_of_hooks_come_from_the_settings_and_an_empty_one_is_off() -> None:
    class Lucee:
        def onMessage(self, event: object) -> None: ...  # noqa: N802  as Lucee's users write it
        def on_start(self, event: object) -> None: ...

    assert found(Lucee, on_message="onMessage", on_start="") == {"on_message"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", ["no module 'nowhere'"]),
        ("nowhere:Chat", ["no module 'nowhere'"]),
        ("nowhere.py", ["no such file"]),
        ("chat_module:Caht", ["has no Caht, did you mean Chat?"]),
        ("not a name", ["package.module:Name"]),
        ("broken", ["broken", "ZeroDivisionError", "broken.py:1"]),
        ("exits", ["SystemExit"]),
        ("misses", ["No module named 'missing_dependency'"]),
        ("needs:Chat", ["without arguments", "give an instance"]),
    ],
)
def test_a_listener_that_cannot_be_loaded_is_reported_in_a_sentence(name: str, words: list[str], folder: Path) -> None:
    (folder / "chat_module.py").write_text(SOURCE)
    (folder / "broken.py").write_text("1 / 0")
    (folder / "exits.py").write_text("import sys; sys.exit(5)")
    (folder / "misses.py").write_text("import missing_dependency")
    (folder / "needs.py").write_text("class Chat:\n    def __init__(self, name): ...\n")
    with pytest.raises(ListenerError) as error:
        Hooks(name, Settings(), LOG)
    assert all(word in str(error.value) for word in words), error.value


def test_a_configured_hook_that_is_missing_stops_the_start_with_the_nearest() -> None:
    with pytest.raises(ListenerError, match="did you mean on_message"):
        Hooks(Chat, Settings(on_message="on_mesage"), LOG)


def test_a_hook_that_is_not_callable_stops_the_start() -> None:
    with pytest.raises(ListenerError, match="has type str, which is not callable"):
        Hooks(types.SimpleNamespace(on_message="x"), Settings(), LOG)


def test_near_misses_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Lucee:
        def onClientOpen(self) -> None: ...  # noqa: N802  as Lucee's users write it
        def on_mesage(self) -> None: ...
        def on_open(self) -> None: ...
        def on_connect(self) -> None: ...
        def on_close(self) -> None: ...
        def on_disconnect(self) -> None: ...
        def on_receive(self) -> None: ...
        def on_message(self, event: object) -> None: ...
        def _on_close(self) -> None: ...

    with caplog.at_level(logging.WARNING):
        Hooks(Lucee, Settings(), LOG)
    meant = {
        "onClientOpen": "on_client_open",
        "on_close": "on_client_close",
        "on_connect": "on_client_open",
        "on_disconnect": "on_client_close",
        "on_mesage": "on_message",
        "on_open": "on_client_open",
        "on_receive": "on_message",
    }
    assert [text.replace("test_near_misses_are_warned_of.<locals>.", "") for text in caplog.messages] == [
        f"[test] Lucee.{name} is not a hook and is never called, did you mean {hook}?" for name, hook in meant.items()
    ]

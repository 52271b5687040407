"""How hooks are found: what counts as one, what is said of what does not, and that nothing else is evaluated."""

import asyncio
import functools
import json
import logging
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from wsgateway import Event, Gateway, StartError
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ListenerError
from wsgateway.listeners.hooks import HOOKS
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog
from wsgateway.testing import Client, serve

LOG = GatewayLog("test")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(listener: object, **options: Any) -> set[str]:
    made = Hooks(listener, Settings(**options), LOG)
    return {hook for hook in HOOKS if made[hook] is not None}


def refused(listener: object, **options: Any) -> str:
    with pytest.raises(ListenerError) as error:
        Hooks(listener, Settings(**options), LOG)
    return str(error.value)


def explode(*_: object) -> Any:
    raise RuntimeError("it was evaluated")


def hook(event: object) -> None: ...


# Nothing is evaluated


class Exploding:
    """A descriptor that raises."""

    def __get__(self, *_: object) -> Any:
        explode()


class Meta(type):
    def __getattr__(cls, name: str) -> Any:
        explode()


def everything() -> type:
    """A class of all that may be evaluated by accident, beside one hook. pytest would look at one of the module."""

    class Everything(metaclass=Meta):
        online = property(explode)
        on_line = Exploding()
        once = functools.cached_property(explode)
        __slots__ = ("__dict__", "on_slot", "on_start")

        def __getattr__(self, name: str) -> Any:
            explode()

        def __dir__(self) -> Any:
            explode()

        def __len__(self) -> int:
            return explode()  # type: ignore[no-any-return]

        def __bool__(self) -> bool:
            return explode()  # type: ignore[no-any-return]

        def __eq__(self, other: object) -> bool:
            return explode()  # type: ignore[no-any-return]

        __hash__ = None  # type: ignore[assignment]  # as Python sets it beside `__eq__`

        def __repr__(self) -> str:
            return explode()  # type: ignore[no-any-return]

        def on_message(self, event: object) -> None: ...

    return Everything


def test_nothing_of_a_listener_but_its_hooks_is_evaluated() -> None:
    kind = everything()
    assert found(kind) == {"on_message"}
    assert found(kind()) == {"on_message"}


async def test_a_gateway_with_it_is_made_and_started() -> None:
    async with Gateway(listener=everything()()).lifespan():
        pass


def test_a_module_with_a_getattr_is_not_asked(folder: Path) -> None:
    (folder / "odd.py").write_text("def __getattr__(name): 1 / 0\ndef on_start(event): ...\n")
    assert found("odd.py") == {"on_start"}


def test_a_listener_that_is_empty_is_a_listener() -> None:
    class Rooms(dict[str, str]):
        def on_handshake(self, event: object) -> None: ...

    rooms = Rooms()
    assert Gateway(listener=rooms).settings.listener is rooms
    assert found(rooms) == {"on_handshake"}


def test_a_slot_holds_a_hook_once_it_is_set() -> None:
    class Slots:
        __slots__ = ("on_message", "on_start")

    slots = Slots()
    slots.on_start = hook  # type: ignore[attr-defined]  # mypy reads no `__slots__`
    assert found(slots) == {"on_start"}


# What is a hook


class Call:
    def __call__(self, event: object) -> None: ...


USED = {hook for hook in HOOKS if "subscribe" not in hook and hook not in ("on_request", "on_expire")}


class Ways:
    """Every way to write a hook."""

    def __init__(self) -> None:
        self.on_start = lambda event: None
        self.on_client_open = functools.partial(self._named, "x")

    def _named(self, name: str, event: object) -> None: ...

    @staticmethod
    def on_stop(event: object) -> None: ...

    @classmethod
    def on_handshake(cls, event: object) -> None: ...

    on_message = Call()
    on_client_close = functools.partialmethod(_named, "x")

    @functools.wraps(explode)
    def on_error(self, *args: object, **options: object) -> None: ...

    @functools.singledispatchmethod
    def on_first_open(self, event: object) -> None: ...

    def on_last_close(self, event: object, note: str = "", *, more: int = 0) -> None: ...


def test_a_hook_is_written_in_many_ways() -> None:
    assert found(Ways) == USED


class Wanting:
    """A decorator's function has more arguments than what calls it gives."""

    @staticmethod
    def given(function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def call(*args: Any) -> object:
            return function(*args, "a database")

        return call

    @given
    def on_message(self, event: object, database: str) -> None: ...


def test_a_decorated_hook_counts_as_it_is_called() -> None:
    assert found(Wanting) == {"on_message"}


def test_none_stands_for_no_hook() -> None:
    class Less(Ways):
        on_last_close = None  # type: ignore[assignment]

    assert found(Less) == USED - {"on_last_close"}


# What is none


def wrong(**names: Any) -> type:
    return type("Chat", (), names)


async def agen(self: object, event: object) -> AsyncIterator[int]:
    yield 1


def gen(self: object, event: object) -> Iterator[int]:
    yield 1


class Generating:
    def __call__(self, event: object) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        (wrong(on_message=property(explode)), ["on_message of Chat is a property"]),
        (wrong(on_message=functools.cached_property(explode)), ["is a property"]),
        (
            wrong(on_message=Exploding()),
            ["on_message of Chat has type Exploding, which is not callable; define it as a method"],
        ),
        (wrong(on_message="chat"), ["on_message of Chat has type str, which"]),
        (types.SimpleNamespace(on_message=[]), ["has type list, which"]),
        (wrong(on_message=lambda: None), ["cannot be called with one event", "on_message(self, event)"]),
        (wrong(on_message=lambda self: None), ["cannot be called with one event"]),
        (wrong(on_message=lambda self, event, more: None), ["cannot be called with one event"]),
        (wrong(on_message=staticmethod(lambda: None)), ["cannot be called with one event"]),
        (wrong(on_message=classmethod(lambda cls: None)), ["cannot be called with one event"]),
        (wrong(on_message=staticmethod(functools.partial(hook, 1))), ["cannot be called with one event"]),
        (wrong(on_error=lambda self, event: None), ["an event and an exception", "on_error(self, event, exception)"]),
        (wrong(on_message=agen), ["on_message of Chat has a yield in it"]),
        (wrong(on_message=gen), ["has a yield in it"]),
        (wrong(on_message=staticmethod(functools.partial(gen, 1))), ["has a yield in it"]),
        (wrong(on_message=Generating()), ["has a yield in it"]),
    ],
)
def test_what_cannot_be_a_hook_stops_the_start(listener: object, words: list[str]) -> None:
    said = refused(listener)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    "take",
    [
        "database=Depends(list)",
        "database: Annotated[list, Depends(list)]",
        "database: Annotated[list, Depends(list)] = ()",
        "database: 'Annotated[list, Depends(list)]'",
        "database=Header()",
    ],
)
def test_a_hook_has_no_dependencies_of_fastapi(folder: Path, take: str) -> None:
    lines = [
        "from typing import Annotated",
        "from fastapi import Depends, Header",
        f"def on_message(event, {take}): ...",
    ]
    (folder / "chat.py").write_text("\n".join(lines) + "\n")
    said = refused("chat.py")
    assert f"the parameter database with {'Header' if 'Header' in take else 'Depends'}, but FastAPI resolves" in said
    assert "write it as on_message(event), and call what it needs in the hook" in said


def test_a_hook_of_a_module_is_shown_without_self(folder: Path) -> None:
    (folder / "chat.py").write_text("def on_message(): ...\n")
    assert "write it as on_message(event)" in refused("chat.py")


# A listener without a hook

TEXTS = {
    "a class": ("class Listener:\n    def on_message(self, event): ...\n", "chat.py",
        ["listener 'chat.py' has no hooks", "chat.py has a class Listener with on_message: write chat.py:Listener"]),
    "two classes": ("class A:\n    def on_start(self, e): ...\nclass B:\n    def on_stop(self, e): ...\n", "chat.py",
        ["a class A with on_start and a class B with on_stop: write chat.py:A or chat.py:B"]),
    "a class of a module": ("class L:\n    async def on_stop(self, e): ...\n", "mod", ["write mod:L"]),
    "an object": ("class _L:\n    def on_stop(self, e): ...\nchat = _L()\n", "chat.py",
        ["an object chat with on_stop: write chat.py:chat"]),
    "one beside the right one": ("class X: ...\nclass L:\n    def on_stop(self, e): ...\n", "chat.py:X",
        ["listener 'chat.py:X' has no hooks", "write chat.py:L"]),
    "imported": ("from wsgateway.supervisor.starter import Listener\n", "chat.py", ["write chat.py:Listener"]),
    "imported and written": (
        "from wsgateway.supervisor.starter import Listener\nclass L:\n    def on_stop(self, e): ...\n", "chat.py",
        ["has a class L with on_stop: write chat.py:L"]),
    "inherited": ("class _B:\n    def on_stop(self, e): ...\nclass L(_B): ...\n", "chat.py", ["write chat.py:L"]),
    "another name": ("class L:\n    def onMessage(self, e): ...\n", "chat.py:L",
        ["it has onMessage: name it on_message", 'set on_message = "onMessage"']),
    "another name in a class": ("class L:\n    def onMessage(self, e): ...\n", "chat.py",
        ["L of chat.py has onMessage: name it on_message"]),
    "names of other libraries": (
        "class L:\n"
        + "".join(f"    def {name}(self, e): ...\n" for name in ("onOpen", "on_mesage", "onclose", "once")),
        "chat.py:L",
        ["it has onOpen, name it on_client_open; on_mesage, name it on_message; onclose, name it on_client_close"]),
    "functions": ("def send(): ...\n", "chat.py", ["it has send; write at least one of on_start, "]),
    "nothing": ("", "chat.py", ["write at least one of on_start, "]),
    "a function": ("def make(): ...\n", "chat.py:make", ["has no hooks"]),
    "a number": ("PORT = 5\n", "chat.py:PORT", ["has no hooks"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_named_listener_without_hooks_says_what_was_found_and_what_to_write(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, listener, words = TEXTS[name]
    monkeypatch.syspath_prepend(folder)
    (folder / "chat.py").write_text(source)
    (folder / "mod.py").write_text(source)
    said = refused(listener)
    assert all(word in said for word in words), said
    assert "\n" not in said


@pytest.mark.parametrize("listener", [json, 5, False, 0, [], {}, object(), types.SimpleNamespace(), hook, Exploding])
async def test_anything_without_hooks_is_a_failed_start(listener: object) -> None:
    gateway = Gateway(listener=listener)
    with pytest.raises(StartError, match="has no hooks"):
        await gateway.start()
    assert gateway.state == "failed"


async def test_without_a_listener_it_starts() -> None:
    for listener in (None, ""):
        async with Gateway(listener=listener).lifespan():
            pass


def test_a_hook_that_is_named_needs_a_listener() -> None:
    assert "no listener is set" in refused(None, on_message="onMessage")


def test_a_listener_whose_hooks_are_turned_off_has_hooks() -> None:
    class Chat:
        def on_message(self, event: object) -> None: ...

    assert found(Chat, on_message="") == set()
    assert "has no hooks" in refused(wrong(online=lambda self: None), on_message="")


# What a hook returns


class Returning:
    """Each hook returns what the client says of it."""

    async def on_message(self, event: Event) -> object:
        return {"text": event.message}

    def on_client_open(self, event: Event) -> object:
        return 5

    async def on_handshake(self, event: Event) -> object:
        return PermissionError("not today")

    async def on_start(self, event: Event) -> object:
        return None


async def test_what_a_hook_returns_is_a_warning_once_for_each_hook(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "wsgateway"):
        async with serve(Gateway(listener=Returning)) as url, Client(url) as ann, Client(url) as bob:
            for text in ("1", "2", "3"):
                await ann.send(text)
                assert await bob.receive() == text
    lines = [text for text in caplog.messages if "returned" in text]
    assert sorted(lines) == [
        "[default] on_client_open has returned a value of type int, which is ignored; change the event instead",
        "[default] on_handshake has returned a value of type PermissionError, which is ignored; raise it",
        "[default] on_message has returned a value of type dict, which is ignored; change the event instead",
    ]


async def test_a_coroutine_that_is_returned_has_to_be_awaited(caplog: pytest.LogCaptureFixture) -> None:
    futures: list[asyncio.Future[None]] = []

    class Forgetful:
        async def on_start(self, event: Event) -> object:
            futures.append(asyncio.get_running_loop().create_future())
            return futures[0]

    with caplog.at_level(logging.WARNING, "wsgateway"):
        async with Gateway(listener=Forgetful).lifespan():
            pass
    assert "on_start has returned a value of type Future, which is ignored; await it in the hook" in caplog.text


async def test_a_hook_that_gives_a_coroutine_from_a_thread_is_awaited() -> None:
    ran = anyio.Event()

    class Wrapped:
        def on_start(self, event: Event) -> object:
            async def later() -> None:
                ran.set()

            return later()

    async with Gateway(listener=Wrapped).lifespan():
        assert ran.is_set()

"""For tests of applications: a gateway on a real server, a listener that records events, and a client whose methods
have a time limit.

    async with testing.serve(Gateway(listener=Chat)) as url:
        async with testing.Client(url) as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import anyio
from starlette.types import ASGIApp

from wsgateway.client import ClientConnection, Subprotocol, connect, websocket_url
from wsgateway.config.settings import Settings
from wsgateway.exceptions import Refused
from wsgateway.gateway.gateway import Gateway
from wsgateway.listeners.event import CloseEvent, Event, MessageEvent, OpenEvent
from wsgateway.protocols.v1 import SUBPROTOCOL
from wsgateway.server.serving import serving

TIMEOUT = 30.0
"""Seconds after which a wait in a test fails."""


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Serve `app`, a `Gateway` or an application that mounts one, on a free port of loopback. Yield its URL."""
    options = app.settings if isinstance(app, Gateway) else Settings()
    async with serving(app, replaced(options)) as url:
        yield url


class RecordingListener:
    """A listener that records its events in `events`, as `(hook, message or close code)`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self._changed = anyio.Event()

    def record(self, hook: str, value: Any) -> None:
        self.events.append((hook, value))
        self._changed.set()
        self._changed = anyio.Event()

    def count(self, hook: str) -> int:
        """Return how often `hook` was called."""
        return sum(name == hook for name, _ in self.events)

    async def wait_for(self, hook: str, count: int = 1) -> None:
        """Wait until `hook` has been called `count` times. Raise `TimeoutError`."""
        with anyio.fail_after(TIMEOUT):
            while self.count(hook) < count:
                await self._changed.wait()

    async def on_client_open(self, event: OpenEvent) -> None:
        self.record("on_client_open", event.message)

    async def on_message(self, event: MessageEvent) -> None:
        self.record("on_message", event.message)

    async def on_client_close(self, event: CloseEvent) -> None:
        self.record("on_client_close", event.code)

    async def on_error(self, event: Event, exception: BaseException) -> None:
        self.record("on_error", exception)


class Client:
    """A WebSocket client of the gateway at `url`, connected to `path`. `options` go to `websockets.connect`.

    With `channels`, it uses `wsgateway.v1` and subscribes to them when it connects. `since` contains the position of
    each channel to recover from. `subscribed` waits for the answer, and `receive_json` returns the next message:

        async with testing.Client(url, channels=["room:1"]) as ann:
            await ann.subscribed("room:1")
            assert (await ann.receive_json())["message"] == "hi"
    """

    def __init__(
        self,
        url: str,
        path: str = "/ws",
        *,
        channels: Iterable[str] | None = None,
        since: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if channels is not None or since is not None:
            positions = [("since", f"{channel}@{at}") for channel, at in (since or {}).items()]
            query = urlencode([*(("channel", channel) for channel in channels or ()), *positions])
            path += f"{'&' if '?' in path else '?'}{query}" if query else ""
            options.setdefault("subprotocols", [Subprotocol(SUBPROTOCOL)])
        self._connecting = connect(websocket_url(url) + path, **options)
        self._passed_over: deque[str | bytes] = deque()
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        with anyio.fail_after(TIMEOUT):
            self.socket = await self._connecting
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.socket.close()

    async def send(self, message: str | bytes) -> None:
        with anyio.fail_after(TIMEOUT):
            await self.socket.send(message)

    async def send_json(self, value: object) -> None:
        """Send `value` as JSON text, such as `{"channel": "room:1", "message": "hi"}`."""
        await self.send(json.dumps(value))

    async def receive(self) -> str | bytes:
        """Return the next message. Raise `TimeoutError`, and `websockets.ConnectionClosed` after the close."""
        if self._passed_over:
            return self._passed_over.popleft()
        return await self._receive()

    async def _receive(self) -> str | bytes:
        with anyio.fail_after(TIMEOUT):
            return await self.socket.recv()

    async def receive_json(self) -> Any:
        return json.loads(await self.receive())

    async def subscribed(self, channel: str) -> Any:
        """Wait until the client is subscribed to `channel`, and return the answer, an object with `subscribed`.

        Other messages that arrive meanwhile are kept for `receive`. Raise `Refused` if the gateway refuses it, and the
        errors of `receive`.
        """
        waiting = list(self._passed_over)
        self._passed_over.clear()
        try:
            while True:
                text = waiting.pop(0) if waiting else await self._receive()
                answer = json.loads(text) if isinstance(text, str) else {}
                if isinstance(answer, dict) and answer.get("subscribed") == channel:
                    return answer
                if isinstance(answer, dict) and answer.get("refused") == channel:
                    raise Refused(answer["status"], answer["reason"])
                self._passed_over.append(text)
        finally:
            self._passed_over.extend(waiting)

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait until the connection is closed. Return the close code and reason."""
        with anyio.fail_after(TIMEOUT):
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason


def replaced(settings: Settings) -> Settings:
    """Return `settings` with a free port of loopback."""
    return replace(settings, host="127.0.0.1", port=0, uds=None)

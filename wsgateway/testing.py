"""For tests of applications: a gateway on a real server, a listener that records events, and a client whose methods
have a time limit.

    async with testing.serve(Gateway(listener=Chat)) as url:
        async with testing.Client(url) as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any, Literal, Self
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

SECRET = "the secret of wsgateway.testing, which everybody knows"  # noqa: S105  of tests only
"""Signs what `token` returns: `Gateway(token_secret=[testing.SECRET])`."""

_PATHS = {"plain": "/ws", "v1": "/ws", "centrifuge": "/connection/websocket"}

_STATUSES = {100: 500, 101: 401, 102: 404, 104: 404, 107: 400, 109: 401, 111: 429}
"""The status of a refusal for each code of an error. Other codes are 403."""


def token(**claims: Any) -> str:
    """Return a JSON Web Token with `claims`, such as `sub="ann"`, signed with `SECRET` (HS256)."""
    header = {"alg": "HS256", "typ": "JWT"}
    signed = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    return b".".join((signed, _base64(hmac.digest(SECRET.encode(), signed, hashlib.sha256)))).decode()


def _base64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


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

    With `channels`, it subscribes to them when it connects. `since` contains the position of each channel to recover
    from. `subscribed` waits for the answer, and `receive_json` returns the next message:

        async with testing.Client(url, channels=["room:1"]) as ann:
            await ann.subscribed("room:1")
            assert (await ann.receive_json())["message"] == "hi"

    `protocol` is by default `v1` with `channels` or `since`, otherwise `plain`. A client of `centrifuge` is connected
    once the gateway has accepted its `connect`, whose result is `connected`; `Refused` is raised if the gateway refuses
    it. It answers pings while it receives. `token` is sent as the protocol does it.
    """

    def __init__(
        self,
        url: str,
        path: str | None = None,
        *,
        protocol: Literal["plain", "v1", "centrifuge"] | None = None,
        channels: Iterable[str] | None = None,
        since: Mapping[str, str] | None = None,
        token: str = "",
        **options: Any,
    ) -> None:
        if protocol is None:
            protocol = "plain" if channels is None and since is None else "v1"
        if protocol not in _PATHS:
            raise ValueError(f"protocol {protocol!r} does not exist, use one of {', '.join(_PATHS)}")
        self.connected: dict[str, Any] = {}
        """The result of `connect`, for a client of `centrifuge`."""
        self.socket: ClientConnection
        self._first: list[dict[str, Any]] = []
        self._idents = count(1)
        self._subscribing: dict[str, int] = {}
        self._subs: dict[str, Any] = {}
        self._is_centrifuge = protocol == "centrifuge"
        self._lines: deque[str] = deque()
        self._passed_over: deque[str | bytes] = deque()
        path = _PATHS[protocol] if path is None else path
        if self._is_centrifuge:
            self._first = self._first_commands(list(channels or ()), since or {}, token)
        else:
            path = _with_channels(path, channels or (), since or {})
            if token:
                headers = dict(options.pop("additional_headers", None) or {})
                options["additional_headers"] = {**headers, "Authorization": f"Bearer {token}"}
        if protocol == "v1":
            options.setdefault("subprotocols", [Subprotocol(SUBPROTOCOL)])
        self._connecting = connect(websocket_url(url) + path, **options)

    def _first_commands(self, channels: list[str], since: Mapping[str, str], token: str) -> list[dict[str, Any]]:
        """Return `connect`, and a `subscribe` for each of the channels: the first frame of a Centrifuge client."""
        positions = {name: _recovery(at) for name, at in since.items()}
        subs = {name: position for name, position in positions.items() if name not in channels}
        commands = [self._command("connect", token=token, subs=subs)]
        for name in channels:
            command = self._command("subscribe", channel=name, **positions.get(name, {}))
            self._subscribing[name] = command["id"]
            commands.append(command)
        return commands

    def _command(self, method: str, /, **fields: Any) -> dict[str, Any]:
        return {"id": next(self._idents), method: fields}

    async def __aenter__(self) -> Self:
        with anyio.fail_after(TIMEOUT):
            self.socket = await self._connecting
        if self._is_centrifuge:
            try:
                await self.send("\n".join(map(json.dumps, self._first)))
                self.connected = await self._result(self._first[0]["id"])
                self._subs.update(self.connected.get("subs", {}))
            except BaseException:
                await self.socket.close()
                raise
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

    async def call(self, method: str, /, **fields: Any) -> Any:
        """Send a command of the Centrifuge protocol, such as `rpc`, and return the result. Raise `Refused`.

        Other messages that arrive meanwhile are kept for `receive`.
        """
        command = self._command(method, **fields)
        await self.send_json(command)
        result = await self._result(command["id"])
        if method == "subscribe":
            self._subs[fields["channel"]] = result
        return result

    async def receive(self) -> str | bytes:
        """Return the next message. Raise `TimeoutError`, and `websockets.ConnectionClosed` after the close."""
        if self._passed_over:
            return self._passed_over.popleft()
        return await self._receive()

    async def _receive(self) -> str | bytes:
        with anyio.fail_after(TIMEOUT):
            while not self._lines:
                message = await self.socket.recv()
                if not self._is_centrifuge or isinstance(message, bytes):
                    return message
                for line in message.split("\n"):
                    if line == "{}":
                        await self.socket.send(line)  # the pong
                    else:
                        self._lines.append(line)
            return self._lines.popleft()

    async def receive_json(self) -> Any:
        return json.loads(await self.receive())

    async def subscribed(self, channel: str) -> Any:
        """Wait until the client is subscribed to `channel`, and return the answer.

        It is an object with `subscribed`, or the result of `subscribe` in the Centrifuge protocol. Other messages that
        arrive meanwhile are kept for `receive`. Raise `Refused` if the gateway refuses it, and the errors of `receive`.
        """
        if self._is_centrifuge:
            return await self._subscribed(channel)
        answer = await self._wait_for(lambda row: channel in (row.get("subscribed"), row.get("refused")))
        if "refused" in answer:
            raise Refused(answer["status"], answer["reason"])
        return answer

    async def _subscribed(self, channel: str) -> Any:
        if channel in self._subs:
            return self._subs.pop(channel)
        ident = self._subscribing.pop(channel, None)
        if ident is not None:
            return await self._result(ident)
        push = (await self._wait_for(lambda row: _is_subscribe(row, channel)))["push"]
        return push["subscribe"]

    async def _result(self, ident: int) -> Any:
        """Wait for the reply to a command, and return its result. Raise `Refused` if it is an error."""
        reply = await self._wait_for(lambda row: row.get("id") == ident)
        if (error := reply.get("error")) is not None:
            raise Refused(_STATUSES.get(error["code"], 403), f"{error['code']} {error['message']}")
        return next((value for name, value in reply.items() if name != "id"), {})

    async def _wait_for(self, is_awaited: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the next object that `is_awaited`. Keep the messages that arrive before it."""
        waiting = list(self._passed_over)
        self._passed_over.clear()
        try:
            while True:
                text = waiting.pop(0) if waiting else await self._receive()
                answer = json.loads(text) if isinstance(text, str) else None
                if isinstance(answer, dict) and is_awaited(answer):
                    return answer
                self._passed_over.append(text)
        finally:
            self._passed_over.extend(waiting)

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait until the connection is closed. Return the close code and reason."""
        with anyio.fail_after(TIMEOUT):
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason


def _with_channels(path: str, channels: Iterable[str], since: Mapping[str, str]) -> str:
    positions = [("since", f"{channel}@{at}") for channel, at in since.items()]
    query = urlencode([*(("channel", channel) for channel in channels), *positions])
    return path + (f"{'&' if '?' in path else '?'}{query}" if query else "")


def _recovery(at: str) -> dict[str, Any]:
    """Return the fields with which a Centrifuge client recovers from the position `at`."""
    epoch, _, offset = at.rpartition(":")
    return {"recover": True, "epoch": epoch, "offset": int(offset)}


def _is_subscribe(row: dict[str, Any], channel: str) -> bool:
    push = row.get("push", {})
    return push.get("channel") == channel and "subscribe" in push


def replaced(settings: Settings) -> Settings:
    """Return `settings` with a free port of loopback."""
    return replace(settings, host="127.0.0.1", port=0, uds=None)

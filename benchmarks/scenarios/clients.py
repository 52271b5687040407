"""Clients that keep what a real client keeps, cheaper than a library's, so that thousands fit into one process.

A `Client` outlives its connections: it remembers its positions, and recovers from them when it connects again.
"""

import asyncio
import base64
import json
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from scenarios.views import Ledger, View
from scenarios.wires import PATIENCE, StreamWire, WebSocketWire, Wire, until

RETRY = 0.25
"""Seconds after which a refused or disconnected client tries again, times a random number up to 1."""


class Client:
    """A client of a gateway at a URL: of the protocol `v1`, `plain`, `sse`, or `stream` (v1 in lines).

    With `stays`, it reconnects whenever its connection ends, to the URL that `choose` returns.
    """

    def __init__(
        self,
        ledger: Ledger,
        choose: Callable[[], str],
        *channels: str,
        kind: str = "v1",
        name: str = "client",
        user: str = "",
        stays: bool = False,
        last: int | None = None,
        is_latest_only: bool = False,
        is_lossy: bool = False,
        has_small_buffer: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.kind, self.name, self.user = kind, name, user
        self.views = {
            channel: View(channel, ledger, name, is_latest_only=is_latest_only, is_lossy=is_lossy)
            for channel in channels
        }
        self.url = ""
        self.session = ""
        self.conn_id = ""
        self.wire: Wire | None = None
        self.closes: list[tuple[int, str]] = []
        self.refusals: list[tuple[int, str]] = []
        self.members: dict[str, set[str]] = {}
        self.answers: dict[int, dict[str, Any]] = {}
        self.others: list[Any] = []
        self.retries = 0
        self._ledger = ledger
        self._choose = choose
        self._stays = stays
        self._last = last
        self._has_small_buffer = has_small_buffer
        self._rng = rng or random.Random(name)
        self._sent_since: dict[str, str] = {}
        self._retrying: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._event: dict[str, str] = {}
        self._is_gone = False

    # Connecting

    @property
    def is_open(self) -> bool:
        return self.wire is not None and self.wire.is_open

    @property
    def is_ready(self) -> bool:
        """Whether it is connected and subscribed to all of its channels."""
        return self.is_open and all(view.is_subscribed for view in self.views.values())

    async def connect(self) -> None:
        """Connect, and subscribe to every channel from its position. Return when the handshake is answered."""
        self._is_gone = False
        if self.wire is not None:
            self.wire.abort()
        self.url = self._choose()
        parts = urlsplit(self.url)
        loop = asyncio.get_running_loop()
        head, kind = self._handshake(parts.netloc), StreamWire if self.kind in ("sse", "stream") else WebSocketWire
        wire = kind(head, self._text, self._ended)
        sock = socket.socket()
        sock.setblocking(False)
        if self._has_small_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with asyncio.timeout(PATIENCE):
            try:
                await loop.sock_connect(sock, (parts.hostname, parts.port))
            except BaseException:
                sock.close()
                raise
            self.wire = wire  # what follows the response may be read before this task goes on
            await loop.create_connection(lambda: wire, sock=sock)
            await wire.opened
        if self.kind == "plain":
            for view in self.views.values():
                view.subscribed(None, recovered=False, since="")
        elif self.kind == "v1":
            for channel in self.views:
                self._subscribe(channel)

    async def join(self) -> "Client":
        """Connect, and wait until the client is subscribed to all of its channels."""
        await self.connect()
        await until(lambda: self.is_ready, f"{self.name} is not subscribed")
        return self

    def _handshake(self, host: str) -> bytes:
        query = [f"user={quote(self.user)}"] if self.user else []
        if self.kind != "v1":
            query += [f"channel={quote(channel)}" for channel in self.views]
        headers = [f"Host: {host}"]
        if self.kind in ("sse", "stream"):
            if self._last is not None:
                query += [f"last={self._last}" for _ in self.views]
            for view in self.views.values():
                self._sent_since[view.channel] = view.since
                if view.since:
                    query.append(f"since={quote(view.channel)}@{view.since}")
        else:
            key = base64.b64encode(os.urandom(16)).decode()
            headers += ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
            headers.append("Sec-WebSocket-Version: 13")
            headers += ["Sec-WebSocket-Protocol: wsgateway.v1"] if self.kind == "v1" else []
        path = {"sse": "/sse", "stream": "/stream"}.get(self.kind, "/ws")
        target = f"{path}?{'&'.join(query)}" if query else path
        return "\r\n".join([f"GET {target} HTTP/1.1", *headers, "", ""]).encode()

    def leave(self) -> None:
        """Abort the connection, as a network does. The positions stay."""
        self._is_gone = True
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None
        if self.wire is not None:
            self.wire.abort()
        self._away()

    def come_back(self) -> None:
        """Connect again, as often as it takes, if the client has left. Do not wait."""
        self._is_gone = False
        self._reconnect()  # an attempt that the client has left meanwhile fails, and another one follows

    def stop_reading(self) -> None:
        assert self.wire is not None
        self.wire.transport.pause_reading()

    def go_on_reading(self) -> None:
        if self.is_open and self.wire is not None:
            self.wire.transport.resume_reading()

    async def aclose(self) -> None:
        self.leave()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.wire is not None:
            self.wire.abort()

    def _away(self) -> None:
        for view in self.views.values():
            view.is_subscribed = False

    def _ended(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))
        self._away()
        if self._stays and not self._is_gone:
            self._later(self._reconnect)

    def _later(self, function: Callable[[], None]) -> None:
        delay = RETRY * (0.1 + self._rng.random())
        if self._retrying is not None:
            self._retrying.cancel()
        self._retrying = asyncio.get_running_loop().call_later(delay, function)

    def _reconnect(self) -> None:
        if not self._is_gone and not self.is_open and not self._tasks:
            task = asyncio.create_task(self._try())
            self._tasks.add(task)
            task.add_done_callback(self._tried)

    async def _try(self) -> None:
        if self._is_gone:
            return
        self.retries += 1
        with suppress(OSError, TimeoutError):
            await self.connect()

    def _tried(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not (task.cancelled() or self.is_open or self._is_gone):
            self._later(self._reconnect)

    # Commands

    def send(self, **values: Any) -> None:
        assert self.wire is not None
        self.wire.send(json.dumps(values))

    def subscribe(self, channel: str, **options: Any) -> None:
        """Add a channel, and subscribe to it."""
        self.views.setdefault(channel, View(channel, self._ledger, self.name, **options))
        self._subscribe(channel)

    def unsubscribe(self, channel: str) -> None:
        self.send(unsubscribe=channel)

    def _subscribe(self, channel: str) -> None:
        if not self.is_open or channel not in self.views or self.kind != "v1":
            return
        command: dict[str, Any] = {"subscribe": channel}
        since = self._sent_since[channel] = self.views[channel].since
        if since:
            command["since"] = since
        if self._last is not None:
            command["last"] = self._last
        self.send(**command)

    # Receiving

    def _text(self, text: str) -> None:
        match self.kind:
            case "plain":
                view = self.views.get(text.rsplit(" ", 2)[0]) if text.count(" ") >= 2 else None
                self.others.append(text) if view is None else view.message(text, "")
            case "sse":
                self._line(text.rstrip("\r"))
            case _:
                if text:
                    self._object(json.loads(text))

    def _object(self, value: dict[str, Any]) -> None:
        if "message" in value and "channel" in value:
            view = self.views.get(value["channel"])
            if view is None:
                self._ledger.mistake(f"{self.name} received {value}, and is not subscribed")
            else:
                view.message(value["message"], value.get("at", ""), value.get("key", ""))
        elif "subscribed" in value:
            self._subscribed(value["subscribed"], value)
        elif "unsubscribed" in value:
            self._unsubscribed(value["unsubscribed"], value["code"])
        elif "refused" in value:
            self._refused(value)
        elif "joined" in value or "left" in value:
            self._member(value)
        elif "open" in value:
            self.conn_id, self.session = value["open"]["id"], value["open"]["session"]
        elif "close" in value:
            assert self.wire is not None
            self.wire.closed(value["close"]["code"], value["close"]["reason"])
        elif "id" in value:
            self.answers[value["id"]] = value
        else:
            self.others.append(value.get("message"))

    def _subscribed(self, channel: str, value: dict[str, Any]) -> None:
        view = self.views.setdefault(channel, View(channel, self._ledger, self.name))
        since = self._sent_since.get(channel, "")
        view.subscribed(value.get("at"), recovered=value["recovered"], since=since)
        if "members" in value:
            self.members[channel] = {member["id"] for member in value["members"]}

    def _unsubscribed(self, channel: str, code: int) -> None:
        view = self.views.get(channel)
        if view is None:
            return
        if self.kind == "sse":  # a browser keeps its last id, and the server closes the stream
            view.is_subscribed = False
            view.told += code == 2500
            return
        if code == 2500:
            view.lost()
        else:
            view.is_subscribed = False
        if code < 2500:
            del self.views[channel]
        elif self.kind == "v1":
            self._subscribe(channel)
        else:
            self._reopen()

    def _reopen(self) -> None:
        """Open a stream again, which is how its client subscribes again."""
        if self.wire is not None:
            self.wire.abort()
        self._away()
        if self._stays and not self._is_gone:
            self._later(self._reconnect)

    def _refused(self, value: dict[str, Any]) -> None:
        self.refusals.append((value["status"], value["reason"]))
        channel = value["refused"]
        if "id" in value:
            self.answers[value["id"]] = value
        elif value["status"] == 503 and channel in self.views and self._stays:
            self._later(self._reopen if self.kind == "stream" else lambda: self._subscribe(channel))

    def _member(self, value: dict[str, Any]) -> None:
        members = self.members.setdefault(value["channel"], set())
        what = "joined" if "joined" in value else "left"
        member = value[what]["id"]
        if (what == "joined") == (member in members) and member != self.conn_id:
            self._ledger.mistake(
                f"{self.name}: {member} has {what}, members {'have' if what == 'joined' else 'lack'} it"
            )
        (members.add if what == "joined" else members.discard)(member)

    # Server-Sent Events

    def _line(self, line: str) -> None:
        if line:
            name, _, value = line.partition(":")
            if name:
                value = value.removeprefix(" ")
                self._event[name] = f"{self._event[name]}\n{value}" if name == "data" and name in self._event else value
            return
        event, self._event = self._event, {}
        data = event.get("data", "")
        match event.get("event", ""):
            case "open":
                opened = json.loads(data)
                self.conn_id, self.session = opened["id"], opened["session"]
            case "subscribed":
                value = json.loads(data)
                self._subscribed(value["channel"], value)
            case "unsubscribed":
                value = json.loads(data)
                self._unsubscribed(value["channel"], value["code"])
            case "close":
                assert self.wire is not None
                value = json.loads(data)
                self.wire.closed(value["code"], value["reason"])
            case "joined" | "left" | "base64":
                pass
            case _ if data:
                self.views[data.rsplit(" ", 2)[0]].message(data, event.get("id", ""))

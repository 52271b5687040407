"""Clients that do what `client.js` does: one that follows a channel, and one that must not notice others' failures."""

import asyncio
import json
import time
from types import TracebackType
from typing import Any, Self

import anyio
from websockets.exceptions import ConnectionClosed

from wsgateway import MessageEvent, SubscribeEvent
from wsgateway.client import ClientConnection, Subprotocol, connect, websocket_url
from wsgateway.frames import Position
from wsgateway.protocols.v1 import SUBPROTOCOL

PATIENCE = 20.0
"""Seconds to wait for what has to happen."""

RETRY = 0.05
"""Seconds after which a client that was refused with 503 asks again."""

SLOWEST = 1.5
"""Seconds in which a bystander has its answer, also on a machine that does other things."""


class Answering:
    """A listener that lets everybody subscribe, and answers a message only to its sender."""

    async def on_subscribe(self, event: SubscribeEvent) -> None:
        pass

    async def on_message(self, event: MessageEvent) -> None:
        if event.conn is not None and not event.channel:
            event.connections = [event.conn]


class Follower:
    """A client of one channel. It checks that no publication is missing between two, unless it was told.

    `messages` are those that it has received, `recovered` the answers to its subscriptions, `told` how often it was
    notified that it has missed publications.
    """

    def __init__(self, url: str, channel: str, *, since: str = "") -> None:
        self.messages: list[Any] = []
        self.recovered: list[bool] = []
        self.told = 0
        self.refusals: list[int] = []
        self.members: set[str] = set()
        self.left: list[str] = []
        self.at = since
        self.id = ""
        self._url = websocket_url(url)
        self._channel = channel
        self._changed = asyncio.Event()
        self._socket: ClientConnection
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._socket = await connect(f"{self._url}/ws", subprotocols=[Subprotocol(SUBPROTOCOL)])
        await self._subscribe()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._reading  # raises what it has found

    async def joined(self) -> Self:
        """Wait until it is subscribed."""
        await self._until(lambda: bool(self.recovered))
        return self

    async def has(self, message: Any) -> None:
        """Wait until it has received `message`."""
        await self._until(lambda: message in self.messages)

    async def was_told(self, times: int = 1) -> None:
        """Wait until it was told so often, and is subscribed again."""
        await self._until(lambda: self.told >= times and len(self.recovered) > times)

    async def has_refusals(self, count: int = 1) -> None:
        await self._until(lambda: len(self.refusals) >= count)

    async def has_members(self, count: int) -> None:
        await self._until(lambda: len(self.members) == count)

    async def _until(self, condition: Any) -> None:
        with anyio.fail_after(PATIENCE):
            while not condition():
                if self._reading.done():
                    self._reading.result()
                    raise AssertionError("the connection has ended")
                await self._changed.wait()

    async def _subscribe(self) -> None:
        since = {"since": self.at} if self.at else {}
        await self._socket.send(json.dumps({"subscribe": self._channel, **since}))

    async def _read(self) -> None:
        try:
            async for text in self._socket:
                await self._take(json.loads(text))
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()
        except ConnectionClosed:
            pass
        finally:
            self._changed.set()

    async def _take(self, row: dict[str, Any]) -> None:
        match row:
            case {"subscribed": _, "recovered": recovered}:
                self.recovered.append(recovered)
                assert not recovered or row["at"] == self.at
                self.at = row.get("at", "")
                self.members = {member["id"] for member in row.get("members", ())}
            case {"unsubscribed": _, "code": 2500}:
                self.told += 1
                self.at = ""
                await self._subscribe()
            case {"refused": _, "status": status}:
                self.refusals.append(status)
                await asyncio.sleep(RETRY)  # as a client does, which must not ask without pause
                await self._subscribe()
            case {"joined": {"id": member}}:
                self.members.add(member)
            case {"left": {"id": member}}:
                self.left.append(member)
                self.members.discard(member)
            case {"message": message}:
                self.messages.append(message)
                if "at" in row:
                    self._follow(row["at"])
            case _:
                raise AssertionError(f"unexpected: {row}")

    def _follow(self, at: str) -> None:
        last, position = Position.parse(self.at), Position.parse(at)
        assert last is not None
        assert position == Position(last.epoch, last.offset + 1), f"{at} came after {self.at}"
        self.at = at


class Bystander:
    """A client that talks to its gateway all the time. It fails the test if it is closed, or waits for an answer."""

    def __init__(self, url: str) -> None:
        self.count = 0
        self.slowest = 0.0
        self._url = websocket_url(url)
        self._is_over = False
        self._socket: ClientConnection
        self._talking: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._socket = await connect(f"{self._url}/ws")
        self._talking = asyncio.create_task(self._talk())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        await self._talking
        await self._socket.close()
        if exc is None:
            assert self.count > 0
            assert self.slowest < SLOWEST

    async def _talk(self) -> None:
        while not self._is_over:
            begun = time.monotonic()
            await self._socket.send(str(self.count))
            with anyio.fail_after(PATIENCE):
                assert await self._socket.recv() == str(self.count)
            self.count += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
            await asyncio.sleep(0.01)  # it is a client, not a load

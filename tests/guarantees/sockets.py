"""The clients of WebSockets of our own protocols: plain, and `wsgateway.v1`."""

import json
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.guarantees.client import (
    BROKEN,
    Client,
    Closed,
    Published,
    Refused,
    Subscribed,
    Unsubscribed,
    may_reconnect,
)
from tests.guarantees.wire import open_websocket
from wsgateway.client import ClientConnection


def closed_by(code: int, reason: str) -> Closed:
    """Return what the documentation tells a client to make of a close frame."""
    try:
        details = json.loads(reason)
    except ValueError:
        details = None
    if not isinstance(details, dict):
        return Closed(code, reason, may_reconnect(code))
    reconnects = details.get("reconnect", may_reconnect(code))
    return Closed(code, details.get("reason", ""), reconnects, details.get("retry_after_ms"))


class Plain(Client):
    """Each message is a message of the application. The channel is in the URL."""

    name = "plain"
    has_positions = False
    _path = "/ws?channel={channel}"
    _subprotocols: tuple[str, ...] = ()
    _socket: ClientConnection

    async def _open(self) -> None:
        path = self._path.format(channel=self._channel)
        self._socket = await open_websocket(
            self._url, path, subprotocols=self._subprotocols, receive_buffer=self._receive_buffer
        )
        self._opened()

    def _opened(self) -> None:
        self._events.append(Subscribed(recovered=False))  # such a client is not told; this is its handshake

    async def publish(self, message: str) -> None:
        await self._send(message)

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send(text)
        except ConnectionClosed:
            pass  # the close is the next event

    async def _receive(self) -> None:
        try:
            text = await self._socket.recv()
        except ConnectionClosed as exc:
            self._events.append(closed_by(exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else Closed(BROKEN, "", True))
        else:
            assert isinstance(text, str)
            self._take(text)

    def _take(self, text: str) -> None:
        self._events.append(Published(text))

    async def cut(self) -> None:
        self._socket.transport.abort()
        await self._socket.wait_closed()

    async def close(self) -> None:
        await self._socket.close()


class V1(Plain):
    """The protocol of `client.js`."""

    name = "v1"
    has_positions = True
    commands = 1
    _path = "/ws"
    _subprotocols = ("wsgateway.v1",)

    async def _open(self) -> None:
        await super()._open()
        await self.subscribe()

    def _opened(self) -> None: ...

    async def subscribe(self) -> None:
        await self._tell(subscribe=self._channel, **({"since": self.at} if self.at else {}))

    async def start_over(self) -> None:
        await self.subscribe()

    async def publish(self, message: str) -> None:
        await self._tell(channel=self._channel, message=message)

    async def _tell(self, **command: Any) -> None:
        await self._send(json.dumps(command))

    def _take(self, text: str) -> None:
        take_object(self, json.loads(text))


def take_object(client: Client, row: dict[str, Any]) -> None:
    """Append what an object of `wsgateway.v1` means to the events of `client`."""
    events = client._events
    match row:
        case {"message": message}:
            events.append(Published(message, row.get("at", "")))
        case {"subscribed": _, "recovered": recovered}:
            events.append(Subscribed(recovered, row.get("at", "")))
        case {"unsubscribed": _, "code": code}:
            events.append(Unsubscribed(code))
        case {"refused": _, "status": status}:
            events.append(Refused(status))
        case {"close": end}:
            events.append(Closed(end["code"], end["reason"], end["reconnect"], end.get("retry_after_ms")))
        case {"joined": _} | {"left": _} | {"open": _}:
            pass
        case _:
            raise AssertionError(f"unexpected: {row}")

"""The clients of streams of our own protocols: Server-Sent Events, and lines of JSON."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tests.guarantees.client import BROKEN, Client, Closed, Published, Refused, Subscribed, Unsubscribed
from tests.guarantees.sockets import take_object
from tests.guarantees.wire import BrokenError, Response, post, request
from tests.streams import EventParser, ServerEvent

RETRY_MS = 2000
"""The `retry` of every event stream, after which a browser reconnects."""


class StreamClient(Client):
    """A stream, and the requests with which its client publishes."""

    too_many = 429
    _response: Response
    _session: str

    async def _get(self, path: str, headers: Mapping[str, str] | None = None) -> None:
        self._session = ""
        buffer = self._receive_buffer
        self._response = await request("GET", self._url, path, headers=headers, receive_buffer=buffer)
        if self._response.status != 200:
            self._events.append(Refused(self._response.status))
            return
        while not self._session:
            await self._receive()

    async def _receive(self) -> None:
        try:
            data = await self._response.some()
        except BrokenError:
            data = b""
        if data:
            self._take(data)
        else:
            self._events.append(Closed(BROKEN, "", True))  # after a close it is not read

    def _take(self, data: bytes) -> None:
        raise NotImplementedError

    async def publish(self, message: str) -> None:
        path = f"/session/{self._session}?channel={quote(self._channel)}"
        status, _ = await post(self._url, path, json.dumps(message).encode(), "application/json")
        if status not in (200, 204):
            self._events.append(Refused(status))

    async def start_over(self) -> None:
        await self.close()
        await self.connect()

    async def cut(self) -> None:
        self._response.abort()

    async def close(self) -> None:
        await self._response.close()


class Sse(StreamClient):
    """What an `EventSource` does, with the id of the last event that its page has seen."""

    name = "sse"
    _parser: EventParser

    async def start_over(self) -> None:
        assert (await self.closed()).reconnects
        await super().start_over()

    async def _open(self) -> None:
        self._parser = EventParser()
        headers = {"Last-Event-ID": self.at} if self.at else {}
        await self._get(f"/sse?channel={quote(self._channel)}", headers)

    def _take(self, data: bytes) -> None:
        for event in self._parser.feed(data.decode()):
            self._take_event(event)

    def _take_event(self, event: ServerEvent) -> None:
        match event.type:
            case "message":
                self._events.append(Published(event.data, event.id))
            case "subscribed":
                self._events.append(Subscribed(json.loads(event.data)["recovered"], event.id))
            case "unsubscribed":
                self._events.append(Unsubscribed(json.loads(event.data)["code"]))
            case "open":
                self._session = json.loads(event.data)["session"]
            case "close":
                end: dict[str, Any] = json.loads(event.data)
                retry_ms = self._parser.retry if self._parser.retry != RETRY_MS else None
                self._events.append(Closed(end["code"], end["reason"], end["reconnect"], retry_ms))
            case _:
                raise AssertionError(f"unexpected: {event}")


class Lines(StreamClient):
    """The fallback of `client.js`."""

    name = "lines"
    _text: bytes

    async def _open(self) -> None:
        self._text = b""
        since = f"&since={quote(f'{self._channel}@{self.at}')}" if self.at else ""
        await self._get(f"/stream?channel={quote(self._channel)}{since}")

    def _take(self, data: bytes) -> None:
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            if line:
                row = json.loads(line)
                if "open" in row:
                    self._session = row["open"]["session"]
                take_object(self, row)

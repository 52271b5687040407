"""A client of streams: Server-Sent Events, parsed as a browser does (WHATWG HTML 9.2.6), and lines of JSON."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import anyio
import httpx

from tests.raw import Raw, connect, head


class ServerEvent(NamedTuple):
    """What a browser passes to the page."""

    type: str
    data: str
    id: str


class EventParser:
    """Parses an event stream. `retry` and `last_id` are what it has last been told."""

    def __init__(self) -> None:
        self.retry: int | None = None
        self.last_id = ""
        self.comments = 0
        self._text = ""
        self._reset()

    def _reset(self) -> None:
        self._type, self._data, self._id = "", "", self.last_id

    def feed(self, data: str) -> list[ServerEvent]:
        """The events that are complete."""
        events: list[ServerEvent] = []
        self._text += data
        while True:
            ends = [at for at in (self._text.find("\n"), self._text.find("\r")) if at >= 0]
            if not ends or (self._text[min(ends)] == "\r" and min(ends) + 1 == len(self._text)):
                return events
            at = min(ends)
            line, skip = self._text[:at], 2 if self._text[at : at + 2] == "\r\n" else 1
            self._text = self._text[at + skip :]
            events += self._line(line)

    def _line(self, line: str) -> list[ServerEvent]:
        if not line:
            self.last_id = self._id
            event = ServerEvent(self._type or "message", self._data.removesuffix("\n"), self.last_id)
            has_data = bool(self._data)
            self._reset()
            return [event] if has_data else []
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "":
                self.comments += 1
            case "event":
                self._type = value
            case "data":
                self._data += value + "\n"
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isdecimal():
                self.retry = int(value)
        return []


def parsed(data: bytes) -> list[ServerEvent]:
    """The events in `data`."""
    return EventParser().feed(data.decode())


class Stream:
    """An open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.parser = EventParser()
        self._chunks = response.aiter_text()
        self._events: list[ServerEvent] = []
        self._text = ""

    async def _chunk(self) -> str:
        with anyio.fail_after(30):
            return await anext(self._chunks)

    async def next(self) -> ServerEvent:
        """The next event. Raises `StopAsyncIteration` at the end."""
        while not self._events:
            self._events += self.parser.feed(await self._chunk())
        return self._events.pop(0)

    async def line(self) -> str:
        """The next line, without its end."""
        while "\n" not in self._text:
            self._text += await self._chunk()
        line, _, self._text = self._text.partition("\n")
        return line

    async def object(self) -> Any:
        """The next line that is not a heartbeat, as JSON."""
        while not (line := await self.line()):
            pass
        return json.loads(line)

    async def ends(self) -> None:
        """Wait for the end of the response."""
        async for _ in self._chunks:
            pass


@asynccontextmanager
async def streaming(
    url: str, path: str = "/sse", *, headers: Mapping[str, str] | None = None, verify: ssl.SSLContext | bool = True
) -> AsyncIterator[Stream]:
    """An open stream, or the refusal of one, whose status the test checks."""
    async with (
        httpx.AsyncClient(trust_env=url.startswith("https:"), timeout=30, verify=verify) as http,
        http.stream("GET", url + path, headers=headers) as response,
    ):
        yield Stream(response)


class RawStream:
    """A stream without a library, for clients that behave badly."""

    def __init__(self, raw: Raw, response_head: bytes) -> None:
        self.raw = raw
        self.head = response_head

    @classmethod
    async def open(cls, url: str, path: str = "/sse", *headers: str, buffer: int = 0) -> Self:
        raw = await connect(url, buffer=buffer)
        await raw.send(head(f"GET {path} HTTP/1.1", *headers, host=url.removeprefix("http://")))
        return cls(raw, await raw.receive_until(b"\r\n\r\n"))

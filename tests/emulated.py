"""A client of the Centrifuge protocol on a stream: bytes as they are on the wire, and POSTs of its commands."""

import json
from typing import Any, Self
from urllib.parse import quote

import httpx

from tests.raw import Raw, connect, head, post

CONNECT = '{"id":1,"connect":{}}'

OPTIONS: dict[str, Any] = {"protocols": ["plain", "v1", "sse", "centrifuge"]}

KINDS = ("get", "post", "lines")
"""The ways to open a stream."""


class Emulated:
    """An open stream. `session` and `node` come from the connect reply, if there was one."""

    def __init__(self, url: str, raw: Raw, response_head: bytes, prefix: str) -> None:
        self.url = url
        self.raw = raw
        self.head = response_head
        self.prefix = prefix
        self.session = self.node = ""
        self._chunks = b""
        self._is_events = b"text/event-stream" in response_head

    @classmethod
    async def request(cls, url: str, kind: str, frame: str, *headers: str, prefix: str = "", buffer: int = 0) -> Self:
        """A stream, or the refusal of one."""
        raw = await connect(url, buffer=buffer)
        host = url.removeprefix("http://")
        if kind == "get":
            path = f"{prefix}/connection/sse?cf_connect={quote(frame)}"
            await raw.send(head(f"GET {path} HTTP/1.1", *headers, host=host))
        else:
            path = prefix + ("/connection/sse" if kind == "post" else "/connection/http_stream")
            await raw.send(post(frame.encode(), *headers, path=path, host=host))
        return cls(url, raw, await raw.receive_until(b"\r\n\r\n"), prefix)

    @classmethod
    async def open(cls, url: str, kind: str = "get", frame: str = CONNECT, *headers: str, **options: Any) -> Self:
        """A stream whose connect reply was read."""
        stream = await cls.request(url, kind, frame, *headers, **options)
        assert stream.head.startswith(b"HTTP/1.1 200"), stream.head
        reply = await stream.reply()
        assert reply["id"] == 1, reply
        stream.session, stream.node = reply["connect"]["session"], reply["connect"]["node"]
        return stream

    async def chunk(self) -> bytes:
        """The next chunk of the response, empty at its end."""
        size = int(await self.raw.receive_until(b"\r\n"), 16)
        data = await self.raw.receive_exactly(size + 2)
        return data[:-2]

    async def content(self) -> str:
        """The next event or line that is not empty, without what is around it."""
        end = b"\n\n" if self._is_events else b"\n"
        while True:
            self._chunks = self._chunks.removeprefix(b"\r\n")
            if end in self._chunks:
                content, _, self._chunks = self._chunks.partition(end)
                break
            more = await self.chunk()
            if not more:
                raise EOFError
            self._chunks += more
        if self._is_events:
            assert content.startswith(b"data: ")
            content = content.removeprefix(b"data: ")
        return content.decode()

    async def reply(self) -> Any:
        """The next reply or push that is not a ping."""
        while not (content := json.loads(await self.content())):
            pass
        return content

    async def ends(self) -> Any:
        """Read to the end; the last push."""
        last = None
        while True:
            try:
                last = await self.reply()
            except EOFError:
                assert self._chunks == b""
                return last

    async def post(self, http: httpx.AsyncClient, *commands: Any, url: str = "", **fields: Any) -> httpx.Response:
        """Post commands, at `url` if that is another process."""
        data = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in commands)
        body = {"session": self.session, "node": self.node, "data": data, **fields}
        return await http.post((url or self.url) + self.prefix + "/emulation", json=body)

    async def aclose(self) -> None:
        await self.raw.stream.aclose()

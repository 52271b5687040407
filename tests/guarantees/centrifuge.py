"""The clients of the Centrifuge protocol, over a WebSocket and over streams with emulation, in JSON and in Protobuf.

They share nothing with the server: what they send and how they read is written after the protocol's description.
"""

import json
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol
from urllib.parse import quote

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
from tests.guarantees.protobuf import ProtobufCodec
from tests.guarantees.wire import BrokenError, Response, open_websocket, post, request
from wsgateway.client import ClientConnection

Row = dict[str, Any]


class Codec(Protocol):
    """How commands and replies are written."""

    name: str
    is_binary: bool
    content_type: str

    def encode(self, commands: Iterable[Row]) -> bytes: ...

    def decode(self, frame: bytes) -> list[Row]: ...

    def split(self, data: bytes) -> tuple[list[Row], bytes]:
        """Return the replies that are complete in `data`, the start of a stream, and what is left."""
        ...

    def emulate(self, session: str, node: str, frame: bytes) -> bytes: ...


class JsonCodec:
    name = "json"
    is_binary = False
    content_type = "application/json"

    def encode(self, commands: Iterable[Row]) -> bytes:
        return "\n".join(map(json.dumps, commands)).encode()

    def decode(self, frame: bytes) -> list[Row]:
        return [json.loads(line) for line in frame.split(b"\n")]

    def split(self, data: bytes) -> tuple[list[Row], bytes]:
        *lines, rest = data.split(b"\n")
        return [json.loads(line) for line in lines], rest

    def emulate(self, session: str, node: str, frame: bytes) -> bytes:
        return json.dumps({"session": session, "node": node, "data": frame.decode()}).encode()


JSON = JsonCodec()
PROTOBUF = ProtobufCodec()


def position_fields(at: str) -> Row:
    """Return the fields of a request that recovers from `at`, whatever `at` is."""
    epoch, _, offset = at.rpartition(":")
    is_number = offset.removeprefix("-").isdecimal()
    return {"recover": True, "epoch": epoch, "offset": int(offset) if is_number else offset}


def closed_as_in_javascript(code: int, reason: str) -> Closed:
    """Return what centrifuge-js makes of a close: a reason that is JSON counts instead of the code."""
    try:
        details = json.loads(reason)
    except ValueError:
        return Closed(code, reason, may_reconnect(code))
    return Closed(code, reason, isinstance(details, dict) and details.get("reconnect") is True)


class Centrifuge(Client):
    """What the transports have in common: the first frame, and what is made of replies and pushes."""

    codec: ClassVar[Codec] = JSON
    bad_request = (107,)
    drained = (3001, "shutdown", True)
    is_told_when = False
    commands = 2
    recovers_when_lost = True

    async def _open(self) -> None:
        self._ident = 0
        self._asked: dict[int, Row] = {}
        self._epoch = ""
        await self._begin(self.codec.encode([self._command(connect={}), self._subscribe()]))

    def _command(self, **method: Row) -> Row:
        self._ident += 1
        self._asked[self._ident] = method
        return {"id": self._ident, **method}

    def _subscribe(self) -> Row:
        since = position_fields(self.at) if self.at else {}
        return self._command(subscribe={"channel": self._channel, "flag": 1, **since})

    async def _tell(self, command: Row) -> None:
        await self._send(self.codec.encode([command]))

    async def publish(self, message: str) -> None:
        await self._tell(self._command(publish={"channel": self._channel, "data": message}))

    async def start_over(self) -> None:
        await self._tell(self._subscribe())

    async def _begin(self, frame: bytes) -> None:
        """Connect, and send the first frame."""
        raise NotImplementedError

    async def _send(self, frame: bytes) -> None:
        raise NotImplementedError

    # What arrives

    async def _take(self, rows: Iterable[Row]) -> None:
        for row in rows:
            match row:
                case {"push": push}:
                    self._take_push(push)
                case {"id": ident, **reply}:
                    self._take_reply(self._asked.pop(ident), reply)
                case {}:
                    assert not row, row
                    await self._tell({})

    def _take_push(self, push: Row) -> None:
        match push:
            case {"channel": channel, **others} if others:
                if channel == self._channel:
                    self._take_kind(others)
            case {"disconnect": {"code": code, "reason": reason}}:
                self._events.append(closed_as_in_javascript(code, reason))
            case _:
                raise AssertionError(f"unexpected: {push}")

    def _take_kind(self, push: Row) -> None:
        match push:
            case {"pub": publication}:
                self._take_publication(publication)
            case {"unsubscribe": {"code": code, "reason": reason}}:
                assert reason
                self._events.append(Unsubscribed(code))
            case {"subscribe": result}:
                self._epoch = result.get("epoch", "")
                self._events.append(Subscribed(recovered=False, at=self._at(result)))
            case {"join": {"info": _}} | {"leave": {"info": _}}:
                pass
            case _:
                raise AssertionError(f"unexpected: {push}")

    def _take_publication(self, publication: Row) -> None:
        self._events.append(Published(publication["data"], self._at(publication)))

    def _at(self, fields: Row) -> str:
        return f"{self._epoch}:{fields.get('offset', 0)}" if self._epoch else ""

    def _take_reply(self, asked: Row, reply: Row) -> None:
        (method,) = asked
        if "error" in reply:
            assert reply["error"]["message"]
            self._events.append(Refused(reply["error"]["code"]))
            return
        assert set(reply) == {method}, f"{reply} answers {asked}"
        result = reply[method]
        if method == "connect":
            self._connected(result)
        elif method == "subscribe":
            self._take_subscribed(asked["subscribe"], result)

    def _connected(self, result: Row) -> None:
        assert result["client"]
        assert result["version"].startswith("wsgateway ")
        assert result["ping"] >= 1
        assert result["pong"] is True

    def _take_subscribed(self, asked: Row, result: Row) -> None:
        has_history = {"recoverable", "positioned", "epoch"} & set(result)
        assert len(has_history) in (0, 3), result
        assert result.get("was_recovering", False) is ("recover" in asked and bool(has_history)), result
        self._epoch = result.get("epoch", "")
        recovered = result.get("recovered", False)
        publications = result.get("publications", [])
        assert recovered or not publications
        assert not recovered or result.get("offset", 0) == asked["offset"]
        self._events.append(Subscribed(recovered, self._at(result)))
        for publication in publications:
            self._take_publication(publication)


class CentrifugeSocket(Centrifuge):
    """Over a WebSocket."""

    name = "centrifuge-websocket"
    _socket: ClientConnection

    async def _begin(self, frame: bytes) -> None:
        subprotocols = ("centrifuge-protobuf",) if self.codec.is_binary else ()
        buffer = self._receive_buffer
        self._socket = await open_websocket(
            self._url, "/connection/websocket", subprotocols=subprotocols, receive_buffer=buffer
        )
        await self._send(frame)

    async def _send(self, frame: bytes) -> None:
        try:
            await self._socket.send(frame, text=not self.codec.is_binary)
        except ConnectionClosed:
            pass  # the close is the next event

    async def _receive(self) -> None:
        try:
            frame = await self._socket.recv(decode=False)
        except ConnectionClosed as exc:
            rcvd = exc.rcvd
            self._events.append(
                closed_as_in_javascript(rcvd.code, rcvd.reason) if rcvd else Closed(BROKEN, "", reconnects=True)
            )
        else:
            await self._take(self.codec.decode(frame))

    async def cut(self) -> None:
        self._socket.transport.abort()
        await self._socket.wait_closed()

    async def close(self) -> None:
        await self._socket.close()


class CentrifugeStream(Centrifuge):
    """Over a stream, and requests for each further frame."""

    _response: Response
    _data: bytes

    async def _begin(self, frame: bytes) -> None:
        self._data = b""
        self._session = self._node = ""
        self._response = await self._request(frame)
        if self._response.status != 200:
            self._response.abort()
            raise AssertionError(f"a stream was refused with {self._response.status}")
        while not self._session and not self._events:
            await self._receive()

    async def _request(self, frame: bytes) -> Response:
        headers = {"Content-Type": self.codec.content_type}
        return await request(
            "POST",
            self._url,
            "/connection/http_stream",
            frame,
            headers=headers,
            receive_buffer=self._receive_buffer,
        )

    def _connected(self, result: Row) -> None:
        super()._connected(result)
        self._session, self._node = result["session"], result["node"]

    async def _send(self, frame: bytes) -> None:
        body = self.codec.emulate(self._session, self._node, frame)
        status, _ = await post(self._url, "/emulation", body, self.codec.content_type)
        if status != 204:
            self._events.append(Refused(status))

    async def _receive(self) -> None:
        try:
            data = await self._response.some()
        except BrokenError:
            data = b""
        if not data:
            self._events.append(Closed(BROKEN, "", reconnects=True))
            return
        rows, self._data = self._split(self._data + data)
        await self._take(rows)

    def _split(self, data: bytes) -> tuple[list[Row], bytes]:
        return self.codec.split(data)

    async def cut(self) -> None:
        self._response.abort()

    async def close(self) -> None:
        await self._response.close()


class CentrifugeLines(CentrifugeStream):
    name = "centrifuge-http_stream"


class CentrifugeSse(CentrifugeStream):
    name = "centrifuge-sse"

    async def _request(self, frame: bytes) -> Response:
        path = f"/connection/sse?cf_connect={quote(frame)}"
        return await request("GET", self._url, path, receive_buffer=self._receive_buffer)

    def _split(self, data: bytes) -> tuple[list[Row], bytes]:
        *events, rest = data.removeprefix(b"\r\n").split(b"\n\n")
        assert all(event.startswith(b"data: ") and b"\n" not in event for event in events), events
        return [json.loads(event.removeprefix(b"data: ")) for event in events], rest


class ProtobufSocket(CentrifugeSocket):
    name = "centrifuge-websocket-protobuf"
    codec = PROTOBUF


class ProtobufLines(CentrifugeLines):
    name = "centrifuge-http_stream-protobuf"
    codec = PROTOBUF


CENTRIFUGE: tuple[type[Client], ...] = (
    CentrifugeSocket,
    CentrifugeSse,
    CentrifugeLines,
    ProtobufSocket,
)

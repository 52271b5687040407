"""Clients that speak Protobuf, on a real server: how they are chosen, what they share with others, what is refused."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Gateway
from wsgateway.protocols.centrifuge import client_pb2 as schema
from wsgateway.protocols.centrifuge.protobuf import varint
from wsgateway.testing import Client, serve

CHANNELS: Any = {
    "room": {"public": True, "clients": ["subscribe", "publish"], "history": 10, "presence": True},
}
BOTH = OwnServer(), PlainUvicorn()
PROTOBUF = "centrifuge-protobuf"


class ProtobufClient:
    """A client that writes and reads the messages of the generated module."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._ident = 0
        self._replies: list[Any] = []

    async def send(self, **method: Any) -> int:
        """Send one command. Return its id."""
        self._ident += 1
        data = schema.Command(id=self._ident, **method).SerializeToString()
        await self.socket.send(varint(len(data)) + data)
        return self._ident

    async def reply(self) -> Any:
        """Return the next reply or push."""
        async with asyncio.timeout(10):
            while not self._replies:
                await self._read(await self.socket.recv())
        return self._replies.pop(0)

    async def _read(self, frame: str | bytes) -> None:
        assert isinstance(frame, bytes)
        while frame:
            size = next(size for size in range(1, 6) if frame[size - 1] < 0x80)
            length = sum((digit & 0x7F) << 7 * place for place, digit in enumerate(frame[:size]))
            self._replies.append(schema.Reply.FromString(frame[size : size + length]))
            frame = frame[size + length :]

    async def ask(self, **method: Any) -> Any:
        """Send one command, and return the next reply, which has to be its."""
        ident = await self.send(**method)
        reply = await self.reply()
        assert reply.id == ident
        return reply

    async def closed(self) -> tuple[int, str]:
        """Return code and reason with which the server closes."""
        with pytest.raises(ConnectionClosed) as info:
            async with asyncio.timeout(10):
                while True:
                    await self.socket.recv()
        assert info.value.rcvd is not None
        return info.value.rcvd.code, info.value.rcvd.reason


def created(**options: Any) -> Gateway:
    return Gateway(protocols=["centrifuge"], channels=CHANNELS, **{"centrifuge_channel": "all", **options})


def address(url: str, query: str = "") -> str:
    return url.replace("http", "ws", 1) + "/connection/websocket" + query


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ProtobufClient]:
    """A client that has sent nothing."""
    async with connect(address(url), subprotocols=[PROTOBUF]) as socket:  # type: ignore[list-item]  # a NewType of str
        yield ProtobufClient(socket)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ProtobufClient]:
    async with opened(url) as client:
        assert (await client.ask(connect=schema.ConnectRequest())).connect.client
        yield client


@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_the_subprotocol_chooses_protobuf_and_is_echoed(server: Serve) -> None:
    async with server(created(ping_interval=20)) as url, opened(url) as client:
        assert client.socket.subprotocol == PROTOBUF
        result = (await client.ask(connect=schema.ConnectRequest(name="test", version="1"))).connect
        assert (result.ping, result.pong, list(result.subs)) == (20, True, ["all"])


@pytest.mark.parametrize("query", ["?cf_protocol=protobuf", "?a=b&cf_protocol=protobuf"])
async def test_the_query_chooses_protobuf(query: str) -> None:
    async with serve(created()) as url, connect(address(url, query)) as socket:
        assert socket.subprotocol is None
        assert (await ProtobufClient(socket).ask(connect=schema.ConnectRequest())).connect.client


@pytest.mark.parametrize("query", ["", "?cf_protocol=json", "?xcf_protocol=protobuf", "?cf_protocol=protobuf2"])
async def test_any_other_client_speaks_json(query: str) -> None:
    async with serve(created()) as url, connect(address(url, query)) as socket:
        await socket.send('{"id":1,"connect":{}}')
        assert isinstance(await socket.recv(), str)


async def test_a_publication_has_the_bytes_that_were_sent() -> None:
    async with serve(created()) as url, connected(url) as client:
        await client.ask(subscribe=schema.SubscribeRequest(channel="room"))
        assert (await client.reply()).push.HasField("join")
        payloads = [b'{"a":   1}', b"\x00\xff", b'"text"', b'"\\u00e9\\/"', b' "x"', b"5", b'{"z": 1e2}']
        for offset, data in enumerate(payloads, start=1):
            ident = await client.send(publish=schema.PublishRequest(channel="room", data=data))
            replies = sorted([await client.reply(), await client.reply()], key=lambda reply: reply.id)
            assert replies[0].push.channel == "room"
            assert (replies[0].push.pub.data, replies[0].push.pub.offset) == (data, offset)
            assert (replies[1].id, replies[1].HasField("publish")) == (ident, True)
        history = (await client.ask(history=schema.HistoryRequest(channel="room", limit=-1))).history
        assert [pub.data for pub in history.publications] == payloads


async def test_text_of_a_protobuf_client_reaches_plain_clients_without_quotation_marks() -> None:
    gateway = Gateway(protocols=["plain", "centrifuge"], channels=CHANNELS)
    async with serve(gateway) as url, connected(url) as client, Client(url, "/ws?channel=room") as plain:
        await client.ask(subscribe=schema.SubscribeRequest(channel="room"))
        for data, message in ((b'"\\u00e9"', "é"), (b'"5"', "5"), (b"5", "5"), (b"\xff", b"\xff")):
            await client.send(publish=schema.PublishRequest(channel="room", data=data))
            assert await plain.receive() == message


async def test_json_and_protobuf_clients_share_a_channel() -> None:
    async with serve(created()) as url, connected(url) as client, connect(address(url)) as socket:
        await client.ask(subscribe=schema.SubscribeRequest(channel="room"))
        await socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"room"}}')
        await client.send(publish=schema.PublishRequest(channel="room", data=b"\xff"))  # no JSON client can receive it
        await client.send(publish=schema.PublishRequest(channel="room", data=b'{"a":\n1}'))
        received = ""
        async with asyncio.timeout(10):
            while '"pub"' not in received:
                received += str(await socket.recv())
        assert '"data":{"a": 1}' in received
        assert '"offset":2' in received


async def test_broadcasts_are_pushed_in_the_channel_for_them() -> None:
    gateway = created()
    async with serve(gateway) as url, connected(url) as client:
        for message, data in (("hi", b'"hi"'), (b"\xff", b"\xff"), ({"a": 1}, b'{"a":1}')):
            await gateway.send(message)
            push = (await client.reply()).push
            assert (push.channel, push.pub.data) == ("all", data)


async def test_an_empty_result_arrives() -> None:
    async with serve(created()) as url, connected(url) as client:
        for method, request in (
            ("unsubscribe", schema.UnsubscribeRequest(channel="room")),
            ("presence", schema.PresenceRequest(channel="room")),
            ("presence_stats", schema.PresenceStatsRequest(channel="room")),
            ("ping", schema.PingRequest()),
        ):
            assert (await client.ask(**{method: request})).HasField(method)


async def test_the_server_pings_with_an_empty_message_and_expects_a_pong() -> None:
    async with serve(created(ping_interval=1, pong_timeout=0.5)) as url, connected(url) as client:
        async with asyncio.timeout(10):
            for _ in range(2):
                assert await client.socket.recv() == b"\x00"
                await client.socket.send(b"\x00")
        assert await client.closed() == (3012, "no pong")


async def test_a_text_frame_closes_the_client() -> None:
    async with serve(created()) as url, opened(url) as client:
        await client.socket.send('{"id":1,"connect":{}}')
        assert await client.closed() == (3501, "bad request")


@pytest.mark.parametrize("frame", [b"\x80", b"\xff" * 11, b"\x05\x08", b"\x02\x22\x00", b'{"id":1}'])
async def test_a_frame_that_cannot_be_read_closes_the_client(frame: bytes) -> None:
    async with serve(created()) as url, connected(url) as client, connected(url) as bystander:
        await client.socket.send(frame)
        assert await client.closed() == (3501, "bad request")
        assert (await bystander.ask(ping=schema.PingRequest())).HasField("ping")


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("publish", schema.PublishRequest(channel="room"), 107),
        ("publish", schema.PublishRequest(channel="room", data=b"null"), 107),
        ("publish", schema.PublishRequest(channel="room", data=b"1", type=1), 108),
        ("subscribe", schema.SubscribeRequest(channel="room", type=1), 108),
        ("subscribe", schema.SubscribeRequest(channel="room", tf=schema.FilterNode()), 107),
        ("subscribe", schema.SubscribeRequest(channel="nowhere"), 102),
        ("rpc", schema.RPCRequest(method="sum"), 108),
    ],
    ids=str,
)
async def test_a_command_that_fails_is_answered_with_an_error(method: str, request_: Any, code: int) -> None:
    async with serve(created()) as url, connected(url) as client:
        error = (await client.ask(**{method: request_})).error
        assert error.code == code
        assert error.message


async def test_an_unknown_method_is_answered_with_an_error() -> None:
    async with serve(created()) as url, connected(url) as client:
        await client.socket.send(b"\x05\x08\x02\x9a\x06\x00")
        assert (await client.reply()).error.code == 104


async def test_compressed_frames_are_read_and_written() -> None:
    async with serve(created(compression=True)) as url, connected(url) as client:
        await client.ask(subscribe=schema.SubscribeRequest(channel="room"))
        await client.reply()
        await client.send(publish=schema.PublishRequest(channel="room", data=b"[" + b"1," * 5000 + b"1]"))
        replies = [await client.reply(), await client.reply()]
        assert {len(reply.push.pub.data) for reply in replies} == {0, 10_003}


# Over HTTP

BINARY = {"content-type": "application/octet-stream"}


def framed(**command: Any) -> bytes:
    data: bytes = schema.Command(**command).SerializeToString()
    return varint(len(data)) + data


class Replies:
    """The replies of a stream, which its chunks do not divide as they are."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.aiter_raw(1)  # by the byte
        self._left = b""

    async def _take(self, size: int) -> bytes:
        while len(self._left) < size:
            self._left += await anext(self._chunks)
        data, self._left = self._left[:size], self._left[size:]
        return data

    async def next(self) -> Any:
        async with asyncio.timeout(10):
            size = shift = 0
            while (digit := (await self._take(1))[0]) >= 0x80:
                size |= (digit & 0x7F) << shift
                shift += 7
            return schema.Reply.FromString(await self._take(size | digit << shift))


@pytest.mark.parametrize("server", BOTH, ids=lambda server: server.name)
async def test_a_stream_whose_request_is_binary_is_protobuf(server: Serve) -> None:
    async with server(created()) as url, httpx.AsyncClient() as http:
        first = framed(id=1, connect=schema.ConnectRequest()) + framed(
            id=2, subscribe=schema.SubscribeRequest(channel="room")
        )
        async with http.stream("POST", url + "/connection/http_stream", content=first, headers=BINARY) as response:
            assert (response.status_code, response.headers["content-type"]) == (200, "application/octet-stream")
            replies = Replies(response)
            connect = (await replies.next()).connect
            assert (await replies.next()).HasField("subscribe")
            assert (await replies.next()).push.HasField("join")

            async def post(frame: bytes, **fields: str) -> int:
                where = {"node": connect.node, "session": connect.session, **fields}
                body = schema.EmulationRequest(data=frame, **where).SerializeToString()
                return (await http.post(url + "/emulation", content=body, headers=BINARY)).status_code

            payload = b"\xff\x00" * 300
            assert await post(framed(id=3, publish=schema.PublishRequest(channel="room", data=payload))) == 204
            both = [await replies.next(), await replies.next()]
            assert {reply.push.pub.data for reply in both} == {b"", payload}
            assert await post(b"\x00", session="unknown") == 204
            assert await post(b"\x00", node="unknown") == 404
            assert (await http.post(url + "/emulation", content=b"{}", headers=BINARY)).status_code == 400
            assert await post(b"\x80") == 204
            disconnect = (await replies.next()).push.disconnect
            assert (disconnect.code, disconnect.reason) == (3501, "bad request")
            with pytest.raises(StopAsyncIteration):
                await replies.next()


# Without the package

WITHOUT = """
import asyncio, logging, sys

sys.modules["google.protobuf"] = None  # as if it were not installed

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from wsgateway import Gateway
from wsgateway.testing import Client, serve

logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)


async def main():
    async with serve(Gateway(protocols=sys.argv[1].split(","))) as http_url:
        url = http_url.replace("http", "ws", 1) + "/connection/websocket"
        for query, subprotocols in (("", ["centrifuge-protobuf"]), ("?cf_protocol=protobuf", None), ("", None)):
            try:
                async with connect(url + query, subprotocols=subprotocols) as socket:
                    await socket.send('{"id":1,"connect":{}}')
                    print((await socket.recv())[:7])
            except InvalidStatus as exc:
                print(exc.response.status_code, b"wsgateway[protobuf]" in exc.response.body)
        for path in ("/connection/http_stream", "/emulation"):
            headers = {"content-type": "application/octet-stream"}
            async with httpx.AsyncClient() as http:
                answer = await http.post(http_url + path, content=b"", headers=headers)
            print(answer.status_code, "wsgateway[protobuf]" in answer.text)


asyncio.run(main())
"""


def without_the_package(protocols: str) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", WITHOUT, protocols]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_the_package_clients_that_ask_for_protobuf_are_refused_before_the_upgrade() -> None:
    lines = without_the_package("plain,centrifuge")
    assert sum("pip install 'wsgateway[protobuf]'" in line for line in lines) == 1
    answers = [line for line in lines if line.startswith(("501", "{"))]
    assert answers == ["501 True", "501 True", '{"id":1', "501 True", "501 True"]


def test_without_centrifuge_the_package_is_not_missed() -> None:
    assert not any("protobuf" in line for line in without_the_package("plain"))


async def test_without_centrifuge_the_route_does_not_exist() -> None:
    async with serve(Gateway(protocols=["plain"])) as url:
        with pytest.raises(InvalidStatus) as info:
            await connect(address(url), subprotocols=[PROTOBUF])  # type: ignore[list-item]  # a NewType of str
        assert info.value.response.status_code == 404

"""What a Centrifuge client may send that is wrong, and the answer to each: an error, or a close."""

import hmac
import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import jwt
import pytest
from websockets.exceptions import ConnectionClosed

from tests.guarantees.kinds import OWN_SERVER, PROTOCOLS, both_servers
from tests.guarantees.wire import open_websocket
from tests.leftovers import assert_nothing_is_left
from tests.servers import Serve
from wsgateway import Gateway, Refused, SubscribeEvent
from wsgateway.client import ClientConnection
from wsgateway.listeners.event import HandshakeEvent, MessageEvent
from wsgateway.testing import SECRET, RecordingListener, token

Row = dict[str, Any]

CHANNELS: Any = {
    "open:*": {"public": True, "clients": ["subscribe", "publish"], "history": 5, "presence": True},
    "live:*": {"public": True},
    "asked:*": {"clients": ["subscribe", "publish"], "history": 5, "presence": True},
}
CONNECT = '{"id":1,"connect":{}}'
LAST = 4_000_000_000
"""The id of the command whose reply ends a conversation."""


class Asked(RecordingListener):
    async def on_subscribe(self, event: SubscribeEvent) -> None:
        status = event.channel.removeprefix("asked:")
        if status.isdecimal():
            raise Refused(int(status))
        if status == "raise":
            raise RuntimeError("by the test")


class Said(NamedTuple):
    """The replies and pushes of a conversation, and the code and the reason of its close, if it was closed."""

    rows: list[Row]
    close: tuple[int, str] | None

    def reply(self, ident: int) -> Row:
        (row,) = (row for row in self.rows if row.get("id") == ident)
        return {key: value for key, value in row.items() if key != "id"}

    def code(self, ident: int) -> int:
        error: Row = self.reply(ident)["error"]
        assert error["message"]
        assert error.get("temporary") in ((True,) if error["code"] in (100, 111) else (None,))
        code: int = error["code"]
        return code


async def talk(url: str, *frames: str | bytes) -> Said:
    """Send `frames`, and return everything until they are answered, or until the close."""
    socket = await open_websocket(url, "/connection/websocket")
    try:
        with anyio.fail_after(30):
            return await _converse(socket, [*frames, json.dumps({"id": LAST, "ping": {}})])
    finally:
        await socket.close()


async def _converse(socket: ClientConnection, frames: Sequence[str | bytes]) -> Said:
    rows: list[Row] = []
    try:
        for frame in frames:
            await socket.send(frame)
    except ConnectionClosed:
        pass  # it is read below
    try:
        while not any(row.get("id") == LAST for row in rows):
            rows += map(json.loads, str(await socket.recv()).split("\n"))
    except ConnectionClosed:
        return Said(rows, (socket.close_code or 0, socket.close_reason or ""))
    return Said(rows, None)


@asynccontextmanager
async def served(
    listener: object = Asked, server: Serve = OWN_SERVER, **options: Any
) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(listener=listener, channels=CHANNELS, protocols=PROTOCOLS, **options)
    async with server(gateway) as url:
        yield gateway, url
    assert_nothing_is_left(gateway)


# What closes the client

COMMANDS = (
    '{"id":1,"subscribe":{"channel":"open:1"}}',
    '{"id":1,"unsubscribe":{"channel":"open:1"}}',
    '{"id":1,"publish":{"channel":"open:1","data":1}}',
    '{"send":{"data":1}}',
    '{"id":1,"rpc":{"method":"x"}}',
    '{"id":1,"presence":{"channel":"open:1"}}',
    '{"id":1,"presence_stats":{"channel":"open:1"}}',
    '{"id":1,"history":{"channel":"open:1"}}',
    '{"id":1,"ping":{}}',
    '{"id":1,"refresh":{"token":"x"}}',
    '{"id":1,"sub_refresh":{"channel":"open:1","token":"x"}}',
    '{"id":1,"nonsense":{}}',
)


async def test_a_command_before_connect_is_3501() -> None:
    listener = Asked()
    async with served(listener) as (_, url):
        for command in COMMANDS:
            said = await talk(url, command + "\n" + CONNECT)
            assert said == ([], (3501, "bad request")), command
    assert listener.events == []


async def test_a_second_connect_is_3501_and_the_hook_of_the_close_runs_once() -> None:
    listener = Asked()
    async with served(listener) as (_, url):
        for frames in ((CONNECT, '{"id":2,"connect":{}}'), (CONNECT + '\n{"id":2,"connect":{}}',)):
            said = await talk(url, *frames)
            assert said.reply(1)["connect"]["client"]
            assert said.close == (3501, "bad request")
        await listener.wait_for("on_client_close", 2)
    assert listener.events == [("on_client_open", ""), ("on_client_close", 3501)] * 2


JUNK = (
    "x",
    "{",
    "[]",
    "5",
    "null",
    '"text"',
    "\0",
    CONNECT[:-1],
    '{"id":2,"ping":{}}x',
    '{"id":2,"ping":{}}{"id":3,"ping":{}}',
    '{"id":2,"ping":{}}\nx',
    '{"id":-1,"ping":{}}',
    '{"id":4294967296,"ping":{}}',
    '{"id":18446744073709551616,"ping":{}}',
    '{"id":1e999,"ping":{}}',
    '{"id":1.5,"ping":{}}',
    '{"id":"2","ping":{}}',
    '{"id":true,"ping":{}}',
    '{"id":null,"ping":{}}',
    '{"id":[],"ping":{}}',
    '{"ping":{}}',
    '{"id":0,"ping":{}}',
    '{"subscribe":{"channel":"open:1"}}',
    '{"publish":{"channel":"open:1","data":1}}',
    '{"nonsense":{}}',
    "[" * 30_000,
    '{"id":2,"ping":' + "[" * 30_000,
    '{"ping":{"x":"\\ud800"}}',
    '{"id":99999999999,"ping":{"x":"\\ud800"}}',
    '"\\ud800"',
    '["\\ud800"]',
)


@pytest.mark.parametrize("is_connected", [True, False])
async def test_junk_is_3501(is_connected: bool) -> None:
    async with served() as (_, url):
        for junk in JUNK:
            said = await talk(url, *([CONNECT] if is_connected else []), junk)
            assert said.close == (3501, "bad request"), junk[:50]


async def test_a_frame_that_is_too_large_is_1009_and_text_that_is_not_utf8_is_1007() -> None:
    async with served() as (_, url):
        said = await talk(url, CONNECT, json.dumps({"id": 2, "rpc": {"data": "x" * 65536}}))
        assert said.close
        assert said.close[0] == 1009
        socket = await open_websocket(url, "/connection/websocket")
        await socket.send(b'{"id":1,"connect":{"name":"\xff"}}', text=True)
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd
        assert caught.value.rcvd.code in (1007, 3501)


async def test_no_connect_in_time_is_3502() -> None:
    async with served(handshake_timeout=0.1) as (_, url):
        for frames in ((), ("{}",)):  # a pong is not a command
            socket = await open_websocket(url, "/connection/websocket")
            for frame in frames:
                await socket.send(frame)
            with pytest.raises(ConnectionClosed) as caught, anyio.fail_after(30):
                await socket.recv()
            assert caught.value.rcvd
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (3502, "stale")


async def test_a_connect_that_is_refused_has_one_answer_and_a_further_command_is_3501() -> None:
    class Closed(RecordingListener):
        async def on_handshake(self, event: HandshakeEvent) -> None:
            raise Refused(int(str(event.message)))

    listener = Closed()
    async with served(listener) as (_, url):
        for status, code in ((401, 101), (403, 103), (404, 102), (429, 111), (451, 103), (500, 100), (503, 100)):
            said = await talk(url, json.dumps({"id": 7, "connect": {"data": status}}))
            assert (said.code(7), said.close) == (code, (3501, "bad request"))
    assert listener.events == []


# What has an error for an answer

ERRORS: dict[str, int] = {
    '{"id":2}': 104,
    '{"id":2,"nonsense":{}}': 104,
    '{"id":2,"Subscribe":{"channel":"open:1"}}': 104,
    '{"id":2,"subscribe":{}}': 107,
    '{"id":2,"subscribe":{"channel":""}}': 107,
    '{"id":2,"subscribe":{"channel":5}}': 107,
    '{"id":2,"subscribe":{"channel":null}}': 107,
    '{"id":2,"subscribe":{"channel":["open:1"]}}': 107,
    '{"id":2,"subscribe":{"channel":"open:\\ud800"}}': 107,
    '{"id":2,"subscribe":{"channel":"open:\\u0000"}}': 107,
    '{"id":2,"subscribe":"open:1"}': 107,
    '{"id":2,"subscribe":null}': 107,
    '{"id":2,"subscribe":[]}': 107,
    '{"id":2,"subscribe":{"channel":"open:1","token":5}}': 107,
    '{"id":2,"subscribe":{"channel":"open:1","recover":1}}': 107,
    json.dumps({"id": 2, "subscribe": {"channel": "open:" + "x" * 1000}}): 107,
    '{"id":2,"subscribe":{"channel":"nowhere"}}': 102,
    '{"id":2,"subscribe":{"channel":"open:1","type":1}}': 108,
    '{"id":2,"subscribe":{"channel":"open:1","type":2}}': 108,
    '{"id":2,"subscribe":{"channel":"open:1","type":3}}': 108,
    '{"id":2,"subscribe":{"channel":"open:1","type":4}}': 108,
    '{"id":2,"subscribe":{"channel":"open:1","type":-1}}': 108,
    '{"id":2,"subscribe":{"channel":"open:1","tf":{"key":"a"}}}': 107,
    '{"id":2,"subscribe":{"channel":"open:1","data":1e999}}': 107,
    '{"id":2,"subscribe":{"channel":"asked:401"}}': 101,
    '{"id":2,"subscribe":{"channel":"asked:404"}}': 102,
    '{"id":2,"subscribe":{"channel":"asked:400"}}': 103,
    '{"id":2,"subscribe":{"channel":"asked:403"}}': 103,
    '{"id":2,"subscribe":{"channel":"asked:451"}}': 103,
    '{"id":2,"subscribe":{"channel":"asked:429"}}': 111,
    '{"id":2,"subscribe":{"channel":"asked:500"}}': 100,
    '{"id":2,"subscribe":{"channel":"asked:503"}}': 100,
    '{"id":2,"subscribe":{"channel":"asked:raise"}}': 100,
    '{"id":2,"subscribe":{"channel":"hall"}}': 105,
    '{"id":2,"publish":{}}': 107,
    '{"id":2,"publish":{"channel":"open:1"}}': 107,
    '{"id":2,"publish":{"channel":"open:1","data":null}}': 107,
    '{"id":2,"publish":{"channel":"","data":1}}': 107,
    '{"id":2,"publish":{"data":1}}': 107,
    '{"id":2,"publish":{"channel":"open:1","data":1,"type":1}}': 108,
    '{"id":2,"publish":{"channel":"open:1","data":1e999}}': 107,
    '{"id":2,"publish":{"channel":"open:1","data":[1,-1e999]}}': 107,
    '{"id":2,"publish":{"channel":"open:1","data":' + "9" * 5000 + "}}": 107,
    '{"id":2,"publish":{"channel":"open:1","data":"\\ud800"}}': 107,
    '{"id":2,"publish":{"channel":"open:1","data":{"\\udfff":1}}}': 107,
    '{"id":2,"publish":{"channel":"open:1","data":' + "[" * 1500 + "]" * 1500 + "}}": 107,
    '{"publish":{"channel":"open:1","data":"\\ud800"},"id":2}': 107,
    '{"publish":{"channel":"open:1","data":' + "[" * 1500 + "]" * 1500 + '},"id":2}': 107,
    '{"id":2,"publish":{"channel":"open:1","data":' + "[" * 15_000 + "]" * 15_000 + "}}": 107,
    '{"id":2,"publish":{"channel":"hall","data":1}}': 102,
    '{"id":2,"publish":{"channel":"nowhere","data":1}}': 102,
    '{"id":2,"publish":{"channel":"live:1","data":1}}': 103,
    '{"id":2,"publish":{"channel":"asked:1","data":1}}': 103,
    '{"id":2,"presence":{"channel":"asked:1"}}': 103,
    '{"id":2,"presence":{"channel":"live:1"}}': 103,
    '{"id":2,"presence":{"channel":"hall"}}': 102,
    '{"id":2,"presence":{"channel":"nowhere"}}': 102,
    '{"id":2,"presence":{}}': 107,
    '{"id":2,"presence_stats":{"channel":"asked:1"}}': 103,
    '{"id":2,"presence_stats":{"channel":"live:1"}}': 103,
    '{"id":2,"presence_stats":{"channel":"hall"}}': 102,
    '{"id":2,"history":{"channel":"asked:1"}}': 103,
    '{"id":2,"history":{"channel":"live:1"}}': 108,
    '{"id":2,"history":{"channel":"hall"}}': 102,
    '{"id":2,"history":{"channel":"nowhere"}}': 102,
    '{"id":2,"history":{}}': 107,
    '{"id":2,"history":{"channel":"open:1","limit":"x"}}': 107,
    '{"id":2,"history":{"channel":"open:1","limit":1,"reverse":true,"since":{"offset":0}}}': 107,
    '{"id":2,"history":{"channel":"open:1","limit":1,"since":{"epoch":"another","offset":1}}}': 112,
    '{"id":2,"history":{"channel":"open:1","limit":1,"since":{"offset":"x"}}}': 107,
    '{"id":2,"rpc":{"method":"x","data":1}}': 108,
    '{"id":2,"rpc":{}}': 108,
    '{"id":2,"rpc":{"method":5}}': 107,
}


async def test_a_command_that_is_wrong_has_its_error_and_the_client_stays() -> None:
    async with served(centrifuge_channel="hall") as (gateway, url):
        await gateway.publish("kept", channel="open:1")
        for command, code in ERRORS.items():
            said = await talk(url, CONNECT, command)
            assert said.close is None, command[:100]
            assert said.code(2) == code, command[:100]


async def test_what_is_ignored_or_without_effect_is_answered() -> None:
    async with served(centrifuge_channel="hall") as (_, url):
        said = await talk(
            url,
            '\n{"id":1,"connect":{"flag":5,"profile":"x","dict":true,"new":[{}]}}\n\n',
            "{}",
            '{"id":2,"subscribe":{"channel":"open:1","flag":1,"delta":"fossil","new":1}}',
            '{"id":3,"subscribe":{"channel":"open:1"}}',
            '{"id":4,"unsubscribe":{"channel":"open:2"}}\n{"id":5,"unsubscribe":{"channel":"nowhere"}}',
            '{"id":6,"unsubscribe":{"channel":"hall"}}',
            '{"id":7,"unsubscribe":{}}',
            '{"send":{"data":1e999}}',
            '{"send":{"data":"\\ud800"}}',
        )
        assert said.close is None
        assert set(said.reply(1)["connect"]) == {"client", "version", "ping", "pong", "subs"}
        assert said.reply(1)["connect"]["subs"] == {"hall": {}}
        result = said.reply(2)["subscribe"]
        assert not {"delta", "id"} & set(result)
        assert (result["recoverable"], result["positioned"]) == (True, True)
        assert said.code(3) == 105
        assert [said.reply(ident) for ident in (4, 5, 6)] == [{"unsubscribe": {}}] * 3
        assert set(said.reply(7)) <= {"unsubscribe", "error"}


async def test_a_client_that_may_start_over_by_itself_is_not_subscribed() -> None:
    async with served() as (gateway, url):
        for number in range(8):
            await gateway.publish(number, channel="open:1")
        said = await talk(
            url,
            CONNECT,
            '{"id":2,"subscribe":{"channel":"open:1","recover":true,"epoch":"another","offset":1,"flag":2}}',
            '{"id":3,"subscribe":{"channel":"open:1","recover":true,"epoch":"_","offset":0,"flag":1}}',
        )
        assert said.code(2) == 112
        result = said.reply(3)["subscribe"]
        assert (result.get("recovered", False), result["was_recovering"], result["offset"]) == (False, True, 8)


# Many, and often


@both_servers
async def test_a_thousand_subscribes_in_one_frame_are_a_thousand_messages(server: Serve) -> None:
    frame = "\n".join(json.dumps({"id": n, "subscribe": {"channel": f"open:{n}"}}) for n in range(2, 1002))
    async with served(server=server, max_message_size=1 << 20) as (gateway, url):
        said = await talk(url, CONNECT, frame)
        codes = [row["error"]["code"] if "error" in row else 0 for row in said.rows if row.get("id", LAST) < LAST]
        limit = gateway.settings.max_channels
        assert codes == [0] * (limit + 1) + [106] * (1000 - limit)
    limits = {"max_message_size": 1 << 20, "message_rate": 0.001, "message_burst": 100}
    async with served(server=server, **limits) as (_, url):
        said = await talk(url, CONNECT + "\n" + frame)
        assert said.close == (3013, "too many requests")
        assert sum("subscribe" in row for row in said.rows) <= 99


async def test_a_thousand_subscribe_and_unsubscribe_while_others_publish_leave_nothing() -> None:
    async with served() as (gateway, url), anyio.create_task_group() as tasks:

        async def publish() -> None:
            while True:
                await gateway.publish("hi", channel="open:1")
                await anyio.sleep(0)  # the client's turn

        tasks.start_soon(publish)
        frames = [
            f'{{"id":{n},"subscribe":{{"channel":"open:1"}}}}\n{{"id":{n + 1},"unsubscribe":{{"channel":"open:1"}}}}'
            for n in range(2, 2002, 2)
        ]
        said = await talk(url, CONNECT, *frames)
        tasks.cancel_scope.cancel()
        assert said.close is None
        is_in, offset = False, 0
        for row in said.rows[1:-1]:
            if "subscribe" in row:
                is_in, offset = True, row["subscribe"]["offset"]
            elif "unsubscribe" in row:
                is_in = False
            elif "pub" in row["push"]:
                assert is_in
                assert row["push"]["pub"]["offset"] == offset + 1
                offset += 1
        assert sum("subscribe" in row for row in said.rows) == 1000


async def test_a_payload_comes_back_unchanged_or_is_refused() -> None:
    texts = ['{"a": 1}', '"a\\u0000b"', "1.0", "1e5", "[]", '{"b":\r\n1}', '"data: x\\n\\n"', "0.1000", '"ü"', "false"]

    class Untouched:
        async def on_message(self, event: MessageEvent) -> None: ...

    async with served(Untouched) as (_, url):
        frames = [f'{{"id":{n},"publish":{{"channel":"open:1","data":{t}}}}}' for n, t in enumerate(texts, 3)]
        socket = await open_websocket(url, "/connection/websocket")
        await socket.send(CONNECT + '\n{"id":2,"subscribe":{"channel":"open:1"}}')
        for frame in frames:
            await socket.send(frame.replace("\r\n", "\r"))
        received: list[str] = []
        with anyio.fail_after(30):
            while len(received) < len(texts):
                received += [line for line in str(await socket.recv()).split("\n") if '"pub"' in line]
        for text, line in zip(texts, received, strict=True):
            assert f'"data":{text.replace(chr(13) + chr(10), " ")}' in line
        await socket.close()


# Tokens


def unsigned(**claims: Any) -> str:
    """Return a token with the algorithm `none`."""
    header, _, _ = jwt.encode(claims, SECRET).partition(".")
    none = urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return token(**claims).replace(header, none, 1).rpartition(".")[0] + "."


def raw(claims: str) -> str:
    """Return a token with `claims`, whatever they are, and a signature that fits."""
    signed = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"HS256"}', claims.encode()))
    signature = urlsafe_b64encode(hmac.digest(SECRET.encode(), signed, "sha256")).rstrip(b"=")
    return (signed + b"." + signature).decode()


FUTURE, PAST = 4_000_000_000, 1_000_000_000
BAD_TOKENS = {
    "junk": "x",
    "dots": "...",
    "another key": jwt.encode({"sub": "ann"}, "another secret of at least 32 bytes"),
    "none": unsigned(sub="ann"),
    "no signature": token(sub="ann").rpartition(".")[0] + ".",
    "not JSON": raw("{"),
    "not an object": raw('["ann"]'),
    "exp as text": token(sub="ann", exp=str(FUTURE)),
    "exp too large": raw('{"sub":"ann","exp":1e400}'),
    "exp as a boolean": token(sub="ann", exp=True),
    "not yet valid": token(sub="ann", nbf=FUTURE),
    "nbf as text": token(sub="ann", nbf=str(PAST)),
    "sub as a number": token(sub=5),
    "of a subscription": token(sub="ann", channel="open:1"),
    "a megabyte": token(sub="ann", x="x" * 1_000_000),
    "deep": raw('{"sub":"ann","x":' + "[" * 5000 + "]" * 5000 + "}"),
    "lone surrogate": raw('{"sub":"\\ud800"}'),
}
LIMITS: Any = {"token_secret": [SECRET], "max_message_size": 1 << 21}


def connecting(text: str) -> str:
    return json.dumps({"id": 1, "connect": {"token": text}})


async def test_a_bad_token_is_3500_in_each_command_and_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    listener = Asked()
    async with served(listener, **LIMITS) as (_, url):
        for name, text in BAD_TOKENS.items():
            assert (await talk(url, connecting(text))).close == (3500, "invalid token"), name
        assert listener.events == []
        for name, text in BAD_TOKENS.items():
            refresh = json.dumps({"id": 2, "refresh": {"token": text}})
            assert (await talk(url, connecting(token(sub="ann")), refresh)).close == (3500, "invalid token"), name
    lines = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("wsgateway"))
    assert not [name for name, text in BAD_TOKENS.items() if len(text) > 10 and text[:200] in lines]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"subscribe": {"channel": "asked:room", "token": "x"}}, 103),
        ({"subscribe": {"channel": "asked:room", "token": token(sub="ann", channel="asked:room", exp=PAST)}}, 109),
        (
            {"subscribe": {"channel": "asked:room", "token": token(sub="ann", channel="asked:room", expire_at=PAST)}},
            110,
        ),
        ({"subscribe": {"channel": "asked:room", "token": token(sub="ann", channel="asked:2")}}, 3500),
        ({"subscribe": {"channel": "asked:room", "token": token(sub="bob", channel="asked:room")}}, 3500),
        ({"subscribe": {"channel": "asked:room", "token": token(sub="ann", channel="asked:room", client="x")}}, 3500),
        ({"subscribe": {"channel": "asked:room", "token": token(sub="ann", channel="asked:room")}}, None),
        ({"refresh": {}}, 107),
        ({"refresh": {"token": token(sub="bob")}}, 3500),
        ({"refresh": {"token": token(sub="ann", exp=PAST)}}, 3005),
        ({"refresh": {"token": token(sub="ann", expire_at=PAST)}}, 110),
        ({"refresh": {"token": token(sub="ann", exp=FUTURE)}}, None),
        ({"sub_refresh": {"channel": "open:1"}}, 107),
        ({"sub_refresh": {"channel": "open:1", "token": token(sub="ann", channel="open:1")}}, 103),
        ({"sub_refresh": {"channel": "open:1", "token": "x", "type": 1}}, 108),
    ],
)
async def test_a_command_with_a_token_has_its_answer(command: dict[str, Any], code: int | None) -> None:
    async with served(**LIMITS) as (_, url):
        said = await talk(url, connecting(token(sub="ann", exp=FUTURE)), json.dumps({"id": 2, **command}))
        assert said.reply(1)["connect"]["expires"] is True
        assert said.reply(1)["connect"]["ttl"] >= 1
        if code is None:
            assert set(said.reply(2)) == set(command)
        elif code < 3000:
            assert (said.code(2), said.close) == (code, None)
        else:
            assert said.close
            assert said.close[0] == code


async def test_a_connect_without_a_token_is_101_and_with_an_expired_one_109() -> None:
    async with served(**LIMITS) as (_, url):
        for frame, code in ((CONNECT, 101), (connecting(token(sub="ann", exp=PAST)), 109)):
            said = await talk(url, frame)
            assert (said.code(1), said.close) == (code, (3501, "bad request"))
        said = await talk(url, connecting(token(sub="ann", exp=FUTURE, expire_at=PAST)))
        assert said.code(1) == 110

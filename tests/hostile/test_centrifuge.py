"""Clients of the Centrifuge protocol that keep to nothing."""

import json
from collections import Counter
from urllib.parse import quote

import anyio
import pytest

from tests.hostile.attack import Attack, Target, under_attack
from tests.hostile.peers import Peer, answer, frame
from tests.raw import head, post, upgrade

PATH = "/connection/websocket"
CONNECT = b'{"id":1,"connect":{}}'
TEXT = 0x81

JUNK = (
    b"x",
    b"{",
    b"[" * 60_000,
    b'{"id":1,"connect":{}}x',
    b'{"id":1,"connect":' + b'{"data":' * 7_000,
    b'{"id":2,"subscribe":{"channel":"a"}}',
    b'"' + b'\\"' * 30_000,
    b'{"id":1,"connect":{"headers":{' + b",".join(b'"%d":1' % n for n in range(5000)) + b"}}}" + b"]",
    b"\n" * 60_000 + b"x",
    b"[" * 2_000 + b'"' + b'\\"' * 30_000,
)


async def connected(attack: Attack) -> Peer:
    client = await attack.client(path=PATH)
    await client.send(frame(TEXT, CONNECT))
    assert (await client.message()).startswith(b'{"id":1,"connect":')
    return client


async def reply(client: Peer) -> bytes:
    """The next message that is not the bystander's."""
    while (message := await client.message()).startswith(b'{"push":'):
        pass
    return message


async def code_without_pongs(client: Peer) -> int:
    """Wait for the close. Pings of WebSockets are answered, as by every browser, and those of the protocol are not."""
    while True:
        first, payload = await client.frame()
        if first == 0x89:
            await client.send(frame(0x8A, payload))
        elif first == 0x88:
            return int.from_bytes(payload[:2])


async def send_all(client: Peer, data: bytes) -> None:
    try:
        await client.send(data)
    except ConnectionError:
        pass  # the server has ended it


async def test_junk_of_every_kind_is_3501_and_no_hook_runs(target: Target) -> None:
    async with under_attack(target) as attack:
        opened = (await target.report())["opens"]
        for junk in JUNK * 10:
            client = await attack.client(path=PATH)
            await client.send(frame(TEXT, junk))
            assert await client.code() == 3501, junk[:50]
        assert (await target.report())["opens"] == opened


async def test_clients_that_never_connect_are_3502_and_their_places_are_free(target: Target) -> None:
    async with under_attack(target, held=True) as attack:
        clients = [await attack.client(path=PATH) for _ in range(100)]
        for number, client in enumerate(clients):
            if number % 2:
                await client.send(frame(TEXT, b"{}"))  # a pong is not a command
        for client in clients:
            assert await client.code() == 3502
            await client.send(frame(0x88, b"\x0d\xae"))
            await client.ended()


async def test_a_thousand_subscribe_and_unsubscribe_while_others_are_sent_to_leave_nothing(target: Target) -> None:
    async with under_attack(target) as attack:
        client = await connected(attack)
        for number in range(2, 402, 2):
            subscribe = {"id": number, "subscribe": {"channel": f"room:{number % 7}"}}
            unsubscribe = {"id": number + 1, "unsubscribe": {"channel": f"room:{number % 7}"}}
            await client.send(frame(TEXT, f"{json.dumps(subscribe)}\n{json.dumps(unsubscribe)}".encode()))
        last = b""
        while b'"id":401,' not in last:
            last = await client.message()
            assert b'"error"' not in last


async def test_frames_of_many_commands_are_3013(target: Target) -> None:
    async with under_attack(target) as attack:
        for method in ('"subscribe":{"channel":"r"}', '"history":{"channel":"r"}', '"nonsense":{}'):
            client = await connected(attack)
            frames = ["\n".join(f'{{"id":{n},{method}}}' for n in range(1, 1001))] * 2
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_all, client, b"".join(frame(TEXT, text.encode()) for text in frames))
                assert await client.code() == 3013


async def test_frames_that_are_expensive_delay_nobody(target: Target) -> None:
    """As large as a frame may be, in the forms that a parser likes least."""
    deep = b'{"id":2,"publish":{"channel":"a","data":' + b"[" * 32_000 + b"]" * 32_000 + b"}}"
    surrogates = b'{"id":2,"publish":{"channel":"a","data":"' + b"\\ud800" * 10_000 + b'"}}'
    digits = b'{"id":2,"publish":{"channel":"a","data":' + b"9" * 64_000 + b"}}"
    keys = b'{"id":2,"rpc":{"data":{' + b",".join(b'"%d":{}' % n for n in range(6_000)) + b"}}}"
    async with under_attack(target) as attack:
        client = await connected(attack)
        for data in (deep, surrogates, digits, keys):
            for _ in range(20):
                await client.send(frame(TEXT, data))
                assert b'"error":{"code":10' in await reply(client)


async def test_clients_that_answer_no_ping_are_3012(target: Target) -> None:
    async with under_attack(target) as attack:
        clients = [await connected(attack) for _ in range(50)]
        codes = []

        async def read(client: Peer) -> None:
            codes.append(await code_without_pongs(client))

        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(read, client)
        assert codes == [3012] * 50


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_clients_that_vanish_while_they_connect_leave_nothing(target: Target, how: str) -> None:
    async with under_attack(target) as attack:
        frames = (b"", CONNECT, b'{"id":1,"connect":{"data":"waits"}}', CONNECT + b'\n{"id":2,"subscribe":')
        for number in range(100):
            client = await attack.client(path=PATH)
            data = frames[number % 4]
            if data:
                await client.send(frame(TEXT, data)[: None if number % 3 else -3])
            client.reset() if how == "rst" else client.close()


# Streams


def emulation(session: str, node: str, data: str, *headers: str) -> bytes:
    return post({"session": session, "node": node, "data": data}, *headers, path="/emulation")


async def test_a_cf_connect_that_is_huge_or_wrong_opens_nothing(target: Target) -> None:
    async with under_attack(target) as attack:
        opened = (await target.report())["opens"]
        for query in ("x" * 100_000, "", "%7B", "%00", "%ff", quote(CONNECT.decode()[:-1]), "x" * 6_000):
            peer = await attack.peer()
            await peer.send(head(f"GET /connection/sse?cf_connect={query} HTTP/1.1"))
            try:
                answered = await peer.until(b"\r\n\r\n")
                if b" 200 " in answered.partition(b"\r\n")[0]:
                    await peer.until(b'{"code":3501,')  # the push `disconnect`
            except (EOFError, ConnectionError):
                pass  # a head that is too long may end the connection
        assert (await target.report())["opens"] == opened


async def test_ten_thousand_posts_at_once_for_sessions_that_do_not_exist_are_answered(target: Target) -> None:
    async with under_attack(target) as attack:
        stream = await attack.peer()
        await stream.send(head(f"GET /connection/sse?cf_connect={quote(CONNECT)} HTTP/1.1"))
        reply = json.loads((await stream.until(b"}}\n\n")).rpartition(b"data: ")[2])["connect"]
        statuses: Counter[int] = Counter()

        async def ask(session: str, node: str, count: int) -> None:
            peer = await attack.peer()
            request = emulation(session, node, "{}")
            for _ in range(count // 50):
                await peer.send(request * 50)
                for _ in range(50):
                    statuses[(await answer(peer)).status] += 1

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                guessed = reply["session"][:-2] + f"{number:02}"
                tasks.start_soon(ask, guessed, reply["node"], 250)
                tasks.start_soon(ask, reply["session"], "another-node", 250)
        assert statuses == {204: 5000, 404: 5000}


@pytest.mark.parametrize(
    "path", ["/connection/websocket", "/connection/sse?cf_connect=%7B%7D", "/connection/http_stream", "/emulation"]
)
async def test_another_site_opens_nothing_and_reads_nothing(target: Target, path: str) -> None:
    async with under_attack(target):
        origin = "Origin: https://evil.example"
        requests = [
            upgrade(origin, path=path),
            head(f"GET {path} HTTP/1.1", origin),
            post({"session": "x", "node": "y", "data": ""}, origin, path=path),
            head(f"OPTIONS {path} HTTP/1.1", origin, "Access-Control-Request-Method: POST"),
        ]
        for request in requests[:1] if path.endswith("websocket") else requests[1:]:
            answered = await target.call(request)
            assert answered.status in (403, 405)
            assert b"access-control-" not in answered.head.lower()


async def test_no_payload_injects_an_event_or_a_line(own: Target) -> None:
    texts = ["\r\ndata: 1\r\n\r\n", "\n\ndata: {}\n\n", "\rid: 5\r", "\u2028data: x", "data: {}"]
    async with under_attack(own) as attack:
        stream = await attack.peer()
        await stream.send(head(f"GET /connection/sse?cf_connect={quote(CONNECT)} HTTP/1.1"))
        await stream.until(b"}}\n\n")
        received = []
        for text in texts:
            assert (await own.call(post({"message": text}))).status == 200
            while True:
                event = await stream.until(b"\n\n")  # the size of a chunk is before it
                message = json.loads(event.partition(b"data: ")[2])["push"]["pub"]["data"]
                if not message.startswith("tick "):
                    received.append(message)
                    break
        assert received == texts

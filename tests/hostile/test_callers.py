"""Requests to `POST /send` that it must refuse.

That every route of `/api` and of the panel denies by default is tested in tests/admin/test_rest.py and
tests/admin/test_panel.py, the limit for tries to log in in tests/admin/test_panel.py and tests/admin/test_passwords.py.
"""

import json
from collections.abc import Iterator
from time import monotonic
from urllib.parse import quote

import anyio
import pytest

from tests.hostile.attack import Attack, Target, own_server, under_attack
from tests.hostile.peers import Peer, answer, frame
from tests.raw import post, upgrade
from wsgateway.limits import BODY_TIMEOUT

FALSY = {'""': b"", "0": b"0", "false": b"false", "{}": b"{}", "[]": b"[]"}


async def test_falsy_messages_are_messages_and_null_is_none(target: Target) -> None:
    async with under_attack(target) as attack:
        for message, received in FALSY.items():
            assert await attack.ask(post(b'{"message": %b}' % message.encode())) == 200
            assert await pushed(attack) == received
        assert await attack.ask(post({"message": None})) == 422
        assert await attack.ask(post({"text": "no message"})) == 422


async def pushed(attack: Attack) -> bytes:
    """What the bystander has received beside its own messages."""
    others = attack.bystander.others
    with anyio.fail_after(10):
        while not others:
            await anyio.sleep(0.01)  # a list that another task fills
    return others.pop(0)


TEXTS = [
    "a\x00b",
    "\u2028\u2029",
    "😀👩‍👩‍👧",
    "שלום \u202eabc",
    "\ufeffbom",
    "é" * 1000,
    "\x7f\x80\x9f",
    "\uffff\U0010ffff",
]


@pytest.mark.parametrize("escaped", [True, False])
async def test_odd_texts_arrive_byte_for_byte(target: Target, escaped: bool) -> None:
    async with under_attack(target) as attack:
        for text in TEXTS:
            body = json.dumps({"message": text}, ensure_ascii=escaped).encode()
            assert await attack.ask(post(body)) == 200
            assert await pushed(attack) == text.encode()


POISON = [
    rb'{"message": "\ud800"}',
    rb'{"message": ["\udfff"]}',
    rb'{"message": "x", "\ud800": 1}',
    b'{"message": "\xed\xa0\x80"}',
    b'{"message": "\xff"}',
    b'{"message": NaN}',
    b'{"message": 1e999}',
    b'{"message": ' + b"1" * 5000 + b"}",
    b'{"message": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"",
]


async def test_what_cannot_be_sent_is_400_and_nobody_is_disconnected(target: Target) -> None:
    async with under_attack(target) as attack:
        for body in POISON:
            assert await attack.ask(post(body)) == 400, body[:60]


HEAD = b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"fde8\r\n" + b" " * 65_000 + b"\r\n"
ANNOUNCED = HEAD + b"Content-Length: 100\r\n\r\n"


async def test_a_body_that_is_too_large_is_413_before_it_is_read(target: Target) -> None:
    async with under_attack(target) as attack:
        assert await attack.ask(HEAD + b"Content-Length: 10000000000\r\n\r\n") == 413
        endless = await attack.peer()
        await endless.send(CHUNKED + CHUNK * 20)
        assert (await answer(endless)).status == 413
        assert attack.grown() < 4


async def test_a_body_that_is_too_slow_is_408_after_half_a_minute(own: Target) -> None:
    """The route is the same on both paths, and the time is not to be waited twice."""
    async with under_attack(own, held=True) as attack, anyio.create_task_group() as tasks:
        tasks.start_soon(is_ended_after_413, await attack.peer())
        tasks.start_soon(is_408_in_time, await attack.peer(), ANNOUNCED, b"")
        tasks.start_soon(is_408_in_time, await attack.peer(), ANNOUNCED, b" ")
        tasks.start_soon(is_408_in_time, await attack.peer(), CHUNKED, b"")
        tasks.start_soon(is_408_in_time, await attack.peer(), CHUNKED, b"1\r\n \r\n")


async def is_408_in_time(peer: Peer, request: bytes, piece: bytes) -> None:
    """`piece` is what is sent once a second after the request's head."""
    started = monotonic()
    peer.patience = BODY_TIMEOUT + 5
    await peer.send(request)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drip, peer, piece)
        assert (await answer(peer)).status == 408
        tasks.cancel_scope.cancel()
    assert monotonic() - started > BODY_TIMEOUT - 1


async def is_ended_after_413(peer: Peer) -> None:
    """Send without end what was refused long ago. uvicorn would read it for ever."""
    await peer.send(CHUNKED + CHUNK * 20)
    assert (await answer(peer)).status == 413
    with anyio.fail_after(BODY_TIMEOUT + 5), pytest.raises(ConnectionError):
        while True:
            await peer.send(CHUNK)
            await anyio.sleep(0.05)  # the pace of the attack


async def drip(peer: Peer, piece: bytes) -> None:
    try:
        while True:
            await peer.send(piece)
            await anyio.sleep(1)  # the pace of the attack
    except ConnectionError:
        pass


@pytest.mark.parametrize("padding", [0, 1000])  # so many at once that they are refused, or that they have to wait
async def test_requests_without_end_that_nobody_waits_for_are_not_kept(own: Target, padding: int) -> None:
    """uvicorn reads on with every answer, and keeps what it has read."""
    async with under_attack(own) as attack:
        caller = await attack.peer()
        requests = (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n" % (b"x" * padding)) * 100
        with anyio.move_on_after(5):  # until then it is not read from, or ended
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(read_slowly, caller)
                    while True:
                        await caller.send(requests)
                        await anyio.sleep(0)  # the bystander runs here too
            except* ConnectionError:
                pass
        assert attack.grown() < 8


async def read_slowly(caller: Peer) -> None:
    while await caller.some(10_000):
        await anyio.sleep(0.02)  # the pace of the attack


async def test_an_id_that_is_none_is_404(target: Target) -> None:
    async with under_attack(target) as attack:
        for gateway in ("../x", "%00", "\x00", "default/../x", "x" * 10_000, "'; drop table"):
            assert await attack.ask(post({"message": 1, "id": gateway})) == 404, gateway


KEY = "right-key-of-the-owner"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server that asks for a key, and logs everything it can."""
    with own_server(tmp_path_factory.mktemp("keyed"), "--api-key", KEY, "--verbose") as target:
        yield target


TOKENS = ["", "wrong", "\xff\xfe", "schlüssel", "x" * 20_000, KEY[:-1], KEY + "x"]


async def test_a_wrong_token_is_401_and_none_is_logged(keyed: Target) -> None:
    for token in TOKENS:
        request = post({"message": 1}, f"Authorization: Bearer {token}", path=f"/send?key={KEY}&token=in-the-query")
        assert (await keyed.call(request)).status == 401
    assert (await keyed.call(upgrade(f"Authorization: Bearer {KEY}", path="/ws?token=in-the-query"))).status == 101
    huge = await Peer.connect(keyed.port)
    try:
        await huge.send(post({"message": 1}, f"Authorization: Bearer {'x' * 1_000_000}"))
    except ConnectionError:
        pass  # a head of 1 MB is 431, and not read to its end
    finally:
        huge.close()
    assert (await keyed.call(post({"message": 1}, f"Authorization: Bearer {KEY}"))).status == 200
    for secret in (KEY, "in-the-query", "schlüssel", "xxxx", "Traceback"):
        assert secret not in keyed.log


FOREIGN = [
    ("Origin: https://attacker.example", "Content-Type: application/x-www-form-urlencoded"),  # a form
    ("Origin: https://attacker.example", "Sec-Fetch-Site: cross-site"),  # a fetch
    ("Origin: null", "Sec-Fetch-Site: cross-site"),  # from a sandbox
]


async def test_a_foreign_page_on_this_machine_is_refused(target: Target) -> None:
    """Without a key local callers are answered: a page of another site in a browser here is none."""
    async with under_attack(target) as attack:
        for headers in FOREIGN:
            assert await attack.ask(post({"message": "from a page"}, *headers)) == 403
        for host in ("attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example"):
            request = post({"message": "rebound"}).replace(b"Host: localhost", b"Host: " + host.encode())
            assert await attack.ask(request) == 403
        assert not attack.bystander.others


FORGED = "\r\n2026-01-01T00:00:00.000Z ERROR   [default] forged \x1b[31m<script> %s %(x)s\x00\u2028"


async def test_nobody_writes_lines_colours_or_formats_of_his_own_into_the_log(keyed: Target) -> None:
    """That the panel shows them as text is in tests/test_admin_panel.py."""
    client = await Peer.connect(keyed.port)
    try:
        await client.send(upgrade("User-Agent: \t<script>%s", "X-Name: %n\xff", path=f"/ws/{quote(FORGED)}"))
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await client.send(frame(0x88, b"\x0f\xa0" + FORGED.encode()))
        await client.ended()
    finally:
        client.close()
    assert (await keyed.call(upgrade("User-Agent: \x1b[31mforged"))).status == 400
    with anyio.fail_after(10):
        while "closed with 4000" not in keyed.log:
            await anyio.sleep(0.01)  # another process writes it
    lines = [line for line in keyed.log.split("\n") if "forged" in line]
    assert len(lines) == 2
    assert all(line.isprintable() and "%s %(x)s" in line for line in lines)
    assert not any(line.startswith("2026-01-01") for line in lines)
    assert "Traceback" not in keyed.log

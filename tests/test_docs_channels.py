"""The pages about channels and client protocols are true: each sample runs as written, and passes the type checker."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from websockets.typing import Subprotocol

from tests.samples import ROOT, run_sample
from wsgateway import Gateway
from wsgateway.listeners.hooks import HOOKS
from wsgateway.testing import Client, serve

CHANNELS = "docs/how-to/channels.md"
PROTOCOL = "docs/reference/protocol.md"
PROCESSES = "docs/how-to/processes.md"


class V1(Client):
    """A client of `wsgateway.v1`."""

    def __init__(self, url: str, query: str = "", path: str = "/ws") -> None:
        super().__init__(url, f"{path}?{query}", subprotocols=[Subprotocol("wsgateway.v1")])

    async def ask(self, **command: Any) -> Any:
        await self.send(json.dumps(command))
        return await self.receive_json()


@asynccontextmanager
async def rooms() -> AsyncIterator[tuple[Gateway, str]]:
    """Serve the first sample. Yield its gateway and its URL."""
    module = run_sample(CHANNELS, "rooms.py")
    async with serve(module.app) as url:
        yield module.gateway, url


async def test_rooms_as_written() -> None:
    async with rooms() as (_, url), V1(url, "user=ann", "/live/ws") as ann, V1(url, "user=eve", "/live/ws") as eve:
        assert (await ann.ask(subscribe="room:1"))["subscribed"] == "room:1"
        assert (await ann.receive_json())["joined"]["user"] == "ann"
        assert (await eve.ask(subscribe="room:1"))["status"] == 403
        assert (await eve.ask(subscribe="user:ann"))["reason"] == "not yours"
        assert (await ann.ask(subscribe="user:ann"))["recovered"] is False
        published = await ann.ask(channel="room:1", message="hi")
        assert published["message"] == {"from": "ann", "text": "hi"}
        assert published["from"]["user"] == "ann"
        assert (await ann.ask(channel="room:1", message=1))["status"] == 422
        async with httpx.AsyncClient(base_url=url) as http:
            at = (await http.post("/orders/7", params={"user": "ann"})).json()["at"]
        assert await ann.receive_json() == {"channel": "user:ann", "message": {"order": 7}, "at": at}
        async with Client(url, "/live/ws") as nobody:
            assert await nobody.closed() == (3500, "log in first")


async def test_a_notice_is_published_once() -> None:
    module = run_sample(CHANNELS, "notices.py")
    async with serve(module.gateway):
        at = await module.shipped("ann", 7)
        assert at.endswith(":1")
        assert await module.shipped("ann", 7) is None
        assert (await anyio.to_thread.run_sync(module.shipped_in_thread, "ann", 8)).endswith(":2")
        publication = (await module.gateway.history("user:ann", limit=2)).publications[0]
        assert (publication.name, publication.tags) == ("shipped", {"kind": "order"})


async def test_the_keywords_of_publish_are_those_of_the_table() -> None:
    text = (ROOT / CHANNELS).read_text()
    table = text.partition("| keyword | what it is |")[2].partition("\n\n")[0]
    documented = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in row.split("`")[1::2]}
    options = Gateway.publish.__annotations__["target"].__args__[0].__annotations__
    assert documented == set(options)


async def test_a_history_is_read_and_forgotten() -> None:
    module = run_sample(CHANNELS, "archive.py")
    async with serve(module.gateway):
        first = await module.gateway.publish("hi", channel="room:1")
        await module.gateway.publish("ho", channel="room:1")
        assert await module.newest("1") == [f"{first.at} hi", f"{await module.position('1')} ho"]
        assert await module.since("1", first.at) == ["ho"]
        await module.clear("1")
        assert await module.newest("1") == []


async def test_a_new_client_receives_the_newest_price_of_each_symbol() -> None:
    module = run_sample(CHANNELS, "prices.py")
    async with serve(module.gateway) as url:
        for symbol, price in (("A", 1), ("B", 2), ("A", 3)):
            await module.changed(symbol, price)
        async with V1(url) as client:
            assert (await client.ask(subscribe="prices"))["recovered"] is False
            received = [(await client.receive_json())["message"]["price"] for _ in range(2)]
            assert received == [2, 3]


async def test_a_document_is_loaded_with_its_changes() -> None:
    module = run_sample(CHANNELS, "documents.py")
    async with serve(module.gateway) as url:
        await module.write("7", "one")
        async with V1(url) as client:
            answer = await client.ask(subscribe="document:7")
            assert (answer["reply"], answer["recovered"]) == ({"version": 1, "text": "one"}, False)
            await module.write("7", "two")
            assert (await client.receive_json())["message"] == {"version": 2, "text": "two"}
        async with V1(url) as again:
            assert (await again.ask(subscribe="document:7", since=answer["at"]))["recovered"] is True
            assert (await again.receive_json())["message"] == {"version": 2, "text": "two"}


async def test_people_and_viewers_are_counted() -> None:
    module = run_sample(CHANNELS, "people.py")
    async with serve(module.gateway) as url, V1(url):
        connections = list(module.gateway.connections)
        await module.gateway.subscribe("room:1", connections)
        await module.gateway.subscribe("stream:1", connections)
        assert await module.people("1") == {""}
        assert await module.viewers("1") == 1


async def test_a_moderator_ends_subscriptions_and_sessions() -> None:
    module = run_sample(CHANNELS, "moderation.py")

    class Listener:
        async def on_handshake(self, event: Any) -> None:
            event.conn.user = event.conn.query["user"]
            event.channels = ["room:1"]

    gateway = Gateway(listener=Listener, channels=module.gateway.settings.channels)
    module.gateway = gateway
    async with serve(gateway) as url, V1(url, "user=ann") as ann, V1(url, "user=bob") as bob:
        for client in (ann, bob):
            assert (await client.receive_json())["subscribed"] == "room:1"
        assert await module.remove("ann", "1") == 1
        reason = "removed by a moderator"
        assert await ann.receive_json() == {"unsubscribed": "room:1", "code": 2000, "reason": reason}
        assert await module.close_room("1") == 1
        assert (await bob.receive_json())["code"] == 2000
        assert await module.log_out("bob") == 1
        assert await bob.closed() == (3503, "logged out")


def test_the_commands_accept_the_options_that_are_written() -> None:
    lines = re.findall(r"^(wsgateway .*?) *#", (ROOT / CHANNELS).read_text(), re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        _, command, *arguments = line.split()
        shown = subprocess.run([sys.executable, "-m", "wsgateway", command, "--help"], check=True, capture_output=True)
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in shown.stdout.decode()


def test_the_hooks_of_the_table_exist() -> None:
    table = (ROOT / CHANNELS).read_text().partition("<!-- hooks -->")[2].partition("<!-- /hooks -->")[0]
    hooks = set(re.findall(r"`(on_\w+)`", table.replace("before `on_client_close`", "")))
    assert hooks <= set(HOOKS)
    assert {hook for hook in HOOKS if "subscribe" in hook} <= hooks


async def test_a_plain_client_as_written() -> None:
    module = run_sample(PROTOCOL, "plain.py")
    async with rooms() as (gateway, url):
        for text in ("one", "two", "three"):
            await gateway.publish(text, channel="room:1")
        assert await module.read(url.replace("http", "ws")) == ["two", "three"]


async def test_a_client_of_wsgateway_v1_receives_what_is_written() -> None:
    module = run_sample(PROTOCOL, "v1.py")
    block = re.search(r"```json\n(.\"subscribed\".*?)```", (ROOT / PROTOCOL).read_text(), re.DOTALL)
    assert block
    written = [json.loads(line) for line in block[1].splitlines()]
    async with rooms() as (_, url):
        received = await module.talk(url.replace("http", "ws"))
    assert shape(received) == shape(written)


def shape(value: Any) -> Any:
    """Return `value` without what differs from run to run: ids and epochs."""
    match value:
        case dict():
            return {key: "…" if key == "id" and isinstance(item, str) else shape(item) for key, item in value.items()}
        case list():
            return [shape(item) for item in value]
        case str():
            return re.sub(r"^\w{4,}:(?=\d+$)", "EPOCH:", value)
        case _:
            return value


@pytest.mark.parametrize("status", [400, 403, 404, 500])
async def test_the_statuses_of_refusals_are_those_of_the_table(status: int) -> None:
    class Listener:
        async def on_subscribe(self, event: Any) -> None:
            if event.channel == "room:broken":
                raise ValueError("broken")

    commands: dict[int, dict[str, Any]] = {
        400: {"subscribe": ""},
        403: {"channel": "room:1", "message": "hi"},
        404: {"subscribe": "rom:1"},
        500: {"subscribe": "room:broken"},
    }
    async with serve(Gateway(listener=Listener, channels={"room:*": {}})) as url, V1(url) as client:
        assert (await client.ask(**commands[status]))["status"] == status
    assert f"\n| {status} | " in (ROOT / PROTOCOL).read_text().partition("| status |")[2]

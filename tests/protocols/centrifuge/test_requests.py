"""Requests of Centrifuge clients, and requests of the server, which a client answers with `rpc("$reply", …)`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.protocols.test_requests import Answering, Asking, Confirming, Silent, only
from wsgateway import ConnectionClosed, Gateway, RequestRefused, testing
from wsgateway.testing import Client


class Centrifuge(Client):
    """A client that sends frames of one command each, and has connected."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "/connection/websocket")
        self.ident = 1
        self._replies: list[Any] = []

    async def introduce(self) -> None:
        await self.send_json({"id": 1, "connect": {}})
        assert (await self.next())["id"] == 1

    async def next(self) -> Any:
        """Return the next reply or push."""
        while not self._replies:
            text = await self.receive()
            assert isinstance(text, str)
            self._replies = [json.loads(line) for line in text.split("\n") if line not in ("", "{}")]
        return self._replies.pop(0)

    async def rpc(self, method: str, data: object) -> Any:
        self.ident += 1
        await self.send_json({"id": self.ident, "rpc": {"method": method, "data": data}})
        answer = await self.next()
        assert answer.pop("id") == self.ident
        return answer

    async def question(self) -> Any:
        """Return the next request of the server."""
        push = (await self.next())["push"]
        assert push["channel"] == "default"
        return push["pub"]


@asynccontextmanager
async def connected(listener: object, **options: Any) -> AsyncIterator[tuple[Gateway, Centrifuge]]:
    gateway = Gateway(listener=listener, protocols=["centrifuge"], **options)
    async with testing.serve(gateway) as url, Centrifuge(url) as client:
        await client.introduce()
        yield gateway, client


async def test_an_rpc_is_a_request() -> None:
    async with connected(Answering()) as (_, client):
        assert await client.rpc("sum", [1, 2]) == {"rpc": {"data": {"sum": 3}}}
        assert await client.rpc("nothing", {}) == {"rpc": {}}
        for method, data, code in [
            ("unknown", 1, 104),
            ("refuse", [404], 104),
            ("refuse", [403], 103),
            ("refuse", [429], 111),
            ("refuse", [401], 101),
            ("fail", 1, 100),
            ("unsendable", 1, 100),
        ]:
            assert (await client.rpc(method, data))["error"]["code"] == code


async def test_without_on_request_an_rpc_is_not_available() -> None:
    async with connected(Silent()) as (_, client):
        assert (await client.rpc("sum", [1, 2]))["error"]["code"] == 108


async def test_the_server_asks_and_the_client_answers_with_an_rpc() -> None:
    async with connected(Silent()) as (gateway, client), anyio.create_task_group() as tasks:
        conn = await only(gateway)
        for answer, outcome in [("data", {"yes": 1}), ("refused", {"code": 7, "reason": "no"})]:
            asking = Asking()
            tasks.start_soon(asking.run, conn, {"delete": 5}, "confirm")
            question = await client.question()
            number = question["tags"]["request"]
            assert question == {"data": {"delete": 5}, "tags": {"request": number, "name": "confirm"}}
            assert isinstance(number, str)
            assert await client.rpc("$reply", {"id": number, answer: outcome}) == {"rpc": {}}
            if answer == "data":
                assert await asking.outcome() == outcome
            else:
                with pytest.raises(RequestRefused) as refused:
                    await asking.outcome()
                assert (refused.value.code, refused.value.reason) == (7, "no")
        malformed: list[Any] = [{"id": "1", "data": 1}, {"id": 1}, {"id": "x"}, {"id": -1}, {"id": 10**30}, {}, [], 5]
        for data in malformed:
            assert (await client.rpc("$reply", data))["error"]["code"] == 107


async def test_a_hook_that_asks_its_own_client_does_not_wait_for_itself() -> None:
    async with connected(listener := Confirming()) as (_, client):
        frame = "\n".join(json.dumps({"send": {"data": number}}) for number in range(100))
        await client.send(frame)
        await client.send(frame)
        for number in range(200):
            question = await client.question()
            assert question["data"] == {"sure": number % 100}
            assert await client.rpc("$reply", {"id": question["tags"]["request"], "data": 1}) == {"rpc": {}}
        await listener.wait_for("on_message", 200)


async def test_without_a_channel_for_broadcasts_a_client_cannot_be_asked() -> None:
    async with connected(Silent(), centrifuge_channel="") as (gateway, _):
        with pytest.raises(TypeError, match="centrifuge_channel"):
            await (await only(gateway)).request("q")


async def test_a_close_fails_the_open_requests() -> None:
    async with connected(Silent()) as (gateway, client), anyio.create_task_group() as tasks:
        asking = Asking()
        tasks.start_soon(asking.run, await only(gateway), "q")
        await client.question()
        await client.socket.close()
        with pytest.raises(ConnectionClosed):
            await asking.outcome()

"""The samples of the home page and of the reference run as copied."""

import httpx

from tests.samples import run_sample
from wsgateway import Gateway, MessageEvent
from wsgateway.testing import Client, serve


async def test_the_application_of_the_home_page() -> None:
    sample = run_sample("docs/index.md", "chat.py")
    async with serve(sample.app) as url, Client(url, "/live/ws") as ann, httpx.AsyncClient() as http:
        pushed = await http.post(f"{url}/live/send", json={"message": "hi"})
        assert pushed.status_code == 200
        assert await ann.receive() == "somebody wrote: hi"


async def test_the_rooms_of_the_listener_page() -> None:
    sample = run_sample("docs/reference/listener.md", "rooms.py")
    async with serve(sample.gateway) as url:
        async with Client(url, "/ws/a?name=ann") as ann, Client(url, "/ws/a?name=bob") as bob:
            assert await ann.receive_json() == {"welcome": "ann"}
            assert await bob.receive_json() == {"welcome": "bob"}
            await ann.send("hi")
            assert await bob.receive_json() == {"from": "ann", "text": "hi"}
        async with Client(url) as unnamed:
            assert await unnamed.closed() == (3500, "add ?name= to the address")


async def test_what_a_hook_sends_arrives_before_its_message() -> None:
    class Listener:
        async def on_message(self, event: MessageEvent) -> None:
            assert event.conn
            await event.conn.send("first")
            event.message = "second"

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        for _ in range(3):
            await ann.send("hi")
        assert [await ann.receive() for _ in range(6)] == ["first", "second"] * 3

"""The page about the server API is true: each sample runs as written."""

import re
from collections.abc import AsyncIterator

import anyio.to_thread
import cent
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.samples import ROOT, run_sample
from wsgateway import Gateway
from wsgateway.gateway.http.server_api import METHODS
from wsgateway.listeners.event import HandshakeEvent
from wsgateway.testing import Client, serve

PAGE = "docs/reference/server-api.md"


class Named:
    async def on_handshake(self, event: HandshakeEvent) -> None:
        event.conn.user = event.conn.query.get("user")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    gateway = Gateway(Named, api_key="key", channels={"orders": {"history": 100}})
    async with serve(Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)) as url:
        yield url


async def test_a_backend_publishes_as_written(url: str) -> None:
    announce = run_sample(PAGE, "backend.py").announce
    for number, offset in ((7, 1), (8, 2), (7, 1)):
        assert await anyio.to_thread.run_sync(announce, url, "key", number) == offset


async def test_a_backend_acts_on_a_user_as_written(url: str) -> None:
    module = run_sample(PAGE, "logout.py")
    async with (
        cent.AsyncClient(f"{url}/live/api", "key") as client,
        Client(url, "/live/ws?user=ann", channels=[]) as ann,
        Client(url, "/live/ws?user=ann", channels=[]) as other,
    ):
        await module.follow(client, "ann", "orders")
        for device in (ann, other):
            assert (await device.subscribed("orders"))["reply"] == {"welcome": "ann"}
        presence = (await client.presence(cent.PresenceRequest(channel="orders"))).presence
        await module.log_out(client, "ann", next(iter(presence)))
        assert (await other.closed())[0] == 3503
        assert len((await client.presence(cent.PresenceRequest(channel="orders"))).presence) == 1


def test_the_page_names_every_method_and_its_fields() -> None:
    text = (ROOT / PAGE).read_text()
    rows: dict[str, str] = {}
    for names, row in re.findall(r"^\| (`[^|]*`) \| (.*) \|$", text, re.MULTILINE):
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", names), row)
    assert rows.keys() == METHODS.keys()
    for name, method in METHODS.items():
        fields = {field for field in method.fields if not field.startswith("b64")}
        missing = {field for field in fields if f"`{field}`" not in rows[name]}
        assert not missing or name == "broadcast", (name, missing)

"""The connections of a gateway, as the panel and REST see them."""

from collections.abc import AsyncIterator

import pytest

from wsgateway import Event, Gateway
from wsgateway.testing import Client, serve


class Named:
    async def on_client_open(self, event: Event) -> None:
        event.conn.user = event.conn.path.removeprefix("/ws/")  # type: ignore[union-attr]  # a client's event has one


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway(Named)
    async with serve(gateway) as url, Client(url, "/ws/Ann?token=x"), Client(url, "/ws/Bob"), Client(url, "/ws/Cid"):
        yield gateway


async def test_a_page_has_the_connections_of_its_part(gateway: Gateway) -> None:
    pages = [await gateway.inspector.page("", offset, 2) for offset in (0, 2, 4)]
    assert [(total, [conn.user for conn in page]) for total, page in pages] == [
        (3, ["Ann", "Bob"]),
        (3, ["Cid"]),
        (3, []),
    ]


@pytest.mark.parametrize(("search", "users"), [("BOB", ["Bob"]), ("/ws/", ["Ann", "Bob", "Cid"]), ("token", [])])
async def test_a_search_ignores_case_and_sees_no_query(gateway: Gateway, search: str, users: list[str]) -> None:
    _, page = await gateway.inspector.page(search, 0, 10)
    assert [conn.user for conn in page] == users


async def test_one_connection_is_described_with_its_handshake(gateway: Gateway) -> None:
    first = next(iter(gateway.connections))
    described = await gateway.inspector.describe(first.id)
    assert described is not None
    assert (described.user, described.query) == ("Ann", ["token"])
    assert isinstance(described.headers, dict)
    assert "host" in described.headers
    assert gateway.inspector.node_of(first.id) == ""
    assert await gateway.inspector.describe("unknown") is None


async def test_named_connections_are_closed_once_and_others_are_not(gateway: Gateway) -> None:
    first = next(iter(gateway.connections))
    closed = await gateway.inspector.close([first.id, first.id, "unknown"], 4000, "bye")
    assert (closed.closed, closed.complete) == (1, True)
    assert len(gateway.connections) == 2


async def test_all_connections_are_closed(gateway: Gateway) -> None:
    assert (await gateway.inspector.close(None, 1000, "")).closed == 3
    assert len(gateway.connections) == 0


async def test_a_code_that_cannot_be_sent_closes_nothing(gateway: Gateway) -> None:
    with pytest.raises(ValueError, match="1006"):
        await gateway.inspector.close(None, 1006, "")
    assert len(gateway.connections) == 3


async def test_a_gateway_without_a_broker_has_totals_but_no_nodes(gateway: Gateway) -> None:
    inspector = gateway.inspector
    assert (await inspector.nodes(), inspector.has_running_peers) == ([], False)
    assert (await inspector.totals())["connections"] == 3
    assert len(await inspector.samples()) == 1

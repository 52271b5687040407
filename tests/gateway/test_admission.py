"""Which clients are admitted, and how the others are refused."""

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from wsgateway import Event, Gateway, Refused, Settings
from wsgateway.gateway.admission import SPARE_DESCRIPTORS, client_limit
from wsgateway.gateway.descriptors import file_limit
from wsgateway.testing import Client, RecordingListener, serve


def test_the_limit_of_clients_is_the_setting_or_the_open_files() -> None:
    assert client_limit(Settings(max_connections=1)) == 1
    assert client_limit(Settings()) == file_limit() - SPARE_DESCRIPTORS


@pytest.mark.parametrize(
    ("options", "status", "kind"),
    [
        ({"max_connections": 1}, 503, "capacity"),
        ({"max_connections_per_address": 1}, 429, "per_address"),
        ({"connect_rate": 0.001, "connect_burst": 1}, 429, "connect_rate"),
    ],
    ids=["capacity", "per address", "rate"],
)
async def test_a_client_too_many_is_refused(options: dict[str, Any], status: int, kind: str) -> None:
    gateway = Gateway(**options)
    async with serve(gateway) as url, Client(url):
        with pytest.raises(InvalidStatus) as caught:
            async with Client(url):
                pass
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["retry-after"] == "5"
    assert gateway.metrics.refusals == {kind: 1}


async def test_a_client_that_has_left_makes_space_for_another() -> None:
    listener = RecordingListener()
    gateway = Gateway(listener, max_connections=1, max_connections_per_address=1)
    async with serve(gateway) as url:
        for number in range(3):
            async with Client(url):
                pass
            await listener.wait_for("on_client_close", number + 1)
    assert gateway.metrics.refusals == {}


class Refusing:
    async def on_handshake(self, event: Event) -> None:
        raise Refused(401, "log in first", close=4401 if event.conn and event.conn.path == "/ws/close" else None)


async def test_a_client_that_the_listener_refuses_takes_no_space() -> None:
    gateway = Gateway(Refusing, max_connections=1)
    async with serve(gateway) as url:
        for _ in range(2):
            with pytest.raises(InvalidStatus) as caught:
                async with Client(url):
                    pass
            assert caught.value.response.status_code == 401
        async with Client(url, "/ws/close") as client:
            assert await client.closed() == (4401, "log in first")
    assert gateway.metrics.refusals == {"handshake": 3}

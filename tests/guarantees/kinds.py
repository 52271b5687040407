"""The table of clients that the suite of guarantees runs over, and the gateway that it runs against."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.guarantees.centrifuge import CENTRIFUGE, CentrifugeSocket, CentrifugeSse
from tests.guarantees.client import Client
from tests.guarantees.sockets import V1, Plain
from tests.guarantees.streams import Lines, Sse
from tests.leftovers import assert_nothing_is_left
from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Gateway

KINDS: tuple[type[Client], ...] = (Plain, V1, Sse, Lines, *CENTRIFUGE)
ON_UVICORN = (V1, Sse, CentrifugeSocket, CentrifugeSse)
"""A client of each kind of transport. What the protocols do is the same on both servers."""

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
every_kind_with_positions = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.has_positions], ids=lambda kind: kind.name
)
both_servers = pytest.mark.parametrize("server", [OwnServer(), PlainUvicorn()], ids=lambda server: server.name)
every_kind_and_server = pytest.mark.parametrize(
    ("kind", "server"),
    [(kind, OwnServer()) for kind in KINDS] + [(kind, PlainUvicorn()) for kind in ON_UVICORN],
    ids=lambda value: value.name,
)

CLIENTS = ["subscribe", "publish"]
CHANNELS: Any = {
    "room": {"public": True, "clients": CLIENTS, "history": 10_000},
    "short": {"public": True, "clients": CLIENTS, "history": 200},
    "live": {"public": True, "clients": CLIENTS},
    "guarded": {"clients": CLIENTS, "history": 10_000},
}
PROTOCOLS = ("plain", "v1", "sse", "centrifuge")
OWN_SERVER = OwnServer()


@asynccontextmanager
async def served(
    server: Serve = OWN_SERVER, listener: object = None, **options: Any
) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(listener=listener, channels=CHANNELS, protocols=PROTOCOLS, **options)
    async with server(gateway) as url:
        yield gateway, url
    assert_nothing_is_left(gateway)

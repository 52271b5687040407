"""Connections without sockets in a running gateway, so that nothing but the gateway's own work is measured."""

from wsgateway import Connection, Gateway
from wsgateway.hub.connection import new_id
from wsgateway.hub.loops import Home
from wsgateway.hub.outbox import Outbox
from wsgateway.transports.framing import PLAIN

CHANNELS = {"*": {"public": True}, "kept:*": {"public": True, "history": 100}}


class Nowhere:
    """Carries nothing."""

    name = "none"

    def wake(self) -> None: ...


def write(data: bytes) -> None:
    """Take what is written to a connection."""


def connected(gateway: Gateway, count: int) -> list[Connection]:
    """Return `count` open connections of the running gateway, which are written to directly."""
    parts, transport, home, made = gateway._parts, Nowhere(), Home(), []
    for _ in range(count):
        outbox = Outbox(new_id(""), transport, PLAIN, parts.settings, parts.metrics)
        conn = Connection({"headers": []}, path="/ws", outbox=outbox, home=home, channels=parts.channels)
        parts.hub.join(conn)
        outbox.direct(write)
        made.append(conn)
    return made

"""Connections without a socket, for tests of the hub."""

from collections.abc import Iterable
from typing import Any

from wsgateway import Connection, Gateway
from wsgateway.hub.channels import Channels
from wsgateway.hub.connection import new_id
from wsgateway.hub.hub import Hub
from wsgateway.hub.loops import Home
from wsgateway.hub.outbox import Outbox, Transport
from wsgateway.messages import Kind, Message
from wsgateway.transports.framing import PLAIN


class Wakeless:
    """Carries nothing."""

    name = "none"

    def wake(self) -> None: ...


def unconnected(gateway: Gateway, transport: Transport | None = None, **scope: Any) -> tuple[Connection, Outbox]:
    """A connection that has not joined a hub, and its outbox."""
    outbox = Outbox(new_id(""), transport or Wakeless(), PLAIN, gateway.settings, gateway.metrics)
    channels = gateway._parts.channels
    return Connection({"headers": [], **scope}, path="/ws", outbox=outbox, home=Home(), channels=channels), outbox


def hub_of(gateway: Gateway) -> Hub:
    """A hub without connections."""
    return Hub(gateway.metrics, gateway.log, plain=PLAIN)


def channels_of(gateway: Gateway, hub: Hub) -> Channels:
    """The channels of `gateway`, for the connections of `hub`."""
    return Channels(hub, gateway.settings, gateway.metrics, gateway._parts.history)


def connected(gateway: Gateway, hub: Hub, count: int) -> list[tuple[Connection, list[bytes]]]:
    """`count` connections that are written to directly, with what was written to each."""
    made = []
    for _ in range(count):
        conn, outbox = unconnected(gateway)
        written: list[bytes] = []
        hub.join(conn)
        outbox.direct(written.append)
        made.append((conn, written))
    return made


def text(content: str) -> Message:
    return Message(content.encode(), Kind.TEXT)


def outboxes(connections: Iterable[Connection]) -> list[Outbox]:
    return [conn._outbox for conn in connections]

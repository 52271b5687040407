"""Pushes figures to an open page over its WebSocket: totals of each gateway, once per second and at every change, and
the figures and events of the connection that the page shows.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from starlette.websockets import WebSocket, WebSocketDisconnect

from wsgateway.exceptions import GatewayNotFound, NodeError
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.shapes import encoded
from wsgateway.hub.connection import Connection
from wsgateway.hub.recording import Recording
from wsgateway.supervisor.observer import Observer
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.text import escape_controls

INTERVAL = 1.0
"""Seconds between two pushes if nothing changes."""

RECORDING_INTERVAL = 0.25
"""The same while a connection is recorded."""

MAX_VIEWERS = 100
"""Pages that are pushed to at the same time."""

SEND_TIMEOUT = 10.0
"""Seconds that a page may take to read one push."""


class LiveConnection(Struct, rename={"received": "in", "sent": "out"}):
    """The connection that a page shows. Once it is closed, its figures are unset if another node had it."""

    open: bool
    events: list[list[object]] = []
    age: float | UnsetType = UNSET
    received: int | UnsetType = UNSET
    sent: int | UnsetType = UNSET
    dropped: int | UnsetType = UNSET
    queued_messages: int | UnsetType = UNSET
    queued_bytes: int | UnsetType = UNSET


class Push(Struct):
    """One push: the totals of each gateway, and the connection that the page shows, if any."""

    now: float
    gateways: list[dict[str, Any]]
    connection: LiveConnection | UnsetType | None = UNSET


async def push_figures(socket: WebSocket, supervisor: Supervisor, may_read: Callable[[], Awaitable[bool]]) -> None:
    """Push to one page until it is closed, its reader loses access, or the supervisor stops."""
    with _recorded(socket, supervisor) as recorded:
        await socket.accept()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_read_until_closed(socket))
            pushing = tasks.create_task(_push_all(socket, supervisor, may_read, recorded))
            await asyncio.wait({reading, pushing}, return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            pushing.cancel()


async def _read_until_closed(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass  # a page sends nothing


async def _push_all(
    socket: WebSocket,
    supervisor: Supervisor,
    may_read: Callable[[], Awaitable[bool]],
    recorded: "_Recorded | None",
) -> None:
    interval = INTERVAL if recorded is None else RECORDING_INTERVAL
    try:
        while not supervisor.closing.is_set() and await may_read():
            pushed = Push(time.monotonic(), await totals(supervisor))
            if recorded is not None:
                pushed.connection = recorded.figures()
            elif socket.query_params.get("connection"):
                pushed.connection = await _figures_elsewhere(socket, supervisor)
            async with asyncio.timeout(SEND_TIMEOUT):
                await socket.send_text(encoded(pushed).decode())
            await supervisor.changed(interval)
        await socket.close(1012)
    except (WebSocketDisconnect, TimeoutError, RuntimeError, OSError):
        pass  # the page has disconnected, or does not read


async def totals(supervisor: Supervisor) -> list[dict[str, Any]]:
    """Return the state of each gateway, and counters of all its nodes from which a page computes rates."""
    gateways = []
    for supervised in supervisor.all():
        gateway = supervised.gateway
        counts = await gateway.inspector.totals()
        gateways.append({"id": gateway.id, "state": supervised.state, "failure": gateway.failure, **counts})
    return gateways


class _Recorded:
    """A connection of this process, which is recorded while a page shows it."""

    def __init__(self, gateway: Gateway, conn: Connection, recording: Recording) -> None:
        self._gateway = gateway
        self._conn = conn
        self._recording = recording
        self._pushed = 0

    def figures(self) -> LiveConnection:
        """Return the figures of the connection, with the events since the last call."""
        conn, events = self._conn, self._recording.since(self._pushed)
        self._pushed = self._recording.total
        return LiveConnection(
            open=conn.is_open,
            age=conn.age,
            received=conn.messages_in,
            sent=conn.messages_out,
            dropped=conn.dropped,
            queued_messages=conn.queued_messages,
            queued_bytes=conn.queued_bytes,
            events=[[*event[:3], escape_controls(event.note)] for event in events],
        )


@contextmanager
def _recorded(socket: WebSocket, supervisor: Supervisor) -> Iterator[_Recorded | None]:
    """Record the connection that the page shows, if this process has it."""
    try:
        gateway = supervisor.find(socket.query_params.get("gateway", "")).gateway
        conn = gateway.connections.get(socket.query_params.get("connection", ""))
    except GatewayNotFound:
        conn = None
    if conn is None or isinstance(gateway, Observer):
        yield None
        return
    with gateway.recording(conn) as recording:
        yield _Recorded(gateway, conn, recording)


async def _figures_elsewhere(socket: WebSocket, supervisor: Supervisor) -> LiveConnection | None:
    """Return the figures of a connection of another node; None if that node does not answer."""
    try:
        gateway = supervisor.find(socket.query_params.get("gateway", "")).gateway
        info = await gateway.inspector.describe(socket.query_params.get("connection", ""))
    except (GatewayNotFound, NodeError):
        return None
    if info is None:
        return LiveConnection(open=False)
    return LiveConnection(
        open=True,
        age=info.age,
        received=info.messages_in,
        sent=info.messages_out,
        dropped=info.dropped,
        queued_messages=info.queue.messages,
        queued_bytes=info.queue.bytes,
    )

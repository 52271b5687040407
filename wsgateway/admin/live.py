"""What an open page is pushed over its WebSocket: totals of each gateway once a second and at every change, and what
happens to the one connection that it shows."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from wsgateway.exceptions import GatewayNotFound, NodeError
from wsgateway.gateway.gateway import Gateway
from wsgateway.hub.connection import Connection
from wsgateway.hub.recording import Recording
from wsgateway.supervisor.observer import Observer
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.text import escape_controls

INTERVAL = 1.0
"""Seconds between two pushes of what changes all the time."""

RECORDING_INTERVAL = 0.25
"""The same while a connection is recorded."""

MAX_VIEWERS = 100
"""Pages that are pushed to at once."""

SEND_TIMEOUT = 10.0
"""Seconds that a page may take to read what it is pushed."""


async def watch(socket: WebSocket, supervisor: Supervisor, may_look: Callable[[], Awaitable[bool]]) -> None:
    """Push to one page until it is closed, its reader may not look any more, or the supervisor ends."""
    recorded = _recorded(socket, supervisor)
    with ExitStack() as stack:
        recording = None if recorded is None else stack.enter_context(recorded[0].recording(recorded[1]))
        await socket.accept()
        closed = asyncio.ensure_future(_closed(socket))
        told = 0
        interval = INTERVAL if recording is None else RECORDING_INTERVAL
        try:
            while not closed.done() and not supervisor.closing.is_set() and await may_look():
                pushed: dict[str, Any] = {"now": time.monotonic(), "gateways": await totals(supervisor)}
                if recorded is not None and recording is not None:
                    pushed["connection"] = _shown(*recorded, recording, told)
                    told = recording.total
                elif socket.query_params.get("connection"):
                    pushed["connection"] = await _shown_elsewhere(socket, supervisor)
                async with asyncio.timeout(SEND_TIMEOUT):
                    await socket.send_text(json.dumps(pushed))
                changed = asyncio.ensure_future(supervisor.changed(interval))
                await asyncio.wait({changed, closed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            if not closed.done():
                await socket.close(1012)
        except (WebSocketDisconnect, TimeoutError, RuntimeError, OSError):
            pass  # it has gone, or does not read
        finally:
            closed.cancel()


async def _closed(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass  # a page has nothing to say


def _recorded(socket: WebSocket, supervisor: Supervisor) -> tuple[Gateway, Connection] | None:
    query = socket.query_params
    try:
        gateway = supervisor.find(query.get("gateway", "")).gateway
    except GatewayNotFound:
        return None
    conn = gateway.connections.get(query.get("connection", ""))
    return None if conn is None or isinstance(gateway, Observer) else (gateway, conn)


async def totals(supervisor: Supervisor) -> list[dict[str, Any]]:
    """What each gateway does, in all its processes: its state, and counters from which a page makes rates."""
    found = []
    for supervised in supervisor.all():
        gateway = supervised.gateway
        counted = await gateway.inspector.totals()
        found.append({"id": gateway.id, "state": str(gateway.state), "failure": gateway.failure, **counted})
    return found


async def _shown_elsewhere(socket: WebSocket, supervisor: Supervisor) -> dict[str, Any] | None:
    """The figures of a connection of another process; None where nothing can be said of it."""
    try:
        gateway = supervisor.find(socket.query_params.get("gateway", "")).gateway
        row = await gateway.inspector.describe(socket.query_params.get("connection", ""))
    except (GatewayNotFound, NodeError):
        return None
    if row is None:
        return {"open": False, "events": []}
    return {
        "open": True,
        "age": row.age,
        "in": row.messages_in,
        "out": row.messages_out,
        "dropped": row.dropped,
        "queued_messages": row.queue.messages,
        "queued_bytes": row.queue.bytes,
        "events": [],
    }


def _shown(gateway: Gateway, conn: Connection, recording: Recording, told: int) -> dict[str, Any]:
    return {
        "open": conn.is_open,
        "age": max(0.0, time.monotonic() - conn.opened_clock),
        "in": conn.messages_in,
        "out": gateway.messages_out(conn),
        "dropped": conn.dropped,
        "queued_messages": conn.queued_messages,
        "queued_bytes": conn.queued_bytes,
        "events": [[*happened[:3], escape_controls(happened.note)] for happened in recording.since(told)],
    }

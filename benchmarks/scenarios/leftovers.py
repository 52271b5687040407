"""What remains of clients that have left, and of gateways that have stopped: nothing."""

import asyncio
from typing import Any

from wsgateway import Gateway


def of_clients(gateway: Gateway) -> list[str]:
    """Return what a running gateway still remembers of clients, all of which have left."""
    parts: Any = gateway._parts
    running: Any = gateway._running
    channels, hub, metrics = parts.channels, parts.hub, parts.metrics
    counts = {
        "connections": len(gateway.connections),
        "channels": len(channels.by_name),
        "channels in metrics": metrics.channels,
        "subscriptions": metrics.subscriptions,
        "returning clients": len(channels._returning),
        "users": len(hub._users),
        "members of everybody": 0 if hub.everybody.is_empty else 1,
        "runs": len(hub._turn.runs),
    }
    if running is not None:
        counts |= {
            "inboxes": len(running.dispatcher._inboxes),
            "clients of the dispatcher": running.dispatcher._count,
            "sessions": running.drain.count,
        }
        bus = getattr(running.cluster, "_bus", None)
        if bus is not None:
            counts |= {
                "messages for the broker": len(bus._outbox),
                "bytes for the broker": bus._waiting.bytes,
                "followed topics": len(bus._topics),
            }
    if channels.following is not None:
        counts["followed channels"] = len(channels.following._followed)
    return [f"{count} {what}" for what, count in counts.items() if count]


def of_tasks(before: set["asyncio.Task[Any]"]) -> list[str]:
    """Return the tasks that did not run before."""
    return [f"task {task.get_coro()}" for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]


def of_timers() -> list[str]:
    """Return the timers of the event loop, which is asyncio's own."""
    loop: Any = asyncio.get_running_loop()
    return [f"timer {handle}" for handle in loop._scheduled if not handle.cancelled()]

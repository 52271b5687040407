"""What the gateways of one process share: the map of those that were started, and the watchdog of each event loop. The
one piece of module state of the package. Knows no gateway."""

import asyncio
import enum
from typing import Any
from weakref import WeakValueDictionary

from wsgateway.gateway.watchdog import Watchdog


class GatewayState(enum.StrEnum):
    """What a gateway is doing. A new one is stopped."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Registry:
    """The gateways of this process. Keeps none of them alive."""

    def __init__(self) -> None:
        self.started: WeakValueDictionary[str, Any] = WeakValueDictionary()
        """The `Gateway` that was started last with each id, by the case-folded id. This module cannot import it."""
        self._watchdogs: WeakValueDictionary[int, Watchdog] = WeakValueDictionary()

    def watchdog_of(self, loop: asyncio.AbstractEventLoop) -> Watchdog:
        """Return the watchdog of `loop`, which its gateways share."""
        watchdog = self._watchdogs.get(id(loop))
        if watchdog is None or watchdog.loop is not loop:
            watchdog = self._watchdogs[id(loop)] = Watchdog(loop)
        return watchdog


registry = Registry()

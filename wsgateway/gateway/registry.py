"""The state that the gateways of one process share: the started gateways by id, and the watchdog of each event loop.

The only module state of the package. Knows no gateway.
"""

import asyncio
import enum
from typing import Any
from weakref import WeakValueDictionary

from wsgateway.exceptions import GatewayNotFound, StartError
from wsgateway.gateway.watchdog import Watchdog
from wsgateway.messages import Sent


class GatewayState(enum.StrEnum):
    """The state of a gateway. A new gateway is stopped."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Registry:
    """The started gateways of this process. Does not keep them alive."""

    def __init__(self) -> None:
        self._started: WeakValueDictionary[str, Any] = WeakValueDictionary()
        """The `Gateway` that was started last with each id, by the case-folded id. This module cannot import it."""
        self._watchdogs: WeakValueDictionary[int, Watchdog] = WeakValueDictionary()

    def check_free(self, gateway: Any) -> None:
        """Raise `StartError` if another gateway with the id of `gateway` runs."""
        other: Any = self._started.get(gateway.id.casefold())
        if other is not None and other is not gateway and other.state is GatewayState.RUNNING:
            raise StartError(f"another gateway with id [{gateway.id}] is running in this process")

    def add(self, gateway: Any) -> None:
        """Add `gateway`, so `find` returns it from now on."""
        self._started[gateway.id.casefold()] = gateway

    def remove(self, gateway: Any) -> None:
        """Undo `add`, unless another gateway has taken the id since."""
        gateway_id = gateway.id.casefold()
        if self._started.get(gateway_id) is gateway:
            del self._started[gateway_id]

    def find(self, gateway_id: str) -> Any:
        """Return the gateway that was started with `gateway_id`, trimmed, in any case. Raise `GatewayNotFound`."""
        gateway = self._started.get(gateway_id.strip().casefold())
        if gateway is None or gateway.has_lost_loop:
            gateways = self._started.values()
            available = [known.id for known in gateways if known.state is not GatewayState.STOPPED]
            raise GatewayNotFound(gateway_id.strip(), available)
        return gateway

    def watchdog_of(self, loop: asyncio.AbstractEventLoop) -> Watchdog:
        """Return the watchdog of `loop`, which its gateways share."""
        watchdog = self._watchdogs.get(id(loop))
        if watchdog is None or watchdog.loop is not loop:
            watchdog = self._watchdogs[id(loop)] = Watchdog(loop)
        return watchdog


registry = Registry()


async def send_gateway_message(gateway_id: str, data: dict[str, Any]) -> Sent:
    """Send `data["message"]` through the gateway with that id, as the ancestor's `sendGatewayMessage` did.

    `data["connections"]` names recipients; the listener finds all other keys of `data` in `event.data`. Raise
    `GatewayNotFound` and what `Gateway.send` raises.
    """
    rest = {name: value for name, value in data.items() if name not in ("message", "connections")}
    gateway = registry.find(gateway_id)
    sent: Sent = await gateway.send(data.get("message"), connections=data.get("connections"), data=rest)
    return sent

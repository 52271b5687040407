"""`/send`, written once for the data port, REST, and the panel: reads and checks a request, and sends its message.

Knows no more of a gateway than `SendGateway`.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Scope

from wsgateway.auth.rules import Rules
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import (
    GatewayError,
    GatewayNotRunning,
    GatewayStopping,
    HookError,
    MessageError,
    NodeError,
    Refusal,
    Refused,
)
from wsgateway.gateway.http.problems import too_large
from wsgateway.gateway.shapes import SendAnswer
from wsgateway.hub.connection import Connection
from wsgateway.limits import RateLimits
from wsgateway.messages import Sent

IGNORED_KEYS = frozenset({"conn", "action", "webSocketServerAction"})
"""Keys that are dropped: those of the listener's own event, and those that controlled the server of Lucee."""

_TAKEN_KEYS = IGNORED_KEYS | {"message", "connections"}


class SendGateway(Protocol):
    """A gateway of this process, or one that workers serve."""

    @property
    def id(self) -> str: ...

    @property
    def cluster(self) -> AnyCluster: ...

    async def send(
        self,
        message: object,
        *,
        connections: Iterable[Connection | str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Sent: ...


@dataclass(frozen=True, slots=True)
class SendRequest:
    """A message to send. `connections` are ids, `data` is what the listener finds in `event.data`."""

    message: object
    connections: list[str] | None = None
    data: dict[str, Any] | None = None


def take_id(fields: dict[str, Any]) -> str | None:
    """Remove the id of the addressed gateway from `fields`, and return it. Raise `Refused`."""
    gateway_id = fields.pop("id", None)
    if gateway_id is not None and not isinstance(gateway_id, str):
        raise Refused.of(Refusal(422, "body", f"id: use a string, not {_shown(gateway_id)}", "bad-body"))
    return gateway_id


def read_request(fields: dict[str, Any]) -> SendRequest:
    """Return the request in the JSON object `fields`. Raise `Refused`."""
    connections = fields.get("connections")
    if connections is not None and not isinstance(connections, list):
        detail = f"connections: use a list of connection ids, not {_shown(connections)}"
        raise Refused.of(Refusal(422, "body", detail, "bad-body"))
    if connections is not None and not all(isinstance(item, str) for item in connections):
        raise Refused.of(Refusal(422, "body", "connections: use a list of connection ids", "bad-body"))
    data = {name: value for name, value in fields.items() if name not in _TAKEN_KEYS}
    return SendRequest(fields.get("message"), connections, data)


def _shown(value: object) -> str:
    return json.dumps(value)[:60]


async def send_request(gateway: SendGateway, request: SendRequest) -> SendAnswer:
    """Send the message of `request`, and return its counts. Raise `Refused`."""
    try:
        sent = await gateway.send(request.message, connections=request.connections, data=request.data)
    except GatewayError as exc:
        refusal = refusal_of_send(exc)
        if refusal is None:
            raise
        raise Refused.of(refusal) from exc
    if gateway.cluster.has_broker:
        return SendAnswer(id=gateway.id, **sent._asdict())
    return SendAnswer(id=gateway.id, recipients=sent.recipients, queued=sent.queued, dropped=sent.dropped)


def refusal_of_send(error: GatewayError) -> Refusal | None:
    """Return the refusal of a message that could not be sent because of `error`; None for an unexpected error."""
    match error:
        case GatewayStopping():
            return Refusal(503, "stopping", str(error), "not-running", (("retry-after", "5"),))
        case GatewayNotRunning():
            return Refusal(409, "not_running", str(error), "not-running")
        case MessageError():
            return Refusal(422, "body", f"message: {error}", "bad-body")
        case HookError():
            return Refusal(500, "hook", str(error), "hook-failed")
        case NodeError():
            return Refusal(503, "node", str(error), "broker", (("retry-after", "5"),))
        case _:
            return None


@dataclass(frozen=True, slots=True)
class SendGuard:
    """Checks requests to send through one gateway on the data port: the caller, the rate, and the size."""

    gateway: SendGateway
    rules: Rules
    rates: RateLimits
    max_size: int

    def check_caller(self, scope: Scope) -> None:
        """Raise `Refused` unless the caller may send."""
        refusal = self.rules.check_host(scope) or self.rules.check_caller(scope)
        if refusal is not None:
            raise Refused.of(refusal)

    def check_rate(self, scope: Scope) -> None:
        """Count a request of the caller. Raise `Refused` if it exceeds `send_rate`."""
        if not self.rates.has_limit:
            return
        key = self.rules.key_of(scope["headers"])  # None for local callers, if no key is set
        if not self.rates.allows(key, time.monotonic()):
            detail = "too many requests with this key, try again later (send_rate)"
            raise Refused.of(Refusal(429, "send_rate", detail, "too-often", (("retry-after", "1"),)))

    def check_size(self, size: int) -> None:
        """Raise `Refused` for a body of more than `max_send_size` bytes."""
        if size > self.max_size:
            raise too_large(self.max_size, "max_send_size")

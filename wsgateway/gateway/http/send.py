"""`/send`, written once for the gateway's own port, REST, and the panel.

Reads and checks a request, and sends its message. Knows no more of a gateway than `SendGateway`.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol, Unpack, cast

from starlette.types import Scope

from wsgateway.auth.rules import Rules
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import (
    ChannelError,
    GatewayError,
    GatewayNotRunning,
    GatewayStopping,
    HistoryError,
    HookError,
    MessageError,
    NodeError,
    Refusal,
    Refused,
)
from wsgateway.gateway.http.problems import channel_refusal, too_large
from wsgateway.gateway.shapes import SendAnswer
from wsgateway.hub.target import TargetOptions, check_text, target_of
from wsgateway.limits import RateLimits
from wsgateway.logs import GatewayLog
from wsgateway.messages import Sent
from wsgateway.text import did_you_mean, short

IGNORED_KEYS = frozenset({"conn", "action", "webSocketServerAction"})
"""Keys that are dropped: fields of the listener's event, and fields that controlled Lucee's server."""

_NAMING_KEYS = ("channel", "user", "name")
"""Keys that choose the recipients or the name of the event, and are data of the listener, too."""

_CHANNEL_KEYS = ("key", "tags", "ttl", "idempotency_key")
"""Keys that describe a publication. They take effect beside `channel`; otherwise, they are data of the listener."""

_TAKEN_KEYS = IGNORED_KEYS | {"message", "connections"}

_MISSPELLED = 0.85
"""The similarity from which a key of the listener looks like a misspelled one: about one letter of a word."""

_MAX_COMPARED = 8
"""Unknown keys of a request that are compared with the known ones."""

_MAX_NAME = 40
"""Characters of a key that are compared with the known ones, because comparing a long text takes long."""

_FIELDS = ("message", "channel", "user", "connections", "name", *_CHANNEL_KEYS)
"""What a misspelled key may have been meant to be."""


class SendGateway(Protocol):
    """A gateway of this process, or one that workers serve."""

    @property
    def id(self) -> str: ...

    @property
    def log(self) -> GatewayLog: ...

    @property
    def cluster(self) -> AnyCluster: ...

    @property
    def reads_data(self) -> bool: ...

    async def send(
        self, message: object, *, data: dict[str, Any] | None = None, **target: Unpack[TargetOptions]
    ) -> Sent: ...


@dataclass(frozen=True, slots=True)
class SendRequest:
    """A message to send. `target` contains the recipients and options, and `data` is the later `event.data`."""

    message: object
    target: TargetOptions = field(default_factory=TargetOptions)
    data: dict[str, Any] | None = None


def take_id(fields: dict[str, Any]) -> str | None:
    """Remove the id of the addressed gateway from `fields`, and return it. Raise `Refused`."""
    gateway_id = fields.pop("id", None)
    if gateway_id is not None and not isinstance(gateway_id, str):
        raise Refused.of(Refusal(422, "body", f"id: use a string, not {_quote(gateway_id)}", "bad-body"))
    return gateway_id


def read_request(fields: Mapping[str, Any]) -> SendRequest:
    """Return the request in the JSON object `fields`. Raise `Refused`."""
    connections = fields.get("connections")
    if connections is not None and not isinstance(connections, list):
        detail = f"connections: use a list of connection ids, not {_quote(connections)}"
        raise Refused.of(Refusal(422, "body", detail, "bad-body"))
    if connections is not None and not all(isinstance(item, str) for item in connections):
        raise Refused.of(Refusal(422, "body", "connections: use a list of connection ids", "bad-body"))
    taken, target = _TAKEN_KEYS, {name: fields[name] for name in _NAMING_KEYS if name in fields}
    if "channel" in fields:
        taken = taken.union(_CHANNEL_KEYS)
        target |= {name: fields[name] for name in _CHANNEL_KEYS if name in fields}
    names_target = bool(target)
    if connections is not None:
        target["connections"] = connections
    if names_target:
        try:
            if "user" in target:
                check_text("user", target["user"], "use text")
            target_of(**target)
        except (ValueError, TypeError) as exc:
            raise Refused.of(Refusal(422, "body", str(exc), "bad-body")) from exc
    data = {name: value for name, value in fields.items() if name not in taken}
    return SendRequest(fields.get("message"), cast(TargetOptions, target), data)  # `target_of` has checked it


def _quote(value: object) -> str:
    return json.dumps(value)[:60]


async def send_request(gateway: SendGateway, request: SendRequest) -> SendAnswer:
    """Send the message of `request`, and return its counts. Raise `Refused`."""
    try:
        mistake = _check_fields(gateway, request)
        if mistake is None:
            sent = await gateway.send(request.message, data=request.data, **request.target)
    except GatewayError as exc:
        refusal = refusal_of_send(exc)
        if refusal is None:
            raise
        raise Refused.of(refusal) from exc
    except ValueError as exc:  # an idempotency key without a history
        raise Refused.of(Refusal(422, "body", str(exc), "bad-body")) from exc
    if mistake is not None:
        raise Refused.of(mistake)
    if gateway.cluster.has_broker:
        return SendAnswer(id=gateway.id, **sent._asdict())
    return SendAnswer(
        id=gateway.id,
        recipients=sent.recipients,
        queued=sent.queued,
        dropped=sent.dropped,
        at=sent.at,
        is_new=sent.is_new,
    )


def _check_fields(gateway: SendGateway, request: SendRequest) -> Refusal | None:
    """Return why a key is refused that neither the gateway nor a hook reads.

    A misspelled `channel` would send the message to every connection. If a hook may read it, log a key that looks
    misspelled.
    """
    unknown = [name for name in request.data or () if name not in _NAMING_KEYS]
    if not gateway.reads_data:
        if unknown:
            return Refusal(422, "body", _mistake_in(unknown[0]), "bad-body")
        if request.message is None:
            return Refusal(422, "body", "message is missing or null, send a JSON value", "bad-body")
    for name in unknown[:_MAX_COMPARED]:
        meant = next(iter(get_close_matches(name[:_MAX_NAME], _FIELDS, n=1, cutoff=_MISSPELLED)), "")
        if meant and name != meant and meant not in request.target:
            text = "a request to send has the field %s, did you mean %s? on_message finds it in event.data"
            gateway.log.limited("field").info(text, short(name), meant)
    return None


def _mistake_in(name: str) -> str:
    """Return what is wrong with a key that neither the gateway nor a hook reads."""
    name = name[:_MAX_NAME]
    if name in _CHANNEL_KEYS:
        return f"{name} describes a message to a channel, so name its channel, too"
    return f"there is no field {short(name)}{did_you_mean(name, _FIELDS)}"


def refusal_of_send(error: GatewayError) -> Refusal | None:
    """Return the refusal of a message that could not be sent because of `error`; None for an unexpected error."""
    match error:
        case GatewayStopping():
            return Refusal(503, "stopping", str(error), "not-running", (("retry-after", "5"),))
        case GatewayNotRunning():
            return Refusal(409, "not_running", str(error), "not-running")
        case Refused():
            reason = f": {error.reason}" if error.reason else ""
            return Refusal(error.status, "refused", f"on_message refused the message{reason}")
        case ChannelError():
            return channel_refusal(error)
        case HistoryError():
            return Refusal(503, "history", str(error), "history", (("retry-after", "5"),))
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
    """Checks requests to send on the gateway's own port: the caller, the rate, and the size."""

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

"""Messages of processes that serve no clients, such as a publisher. A node of the gateway sends them. Knows no HTTP."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.nodes import Node
from wsgateway.cluster.sending import Publish, Send, SendRefusal, SendReport, SendTo, SentReport
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import (
    ChannelError,
    EnvelopeError,
    GatewayNotRunning,
    HistoryError,
    HookError,
    MessageError,
    NodeError,
    NodeLate,
    Refused,
)
from wsgateway.gateway.registry import GatewayState
from wsgateway.hub.target import Target, TargetOptions
from wsgateway.logs import GatewayLog
from wsgateway.messages import Message, Sent, encode

SendMessage = Callable[[object, TargetOptions, dict[str, Any]], Awaitable[Sent]]
PublishMessage = Callable[[object, TargetOptions], Awaitable[Sent]]

_ERRORS: dict[str, type[Exception]] = {
    "refused": Refused,
    "channel": ChannelError,
    "message": MessageError,
    "history": HistoryError,
    "hook": HookError,
    "not_running": GatewayNotRunning,
    "type": TypeError,
    "value": ValueError,
}
"""The errors that the other process raises again, by their name in a report. Subclasses come before their bases."""


class Relayed:
    """Sends the messages of other processes through this node. `answering` answers their questions."""

    def __init__(self, send: SendMessage, publish: PublishMessage, log: GatewayLog) -> None:
        self._send = send
        self._publish = publish
        self._log = log
        self.answering: Answering = {
            Send: self._answer_send,
            SendTo: self._answer_send_to,
            Publish: self._answer_publish,
        }

    async def _answer_send(self, question: Send) -> SendReport:
        """Answer a node of an earlier version."""
        target: TargetOptions = {"name": question.event_name} if question.event_name else {}
        if question.ids is not None:
            target["connections"] = question.ids
        message, data = message_of(question.payload, question.kind), _data_of(question.data)
        try:
            sent = await self._send(message, target, data)
        except Refused as exc:
            return SendRefusal(exc.status, exc.reason)
        except ValueError as exc:
            raise EnvelopeError("arguments", str(exc)) from exc
        return sent.recipients, sent.queued, sent.dropped, sent.nodes, sent.complete

    async def _answer_send_to(self, question: SendTo) -> SentReport:
        message, data = message_of(question.payload, question.kind), _data_of(question.data)
        return await self._report(self._send(message, _target_of(question), data))

    async def _answer_publish(self, question: Publish) -> SentReport:
        message = message_of(question.payload, question.kind)
        return await self._report(self._publish(message, _target_of(question)))

    async def _report(self, sending: Awaitable[Sent]) -> SentReport:
        try:
            sent = await sending
        except Exception as exc:
            name = next((name for name, kind in _ERRORS.items() if isinstance(exc, kind)), "failed")
            if name == "failed":
                self._log.limited("relayed").error("a message of another process failed: %r", exc, exc_info=exc)
            status = exc.status if isinstance(exc, Refused) else 0
            reason = exc.reason if isinstance(exc, Refused) else str(exc)
            is_late = isinstance(exc, HistoryError) and exc.is_late
            return SentReport(error=name, status=status, reason=reason, is_late=is_late)
        counts = None if sent.recipients is None else sent[:5]
        return SentReport(counts=counts, at=sent.at, is_new=sent.is_new)


def message_of(payload: bytes, kind: str) -> object:
    """Return the message that another process has encoded. Raise `EnvelopeError`."""
    try:
        if kind == "text":
            return payload.decode()
        return json.loads(payload) if kind == "json" else payload
    except (ValueError, RecursionError) as exc:
        raise EnvelopeError("arguments", str(exc)) from exc


def _data_of(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise EnvelopeError("arguments", str(exc)) from exc
    if not isinstance(data, dict):
        raise EnvelopeError("arguments", "data is not a JSON object")
    return data


def _target_of(question: SendTo | Publish) -> TargetOptions:
    target: TargetOptions = {}
    if question.channel:
        target["channel"] = question.channel
    if question.user:
        target["user"] = question.user
    if question.ids is not None:
        target["connections"] = question.ids
    if question.event_name:
        target["name"] = question.event_name
    if question.key:
        target["key"] = question.key
    if question.tags is not None:
        target["tags"] = question.tags
    if question.ttl is not None:
        target["ttl"] = question.ttl
    if question.idempotency_key:
        target["idempotency_key"] = question.idempotency_key
    return target


class Relay:
    """Sends messages of this process, which serves no clients, through a node of the gateway.

    It keeps to one node, because the messages of two have no order.
    """

    def __init__(self, gateway_id: str, cluster: Callable[[], AnyCluster], *, patience: float) -> None:
        """`patience` is seconds to wait for a node, if none is known."""
        self._patience = patience
        self._gateway_id = gateway_id
        self._cluster = cluster
        self._node = ""

    async def send(self, message: Message, target: Target, data: dict[str, Any] | None, *, seconds: float) -> Sent:
        """Have a node call `on_message` with `message`, and send the result. Wait at most `seconds` for each node.

        Raise the errors of `Gateway.send`. Raise `NodeLate` if the node does not answer in time. It may still send the
        message, so another node is asked only for a message with an idempotency key. Raise `NodeError` if no node that
        serves clients can be reached.
        """
        encoded_data = encode(data or {})
        assert encoded_data is not None
        return await self._ask(SendTo(**_fields_of(message, target), data=encoded_data.payload.decode()), seconds)

    async def publish(self, message: Message, target: Target, *, seconds: float) -> Sent:
        """Have a node publish `message`, without `on_message`. Raise the errors of `send`, except those of a hook."""
        return await self._ask(Publish(**_fields_of(message, target)), seconds)

    async def _ask(self, question: SendTo | Publish, seconds: float) -> Sent:
        cluster = self._cluster()
        error = no_node(self._gateway_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):  # the nodes do not know this process yet, or are replaced
                await cluster.wait_until(lambda: bool(serving_nodes(cluster)))
        # it keeps to the node that it has asked before
        for node in sorted(serving_nodes(cluster), key=lambda node: node.id != self._node):
            try:
                report = await cluster.ask_within(seconds, node.id, question)
            except NodeLate as exc:
                cluster.nodes.set_late(node.id, is_late=True)
                error = NodeLate(f"{exc}, so the message may have been sent, or may still be sent")
                if not question.idempotency_key:
                    raise error from exc
            except NodeError as exc:
                error = exc  # it has not sent the message, because it is busy or has an earlier version
            else:
                if report.error != "not_running":
                    self._node = node.id
                    return self._result(report)
        raise error

    def _result(self, report: SentReport) -> Sent:
        """Return the result of a message, or raise its error."""
        match report.error:
            case "":
                counts = (None,) * 5 if report.counts is None else report.counts
                return Sent._make((*counts, report.at, report.is_new))
            case "refused":
                raise Refused(report.status, report.reason)
            case "history":
                raise HistoryError(report.reason, is_late=report.is_late)
            case "hook":
                raise HookError("on_message")
            case "channel" | "message" | "type" | "value":
                raise _ERRORS[report.error](report.reason)
            case _:
                raise NodeError(f"the message failed in the node, whose log has the reason: {report.reason}")


def serving_nodes(cluster: AnyCluster) -> list[Node]:
    """Return the other nodes that serve clients and answer in time, in random order."""
    nodes = [node for node in cluster.nodes.alive() if node.info.state == GatewayState.RUNNING and not node.is_late]
    random.shuffle(nodes)  # so that different processes ask different nodes
    return nodes


def no_node(gateway_id: str) -> NodeError:
    text = f"no process that serves gateway [{gateway_id}] can be reached over the broker; start one, with the same id"
    return NodeError(f"{text} and broker")


def encoded(message: object) -> Message:
    """Return the encoded `message`. Raise `MessageError`, also for None."""
    result = encode(message)
    if result is None:
        raise MessageError("the message is None; send a value")  # None could be a message that the listener drops
    return result


def _fields_of(message: Message, target: Target) -> dict[str, Any]:
    connections = target.connections
    return {
        "payload": message.payload,
        "kind": message.kind.value,
        "channel": target.channel,
        "user": target.user,
        "ids": None if connections is None else [str(getattr(item, "id", item)) for item in connections],
        "event_name": target.name,
        "key": target.key,
        "tags": None if target.tags is None else dict(target.tags),
        "ttl": target.ttl,
        "idempotency_key": target.idempotency_key,
    }

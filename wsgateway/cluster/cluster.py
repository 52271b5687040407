"""One process among those of a gateway: what it tells the others, and what it does for them. Is given how messages are
delivered here; knows no connections and no brokers' names."""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from wsgateway.cluster import envelopes
from wsgateway.cluster.acks import Confirmation, Confirmations
from wsgateway.cluster.asking import Asks
from wsgateway.cluster.brokers import Open
from wsgateway.cluster.bus import Bus
from wsgateway.cluster.envelopes import (
    NODE_ID,
    VERSION,
    Ack,
    Answer,
    Ask,
    Delivery,
    Envelope,
    Heartbeat,
    Here,
    Info,
    Leave,
)
from wsgateway.cluster.nodes import Nodes, NodeState, node_of
from wsgateway.exceptions import EnvelopeError, NodeError
from wsgateway.limits import HEARTBEAT, LEASE_CHECK, MAX_LOST, NODE_LINES
from wsgateway.logs import GatewayLog
from wsgateway.messages import Message, Sent
from wsgateway.metrics import Metrics

MEETING = 0.25
"""Seconds in which the others have to say that they are there; who is later is known then."""

MAX_ORIGINS = 10_000
"""Processes whose last envelope is remembered; those that only publish come and go."""


@dataclass(slots=True)
class Local:
    """What a process does for the others. `deliver` gives a frame to its clients, to all or to those with `ids`;
    `operations` are what it can be asked for, by name."""

    deliver: Callable[[Message, Sequence[str] | None], Sent]
    describe: Callable[[], Info]
    operations: Mapping[str, Callable[[dict[str, Any]], Awaitable[Any]]]


class SingleNode:
    """The cluster of a gateway without a broker: this process is the only one. Has the methods of `Cluster`."""

    node = ""
    is_up = True
    is_serving = True
    has_broker = False
    failure = ""

    def __init__(self) -> None:
        self.nodes = Nodes()

    async def start(self) -> None:
        """There is nothing to join."""

    async def aclose(self) -> None:
        """There is nothing to leave."""

    def notify(self) -> None:
        """There is no other node."""

    def is_remote(self, conn_id: str) -> bool:
        return False

    def split(self, recipients: Iterable[Any]) -> tuple[Iterable[Any], Sequence[str]]:
        """All are connections of this process."""
        return recipients, ()

    def publish(self, frame: Message, ids: Sequence[str] | None, *, confirm: bool) -> Confirmation | None:
        """There is nobody to publish to."""

    async def confirmed(self, here: Sent, confirmation: Confirmation) -> Sent:
        return here

    async def ask(self, node_id: str, operation: str, **arguments: Any) -> Any:
        raise NodeError(f"node {node_id!r} cannot be reached, the gateway has no broker")

    async def ask_within(self, seconds: float, node_id: str, operation: str, **arguments: Any) -> Any:
        raise NodeError(f"node {node_id!r} cannot be reached, the gateway has no broker")

    async def ask_all(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return {}


class Cluster:
    """The processes of one gateway, as one of them sees them. Nothing but `ask` and `confirmed` ever waits."""

    has_broker = True

    def __init__(
        self,
        open_link: Open,
        *,
        gateway_id: str,
        broker: str,
        local: Local | None,
        metrics: Metrics,
        log: GatewayLog,
        timeout: float = 1.0,
    ) -> None:
        """`broker` is its name for the log. Without `local` it only publishes, and is no node for the others."""
        self.node = secrets.token_hex(NODE_ID // 2)
        self.nodes = Nodes()
        self.timeout = timeout
        self._local = local
        self._own = self.node.encode()
        self._metrics = metrics
        self._log = log
        name = quote(gateway_id.casefold(), safe="").replace(".", "%2E")
        self._all = f"wsgateway.all.{name}"
        self._each = f"wsgateway.node.{name}."
        self._uplink = Bus(
            open_link,
            [self._all, self._each + self.node],
            name=broker,
            received=self._received,
            changed=self._changed,
            metrics=metrics,
            log=log,
        )
        self._sequences: dict[str, int] = {}
        self._last: dict[tuple[str, str], int] = {}  # by origin and topic
        self._confirmations = Confirmations(self.nodes, is_up=lambda: self.is_up, is_serving=self.is_serving)
        self._asks = Asks(
            self.node,
            self.nodes,
            operations={} if local is None else local.operations,
            publish=self._publish_to,
            is_up=lambda: self.is_up,
            timeout=timeout,
            log=log,
        )
        self._heart: asyncio.Task[None] | None = None
        self._unmet: set[str] = set()
        self._met = asyncio.Event()
        self._someone_left = asyncio.Event()

    # Its life

    @property
    def is_up(self) -> bool:
        """Whether the broker is there."""
        return self._uplink.is_up

    @property
    def is_serving(self) -> bool:
        """Whether this process is a node for the others, or only publishes and watches."""
        return self._local is not None

    @property
    def failure(self) -> str:
        """Why the broker is not there."""
        return self._uplink.failure

    async def start(self) -> None:
        """Join. Waits until the others are known, `MEETING` seconds at most, and not for a broker that is away."""
        await self._uplink.start()
        self._heart = asyncio.create_task(self._beat())
        if self.is_up:
            try:
                async with asyncio.timeout(MEETING):
                    await self._met.wait()
            except TimeoutError:
                pass  # there is nobody
        self._met.set()  # nobody waits for it any more
        self._unmet.clear()

    async def aclose(self) -> None:
        """Leave. May be called twice."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait({self._heart})
            self._heart = None
            self._publish(self._all, lambda seq: Leave(VERSION, self.node, seq, self.node))
        await self._uplink.aclose()
        await self._asks.aclose()
        self._confirmations.end_all()

    async def have_left(self, node_ids: Iterable[str]) -> None:
        """Wait until none of these processes lives."""
        wanted = set(node_ids)
        while any(node.id in wanted for node in self.nodes.alive()):
            self._someone_left.clear()
            await self._someone_left.wait()

    async def _beat(self) -> None:
        beaten = -math.inf
        while True:
            if self._local is not None and time.monotonic() - beaten >= HEARTBEAT:
                beaten = time.monotonic()
                self._tell(is_new=False)
            for node in self.nodes.expire(time.monotonic()):
                log = self._log.limited("lost", burst=NODE_LINES)
                log.warning("node %s (%s, pid %d) is lost", node.id, node.info.host, node.info.pid)
                self._gone(node.id)
            await asyncio.sleep(LEASE_CHECK)

    def notify(self) -> None:
        """Send the state of this process to the other nodes now, instead of with the next heartbeat."""
        self._tell(is_new=False)

    def died(self, node_id: str) -> None:
        """That process has died, which the others need not find out by themselves."""
        self.nodes.gone(node_id, NodeState.LOST, time.monotonic())
        self._gone(node_id)
        self._publish(self._all, lambda seq: Leave(VERSION, self.node, seq, node_id))

    def _tell(self, *, is_new: bool) -> None:
        info = self._local.describe() if self._local is not None else None
        self._publish(self._all, lambda seq: Heartbeat(VERSION, self.node, seq, info, is_new))

    def _tell_one(self, node_id: str, info: Info) -> None:
        peers = [node.id for node in self.nodes.alive()]
        self._publish(self._each + node_id, lambda seq: Here(VERSION, self.node, seq, info, peers))

    def _changed(self, is_up: bool) -> None:
        if is_up:
            self._tell(is_new=True)
        else:
            self._confirmations.end_all()

    # Sending

    def is_remote(self, conn_id: str) -> bool:
        """Whether the connection with that id belongs to another process, which lives as far as can be known."""
        node_id = node_of(conn_id)
        if conn_id[NODE_ID : NODE_ID + 1] != "." or node_id == self.node:
            return False
        return not self.is_up or self.nodes.get(node_id) is not None

    def split(self, wanted: Iterable[Any]) -> tuple[list[Any], list[str]]:
        """`wanted` connections and ids: what is this process's own business, and ids of others, each once."""
        own: list[Any] = []
        others: dict[str, None] = {}
        for item in wanted:
            if isinstance(item, str) and self.is_remote(item):
                others[item] = None
            else:
                own.append(item)
        return own, list(others)

    def publish(self, frame: Message, ids: Sequence[str] | None, *, confirm: bool) -> Confirmation | None:
        """Send `frame` towards every process, for all clients or for those with `ids`. With `confirm` it is counted."""
        confirmation = self._confirmations.expect(ids) if confirm else None
        ask = 0 if confirmation is None else confirmation.ask
        is_text, payload, listed = frame.text is not None, frame.payload, None if ids is None else list(ids)
        sent = self._publish(self._all, lambda seq: Delivery(VERSION, self.node, seq, payload, is_text, listed, ask))
        if confirmation is not None and not (sent and self.is_up):
            self._confirmations.end(confirmation)
        return confirmation

    async def confirmed(self, here: Sent, confirmation: Confirmation) -> Sent:
        """The counts of all processes that answer within `timeout`, with those of this one, `here`."""
        return await self._confirmations.gathered(here, confirmation, self.timeout)

    async def ask(self, node_id: str, operation: str, **arguments: Any) -> Any:
        """Have the process `node_id` do something. Raises `NodeError` if it cannot, or does not answer in time."""
        return await self._asks.ask(node_id, operation, arguments)

    async def ask_within(self, seconds: float, node_id: str, operation: str, **arguments: Any) -> Any:
        """`ask`, for what may take that long. Raises `NodeLate` past it."""
        return await self._asks.ask_within(seconds, node_id, operation, arguments)

    async def ask_all(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """What the other processes that live answer, by node. One that does not answer in time is not in it, and is
        not asked again before it is heard of."""
        return await self._asks.ask_all(operation, arguments)

    def _publish_to(self, node_id: str, make: Callable[[int], Envelope]) -> bool:
        return self._publish(self._each + node_id, make)

    def _publish(self, topic: str, make: Callable[[int], Envelope]) -> bool:
        sequence = self._sequences.get(topic, 0) + 1
        try:
            data = envelopes.encode(make(sequence))
        except EnvelopeError as exc:
            self._metrics.broker_dropped[exc.reason] += 1
            self._log.limited("not sent").warning("not sent to the other processes: %s", exc)
            return False
        if not self._uplink.publish(topic, data):
            return False
        self._sequences[topic] = sequence
        if len(self._sequences) > MAX_ORIGINS:
            del self._sequences[next(name for name in self._sequences if name != self._all)]
        return True

    # Receiving

    def _received(self, topic: str, data: bytes) -> None:
        if envelopes.origin_of(data) == self._own:
            return
        try:
            envelope = envelopes.decode(data)
            if envelope.origin == self.node:
                raise EnvelopeError("malformed", "it names this process as its origin, in another encoding")
            if self._is_double(topic, envelope):
                raise EnvelopeError("double", f"{envelope.seq} of {envelope.origin} was here already")
        except EnvelopeError as exc:
            self._metrics.broker_dropped[exc.reason] += 1
            level = logging.DEBUG if exc.reason == "double" else logging.WARNING
            self._log.limited(f"dropped {exc.reason}").log(level, "dropped what came from the broker: %s", exc)
            return
        try:
            self._handle(envelope)
        except Exception as exc:  # one message must not end the subscription
            self._metrics.broker_dropped["failed"] += 1
            text = "a message of node %s could not be handled: %r"
            self._log.limited("not handled").error(text, envelope.origin, exc, exc_info=exc)

    def _is_double(self, topic: str, envelope: Envelope) -> bool:
        """Whether it was here already; what is missing before it is counted."""
        key = (envelope.origin, topic)
        last = self._last.get(key)
        if last is not None and envelope.seq - last > MAX_LOST:
            raise EnvelopeError("malformed", f"it is number {envelope.seq} of {envelope.origin}, the last was {last}")
        self._last.pop(key, None)
        is_double = last is not None and envelope.seq <= last
        if last is not None and not is_double:
            self._metrics.broker_lost += envelope.seq - last - 1
        self._last[key] = envelope.seq if last is None else max(last, envelope.seq)
        if len(self._last) > MAX_ORIGINS:
            del self._last[next(iter(self._last))]  # the one that was quiet longest
        return is_double

    def _handle(self, envelope: Envelope) -> None:
        match envelope:
            case Delivery():
                self._deliver(envelope)
            case Ack():
                self._confirmations.acknowledged(envelope)
            case Heartbeat():
                self._heard(envelope)
            case Leave() if envelope.node == self.node:
                self.notify()  # somebody was wrong
            case Leave():
                state = NodeState.LEFT if envelope.node == envelope.origin else NodeState.LOST
                self.nodes.gone(envelope.node, state, time.monotonic())
                self._gone(envelope.node)
                if state is NodeState.LEFT:
                    self._forget(envelope.node)
            case Here():
                self._told(envelope)
            case Ask():
                self._asks.asked(envelope)
            case Answer():
                self._asks.answered(envelope)

    def _deliver(self, message: Delivery) -> None:
        if self._local is None:
            return
        sent = Sent(0, 0, 0)
        mine = None if message.ids is None else [conn_id for conn_id in message.ids if node_of(conn_id) == self.node]
        if mine is None or mine:
            try:
                frame = Message(message.payload, message.payload.decode() if message.is_text else None)
            except UnicodeDecodeError:
                self._metrics.broker_dropped["malformed"] += 1
                return
            sent = self._local.deliver(frame, mine)
        if message.ask and mine != []:
            recipients, queued, dropped = sent[:3]
            self._publish(
                self._each + message.origin,
                lambda seq: Ack(VERSION, self.node, seq, message.ask, recipients, queued, dropped),
            )

    def _heard(self, beat: Heartbeat) -> None:
        if beat.info is not None:
            self._knows(beat.origin, beat.info)
        if beat.is_new and self._local is not None:
            self._tell_one(beat.origin, self._local.describe())

    def _knows(self, node_id: str, info: Info) -> None:
        if not self.nodes.has_place(node_id):
            self._metrics.broker_dropped["nodes"] += 1
            text = "node %s (%s, pid %d) is not added: too many processes say that they belong to this gateway"
            self._log.limited("too many nodes").warning(text, node_id, info.host, info.pid)
        elif self.nodes.heard(node_id, info, time.monotonic()):
            log = self._log.limited("joined", burst=NODE_LINES)
            log.info("node %s (%s, pid %d) has joined", node_id, info.host, info.pid)

    def _told(self, here: Here) -> None:
        self._knows(here.origin, here.info)
        if self._met.is_set():
            return
        self._unmet |= set(here.peers) - {self.node}
        if all(self.nodes.get(peer) is not None for peer in self._unmet):
            self._met.set()

    def _forget(self, node_id: str) -> None:
        """It never comes back under that id."""
        self._sequences.pop(self._each + node_id, None)
        self._last.pop((node_id, self._all), None)
        self._last.pop((node_id, self._each + self.node), None)

    def _gone(self, node_id: str) -> None:
        """Its answers are not waited for."""
        self._someone_left.set()
        self._unmet.discard(node_id)
        self._confirmations.gone(node_id)

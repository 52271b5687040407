"""One node of a gateway: its reports to the other nodes, and its services for them.

The caller passes how to deliver messages. Knows no connections and no particular broker.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from wsgateway.cluster import envelopes
from wsgateway.cluster.acks import Acks, PendingAcks
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
    Forgotten,
    Heartbeat,
    Here,
    Info,
    Leave,
    Membership,
    Record,
    Tally,
    ToUser,
    Unnumbered,
)
from wsgateway.cluster.heartbeats import ANSWERING, Heartbeats, Reports
from wsgateway.cluster.local import Local
from wsgateway.cluster.nodes import Nodes, NodeState, node_of
from wsgateway.cluster.pulse import Pulse
from wsgateway.cluster.questions import Question
from wsgateway.cluster.routing import Routing, TopicNames
from wsgateway.cluster.sequences import Sequences
from wsgateway.exceptions import EnvelopeError
from wsgateway.logs import GatewayLog
from wsgateway.messages import Deliveries, Kind, Message
from wsgateway.metrics import Metrics

A = TypeVar("A")

MEETING = 0.25
"""Seconds in which the other nodes answer a new one. A node that takes longer is known from its next heartbeat."""


class Cluster:
    """The nodes of one gateway, from the view of one of them. Only `ask…` and `collect` wait for other nodes."""

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
        """`broker` is its name for the log. Without `local` the process only publishes and is not a node."""
        self.node = secrets.token_hex(NODE_ID // 2)
        self.nodes = Nodes()
        self.timeout = timeout
        self._local = local
        self._own = self.node.encode()
        self._metrics = metrics
        self._log = log
        self.names = names = TopicNames(gateway_id)
        self._all = names.all
        self._bus = Bus(
            open_link,
            [names.all, names.of_node(self.node)],
            name=broker,
            received=self._received,
            changed=self._changed,
            metrics=metrics,
            log=log,
        )
        self.routing = Routing(self._bus, names)
        self._sequences = Sequences(lasting=self._all)
        self._acks = Acks(self.nodes, is_up=lambda: self.is_up, is_serving=self.is_serving)
        self._asks = Asks(
            self.node,
            self.nodes,
            answering={} if local is None else {**ANSWERING, **local.answering},
            publish=lambda node_id, make: self._publish(names.of_node(node_id), make),
            is_up=lambda: self.is_up,
            timeout=timeout,
            log=log,
        )
        self._pulse = Pulse(open_link, self.node, self._all, unused=f"{names.of_node(self.node)}.pulse", log=log)
        self._heartbeats = self._create_heartbeats()
        self._unmet: set[str] = set()
        self._met = asyncio.Event()
        self._nodes_changed = asyncio.Event()

    def _create_heartbeats(self) -> Heartbeats:
        return Heartbeats(
            self.node,
            self.nodes,
            self._asks,
            Reports(
                send=lambda data: self._bus.publish_first(self._all, data),
                report=self.notify,
                lost=self._drop_node,
                absent=self.routing.node_gone,
                present=self.routing.node_present,
            ),
            is_up=lambda: self.is_up,
            is_serving=self.is_serving,
            metrics=self._metrics,
            log=self._log,
        )

    # Joining and leaving

    @property
    def is_up(self) -> bool:
        """Whether the broker is available."""
        return self._bus.is_up

    @property
    def is_serving(self) -> bool:
        """Whether this process is a node, or only publishes and watches."""
        return self._local is not None

    @property
    def failure(self) -> str:
        """Why the broker is unavailable."""
        return self._bus.failure

    @property
    def topics(self) -> int:
        """How many topics of channels are followed."""
        return self._bus.topics

    async def start(self) -> None:
        """Join. Wait at most `MEETING` seconds until the other nodes are known, but not for an unavailable broker."""
        await self._bus.start()
        self._heartbeats.start()
        if self.is_up:
            with suppress(TimeoutError):  # there is no other node
                async with asyncio.timeout(MEETING):
                    await self._met.wait()
        self._met.set()
        self._unmet.clear()

    async def aclose(self) -> None:
        """Leave. May be called twice."""
        if await self._heartbeats.aclose():
            self._publish(self._all, lambda seq: Leave(VERSION, self.node, seq, self.node))
        await self._bus.aclose()
        await self._asks.aclose()
        self._acks.end_all()

    async def have_left(self, node_ids: Iterable[str]) -> None:
        """Wait until none of these nodes is alive."""
        leaving = set(node_ids)
        await self.wait_until(lambda: not any(node.id in leaving for node in self.nodes.alive()))

    async def wait_until(self, is_fulfilled: Callable[[], bool]) -> None:
        """Wait until a condition is fulfilled. It is called after each report of a node, and when one has left."""
        while not is_fulfilled():
            self._nodes_changed.clear()
            await self._nodes_changed.wait()

    def loop_blocked(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send heartbeats from a thread until `loop`, on which this node runs, is not blocked any more.

        Call it in a thread other than that of `loop`.
        """
        if self.is_up and self._local is not None:
            self._pulse.begin(loop)

    def notify(self) -> None:
        """Send the state of this process to the other nodes now, instead of with the next heartbeat."""
        self._send_heartbeat(is_new=False)

    def died(self, node_id: str) -> None:
        """Mark a node as lost and notify the other nodes, before its lease expires."""
        self.nodes.mark(node_id, NodeState.LOST, time.monotonic())
        self._drop_node(node_id)
        self._publish(self._all, lambda seq: Leave(VERSION, self.node, seq, node_id))

    def _send_heartbeat(self, *, is_new: bool) -> None:
        info = self._local.describe() if self._local is not None else None
        self._publish(self._all, lambda seq: Heartbeat(VERSION, self.node, seq, info, is_new))

    def _welcome(self, node_id: str, info: Info) -> None:
        peers = [node.id for node in self.nodes.alive()]
        self._publish(self.names.of_node(node_id), lambda seq: Here(VERSION, self.node, seq, info, peers))

    def _changed(self, is_up: bool) -> None:
        if is_up:
            self._send_heartbeat(is_new=True)
        else:
            self._acks.end_all()
        self.routing.link_changed(is_up=is_up)

    # Sending

    def is_remote(self, conn_id: str) -> bool:
        """Return whether the connection with that id belongs to another node that is alive.

        While the broker is unavailable, assume that the node is alive."""
        node_id = node_of(conn_id)
        if conn_id[NODE_ID : NODE_ID + 1] != "." or node_id == self.node:
            return False
        return not self.is_up or self.nodes.get(node_id) is not None

    def split(self, recipients: Iterable[Any]) -> tuple[list[Any], list[str]]:
        """Divide connections and ids into those for this process, and ids of other nodes, each once."""
        own: list[Any] = []
        others: dict[str, None] = {}
        for recipient in recipients:
            if isinstance(recipient, str) and self.is_remote(recipient):
                others[recipient] = None
            else:
                own.append(recipient)
        return own, list(others)

    def publish(self, message: Message, ids: Sequence[str] | None, *, acknowledge: bool) -> PendingAcks | None:
        """Publish `message` to every other node, for all connections or for those with `ids`.

        With `acknowledge`, the nodes count their recipients, and `collect` waits for the counts.
        """
        payload, name, listed = message.payload, message.name, None if ids is None else list(ids)
        is_text, is_json = message.kind is not Kind.BYTES, message.kind is Kind.JSON

        def publish(ask: int) -> bool:
            return self._publish(
                self._all, lambda seq: Delivery(VERSION, self.node, seq, payload, is_text, listed, ask, is_json, name)
            )

        return self._acks.publish(publish, ids, acknowledge=acknowledge)

    def publish_to_user(self, message: Message, user: str, *, acknowledge: bool) -> PendingAcks | None:
        """Publish `message` to the connections of `user` in every other node, as `publish` does."""
        payload, kind, name = message.payload, message.kind, message.name

        def publish(ask: int) -> bool:
            return self._publish(self._all, lambda seq: ToUser(VERSION, self.node, seq, user, payload, kind, ask, name))

        return self._acks.publish(publish, None, acknowledge=acknowledge)

    def expect(self) -> PendingAcks:
        """Begin to collect acknowledgements of a publication to a channel, which has to carry their number."""
        return self._acks.expect(None)

    def tally(self, channel: str, pending: PendingAcks) -> None:
        """Ask every other node to acknowledge a publication to `channel`."""
        if not self._publish(self._all, lambda seq: Tally(VERSION, self.node, seq, channel, pending.number)):
            self._acks.end(pending)

    def cancel(self, pending: PendingAcks) -> None:
        """Expect no more acknowledgements."""
        self._acks.end(pending)

    def acknowledge(self, node_id: str, number: int, counts: Deliveries) -> None:
        """Report to another node how many recipients its message had in this one."""
        values = counts[:3]
        self._publish(self.names.of_node(node_id), lambda seq: Ack(VERSION, self.node, seq, number, *values))

    async def collect(self, here: Deliveries, pending: PendingAcks) -> Deliveries:
        """Return the counts of all nodes that acknowledge within `timeout`, added to those of this process, `here`."""
        return await self._acks.collect(here, pending, self.timeout)

    async def ask(self, node_id: str, question: Question[A]) -> A:
        """Ask another node and return its answer. Raise `NodeError` if the node is unreachable or refuses, `NodeLate`
        if it does not answer within `timeout` seconds; it may still act on the question."""
        return await self._asks.ask(node_id, question)

    async def ask_within(self, seconds: float, node_id: str, question: Question[A]) -> A:
        """Do the same as `ask`, but wait at most `seconds`, because the answer may take long."""
        return await self._asks.ask_within(seconds, node_id, question)

    async def ask_all(self, question: Question[A]) -> dict[str, A]:
        """Return the answers of the other nodes, by node, without those of nodes that are late."""
        return await self._asks.ask_all(question)

    async def ask_each(self, questions: Sequence[tuple[str, Question[A]]]) -> list[tuple[str, A]]:
        """Ask each question of its node, and return the answers in time, each with its node."""
        return await self._asks.ask_each(questions)

    def _publish(self, topic: str, make: Callable[[int], Envelope]) -> bool:
        number = self._sequences.next(topic)
        try:
            data = envelopes.encode(make(number))
        except EnvelopeError as exc:
            self._metrics.broker_dropped[exc.reason] += 1
            self._log.limited("not sent").warning("not sent to the other nodes: %s", exc)
            return False
        if not self._bus.publish(topic, data):
            return False
        self._sequences.sent(topic, number)
        return True

    # Receiving

    def _received(self, topic: str, data: bytes) -> None:
        try:
            if b"0" <= data[:1] <= b"9":  # this process receives its own announcements, too
                self.routing.announced(data)
                return
            if envelopes.origin_of(data) == self._own:
                if self._heartbeats.echoes:
                    self._heartbeats.echoes.discard(data)
                return
            envelope = envelopes.decode(data)
            if envelope.origin == self.node:
                raise EnvelopeError("malformed", "it names this process as its origin, in another encoding")
            if envelope.seq or not isinstance(envelope, Unnumbered):
                self._metrics.broker_lost += self._sequences.lost_before(envelope.origin, topic, envelope.seq)
            self._handle(envelope)
        except EnvelopeError as exc:
            self._metrics.broker_dropped[exc.reason] += 1
            level = logging.DEBUG if exc.reason == "double" else logging.WARNING
            self._log.limited(f"dropped {exc.reason}").log(level, "dropped a message from the broker: %s", exc)
        except Exception as exc:  # one message must not end the subscription
            self._metrics.broker_dropped["failed"] += 1
            text = "a message on the topic %s could not be handled: %r"
            self._log.limited("not handled").error(text, topic, exc, exc_info=exc)

    def _handle(self, envelope: Envelope) -> None:
        match envelope:
            case Delivery() | ToUser():
                self._deliver(envelope)
            case Ack():
                self._acks.add(envelope)
            case Heartbeat():
                self._handle_heartbeat(envelope)
            case Leave() if envelope.node == self.node:
                self.notify()  # the origin was wrong
            case Leave():
                self._handle_departure(envelope)
            case Here():
                self._handle_welcome(envelope)
            case Ask():
                self._asks.handle(envelope)
            case Answer():
                self._asks.handle_answer(envelope)
            case Record() | Membership() | Forgotten() | Tally():
                self.routing.handle(envelope)

    def _deliver(self, delivery: Delivery | ToUser) -> None:
        if self._local is not None:
            counts = self._local.receive(delivery, self.node)
            if delivery.ask and counts is not None:
                self.acknowledge(delivery.origin, delivery.ask, counts)

    def _handle_heartbeat(self, heartbeat: Heartbeat) -> None:
        if heartbeat.info is not None:
            self._heartbeats.add(heartbeat.origin, heartbeat.info)
            self._nodes_changed.set()
        else:
            self._heartbeats.touch(heartbeat.origin, is_blocked=not heartbeat.mark)
        if heartbeat.is_new and self._local is not None:
            self.routing.node_present(heartbeat.origin)
            self._welcome(heartbeat.origin, self._local.describe())

    def _handle_welcome(self, here: Here) -> None:
        self._heartbeats.add(here.origin, here.info)
        self._nodes_changed.set()
        if self._met.is_set():
            return
        self._unmet |= set(here.peers) - {self.node}
        if all(self.nodes.get(peer) is not None for peer in self._unmet):
            self._met.set()

    def _handle_departure(self, leave: Leave) -> None:
        state = NodeState.LEFT if leave.node == leave.origin else NodeState.LOST
        self.nodes.mark(leave.node, state, time.monotonic())
        self._drop_node(leave.node)
        if state is NodeState.LEFT:
            topic = self.names.of_node(leave.node)
            self._sequences.forget(leave.node, sent=topic, received=(self._all, self.names.of_node(self.node)))

    def _drop_node(self, node_id: str) -> None:
        """Stop waiting for a node that has left or is lost."""
        self._heartbeats.set_absent(node_id)
        self._nodes_changed.set()
        self._unmet.discard(node_id)
        self._acks.drop_node(node_id)

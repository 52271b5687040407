"""The topics of one gateway, and what arrives on those of its channels. Knows no particular broker."""

from asyncio import Future
from typing import Protocol
from urllib.parse import quote

from wsgateway.cluster.bus import Bus
from wsgateway.cluster.envelopes import Forgotten, Membership, Record, Tally
from wsgateway.cluster.history.store import parse_announcement
from wsgateway.cluster.records import decode_record
from wsgateway.exceptions import EnvelopeError
from wsgateway.frames import Position


def topic_part(name: str) -> str:
    """Return `name` as a part of a topic."""
    return quote(name, safe="").replace(".", "%2E")


class TopicNames:
    """The names of the topics of one gateway: one for all nodes, and one for each node and each channel."""

    __slots__ = ("_channel", "_node", "all", "gateway")

    def __init__(self, gateway_id: str) -> None:
        self.gateway = topic_part(gateway_id.casefold())
        self.all = f"wsgateway.all.{self.gateway}"
        self._node = f"wsgateway.node.{self.gateway}."
        self._channel = f"wsgateway.ch.{self.gateway}."

    def of_node(self, node_id: str) -> str:
        return self._node + node_id

    def of_channel(self, channel: str) -> str:
        return self._channel + topic_part(channel)


class ChannelEvents(Protocol):
    """Handles what arrives on the topics of channels. Implemented by the hub, which this module is below."""

    def published(self, record: Record, prev: int, position: Position | None) -> None:
        """Handle a publication. With a history, it has a position, and `prev` is the offset before."""

    def changed_members(self, membership: Membership) -> None: ...
    def forgotten(self, channel: str) -> None: ...
    def asked(self, tally: Tally) -> None: ...
    def node_gone(self, node_id: str) -> None: ...
    def node_present(self, node_id: str) -> None: ...

    def link_changed(self, *, is_up: bool) -> None:
        """Handle that the broker is available again, or is not any more."""


class Routing:
    """The channels whose topics one process follows. `events` is None while it has no clients."""

    def __init__(self, bus: Bus, topics: TopicNames) -> None:
        self.events: ChannelEvents | None = None
        self._bus = bus
        self._topics = topics

    def follow(self, channel: str) -> "Future[None]":
        """Receive what is published to `channel`, also on later links. The future is done when that is in force.

        It fails with `BrokerError` if the broker is unavailable.
        """
        return self._bus.follow(self._topics.of_channel(channel))

    def unfollow(self, channel: str) -> None:
        self._bus.unfollow(self._topics.of_channel(channel))

    def publish(self, channel: str, data: bytes) -> bool:
        """Queue an encoded envelope for the nodes that follow `channel`. Return False if it is too large."""
        return self._bus.publish(self._topics.of_channel(channel), data)

    def announced(self, data: bytes) -> None:
        """Handle the announcement of a history. Raise `EnvelopeError`."""
        if self.events is None:
            return
        try:
            prev, position, record = parse_announcement(data)
        except ValueError as exc:
            raise EnvelopeError("malformed", f"it is not an announcement: {exc}") from exc
        self.events.published(decode_record(record), prev, position)

    def handle(self, envelope: Record | Membership | Forgotten | Tally) -> None:
        """Handle an envelope of a channel."""
        if self.events is None:
            return
        match envelope:
            case Record():
                self.events.published(envelope, 0, None)
            case Membership():
                self.events.changed_members(envelope)
            case Forgotten():
                self.events.forgotten(envelope.channel)
            case Tally():
                self.events.asked(envelope)

    def node_gone(self, node_id: str) -> None:
        """Handle that the connections of another node are members of no channel any more."""
        if self.events is not None:
            self.events.node_gone(node_id)

    def node_present(self, node_id: str) -> None:
        """Handle that another node has joined, or answers again."""
        if self.events is not None:
            self.events.node_present(node_id)

    def link_changed(self, *, is_up: bool) -> None:
        if self.events is not None:
            self.events.link_changed(is_up=is_up)

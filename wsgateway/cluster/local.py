"""The services of a node for the other nodes. Knows no broker, nor how a message is delivered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.envelopes import Delivery, Info, ToUser, message_of
from wsgateway.cluster.nodes import node_of
from wsgateway.messages import Deliveries, Kind, Message


@dataclass(slots=True)
class Local:
    """The services of a node for the other nodes.

    `deliver` sends a message to all connections of this node, or to those with the given ids. `deliver_to_user` sends
    one to those of a user. `describe` returns the status of this node for a heartbeat.
    """

    deliver: Callable[[Message, Sequence[str] | None], Deliveries]
    describe: Callable[[], Info]
    answering: Answering
    deliver_to_user: Callable[[Message, str], Deliveries]

    def receive(self, envelope: Delivery | ToUser, node: str) -> Deliveries | None:
        """Deliver the message in `envelope`, and return the counts of this node, whose id is `node`.

        Return None if no recipient belongs to it. Raise `EnvelopeError` for a message that no client can receive.
        """
        if isinstance(envelope, ToUser):
            return self.deliver_to_user(message_of(envelope.payload, envelope.kind, envelope.name), envelope.user)
        own = None if envelope.ids is None else [conn_id for conn_id in envelope.ids if node_of(conn_id) == node]
        if own is not None and not own:
            return None
        kind = Kind.JSON if envelope.is_json else Kind.TEXT if envelope.is_text else Kind.BYTES
        return self.deliver(message_of(envelope.payload, kind, envelope.name), own)

"""Publishes the message of an event of `on_message` after the hook has run. Knows nothing of how hooks are called."""

from typing import Any

from wsgateway.exceptions import Refused
from wsgateway.hub.pubsub import PubSub
from wsgateway.hub.target import Everybody, check_recipients
from wsgateway.listeners.inbox import AwaitedCall, Call, MessageCall
from wsgateway.listeners.routing import NO_RECIPIENTS, target_of_event
from wsgateway.messages import encode


class Publishing:
    """Publishes the messages of one gateway's events."""

    def __init__(self, pubsub: PubSub, *, names_recipients: bool, echo_sender: bool) -> None:
        """`names_recipients` is whether a client's message needs recipients that the hook names."""
        self._pubsub = pubsub
        self._names_recipients = names_recipients
        self._echo_sender = echo_sender

    def publish(self, call: Call) -> None:
        """Publish the message of the event of `call`, and set its receipt. Raise whatever prevents that."""
        event: Any = call.event
        message = call.encode_message() if isinstance(call, (AwaitedCall, MessageCall)) else encode(event.message)
        conn, to = event.conn, event.connections
        if event._target is None:
            if isinstance(to, Everybody):
                to = None
            elif to is None:
                if self._names_recipients and conn is not None and message is not None:
                    raise Refused.of(NO_RECIPIENTS)
            elif not isinstance(to, list):
                check_recipients("event.connections", to)
            if message is None:
                return
            if isinstance(call, AwaitedCall):
                call.receipt = self._pubsub.publish_to(message, to)
            else:
                self._pubsub.publish_nowait(message, to, but=None if self._echo_sender or to is not None else conn)
            return
        target = target_of_event(event, is_closed=self._names_recipients and message is not None)
        if message is None:
            return
        but = None if self._echo_sender else conn
        receipt = self._pubsub.publish(message, target, sender=conn, but=but, counts=isinstance(call, AwaitedCall))
        if isinstance(call, (AwaitedCall, MessageCall)):
            call.receipt = receipt

"""Connects the transport of one client to the hub and the listener, in any protocol. Knows neither sockets nor ASGI."""

import time
from collections.abc import Callable

from wsgateway.closing import TOO_MANY
from wsgateway.config.settings import Settings
from wsgateway.exceptions import Refusal, Refused
from wsgateway.frames import Position
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.hub.outbox import Outbox
from wsgateway.limits import Bucket
from wsgateway.listeners.dispatcher import Dispatcher
from wsgateway.listeners.inbox import Inbox
from wsgateway.transports.peer import MAX_FRAMES, ClientTransport

STOPPING = Refusal(503, "stopping", "the gateway is shutting down, try again later", "not-running")


class Session:
    """A connection and its inbox, from the handshake to `on_client_close`. Implements `transports.peer.Peer`.

    The protocol calls `handshake` and `open`. `on_client_close` is called exactly once after `open`. The size and the
    rate of messages are checked here only. (The native server closes a client before it reads a frame that is too
    large.)
    """

    __slots__ = (
        "_dispatcher",
        "_ended",
        "_hub",
        "_inbox",
        "_rate",
        "_settings",
        "_transport",
        "conn",
        "is_open",
        "outbox",
    )

    def __init__(
        self,
        conn: Connection,
        outbox: Outbox,
        transport: ClientTransport,
        *,
        hub: Hub,
        dispatcher: Dispatcher,
        settings: Settings,
        ended: "Callable[[Session], None]",
    ) -> None:
        """`ended` is called once the session, if it was opened, has finished."""
        self.conn = conn
        self.outbox = outbox
        self.is_open = False
        self._transport = transport
        self._hub = hub
        self._dispatcher = dispatcher
        self._settings = settings
        self._ended = ended
        self._inbox = Inbox()
        rate = settings.message_rate
        self._rate = Bucket(rate, settings.message_burst, time.monotonic()) if rate else None
        transport.attach(self, outbox)

    async def handshake(self) -> str | None:
        """Call `on_handshake` and return the subprotocol that it has chosen. Raise `Refused`."""
        subprotocol = await self._dispatcher.handshake(self.conn, self._inbox)
        if self.outbox.closing is not None:
            raise Refused.of(STOPPING)
        return subprotocol

    def abort(self) -> None:
        """Close the socket now, and discard what waits to be written."""
        self._transport.abort()

    def open(self) -> None:
        """Make the client a recipient, then call `on_client_open`."""
        self.is_open = True
        self._hub.join(self.conn)
        self._dispatcher.opened(self.conn, self._inbox)

    def received(self, message: str | bytes, size: int) -> bool:
        """Call `on_message` for `message`, of `size` bytes. Drop the message if the close has begun.

        Return False if the inbox is full. The transport then resumes reading once the inbox has space. The size is
        checked before the rate, as on the native server.
        """
        if self.outbox.closing is not None:
            return True
        if size > self._settings.max_message_size:
            self.outbox.close(1009, "message too big")
        elif self._inbox.is_full:
            self._inbox.when_space(self._transport.resume)
            return False
        elif self._rate is not None and not self._rate.allows(time.monotonic()):
            self.outbox.close(TOO_MANY, "too many messages")
        else:
            self._dispatcher.received(self.conn, self._inbox, message, size)
        return True

    async def feed(self, message: object, size: int, *, channel: str | None, name: str) -> Position | None:
        del channel, name
        assert isinstance(message, (str, bytes))
        self._dispatcher.received(self.conn, self._inbox, message, size)
        return None

    def counted(self, *, is_fragment: bool = False) -> None:
        """Count a control frame or a fragment as a message, and close a client that exceeds `message_rate`."""
        # a client that sends too many fragments is closed with 1008, which is more precise than 3013
        overdraft = MAX_FRAMES if is_fragment else 0
        if self._rate is not None and not self._rate.allows(time.monotonic(), overdraft=overdraft):
            self.outbox.close(TOO_MANY, "too many messages")

    def finished(self, code: int, reason: str) -> None:
        """Leave the hub, then call `on_client_close`, with `code` and `reason` unless this side has closed first."""
        assert self.is_open
        self.is_open = False
        self._hub.leave(self.outbox)
        self._dispatcher.closed(self.conn, self._inbox, *self.outbox.end(code, reason))
        self._ended(self)

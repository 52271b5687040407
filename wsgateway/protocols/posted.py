"""The session of a client that sends its messages in HTTP requests, because its connection is a stream. No HTTP."""

import asyncio
import time
from collections.abc import Callable

from wsgateway.exceptions import HistoryError, Refusal, Refused
from wsgateway.frames import Position, check_event_name, check_request_name
from wsgateway.hub.target import Target
from wsgateway.listeners.inbox import Call, MessageCall, refusal_of
from wsgateway.listeners.requests import RequestCall
from wsgateway.messages import NULL, Message
from wsgateway.protocols.session import Session, unstored


class PostedSession(Session):
    """The client of a stream. It sends nothing on its connection."""

    __slots__ = ()

    async def feed(self, message: object, size: int, *, channel: str = "", name: str = "") -> Position | None:
        """Handle a message of `size` bytes that the client has sent in an HTTP request, after `on_message` has run.

        Return its position, None if it is in no history. Raise `Refused`.
        """
        self._check_post(size, name, check_event_name)
        done: asyncio.Future[MessageCall] = asyncio.get_running_loop().create_future()

        def answer(call: Call) -> None:
            assert isinstance(call, MessageCall)
            if not done.done():
                done.set_result(call)

        target = Target(channel=channel, name=name) if channel or name else None
        self._parts.dispatcher.message(self.conn, self._inbox, message, size, target=target, answer=answer)
        call = await done
        if call.error is not None:
            raise refusal_of(call)
        if call.receipt is None:
            return None
        try:
            await call.receipt.stored()
        except HistoryError as exc:
            raise unstored(exc) from exc
        return call.receipt.at

    async def feed_request(self, message: object, size: int, *, name: str) -> Message:
        """Do the same with a request, after `on_request` has run, and return its answer. Raise `Refused`."""
        self._check_post(size, name, check_request_name)
        done: asyncio.Future[RequestCall] = asyncio.get_running_loop().create_future()

        def answer(call: RequestCall) -> None:
            if not done.done():
                done.set_result(call)

        self._parts.dispatcher.request(self.conn, self._inbox, message, name, size, answer)
        call = await done
        if call.error is not None:
            raise refusal_of(call)
        return call.reply or NULL

    def _check_post(self, size: int, name: str, check_name: Callable[[object], None]) -> None:
        """Raise `Refused` if a message of `size` bytes that was sent over HTTP cannot be handled now."""
        if self.outbox.closing is not None or not self.is_open:
            raise Refused.of(Refusal(404, "session", "the stream has ended"))
        if size > self._parts.settings.max_message_size:
            raise Refused.of(Refusal(413, "session", "the message is larger than max_message_size"))
        if self._rate is not None and not self._rate.allows(time.monotonic()):
            raise Refused.of(Refusal(429, "session", "too many messages, try again later (message_rate)"))
        try:
            check_name(name)
        except ValueError as exc:
            raise Refused.of(Refusal(400, "session", str(exc))) from None
        if self._inbox.is_full:
            raise Refused.of(Refusal(429, "session", "too many messages wait for the listener, try again later"))

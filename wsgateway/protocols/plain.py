"""The plain protocol: each WebSocket message is one message of the application, in both directions.

It has no envelope and no commands. A client names its channels in the URL. Requests and their answers, which are rare,
are JSON-RPC 2.0. Knows neither sockets nor ASGI.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from wsgateway.exceptions import ChannelError, Refusal, Refused
from wsgateway.frames import check_request_name
from wsgateway.hub.target import Target
from wsgateway.listeners.handshake import bearer_of
from wsgateway.listeners.inbox import refusal_of
from wsgateway.listeners.requests import RequestCall
from wsgateway.messages import Message
from wsgateway.protocols import jsonrpc
from wsgateway.protocols.jsonrpc import RequestId, RpcError, RpcRequest, RpcResult
from wsgateway.protocols.query import Asked, read_query
from wsgateway.protocols.session import TOO_MANY_REQUESTS, Session
from wsgateway.transports.peer import ClientTransport


async def connect(session: "PlainSession", transport: ClientTransport, scope: Mapping[str, Any]) -> None:
    """Call `on_handshake`, accept the client, make it a recipient, and call `on_client_open`. Raise `Refused`.

    May return while the connection is still open.
    """
    conn = session.conn
    if conn.query_string:
        asked = read_query(conn.query.multi_items(), has_positions=False)
        session.name_target(asked)
        chosen = await session.handshake(scope, asked=asked)
    else:
        chosen = await session.handshake(scope)
    if await transport.accept(chosen.subprotocol or bearer_of(scope)):
        session.open()
        await transport.run()


class PlainSession(Session):
    """One client of the plain protocol.

    Requests are looked for only if the listener has `on_request`, and answers only while the client owes one.
    """

    __slots__ = ("_target",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._target: str | None = "" if self._parts.dispatcher.has_requests else None
        """The channel of every message, empty without one. None if a message needs not be looked at."""

    def name_target(self, asked: Asked) -> None:
        """Publish the client's messages to the channel of its URL, if there is only one and clients may publish."""
        if len(asked.channels) == 1:
            name = asked.channels[0].wanted.channel
            try:
                settings = self._parts.channels.namespaces.find(name)
            except ChannelError:
                return  # `authorize` refuses it
            if "publish" in settings.clients:
                self._target = name

    def _handle(self, message: str | bytes, size: int) -> None:
        if self._target is None:
            self._parts.dispatcher.received(self.conn, self._inbox, message, size)
        elif not self._handle_rpc(message, size):
            target = Target(channel=self._target) if self._target else None
            if target is None:
                self._parts.dispatcher.received(self.conn, self._inbox, message, size)
            else:
                self._parts.dispatcher.message(self.conn, self._inbox, message, size, target=target, answer=None)

    # Requests, in both directions

    def _handle_rpc(self, message: str | bytes, size: int) -> bool:
        """Handle a request, or an answer that the client owes. Return False for any other message."""
        owes_answer = self._requests is not None and self._requests.owes_any
        has_requests = self._parts.dispatcher.has_requests
        call = jsonrpc.read(message) if owes_answer or has_requests else None
        match call:
            case None:
                return False
            case RpcRequest():
                if has_requests:
                    self._answer_later(call, size)
                return has_requests
            case RpcResult() | RpcError():
                return owes_answer and self._settle(call, size)

    def _answer_later(self, request: RpcRequest, size: int) -> None:
        conn, inbox, dispatcher, ident = self.conn, self._inbox, self._parts.dispatcher, request.ident
        refused: Refused | None = None
        try:
            check_request_name(request.method)
        except ValueError as exc:
            refused = Refused.of(Refusal(400, "request", str(exc).replace("name", "method", 1)))
        if refused is None and not self.requests.begin():
            refused = TOO_MANY_REQUESTS
        if refused is None:
            answer = partial(self._answer_request, ident)
            dispatcher.request(conn, inbox, request.params, request.method, size, answer)
        else:
            text = jsonrpc.error_text(ident, refused, refused)
            dispatcher.command(conn, inbox, size, lambda _: self._put(text))

    def _put(self, message: Message) -> None:
        self.outbox.put(message)

    def _answer_request(self, ident: RequestId, call: RequestCall) -> None:
        self.requests.end()
        if call.error is None:
            self._put(jsonrpc.result_text(ident, call.reply))
        else:
            self._put(jsonrpc.error_text(ident, call.error, refusal_of(call)))

    def _settle(self, answer: RpcResult | RpcError, size: int) -> bool:
        """Settle a request of the server, and return whether the client owes the answer. An answer may come too late.

        Not in the inbox, where a hook may run that waits for the answer.
        """
        requests = self.requests
        if not requests.owes(answer.ident):
            return False
        self._parts.dispatcher.count_in(self.conn, size)
        if isinstance(answer, RpcResult):
            is_open = requests.answer(answer.ident, answer.result)
        else:
            is_open = requests.refuse(answer.ident, answer.code, answer.reason)
        if not is_open:
            requests.dismiss(answer.ident)
        return True

    def _question(self, ident: int, name: str, message: Message) -> Message:
        if self._target is None:
            self._target = ""
        return jsonrpc.request_text(ident, name, message)

"""The session of a Centrifuge client: its frames, and its `connect`. Knows no sockets."""

import asyncio
import enum
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from math import ceil
from typing import Any

from wsgateway.closing import TOO_MANY
from wsgateway.exceptions import ChannelError, MessageError, Refused, TokenRefused, TooManyChannels
from wsgateway.frames import Bundle, Position, Publication, SubscribedFrame
from wsgateway.hub.channel import Answer, Grant, Wanted
from wsgateway.hub.loops import eager_task
from wsgateway.listeners.handshake import Introduction
from wsgateway.protocols.centrifuge.codes import (
    BAD_REQUEST,
    CHANNEL_LIMIT,
    INTERNAL_ERROR,
    INVALID_TOKEN,
    STALE,
    ErrorCode,
    Failed,
    code_of,
)
from wsgateway.protocols.centrifuge.commands import (
    PONG,
    Command,
    Connect,
    FrameError,
    payload_of,
    position_of,
    read_frame,
)
from wsgateway.protocols.centrifuge.execution import ExecutingSession
from wsgateway.protocols.centrifuge.replies import Fields, Reply
from wsgateway.protocols.centrifuge.tokens import expiry_fields
from wsgateway.protocols.deadlines import Deadline
from wsgateway.protocols.query import Asked
from wsgateway.transports.peer import ClientTransport

PROTOBUF_SUBPROTOCOL = "centrifuge-protobuf"

FRAME_PINGS = b"cf_ws_frame_ping_pong=true"
"""The parameter of a client that asks for WebSocket pings instead of the protocol's own."""

MAX_AT_ONCE = 100
"""Commands of a frame that are handled in one iteration of the event loop. The outbox has space for their replies."""

TURN = 0.02
"""Seconds after which no further command of a frame is handled in the same iteration, because some take long."""

MAX_NAME, MAX_VERSION = 16, 64
"""Characters of the name and the version of a client library that are kept."""

SERVER = f"wsgateway {version('wsgateway')}"


async def connect(session: "CentrifugeSession", transport: ClientTransport, scope: Mapping[str, Any]) -> None:
    """Accept the client, which then sends `connect`. May return while the connection is still open."""
    is_offered = session.subprotocol in session.conn.subprotocols
    if await transport.accept(session.subprotocol if is_offered else None):
        session.expect_connect(scope)
        await transport.run()


class Stage(enum.Enum):
    """What a session expects of its client: a `connect`, nothing while it is decided, commands, or nothing at all."""

    WAITING = enum.auto()
    CONNECTING = enum.auto()
    OPEN = enum.auto()
    REFUSED = enum.auto()


class HeldTransport:
    """Stands in for a transport until there is a reply to `connect`, so that nothing is written before it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wake(self) -> None: ...


class Connecting:
    """The state of a session until its client is admitted. `subs` are the results of its subscriptions."""

    __slots__ = ("offsets", "scope", "subs", "task", "timer")

    def __init__(self, scope: Mapping[str, Any], timer: Deadline) -> None:
        self.scope = scope
        self.timer = timer
        self.task: asyncio.Task[None] | None = None
        self.offsets: Mapping[str, int] = {}
        self.subs: Fields = {}


class CentrifugeSession(ExecutingSession):
    """One client of the protocol. Every reply is a frame in its outbox.

    The commands of a frame are handled in order. While `on_handshake` runs, or the inbox is full, the rest waits.
    """

    too_many = ""  # that of the code

    __slots__ = ("_connecting", "_is_offered", "_rest", "_stage", "node", "secret")

    subprotocol = "centrifuge-json"
    read: Callable[[str | bytes], list[Command]] = staticmethod(read_frame)
    """Returns the commands of a frame. Raises `FrameError`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.secret = ""
        """The name under which the client of a stream posts its commands."""
        self.node = ""
        """The id of the process that has the session."""
        self._stage = Stage.WAITING
        self._connecting: Connecting | None = None
        self._rest: deque[Command] | None = None  # of the frame that is being handled
        self._is_offered = False  # a frame, which has to be offered again

    # Frames

    @property
    def is_paused(self) -> bool:
        return self._is_offered or self._inbox.is_full

    def received(self, message: str | bytes, size: int) -> bool:
        if (self._rest or self._stage is Stage.CONNECTING) and self.outbox.closing is None:
            self._is_offered = True
            return False
        return super().received(message, size)

    def _handle(self, message: str | bytes, size: int) -> None:
        try:
            commands = self.read(message)
        except FrameError:
            self.outbox.close(BAD_REQUEST, "")
            return
        if len(commands) == 1:
            self._run(commands[0])
        elif commands:
            self._rest = deque(commands)
            self._run(self._rest.popleft())  # the rate has counted the frame as one message
            self._run_rest()

    def _run_rest(self) -> None:
        """Handle the rest of the frame, as far as possible now."""
        rest, left, began = self._rest, MAX_AT_ONCE, time.monotonic()
        while rest and self.outbox.closing is None and self._stage is not Stage.CONNECTING:
            if not left:  # on plain ASGI, the replies are written between two iterations of the event loop
                asyncio.get_running_loop().call_soon(self._run_rest)
                return
            left = 0 if time.monotonic() - began > TURN else left - 1
            if self._inbox.is_full and not self._may_overfill():
                self._inbox.when_space(self._run_rest)
                return
            if self._rate is not None and not self._rate.allows(time.monotonic()):
                self.outbox.close(TOO_MANY, self.too_many)
                break
            self._run(rest.popleft())
        if self._stage is not Stage.CONNECTING or self.outbox.closing is not None:
            self._rest = None
            self._read_on()

    def read_on(self) -> None:
        if self._rest:
            self._run_rest()
        else:
            super().read_on()

    def _read_on(self) -> None:
        if self._is_offered:
            self._is_offered = False
            self._transport.resume()

    def _run(self, command: Command) -> None:
        is_connect = command.method == "connect"
        if command is PONG:
            self.take_pong()
        elif self._stage is Stage.OPEN and not is_connect:
            self.execute(command)
        elif self._stage is Stage.WAITING and is_connect:
            self._begin_connect(command)
        else:
            self.outbox.close(BAD_REQUEST, "")

    # Connecting

    def expect_connect(self, scope: Mapping[str, Any]) -> None:
        """Wait for `connect`, at most `handshake_timeout` seconds."""
        self.is_accepted = True
        self._connecting = Connecting(scope, Deadline(self._parts.timers, partial(self.outbox.close, STALE, "")))
        self._limit_wait(self._connecting)

    def _limit_wait(self, connecting: Connecting) -> None:
        connecting.timer.set(asyncio.get_running_loop().time() + self._parts.settings.handshake_timeout)

    def _begin_connect(self, command: Command) -> None:
        request, connecting = command.request, self._connecting
        assert connecting is not None
        if not isinstance(request, Connect):
            self._refuse_connect(command.ident, Failed(ErrorCode.BAD_REQUEST))
            return
        self._stage = Stage.CONNECTING
        connecting.timer.cancel()  # `on_handshake` has a time limit of its own
        self.outbox.transport = HeldTransport(self._transport.name)
        task = self._connect(command.ident, request, connecting)
        connecting.task = eager_task(task, asyncio.get_running_loop())

    async def _connect(self, ident: int, request: Connect, connecting: Connecting) -> None:
        """Admit the client, or refuse it, and handle the rest of the frame."""
        try:
            introduction = self._introduce(request)
            since = self._since(request, connecting)
            chosen = await self.handshake(
                connecting.scope, introduction=introduction, asked=Asked((), since), asks_now=False
            )
        except Refused as exc:
            if self.outbox.closing is None:  # else the client has disconnected, or the gateway stops
                if not isinstance(exc, Failed):
                    self._parts.refused(connecting.scope, exc, self.conn)
                self._limit_wait(connecting)  # for the client to disconnect
            self._refuse_connect(ident, exc)
        else:
            self._stage = Stage.OPEN
            fields: Fields = {} if chosen.reply is None else {"data": chosen.reply}
            self._open_with(ident, fields, connecting)
            self._connecting = None
        finally:
            connecting.task = None
            self.outbox.transport = self._transport
            if self._stage is Stage.CONNECTING:  # by an error that nothing here expects
                self.outbox.close(INTERNAL_ERROR, "")
        self._transport.wake()
        self._run_rest()
        self._read_on()

    def _introduce(self, request: Connect) -> Introduction:
        """Return what `on_handshake` finds in its event. Raise `Refused`."""
        try:
            payload = payload_of(request.data)
        except MessageError:
            raise Failed(ErrorCode.BAD_REQUEST) from None
        self.conn.client = f"{request.name[:MAX_NAME]} {request.version[:MAX_VERSION]}".strip()
        data = {"headers": request.headers, "name": request.name, "version": request.version}
        return Introduction(request.token, "" if payload is None else payload.value, data)

    def _since(self, request: Connect, connecting: Connecting) -> dict[str, Position | None]:
        """Return the positions of the server-side subscriptions that the client had."""
        recovering = {name: sub for name, sub in request.subs.items() if sub.recover}
        connecting.offsets = {name: sub.offset for name, sub in recovering.items()}
        return {name: position_of(sub.epoch, sub.offset) for name, sub in recovering.items()}

    def _refuse_connect(self, ident: int, refused: Refused) -> None:
        """Answer `connect` with an error, or close the client. Any further command closes it."""
        self._stage = Stage.REFUSED
        cause = refused.__cause__
        if isinstance(cause, TokenRefused):
            self._refuse_token(ident, cause)
        elif refused.close is not None:
            self.outbox.close(refused.close, refused.reason)
        elif isinstance(cause, TooManyChannels):
            self.outbox.close(CHANNEL_LIMIT, "")
        else:
            is_unknown = isinstance(cause, ChannelError)
            code = ErrorCode.UNKNOWN_CHANNEL if is_unknown else code_of(refused)
            self.outbox.clear()  # what `on_handshake` has sent
            self.outbox.put(Reply.error(ident, code))

    def _refuse_token(self, ident: int, refused: TokenRefused) -> None:
        if refused.is_expired or refused.is_over:
            code = ErrorCode.TOKEN_EXPIRED if refused.is_expired else ErrorCode.EXPIRED
            self.outbox.put(Reply.error(ident, code))
        else:
            self.outbox.close(INVALID_TOKEN, "")

    def _open_with(self, ident: int, fields: Fields, connecting: Connecting) -> None:
        """Make the client a recipient. The reply to `connect` comes before everything else that it receives."""
        self.outbox.put_first(Reply(ident, "connect", self._result(fields, connecting.subs)))
        self.open()
        if self.broadcast_channel:
            connecting.subs[self.broadcast_channel] = {}
        if self._has_pings:
            self.begin_pings()

    @property
    def _has_pings(self) -> bool:
        return bool(self.secret) or FRAME_PINGS not in self.conn.query_string

    def _result(self, fields: Fields, subs: Fields) -> Fields:
        fields |= {"client": self.conn.id, "version": SERVER, "subs": subs}
        fields |= expiry_fields(self.conn.expires_at)
        if self._has_pings:
            fields |= {"ping": ceil(self._parts.settings.ping_interval), "pong": True}
        if self.secret:
            fields |= {"session": self.secret, "node": self.node}
        return fields

    def _answer_for(self, wanted: Wanted, grant: Grant) -> Answer | None:
        return partial(self._note_subscribed, wanted, grant)

    def _note_subscribed(
        self, wanted: Wanted, grant: Grant, frame: SubscribedFrame, publications: Sequence[Publication]
    ) -> None:
        """Add a subscription to the reply to `connect`."""
        connecting = self._connecting
        assert connecting is not None
        result, later = self.subscribe_result(
            frame, publications, grant, asked_offset=connecting.offsets.get(wanted.channel), is_by_server=True
        )
        connecting.subs[wanted.channel] = result
        if later:
            self.outbox.put(Bundle(later))

    def finished(self, code: int, reason: str) -> None:
        if self._connecting is not None:
            self._connecting.timer.cancel()
        self._rest = None
        super().finished(code, reason)

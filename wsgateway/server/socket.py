"""One accepted WebSocket on the gateway's own server: whole messages are read here, what is unusual is left to
websockets' parser. Knows neither uvicorn nor what a gateway does with a message."""

import asyncio
import os
from typing import Any

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

from wsgateway.config.grace import LINGER
from wsgateway.config.settings import Settings
from wsgateway.limits import FULL_READ, MAX_INFLATED
from wsgateway.server.parser import FrameParser
from wsgateway.server.tcp import acknowledged
from wsgateway.transports.peer import MAX_FRAMES, Peer
from wsgateway.transports.takeover import WireUser

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  where its C extension could not be built
    from websockets.utils import apply_mask

GRACE = 0.05
"""Seconds to read what waits in a socket whose pong is late: the loop may have been blocked until now."""

QUIET = 0.25
"""Seconds without a byte after which a client that broke the protocol has read why it is closed."""

CLOSE_TIMEOUT = 10.0
"""Seconds for a client that reads to answer a close frame."""


SHARE = range(MAX_FRAMES)  # made once, since a message takes half a microsecond


class Socket(asyncio.Protocol):
    """From `websocket.accept` to the end of its TCP connection. Implements `wsgateway.transports.takeover.Wire`.

    Reading is paused while the inbox is full, while the client does not read (it could have pings answered without
    end), and once the client has had its share of an iteration of the event loop, `MAX_FRAMES`. What was received by
    then waits in `_rest`, at most one read, as it came; one message at most has been parsed and waits in `_message`.
    """

    __slots__ = (
        "_abort_timer",
        "_connections",
        "_deflate",
        "_is_discarding",
        "_is_held",
        "_is_paused",
        "_is_spent",
        "_loop",
        "_message",
        "_parser",
        "_peer",
        "_ping",
        "_rest",
        "_settings",
        "_timer",
        "_transport",
        "_user",
        "_was_paused",
        "deflates",
        "is_congested",
        "write",
    )

    def __init__(
        self,
        transport: Any,
        user: WireUser,
        settings: Settings,
        *,
        connections: set[Any],
        deflate: Extension | None = None,
    ) -> None:
        """`connections` is the server's set of what it has to wait for. `deflate` is what was negotiated."""
        self.write = transport.write
        self.deflates = deflate is not None
        self.is_congested = False
        self._transport = transport
        self._user: WireUser | None = user
        self._peer: Peer | None = user.peer
        self._settings = settings
        self._connections = connections
        self._deflate = deflate
        self._loop = asyncio.get_running_loop()
        self._parser: FrameParser | None = None
        self._rest: bytearray | None = None
        self._message: tuple[str | bytes, int] | None = None
        self._is_held = False  # by the inbox, which is full
        self._is_spent = False  # this client's share of the present iteration
        self._is_paused = False
        self._was_paused = False  # since the last ping
        self._is_discarding = False
        self._ping: bytes | None = None
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(settings.ping_interval, self._send_ping)
        self._abort_timer: asyncio.TimerHandle | None = None
        connections.add(self)

    # What the gateway calls

    def unwritten(self) -> int:
        size: int = self._transport.get_write_buffer_size()
        if self._transport.get_extra_info("ssl_object") is not None:  # what is encrypted already is not in it
            size -= acknowledged(self._transport.get_extra_info("socket"))
        return size

    def read_on(self) -> None:
        """Go on with what was received while the inbox was full, then with reading."""
        self._is_held = False
        self._go_on()

    def keep(self, data: bytes) -> None:
        """Take `data`, which was received before this object was there, in the next iteration."""
        self._rest = bytearray(data)
        self._spend()
        self._pause_or_resume()  # what is read now would come before it

    def close(self, code: int, reason: str) -> None:
        """Write a close frame past everything that waits, then leave the client time to answer it (RFC 6455 7.1.1).

        It has `LINGER` seconds if it does not read, else `CLOSE_TIMEOUT`.
        """
        if self._user is None:
            return
        self._finish(code, reason)
        parser = self._ready_parser()
        if self._transport.is_closing() or parser.close_sent is not None:
            self._abort_within(LINGER)
        else:
            parser.close(code, reason)
            self._write_answers(parser)
            self._abort_within(LINGER if self.is_congested else CLOSE_TIMEOUT)

    def abort(self) -> None:
        self._transport.abort()

    def shutdown(self) -> None:
        """Called by uvicorn, which waits until all sockets are closed. A client that does not answer is aborted."""
        if self._user is not None:
            self._user.shutdown()
        else:
            self._abort_within(LINGER)

    # What asyncio calls

    def data_received(self, data: bytes) -> None:
        if self._is_discarding:
            self._end_when_quiet()
            return
        if self._is_paused:  # it was on its way
            self._rest = (self._rest or bytearray()) + data
            return
        if self._parser is None and self._deflate is None and self._user is not None:
            at = self._take_messages(data)
            if at == len(data) < FULL_READ:
                return
        else:
            at = 0
        at = self._take_rest(data, at)
        if at < len(data):
            self._rest = bytearray(data[at:])
        elif at >= FULL_READ:
            self._spend()
        self._pause_or_resume()

    def pause_writing(self) -> None:
        self.is_congested = True
        self._pause_or_resume()
        if self._user is not None:
            self._user.congested()

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._user is not None:
            self._user.writable()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._finish(1006, "")
        self._rest = None
        if self._timer is not None:
            self._timer.cancel()

    # Reading

    def _go_on(self) -> None:
        """Hand on what was received while reading was paused, then read again."""
        if self._message is not None and not self._is_held:
            message, self._message = self._message, None
            self._hand_on(*message)
        if self._rest and not self._must_pause():
            rest, self._rest = self._rest, None
            at = self._take_messages(rest) if self._parser is None and self._deflate is None else 0
            del rest[: self._take_rest(rest, at)]
            self._rest = rest or None
        self._pause_or_resume()

    def _take_messages(self, data: bytes | bytearray) -> int:
        """Take whole messages, and pongs, that `data` begins with; return how many bytes they were (RFC 6455 5.2).

        Stop at the first frame that is anything else: control, fragment, compressed, unmasked, incomplete, of 64 KiB
        or more, not UTF-8. All of these are left to websockets' parser, and so are its errors.
        """
        at, length, most = 0, len(data), self._settings.max_message_size
        for _ in SHARE:
            peer = self._peer
            if length - at < 6 or peer is None:
                return at
            kind, size, start = data[at], data[at + 1] - 128, at + 6
            if not 0 <= size < 127:
                return at
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4]), at + 8
            end = start + size
            if end > length or size > most:
                return at
            payload = apply_mask(data[start:end], data[start - 4 : start])
            if kind == 0x81:
                try:
                    message: str | bytes = payload.decode()
                except UnicodeDecodeError:
                    return at
            elif kind == 0x82:
                message = payload
            elif kind == 0x8A and size < 126:
                self._ponged(payload)
                at = end
                continue
            else:
                return at
            if not peer.received(message, size):
                self._is_held = True
                return at
            at = end
        if at < length:
            self._spend()
        return at

    def _take_rest(self, data: bytes | bytearray, at: int) -> int:
        """Let websockets' parser take what follows at `at`, frame by frame; return the place it has come to.

        That is the end of `data`, unless the inbox is full or this client's share of the iteration is spent.
        """
        if at == len(data) or self._is_held or self._is_spent:
            return at
        parser = self._ready_parser()
        frames = inflated = 0
        while at < len(data) and not self._is_held:
            if frames == MAX_FRAMES or inflated >= MAX_INFLATED:
                self._spend()
                break
            at, frame = parser.take(data, at)
            frames += 1
            if frame is not None:
                inflated += len(frame.data)
                self._take_frame(parser, frame)
            if parser.close_received or parser.is_broken:
                at = len(data)
        if not self._is_held:
            self._settle(parser)
        return at

    def _ready_parser(self) -> FrameParser:
        if self._parser is None:
            self._parser = FrameParser(max_size=self._settings.max_message_size, deflate=self._deflate)
        return self._parser

    def _take_frame(self, parser: FrameParser, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            return
        if self._peer is None:  # it was closed, and goes on sending
            if self._abort_timer is not None and self._abort_timer.when() > self._loop.time() + LINGER:
                self._abort_within(LINGER)
        elif frame.opcode is Opcode.PONG:
            self._ponged(bytes(frame.data))
        elif frame.opcode is Opcode.PING:
            self._peer.counted()
        else:
            message = parser.message(frame)
            if message is not None:
                self._write_answers(parser)  # pongs, before what the hook sends (RFC 6455 5.5.2: as soon as practical)
                self._hand_on(*message)
            elif not parser.is_broken:
                self._peer.counted(is_fragment=True)

    def _hand_on(self, message: str | bytes, size: int) -> None:
        if self._peer is not None and not self._peer.received(message, size):
            self._is_held, self._message = True, (message, size)

    def _settle(self, parser: FrameParser) -> None:
        """All messages are handed on: answer pings and a close, or end what broke the protocol."""
        if parser.is_broken:
            self._failed(parser)
        elif parser.close_received is not None:
            self._finish(parser.close_received.code, parser.close_received.reason)
            self._write_answers(parser)
            self._abort_within(LINGER)
            self._transport.close()
        elif parser.close_sent is None:
            self._write_answers(parser)
            if self._deflate is None and parser.is_idle:
                self._parser = None
        else:  # a pong past the close frame is of no use, and a client that does not read would let them pile up
            parser.answers()

    def _spend(self) -> None:
        """Read and handle nothing more of this client in this iteration of the event loop."""
        self._is_spent = True
        self._loop.call_soon(self._next_iteration)

    def _next_iteration(self) -> None:
        self._is_spent = False
        self._go_on()

    def _must_pause(self) -> bool:
        return self._is_held or self._is_spent or (self.is_congested and self._user is not None)

    def _pause_or_resume(self) -> None:
        must_pause = self._must_pause()
        if must_pause == self._is_paused or self._transport.is_closing():
            return
        self._is_paused = must_pause
        if must_pause:
            self._was_paused = True
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # The end

    def _write_answers(self, parser: FrameParser) -> None:
        answers = parser.answers()
        if answers:
            self._transport.write(answers)

    def _failed(self, parser: FrameParser) -> None:
        """Write the close frame, then read on and discard: unread bytes would reset the connection, and lose it."""
        if self._user is None:  # it was closed already, and answers with nonsense
            self._transport.abort()
            return
        assert parser.close_sent is not None
        self._finish(parser.close_sent.code, parser.close_sent.reason)
        self._write_answers(parser)
        self._is_discarding = True
        self._abort_within(LINGER)
        self._end_when_quiet()

    def _finish(self, code: int, reason: str) -> None:
        """Nothing is handed on, kept alive or sent any more. A close frame is written after this, as the last one."""
        user, self._user, self._peer = self._user, None, None
        if user is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_held, self._message = False, None
        if self._rest and not self._is_spent:
            self._spend()  # the client's close may be in it
        self._pause_or_resume()
        user.finished(code, reason)

    def _end_when_quiet(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(QUIET, self._transport.close)

    def _abort_within(self, seconds: float) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._abort_timer = self._loop.call_later(seconds, self._transport.abort)

    # Keepalive

    def _send_ping(self) -> None:
        if self.is_congested:  # send_timeout decides about it
            self._timer = self._loop.call_later(self._settings.ping_interval, self._send_ping)
            return
        self._ping, self._was_paused = os.urandom(4), self._is_paused
        self._transport.write(b"\x89\x04" + self._ping)
        self._timer = self._loop.call_later(self._settings.pong_timeout, self._late)

    def _ponged(self, payload: bytes) -> None:
        if payload == self._ping and self._timer is not None:
            self._ping = None
            self._timer.cancel()
            self._timer = self._loop.call_later(self._settings.ping_interval, self._send_ping)
        elif self._peer is not None:  # a pong that answers nothing
            self._peer.counted()

    def _late(self) -> None:
        if not self._may_be_unread():
            self._timer = self._loop.call_later(GRACE, self._give_up)

    def _give_up(self) -> None:
        if not self._may_be_unread():
            self._transport.abort()

    def _may_be_unread(self) -> bool:
        """Whether the pong may wait for being read, since reading was paused; then wait for it once more."""
        if not self._was_paused:
            return False
        self._was_paused = self._is_paused
        self._timer = self._loop.call_later(self._settings.pong_timeout, self._late)
        return True

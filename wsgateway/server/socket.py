"""An accepted WebSocket on the gateway's server. Parses whole messages itself, and leaves other frames to websockets.

Knows neither uvicorn nor what a gateway does with a message.
"""

from typing import Any, assert_never

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

from wsgateway.config.grace import LINGER
from wsgateway.config.settings import Settings
from wsgateway.server.keepalive import Pinged
from wsgateway.server.lingering import QuietClose
from wsgateway.server.parser import FrameParser, ParserState
from wsgateway.server.taken import CLOSE_TIMEOUT
from wsgateway.transports.peer import MAX_FRAMES, Peer
from wsgateway.transports.takeover import Timers, WireUser

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  where the C extension of websockets could not be built
    from websockets.utils import apply_mask

MAX_INFLATED = 256 * 1024
"""Bytes of messages of one client that are inflated in one event loop iteration, as many as one read may bring."""

FULL_READ = 250_000
"""Bytes of a read after which libuv reads the same socket again in the same iteration. One read has at most 256,000."""

SHARE = range(MAX_FRAMES)
"""Iterates over the frames of one client in one event loop iteration. Made once, for speed."""


class Socket(Pinged):
    """One client, from `websocket.accept` to the end of its TCP connection. Implements `transports.takeover.Wire`.

    Reading is paused while the inbox is full, and once `MAX_FRAMES` of the client were handled in one event loop
    iteration. It is also paused while the client does not read, because pongs would pile up. Meanwhile, received bytes
    wait in `_rest`, at most one read, unparsed; at most one message was parsed and waits in `_message`.
    """

    __slots__ = (
        "_deflate",
        "_is_held",
        "_is_spent",
        "_message",
        "_parser",
        "_peer",
        "_rest",
        "deflates",
    )

    def __init__(
        self,
        transport: Any,
        user: WireUser,
        settings: Settings,
        timers: Timers,
        *,
        connections: set[Any],
        deflate: Extension | None,
    ) -> None:
        """`connections` is the set of connections that the server waits for. `deflate` was negotiated."""
        super().__init__(transport, user, settings, timers, connections=connections)
        self.deflates = deflate is not None
        self._peer: Peer | None = user.peer
        self._deflate = deflate
        self._parser: FrameParser | None = None
        self._rest: bytearray | None = None
        self._message: tuple[str | bytes, int] | None = None
        self._is_held = False  # the inbox is full
        self._is_spent = False  # the client has had its share of this iteration

    # Called by the gateway

    def read_on(self) -> None:
        """Pass on what was received while the inbox was full, then read again."""
        self._is_held = False
        self._go_on()

    def keep(self, data: bytes | bytearray) -> None:
        """Handle `data`, which was received before this object existed, in the next event loop iteration."""
        self._rest = bytearray(data)
        self._spend()
        self._pause_or_resume()  # bytes that are read now would be handled before it

    def close(self, code: int, reason: str) -> None:
        """Write a close frame, after everything that was written before, then abort if the client does not answer.

        The client has `LINGER` seconds if it does not read, else `CLOSE_TIMEOUT` (RFC 6455 7.1.1).
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

    # Called by asyncio

    def data_received(self, data: bytes) -> None:
        if self.is_paused:  # asyncio had read it already
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
        super().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest = None

    # Reading

    def _go_on(self) -> None:
        """Pass on what was received while reading was paused, then read again unless it must stay paused."""
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
        """Take the whole messages and pongs at the beginning of `data`, and return their size (RFC 6455 5.2).

        Stop at the first other frame, which is left to websockets' parser with its errors.
        """
        at, length, max_size = 0, len(data), self._settings.max_message_size
        for _ in SHARE:
            peer = self._peer
            if length - at < 6 or peer is None:  # exit: taken, incomplete, or closed by a hook
                return at
            first, size, start = data[at], data[at + 1] - 128, at + 6
            if not 0 <= size < 127:  # exit: not masked, or 64 KiB or more
                return at
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4]), at + 8
            end = start + size
            if end > length or size > max_size:  # exit: incomplete, or too large
                return at
            payload = apply_mask(data[start:end], data[start - 4 : start])
            if first == 0x81:
                try:
                    message: str | bytes = payload.decode()
                except UnicodeDecodeError:  # exit: text that is not UTF-8
                    return at
            elif first == 0x82:
                message = payload
            elif first == 0x8A and size < 126:
                self._handle_pong(payload)
                at = end
                continue
            else:  # exit: ping, close, fragment, compressed, or invalid
                return at
            if not peer.received(message, size):  # exit: the inbox is full
                self._is_held = True
                return at
            at = end
        if at < length:  # exit: the share of this iteration is spent
            self._spend()
        return at

    def _take_rest(self, data: bytes | bytearray, at: int) -> int:
        """Let websockets' parser take the frames of `data` from `at` on, and return where the next one begins.

        This is the end of `data`, unless the inbox is full or the client has had its share of this iteration.
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
                self._handle_frame(parser, frame)
            if parser.is_finished:
                at = len(data)
        if not self._is_held:
            self._answer_parser(parser)
        return at

    def _ready_parser(self) -> FrameParser:
        if self._parser is None:
            self._parser = FrameParser(max_size=self._settings.max_message_size, deflate=self._deflate)
        return self._parser

    def _handle_frame(self, parser: FrameParser, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            return
        if self._peer is None:  # closed, but the client still sends
            if self._abort_timer is not None and self._abort_timer.when() > self._loop.time() + LINGER:
                self._abort_within(LINGER)
        elif frame.opcode is Opcode.PONG:
            self._handle_pong(bytes(frame.data))
        elif frame.opcode is Opcode.PING:
            self._peer.counted()
        else:
            message = parser.message(frame)
            if message is not None:
                self._write_answers(parser)  # pongs come first, as soon as is practical (RFC 6455 5.5.2)
                self._hand_on(*message)
            elif not parser.is_finished:
                self._peer.counted(is_fragment=True)

    def _hand_on(self, message: str | bytes, size: int) -> None:
        if self._peer is not None and not self._peer.received(message, size):
            self._is_held, self._message = True, (message, size)

    def _handle_pong(self, payload: bytes) -> None:
        if not self.take_pong(payload) and self._peer is not None:  # a pong that answers nothing
            self._peer.counted()

    def _answer_parser(self, parser: FrameParser) -> None:
        """Answer pings and a close frame, or fail the connection, once all messages are passed on."""
        match parser.state:
            case ParserState.OPEN:
                self._write_answers(parser)
                if self._deflate is None and parser.is_idle:
                    self._parser = None
            case ParserState.CLOSE_SENT:  # a client that may not read needs no pongs
                parser.answers()
            case ParserState.CLOSE_RECEIVED:
                assert parser.close_received is not None
                self._finish(parser.close_received.code, parser.close_received.reason)
                self._write_answers(parser)
                self._abort_within(LINGER)
                self._transport.close()
            case ParserState.BROKEN:
                self._fail(parser)
            case _:
                assert_never(parser.state)

    def _spend(self) -> None:
        """Read and handle nothing more of this client in this event loop iteration."""
        self._is_spent = True
        self._loop.call_soon(self._next_iteration)

    def _next_iteration(self) -> None:
        self._is_spent = False
        self._go_on()

    def _must_pause(self) -> bool:
        return self._is_held or self._is_spent or (self.is_congested and self._user is not None)

    def _pause_or_resume(self) -> None:
        must_pause = self._must_pause()
        if must_pause == self.is_paused or self._transport.is_closing():
            return
        self.is_paused = must_pause
        if must_pause:
            self.expect_delay()
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # The end

    def _write_answers(self, parser: FrameParser) -> None:
        answers = parser.answers()
        if answers:
            self._transport.write(answers)

    def _fail(self, parser: FrameParser) -> None:
        """Write a close frame, then discard what the client sends until it is quiet (RFC 6455 7.1.7)."""
        if self._user is None:  # closed already, and the client has broken the protocol
            self._transport.abort()
            return
        assert parser.close_sent is not None
        self._finish(parser.close_sent.code, parser.close_sent.reason)
        self._write_answers(parser)
        self._connections.discard(self)
        self._transport.set_protocol(QuietClose(self._transport, self._connections))

    def _finish(self, code: int, reason: str) -> None:
        """Pass on, ping, and send nothing more. Only a close frame may be written after this."""
        user, self._user, self._peer = self._user, None, None
        if user is None:
            return
        self.stop_pings()
        self._is_held, self._message = False, None
        if self._rest and not self._is_spent:
            self._spend()  # it may contain the close frame of the client
        self._pause_or_resume()
        user.finished(code, reason)

"""One accepted WebSocket on the gateway's own server: whole messages are read here, what is unusual is left to
websockets' parser. Knows neither uvicorn nor what a gateway does with a message."""

import asyncio
import logging
import os
import socket
import sys
from typing import Any

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from wsgateway.config import Settings
from wsgateway.limits import LINGER, MAX_FRAGMENTS
from wsgateway.wire import WireUser

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

_quiet = logging.getLogger("wsgateway.sockets")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False  # websockets logs every frame at DEBUG


class Socket(asyncio.Protocol):
    """From `websocket.accept` to the end of its TCP connection. Implements `wsgateway.wire.Wire`."""

    __slots__ = (
        "_abort_timer",
        "_connections",
        "_deflate",
        "_fragments",
        "_is_binary",
        "_is_discarding",
        "_is_held",
        "_loop",
        "_messages",
        "_parser",
        "_ping",
        "_rest",
        "_settings",
        "_timer",
        "_transport",
        "_unparsed",
        "_user",
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
        self._settings = settings
        self._connections = connections
        self._deflate = deflate
        self._loop = asyncio.get_running_loop()
        self._parser: Protocol | None = None
        self._unparsed = 0  # bytes given to the parser that have not come back as frames
        self._fragments: list[bytes] = []
        self._is_binary = False
        self._rest = b""  # received, and not looked at while the inbox is full
        self._messages: list[tuple[str | bytes, int]] = []  # parsed, and not taken for the same reason
        self._is_held = False
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
        messages, self._messages = self._messages, []
        self._hand_on(messages)
        if not self._is_held and self._parser is not None:
            self._settle(self._parser)
        if not self._is_held and self._rest:
            rest, self._rest = self._rest, b""
            self.data_received(rest)
        self._pause_or_resume()

    def close(self, code: int, reason: str) -> None:
        """Write a close frame past everything that waits, then leave the client time to answer it (RFC 6455 7.1.1).

        It has `LINGER` seconds if it does not read, else `CLOSE_TIMEOUT`.
        """
        if self._user is None:
            return
        parser = self._ready_parser()
        if self._transport.is_closing() or parser.close_sent is not None:
            self._abort_within(LINGER)
        else:
            parser.send_close(code, reason)
            self._write_answers(parser)
            self._abort_within(LINGER if self.is_congested else CLOSE_TIMEOUT)
        self._finish(code, reason)

    def abort(self) -> None:
        self._transport.abort()

    def shutdown(self) -> None:
        """Called by uvicorn, which waits until all sockets are gone, but for nobody who does not answer."""
        if self._user is not None:
            self._user.shutdown()
        else:
            self._abort_within(LINGER)

    # What asyncio calls

    def data_received(self, data: bytes) -> None:
        if self._is_discarding:
            self._end_when_quiet()
            return
        if self._is_held:
            self._rest += data
            return
        if self._parser is None and self._deflate is None and self._user is not None:
            data = data[self._taken(data) :]
            if not data:
                return
            if self._is_held:
                self._rest = data
                self._pause_or_resume()
                return
        parser = self._ready_parser()
        self._unparsed += len(data)
        parser.receive_data(data)
        self._heard(parser)

    def pause_writing(self) -> None:
        self.is_congested = True
        self._pause_or_resume()
        if self._user is not None:
            self._user.congested()

    def resume_writing(self) -> None:
        self.is_congested = False
        self._pause_or_resume()
        if self._user is not None:
            self._user.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._finish(1006, "")
        if self._timer is not None:
            self._timer.cancel()

    # Reading

    def _taken(self, data: bytes) -> int:
        """How many bytes of `data` are whole messages, and pongs, that were taken (RFC 6455 5.2).

        Stops at the first frame that is anything else: control, fragment, compressed, unmasked, incomplete, of
        64 KiB or more, no UTF-8. All of these are left to websockets' parser, and so are its errors.
        """
        at, length, most = 0, len(data), self._settings.max_message_size
        while length - at >= 6:
            user, kind, size, start = self._user, data[at], data[at + 1] - 128, at + 6
            if not 0 <= size < 127 or user is None:
                break
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4]), at + 8
            end = start + size
            if end > length or size > most:
                break
            payload = apply_mask(data[start:end], data[start - 4 : start])
            if kind == 0x81:
                try:
                    message: str | bytes = payload.decode()
                except UnicodeDecodeError:
                    break
            elif kind == 0x82:
                message = payload
            elif kind == 0x8A and size < 126:
                self._ponged(payload)
                at = end
                continue
            else:
                break
            if not user.received(message, size):
                self._is_held = True
                break
            at = end
        return at

    def _ready_parser(self) -> Protocol:
        if self._parser is None:
            self._parser = Protocol(SERVER, max_size=self._settings.max_message_size, logger=_quiet)
            if self._deflate is not None:
                self._parser.extensions = [self._deflate]
        return self._parser

    def _heard(self, parser: Protocol) -> None:
        """Take what the parser has made of the bytes it was given."""
        messages: list[tuple[str | bytes, int]] = []
        is_intact = self._user is not None
        for event in parser.events_received():
            assert isinstance(event, Frame)
            self._unparsed -= _wire_size(len(event.data))
            if event.opcode is Opcode.PONG:
                self._ponged(bytes(event.data))
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and is_intact:
                is_intact = self._gathered(parser, event, messages)
        if parser.close_sent is None:
            self._write_answers(
                parser
            )  # pongs go out before what the hooks send (RFC 6455 5.5.2: as soon as practical)
        self._hand_on(messages)
        if not self._is_held:
            self._settle(parser)
        self._pause_or_resume()

    def _settle(self, parser: Protocol) -> None:
        """All messages are handed on: answer pings and a close, or end what broke the protocol."""
        if parser.parser_exc is not None or (self._user is not None and parser.close_sent and not parser.close_rcvd):
            self._failed(parser)
        elif parser.close_rcvd is not None:
            self._write_answers(parser)
            self._finish(parser.close_rcvd.code, parser.close_rcvd.reason)
            self._abort_within(LINGER)
            self._transport.close()
        else:
            if parser.close_sent is None:
                self._write_answers(parser)
            else:  # a pong past the close frame is of no use, and who is closed for not reading would let them pile up
                parser.data_to_send()
            if not self._unparsed and not self._fragments and self._deflate is None and self._user is not None:
                self._parser = None

    def _gathered(self, parser: Protocol, frame: Frame, messages: list[tuple[str | bytes, int]]) -> bool:
        """Add the message that `frame` completes to `messages`; False if it broke the protocol."""
        if frame.opcode is not Opcode.CONT:
            self._is_binary = frame.opcode is Opcode.BINARY
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > MAX_FRAGMENTS:
            parser.fail(1008, f"more than {MAX_FRAGMENTS} fragments")
            return False
        if frame.fin:
            payload, self._fragments = b"".join(self._fragments), []
            try:
                messages.append((payload if self._is_binary else payload.decode(), len(payload)))
            except UnicodeDecodeError:
                parser.fail(1007, "invalid UTF-8")
                return False
        return True

    def _hand_on(self, messages: list[tuple[str | bytes, int]]) -> None:
        for place, (message, size) in enumerate(messages):
            if self._user is None:
                return
            if not self._user.received(message, size):
                self._is_held = True
                self._messages = messages[place:]
                return

    def _pause_or_resume(self) -> None:
        """Read unless the inbox is full, or the client does not read either: it could have pings answered for ever."""
        if self._transport.is_closing():
            return
        if self._is_held or (self.is_congested and self._user is not None):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # The end

    def _write_answers(self, parser: Protocol) -> None:
        answers = b"".join(parser.data_to_send())
        if answers:
            self._transport.write(answers)

    def _failed(self, parser: Protocol) -> None:
        """Write the close frame, then read on and discard: unread bytes would reset the connection, and lose it."""
        if self._user is None:  # it was closed already, and answers with nonsense
            self._transport.abort()
            return
        assert parser.close_sent is not None
        self._write_answers(parser)
        self._finish(parser.close_sent.code, parser.close_sent.reason)
        self._is_discarding = True
        self._abort_within(LINGER)
        self._end_when_quiet()

    def _finish(self, code: int, reason: str) -> None:
        """Nothing is handed on or kept alive any more."""
        user, self._user = self._user, None
        if user is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_held, self._rest, self._messages = False, b"", []
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
        self._ping = os.urandom(4)
        self._transport.write(b"\x89\x04" + self._ping)
        self._timer = self._loop.call_later(self._settings.pong_timeout, self._late)

    def _ponged(self, payload: bytes) -> None:
        if payload == self._ping and self._timer is not None:
            self._ping = None
            self._timer.cancel()
            self._timer = self._loop.call_later(self._settings.ping_interval, self._send_ping)

    def _late(self) -> None:
        if self._is_held or self.is_congested:  # nobody has looked for the pong
            self._timer = self._loop.call_later(self._settings.pong_timeout, self._late)
        else:
            self._timer = self._loop.call_later(GRACE, self._transport.abort)


def _wire_size(size: int) -> int:
    """Bytes on the wire of a masked frame with a payload of `size` bytes (RFC 6455 5.2)."""
    return size + (6 if size < 126 else 8 if size < 65536 else 14)


TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None

BYTES_ACKED = slice(120, 128)
"""Where `tcpi_bytes_acked` stands in Linux's `struct tcp_info`."""


def acknowledged(sock: Any) -> int:
    """Bytes that the other side of `sock` has taken, where the system tells, else 0."""
    if TCP_INFO is None:
        return 0
    try:
        return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 128)[BYTES_ACKED], sys.byteorder)
    except OSError:  # a Unix socket
        return 0

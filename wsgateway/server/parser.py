"""websockets' parser, which is given the frames of one client one at a time. Knows no socket."""

import enum
import logging

from websockets.extensions import Extension
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, Protocol

MAX_FRAGMENTS = 1024
"""Fragments of one message. Each costs memory, however short it is."""

_quiet = logging.getLogger("wsgateway.parser")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
_quiet.setLevel(logging.WARNING)  # websockets logs every frame at DEBUG, tokens included


EXTENDED = {126: 2, 127: 8}
"""Bytes of an extended payload length, by the length in the second byte of a frame (RFC 6455 5.2)."""


def _size(head: bytes | bytearray) -> int:
    """Return the size of the frame that begins with `head`, 0 if `head` does not contain the whole length."""
    if len(head) < 2:
        return 0
    length, size = head[1] & 127, 6 if head[1] & 128 else 2
    extended = EXTENDED.get(length, 0)
    if len(head) < 2 + extended:
        return 0
    return size + extended + (int.from_bytes(head[2 : 2 + extended]) if extended else length)


class FrameCutter:
    """Finds where each frame of one client ends, however the frames are spread over reads."""

    __slots__ = ("_head", "_missing")

    def __init__(self) -> None:
        self._head = b""  # the beginning of a frame whose length is not known yet
        self._missing = 0  # bytes that have not arrived of a frame whose length is known

    @property
    def is_between_frames(self) -> bool:
        return not self._head and not self._missing

    def cut(self, data: bytes | bytearray, at: int) -> int:
        """Return where the frame that begins or continues at `at` ends in `data`, `len(data)` if it is incomplete.

        Call it once for each position, in order, because it counts the bytes that it has seen.
        """
        if not self._missing:
            known = len(self._head)
            head = self._head + data[at : at + 14 - known]
            size = _size(head)
            if not size:
                self._head = bytes(head)
                return len(data)
            self._head, self._missing = b"", size - known
        end = min(at + self._missing, len(data))
        self._missing -= end - at
        return end


class ParserState(enum.Enum):
    """The state of the closing handshake of one client (RFC 6455 7.1)."""

    OPEN = enum.auto()

    CLOSE_SENT = enum.auto()
    """This side has begun to close, and the client has not answered."""

    CLOSE_RECEIVED = enum.auto()
    """The client has sent a close frame. Later frames are discarded."""

    BROKEN = enum.auto()
    """The client has broken the protocol. Later frames are discarded."""


class FrameParser:
    """Checks, unmasks, and inflates frames, joins fragments, and makes the answers to control frames.

    Takes one frame at a time, so the caller can stop after any frame and keep the rest unparsed.
    """

    __slots__ = ("_cutter", "_fragments", "_has_failed", "_is_binary", "_protocol")

    def __init__(self, *, max_size: int, deflate: Extension | None) -> None:
        """`max_size` is the limit of an inflated message, in bytes. `deflate` was negotiated."""
        self._protocol = Protocol(SERVER, max_size=max_size, logger=_quiet)
        if deflate is not None:
            self._protocol.extensions = [deflate]
        self._cutter = FrameCutter()
        self._fragments: list[bytes] = []
        self._is_binary = False
        self._has_failed = False

    @property
    def is_idle(self) -> bool:
        """Whether neither a frame nor a message is incomplete."""
        return self._cutter.is_between_frames and not self._fragments

    @property
    def state(self) -> ParserState:
        if self._has_failed or self._protocol.parser_exc is not None:
            return ParserState.BROKEN
        if self._protocol.close_rcvd is not None:
            return ParserState.CLOSE_RECEIVED
        return ParserState.OPEN if self._protocol.close_sent is None else ParserState.CLOSE_SENT

    @property
    def close_sent(self) -> Close | None:
        """The close frame of this side, sent because of `close` or because the client has broken the protocol."""
        return self._protocol.close_sent

    @property
    def close_received(self) -> Close | None:
        """The close frame of the client."""
        return self._protocol.close_rcvd

    @property
    def is_finished(self) -> bool:
        """Whether later frames are discarded."""
        protocol = self._protocol
        return self._has_failed or protocol.parser_exc is not None or protocol.close_rcvd is not None

    def take(self, data: bytes | bytearray, at: int) -> tuple[int, Frame | None]:
        """Take the frame that begins or continues at `at`. Return where it ends, and the frame if it is complete."""
        end = self._cutter.cut(data, at)
        self._protocol.receive_data(data[at:end])
        frames = self._protocol.events_received()
        if not frames:
            return end, None
        (frame,) = frames
        assert isinstance(frame, Frame)
        return end, frame

    def message(self, frame: Frame) -> tuple[str | bytes, int] | None:
        """Return the message that the data frame `frame` completes, and its size in bytes.

        Return None if more fragments follow, or if the frame breaks the protocol.
        """
        if frame.opcode is not Opcode.CONT:
            self._is_binary = frame.opcode is Opcode.BINARY
        payload = bytes(frame.data)
        if self._fragments or not frame.fin:
            self._fragments.append(payload)
            if len(self._fragments) > MAX_FRAGMENTS:
                self._fail(1008, f"more than {MAX_FRAGMENTS} fragments")
                return None
            if not frame.fin:
                return None
            payload, self._fragments = b"".join(self._fragments), []
        try:
            return (payload if self._is_binary else payload.decode()), len(payload)
        except UnicodeDecodeError:
            self._fail(1007, "invalid UTF-8")
            return None

    def _fail(self, code: int, reason: str) -> None:
        self._has_failed = True
        self._protocol.fail(code, reason)

    def close(self, code: int, reason: str) -> None:
        """Add a close frame to `answers`."""
        self._protocol.send_close(code, reason)

    def answers(self) -> bytes:
        """Remove and return the frames that have to be written: pongs and a close frame."""
        return b"".join(self._protocol.data_to_send())

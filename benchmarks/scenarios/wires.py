"""Connections of clients: WebSockets and streams, with as little work as possible for each message."""

import asyncio
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0
"""Seconds to wait for an event."""


async def until(condition: Callable[[], bool], what: str, *, seconds: float | None = None) -> None:
    """Wait until `condition` is true. Raise `TimeoutError` with `what`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (PATIENCE if seconds is None else seconds)
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.005)  # the condition has no event


class Wire(asyncio.Protocol):
    """One connection: a WebSocket or a stream. Passes on each message, or each line of a stream."""

    def __init__(self, head: bytes, received: Callable[[str], None], ended: Callable[[int, str], None]) -> None:
        self.transport: Any = None  # uvloop's is not an asyncio.Transport
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_open = False
        self._head = head
        self._data = bytearray()
        self._received = received
        self._ended = ended
        self._code, self._reason = 1006, ""
        self._text = ""
        self._is_aborted = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self._is_aborted:
            transport.abort()
        else:
            transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.is_open and not self._take_head():
            return
        self.take()

    def _take_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._data[:end])
        status = head[9:12]
        if status not in (b"101", b"200"):
            if not self.opened.done():
                self.opened.set_exception(ConnectionRefusedError(head[:200].decode("latin-1")))
            self.transport.abort()
            return False
        del self._data[: end + 4]
        self.is_open = True
        self.opened.set_result(None)
        return True

    def take(self) -> None:
        """Take what is complete of `_data`."""
        raise NotImplementedError

    def send(self, text: str) -> None:
        """Send one masked frame, with a mask of zeros."""
        if self.transport.is_closing():
            return
        payload = text.encode()
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
        self.transport.write(b"\x81" + length + bytes(4) + payload)

    def closed(self, code: int, reason: str) -> None:
        self._code, self._reason = code, reason

    def abort(self) -> None:
        self.is_open, self._is_aborted = False, True
        self._ended = lambda code, reason: None
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if not self.opened.done():
            self.opened.set_exception(ConnectionResetError(f"ended before it was open: {exc}"))
            self.opened.exception()  # else asyncio would log it as never retrieved if the caller has given up
        else:
            self._ended(self._code, self._reason)


class WebSocketWire(Wire):
    def take(self) -> None:
        data, at, length = self._data, 0, len(self._data)
        while length - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4]), at + 4
            elif size == 127:
                size, start = int.from_bytes(data[at + 2 : at + 10]), at + 10
            if length < start + size:
                break
            self._frame(data[at] & 15, bytes(data[start : start + size]))
            at = start + size
        del data[:at]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == 1:
            self._received(payload.decode())
        elif opcode == 9:
            self.transport.write(bytes([0x8A, 0x80 | len(payload)]) + bytes(4) + payload)
        elif opcode == 8:
            self.closed(int.from_bytes(payload[:2]) if payload else 1005, payload[2:].decode())
            self.transport.write(bytes([0x88, 0x80 | len(payload)]) + bytes(4) + payload)


class StreamWire(Wire):
    """An HTTP response in chunks, which contains lines."""

    def take(self) -> None:
        data = self._data
        while (end := data.find(b"\r\n")) >= 0:
            size = int(data[:end], 16)
            if len(data) < end + 2 + size + 2:
                return
            self._text += bytes(data[end + 2 : end + 2 + size]).decode()
            del data[: end + 2 + size + 2]
            if size == 0:
                self.transport.close()
                return
            *lines, self._text = self._text.split("\n")
            for line in lines:
                self._received(line)

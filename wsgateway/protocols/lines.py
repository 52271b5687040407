"""Newline-delimited JSON: one object for each line of a stream. Knows neither sockets nor ASGI."""

from wsgateway.closing import close_of
from wsgateway.encoding import ENCODER
from wsgateway.frames import CloseFrame, OpenFrame
from wsgateway.messages import Kind, Message
from wsgateway.transports.framing import ChunkedFormat, Encoding, StreamKind


class LinesEncoding:
    """Writes each object of another encoding as a line. Implements `transports.framing.Encoding`."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    def content(self, message: Message) -> bytes | None:
        match message:
            case OpenFrame():
                return _line({"open": {"id": message.conn_id, "session": message.secret}})
            case CloseFrame():
                close = close_of(message.code, message.reason)
                end = {"code": message.code, "reason": close.reason, "reconnect": close.reconnect}
                if close.retry_after_ms is not None:
                    end["retry_after_ms"] = close.retry_after_ms
                return _line({"close": end})
        content = self._encoding.content(message)
        if not content:
            return None
        data = content.encode() if isinstance(content, str) else content
        # JSON holds line breaks only between its tokens, where a space means the same
        return data.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"


def _line(value: object) -> bytes:
    return ENCODER.encode(value).encode() + b"\n"


class _Messages:
    def content(self, message: Message) -> bytes | None:
        if message.is_control:
            return None
        payload = message.payload if message.kind is Kind.JSON else ENCODER.encode(message.payload.decode()).encode()
        return b'{"message":%b}' % payload


LINES = StreamKind(
    name="stream",
    content_type=b"application/x-ndjson",
    beat=b"\n",
    wire_format=ChunkedFormat(LinesEncoding(_Messages())),
)

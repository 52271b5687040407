"""Newline-delimited JSON: the objects of `wsgateway.v1`, one in each line of a stream. Knows no sockets and no ASGI."""

from collections.abc import Mapping
from typing import Any

from wsgateway.frames import OpenFrame
from wsgateway.messages import Message
from wsgateway.protocols.posted import PostedSession
from wsgateway.protocols.query import read_query
from wsgateway.protocols.session import Session
from wsgateway.protocols.v1 import V1Encoding
from wsgateway.protocols.v1_session import V1Session
from wsgateway.transports.framing import ChunkedFormat, StreamKind
from wsgateway.transports.peer import ClientTransport


class LinesEncoding(V1Encoding):
    """Writes each object as a line."""

    def content(self, message: Message) -> str | None:
        content = super().content(message)
        if content is None:
            return None
        # the text of an object holds line breaks only between its tokens, where a space means the same
        return content.replace("\r", " ").replace("\n", " ") + "\n"


LINES = StreamKind(
    name="stream",
    content_type=b"application/x-ndjson",
    beat=b"\n",
    wire_format=ChunkedFormat(LinesEncoding()),
)


class LinesSession(PostedSession, V1Session):
    """One client of such a stream. It sends nothing on its connection."""

    __slots__ = ("secret",)

    secret: str
    """The name under which the client posts messages."""

    def _question(self, ident: int, name: str, message: Message) -> Message:
        return Session._question(self, ident, name, message)  # unlike a WebSocket, it has no way to answer


async def connect(session: LinesSession, transport: ClientTransport, scope: Mapping[str, Any]) -> None:
    """Do the same as `sse.connect`. A channel that is refused does not refuse the stream."""
    conn = session.conn
    session.outbox.put(OpenFrame(conn.id, session.secret))
    asked = read_query(conn.query.multi_items(), has_positions=True)
    await session.handshake(scope, asked=asked, asks_now=False)
    if await transport.accept(None):
        session.open()
        session.subscribe_later(asked)
        await transport.run()

"""The kinds of clients that a gateway serves: their protocols, how their messages look, how their connections begin."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Scope

from wsgateway.config.settings import Settings
from wsgateway.exceptions import Refusal, Refused
from wsgateway.logs import GatewayLog
from wsgateway.messages import WireFormat
from wsgateway.protocols import lines, plain, sse, v1_session
from wsgateway.protocols.centrifuge import session as centrifuge
from wsgateway.protocols.centrifuge import streams
from wsgateway.protocols.centrifuge.execution import broadcast_channel
from wsgateway.protocols.centrifuge.formats import CentrifugeEncoding, CentrifugeFrames
from wsgateway.protocols.centrifuge.json import JsonEncoding
from wsgateway.protocols.centrifuge.session import PROTOBUF_SUBPROTOCOL, CentrifugeSession
from wsgateway.protocols.centrifuge.streams import Carrier, binary_stream, event_stream, line_stream
from wsgateway.protocols.lines import LinesSession
from wsgateway.protocols.plain import PlainSession
from wsgateway.protocols.session import Session
from wsgateway.protocols.sse import SseSession
from wsgateway.protocols.v1 import V1Encoding
from wsgateway.protocols.v1_session import V1Session
from wsgateway.transports.framing import DEFLATED, PLAIN, FramedFormat, StreamKind
from wsgateway.transports.peer import ClientTransport
from wsgateway.transports.stream import AsgiStream, NativeStream


@dataclass(frozen=True, slots=True)
class ClientProtocol:
    """One kind of client: its name, how its messages look on the wire, and how its connection begins.

    `has_pings` is whether the server sends WebSocket pings.
    """

    name: str
    wire_format: WireFormat
    deflated: WireFormat
    session: type[Session]
    connect: Callable[[Any, ClientTransport, Scope], Awaitable[None]]
    has_pings: bool = True


@dataclass(frozen=True, slots=True)
class StreamProtocol:
    """One kind of client of a stream: its name, its stream, and how its connection begins."""

    name: str
    kind: StreamKind
    session: type[SseSession] | type[LinesSession] | type[CentrifugeSession]
    connect: Callable[[Any, AsgiStream | NativeStream, Scope], Awaitable[None]]


SSE_STREAM = StreamProtocol("sse", sse.SSE, SseSession, sse.connect)
LINES_STREAM = StreamProtocol("v1", lines.LINES, LinesSession, lines.connect)

PLAIN_SOCKET = ClientProtocol("plain", PLAIN, DEFLATED, PlainSession, plain.connect)
V1_SOCKET = ClientProtocol(
    "v1", FramedFormat(V1Encoding()), FramedFormat(V1Encoding(), deflates=True), V1Session, v1_session.connect
)

PROTOBUF_PARAMETER = b"cf_protocol=protobuf"

NO_PROTOBUF = Refusal(501, "protocol", "Protobuf is not available here: install wsgateway[protobuf], or use JSON")


class CentrifugeClients:
    """The Centrifuge clients of one gateway, whose messages are JSON, or Protobuf if its package is installed."""

    def __init__(self, settings: Settings, log: GatewayLog) -> None:
        channel = broadcast_channel(settings)
        encoding = JsonEncoding(channel)
        self._json = _socket(encoding, CentrifugeSession)
        self.streams = {
            Carrier.EVENTS: _stream(event_stream(encoding), CentrifugeSession),
            Carrier.LINES: _stream(line_stream(encoding), CentrifugeSession),
        }
        """The streams of clients that post their frames. `Carrier.BINARY` is missing without Protobuf."""

        self._protobuf = self._add_protobuf(channel, log)

    def protocol_of(self, scope: Scope) -> ClientProtocol:
        """Return the protocol that the client of a WebSocket handshake asks for."""
        query: bytes = scope.get("query_string", b"")
        if PROTOBUF_SUBPROTOCOL in scope.get("subprotocols", ()) or PROTOBUF_PARAMETER in query.split(b"&"):
            return self._protobuf
        return self._json

    def _add_protobuf(self, channel: str, log: GatewayLog) -> ClientProtocol:
        """Add the stream in Protobuf, and return the protocol of a WebSocket client that asks for Protobuf."""
        try:
            from wsgateway.protocols.centrifuge.protobuf import ProtobufEncoding
            from wsgateway.protocols.centrifuge.protobuf_session import ProtobufSession
        except Exception as exc:  # a version of the package that is too old raises an error of its own
            text = "Centrifuge clients that speak Protobuf are refused (%s): pip install 'wsgateway[protobuf]'"
            log.warning(text, exc)
            return replace(self._json, connect=_refuse_protobuf)
        encoding = ProtobufEncoding(channel)
        self.streams[Carrier.BINARY] = _stream(binary_stream(encoding), ProtobufSession)
        return _socket(encoding, ProtobufSession)


def _socket(encoding: CentrifugeEncoding, session: type[CentrifugeSession]) -> ClientProtocol:
    return ClientProtocol(
        "centrifuge",
        CentrifugeFrames(encoding),
        CentrifugeFrames(encoding, deflates=True),
        session,
        centrifuge.connect,
        has_pings=False,
    )


def _stream(kind: StreamKind, session: type[CentrifugeSession]) -> StreamProtocol:
    return StreamProtocol("centrifuge", kind, session, streams.connect)


def emulation_reader() -> Callable[[bytes], tuple[str, str, bytes]] | None:
    """Return a function that reads node, secret, and frame of a request in Protobuf, None if it is not available."""
    try:
        from wsgateway.protocols.centrifuge.protobuf import read_emulation
    except Exception:  # the reason is logged when the gateway starts
        return None
    return read_emulation


async def _refuse_protobuf(session: CentrifugeSession, transport: ClientTransport, scope: Scope) -> None:
    raise Refused.of(NO_PROTOBUF)

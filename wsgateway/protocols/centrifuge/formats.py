"""How a Centrifuge client on a WebSocket receives messages. Knows no sockets."""

from typing import Protocol

from wsgateway.messages import Message, OnLoss
from wsgateway.protocols.centrifuge import codes
from wsgateway.transports.framing import Encoding, FramedFormat


class CentrifugeEncoding(Encoding, Protocol):
    """An encoding of the protocol: of JSON, or of Protobuf. Its content is one reply or one push."""

    def carries(self, message: Message) -> bool:
        """Return whether a client can receive `message` of the application."""


class CentrifugeFrames(FramedFormat):
    """The content of an encoding as one WebSocket message."""

    on_loss = OnLoss.CLOSES_FOR_SERVER

    def __init__(self, encoding: CentrifugeEncoding, *, deflates: bool = False) -> None:
        super().__init__(encoding, deflates=deflates)
        self._carries = encoding.carries

    def carries(self, message: Message) -> bool:
        return self._carries(message)

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        return codes.closing(code, reason)

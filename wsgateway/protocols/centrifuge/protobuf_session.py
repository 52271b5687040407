"""The session of a Centrifuge client that speaks Protobuf. Knows no sockets."""

from wsgateway.protocols.centrifuge.protobuf import read_frame
from wsgateway.protocols.centrifuge.session import PROTOBUF_SUBPROTOCOL, CentrifugeSession


class ProtobufSession(CentrifugeSession):
    """One client whose frames are Protobuf."""

    __slots__ = ()

    subprotocol = PROTOBUF_SUBPROTOCOL
    read = staticmethod(read_frame)
